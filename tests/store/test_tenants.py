"""Instances, tokens, programs and idempotency keys, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from neartime.contract.programs import Manifest
from neartime_server.errors import AdminError, Refused
from neartime_server.store import Store, blobs, idempotency, instances, programs, tokens
from neartime_server.store.engine import utc_now
from neartime_server.store.idempotency import Answer, Answered, Key
from neartime_server.store.tokens import Role

DIGEST = "ab" * 32


def _save(
    connection: Connection, instance_id: str, content: str, *, name: str = "p", public: bool | None = None
) -> tuple[programs.Program, bool]:
    archive = blobs.put(connection, content.encode())
    manifest = Manifest(name=name, description=f"does {content}")
    return programs.save(
        connection, instance_id, programs.NewVersion(manifest, f"sha256:{content}", archive, None, None), public
    )


@pytest.fixture
def mine(store: Store) -> str:
    return store.transact(lambda connection: instances.create(connection, "mine"))


@pytest.fixture
def theirs(store: Store) -> str:
    return store.transact(lambda connection: instances.create(connection, "theirs"))


def test_a_name_of_an_instance_is_taken_once(store: Store, mine: str) -> None:
    for name in ("mine", "Not a name", ""):
        with pytest.raises(AdminError):
            store.transact(lambda connection, name=name: instances.create(connection, name))
    assert store.transact(lambda connection: instances.ensure(connection, "mine")) == mine


def test_a_token_stands_for_its_instance_until_it_ends(store: Store, mine: str) -> None:
    token_id = store.transact(lambda connection: tokens.create(connection, mine, "ada", Role.USER, DIGEST))
    principal = store.transact(lambda connection: tokens.find(connection, DIGEST))
    assert principal == tokens.Principal(token_id, mine, "ada", Role.USER)
    assert store.transact(lambda connection: tokens.find(connection, "cd" * 32)) is None
    assert store.transact(lambda connection: tokens.end(connection, token_id))
    assert not store.transact(lambda connection: tokens.end(connection, token_id))
    assert store.transact(lambda connection: tokens.find(connection, DIGEST)) is None


def test_an_expired_token_and_one_of_an_ended_instance_stand_for_nobody(store: Store, mine: str, theirs: str) -> None:
    past = utc_now() - timedelta(seconds=1)
    store.transact(lambda connection: tokens.create(connection, mine, "ada", Role.USER, DIGEST, past))
    assert store.transact(lambda connection: tokens.find(connection, DIGEST)) is None
    store.transact(lambda connection: tokens.create(connection, theirs, "bob", Role.USER, "cd" * 32))
    store.transact(lambda connection: instances.end(connection, theirs))
    assert store.transact(lambda connection: tokens.find(connection, "cd" * 32)) is None
    assert [one.name for one in store.transact(instances.page)] == ["mine"]


def test_uploads_under_a_name_number_their_versions_and_the_same_content_is_there_once(store: Store, mine: str) -> None:
    first, made = store.transact(lambda connection: _save(connection, mine, "a"))
    second, made_again = store.transact(lambda connection: _save(connection, mine, "b"))
    assert (made, made_again) == (True, False)
    assert (first.id, first.version.number) == (second.id, 1)
    assert (second.version.number, second.description) == (2, "does b")
    back, _ = store.transact(lambda connection: _save(connection, mine, "a"))
    assert back.version == first.version
    numbers = [one.number for one in store.transact(lambda connection: programs.versions(connection, first.id))]
    assert numbers == [2, 1]


def test_a_version_is_found_by_id_number_and_digest(store: Store, mine: str) -> None:
    program, _ = store.transact(lambda connection: _save(connection, mine, "a"))
    for reference in (program.version.id, "1", program.version.digest):
        found = store.transact(lambda connection, r=reference: programs.find_version(connection, program.id, r))
        assert found == program.version
    assert store.transact(lambda connection: programs.find_version(connection, program.id, "2")) is None


def test_another_instances_program_is_seen_where_it_is_public_and_ones_own_comes_first(
    store: Store, mine: str, theirs: str
) -> None:
    hidden, _ = store.transact(lambda connection: _save(connection, theirs, "a"))
    assert store.transact(lambda connection: programs.find(connection, mine, "p")) is None
    assert store.transact(lambda connection: programs.find(connection, mine, hidden.id)) is None
    store.transact(lambda connection: programs.change(connection, hidden.id, is_public=True))
    for reference in ("p", hidden.id):
        found = store.transact(lambda connection, r=reference: programs.find(connection, mine, r))
        assert found
        assert found.id == hidden.id
    own, _ = store.transact(lambda connection: _save(connection, mine, "b"))
    found = store.transact(lambda connection: programs.find(connection, mine, "p"))
    assert found
    assert found.id == own.id
    found_all, count = store.transact(lambda connection: programs.page(connection, mine))
    assert ({one.id for one in found_all}, count) == ({own.id, hidden.id}, 2)


def test_a_deleted_program_frees_its_name_and_keeps_its_versions(store: Store, mine: str) -> None:
    old, _ = store.transact(lambda connection: _save(connection, mine, "a", public=True))
    store.transact(lambda connection: programs.remove(connection, old.id))
    assert store.transact(lambda connection: programs.find(connection, mine, "p")) is None
    new, made = store.transact(lambda connection: _save(connection, mine, "a"))
    assert made
    assert new.id != old.id
    assert store.transact(lambda connection: programs.version(connection, old.version.id)) == old.version
    store.transact(lambda connection: programs.remove(connection, new.id))  # a second deleted one of the name


def test_programs_are_searched_in_name_and_description_whatever_the_case(store: Store, mine: str) -> None:
    for name in ("vqe", "qaoa", "per_cent"):
        store.transact(lambda connection, name=name: _save(connection, mine, f"{name} Things", name=name))
    searches = {"VQE": ["vqe"], "things": ["per_cent", "qaoa", "vqe"], "r_c": ["per_cent"], "%": []}
    for search, names in searches.items():
        found, count = store.transact(lambda connection, s=search: programs.page(connection, mine, search=s))
        assert ([one.name for one in found], count) == (names, len(names))
    found, count = store.transact(lambda connection: programs.page(connection, mine, limit=1, offset=1))
    assert ([one.name for one in found], count) == (["qaoa"], 3)


async def test_of_requests_with_one_key_that_race_one_is_carried_out(store: Store, mine: str) -> None:
    key = Key(mine, "k", "ab" * 32)

    def create(connection: Connection, number: int) -> Answer:
        instances.create(connection, f"made-{number}")
        answer = Answer(200, str(number).encode())
        idempotency.remember(connection, key, answer)
        return answer

    async def request(number: int) -> Answer:
        try:
            return await store.run(lambda connection: create(connection, number))
        except Answered as earlier:
            return earlier.answer

    answers = await asyncio.gather(*(request(number) for number in range(8)))
    assert len(set(answers)) == 1
    assert len(await store.read(instances.page)) == 2


async def test_a_key_used_for_another_request_is_refused(store: Store, mine: str) -> None:
    key = Key(mine, "k", "ab" * 32)
    await store.run(lambda connection: idempotency.remember(connection, key, Answer(200, b"{}")))
    assert await store.read(lambda connection: idempotency.find(connection, key)) == Answer(200, b"{}")
    other = Key(mine, "k", "cd" * 32)
    with pytest.raises(Refused) as refused:
        await store.run(lambda connection: idempotency.remember(connection, other, Answer(200, b"{}")))
    assert refused.value.status == 409
    await store.run(lambda connection: idempotency.prune(connection, ttl=-1))
    assert await store.read(lambda connection: idempotency.find(connection, key)) is None
