"""Connections that break and registries that go away: what was sent is not sent again, and the end is an error."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
from contents import noise, push_blob, push_image
from registries import Registry as Server
from relays import Modern, Relay

from neartime.errors import NotInRegistry, RegistryError, RegistryUnreachable
from neartime.oci import OCI_LAYER, Credentials, Login, Reference, Registry, digest_of

PIECE = 4 * 2**20
SIZE = 30_000_000
SLACK = 100_000
"""Heads of requests and answers."""


def of(server: Server | Modern | Relay, name: str) -> Reference:
    return Reference.parse(f"{server.host}/{name}")


async def read(client: Registry, reference: Reference, blob: str) -> bytes:
    return b"".join([piece async for piece in client.blob(reference, blob)])


async def test_an_upload_through_a_proxy_that_breaks_goes_on_where_it_was(plain: Server, client: Registry) -> None:
    content = noise(SIZE, 10)
    async with Relay(plain.host, whole=True) as relay:
        relay.cuts_up = [10_000_000, 20_000_000]
        assert await client.push_blob(of(relay, "broken/proxy"), content, digest_of(content), SIZE)
        assert relay.cuts_up == []
        assert relay.up < SIZE + 2 * PIECE + SLACK, "two pieces were sent twice"
    assert await read(client, of(plain, "broken/proxy"), digest_of(content)) == content


async def test_an_upload_goes_on_within_a_piece_where_the_registry_kept_it(plain: Server, client: Registry) -> None:
    content = noise(SIZE, 11)
    with Modern(plain.url) as modern:
        async with Relay(modern.host) as relay:
            relay.cuts_up = [10_000_000, 17_000_000, 29_000_000]
            assert await client.push_blob(of(relay, "broken/modern"), content, digest_of(content), SIZE)
            assert relay.cuts_up == []
            # What the sockets held when the connection was cut is lost: less than a piece each time.
            assert relay.up < SIZE + 3 * 2**20 + SLACK
    assert await read(client, of(plain, "broken/modern"), digest_of(content)) == content


async def test_an_upload_that_the_registry_forgets_begins_again_and_arrives(plain: Server, client: Registry) -> None:
    """Distribution 2 forgets an upload of which a piece came in part."""
    content = noise(SIZE, 12)
    async with Relay(plain.host) as relay:
        relay.cuts_up = [10_000_000]
        assert await client.push_blob(of(relay, "broken/forgotten"), content, digest_of(content), SIZE)
        assert SIZE + PIECE < relay.up < SIZE + 10_000_000 + SLACK
    assert await read(client, of(plain, "broken/forgotten"), digest_of(content)) == content


async def test_a_source_that_can_only_begin_again_is_read_again(plain: Server, client: Registry) -> None:
    content = noise(SIZE, 13)
    begun = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        for start in range(0, SIZE, 1_000_001):
            yield content[start : start + 1_000_001]

    async with Relay(plain.host, whole=True) as relay:
        relay.cuts_up = [10_000_000]
        assert await client.push_blob(of(relay, "broken/function"), pieces, digest_of(content), SIZE)
    assert begun == 2
    assert await read(client, of(plain, "broken/function"), digest_of(content)) == content


async def test_an_answer_that_is_lost_costs_nothing(plain: Server, client: Registry) -> None:
    content = noise(SIZE, 14)
    async with Relay(plain.host, whole=True) as relay:
        relay.lost_answers = 1
        assert await client.push_blob(of(relay, "broken/answer"), content, digest_of(content), SIZE)
        assert relay.up < SIZE + SLACK
        relay.lost_answers = 1
        await push_image(client, of(relay, "broken/answer:1"))
        assert relay.lost_answers == 0
    assert await client.tags(of(plain, "broken/answer")) == ["1"]


async def test_pieces_are_as_large_as_the_registry_wants(plain: Server) -> None:
    content = noise(5_000_000, 15)
    with Modern(plain.url, least=2_000_000) as modern:
        async with Registry(piece_bytes=1_000_000) as client:
            assert await client.push_blob(of(modern, "least"), content, digest_of(content), len(content))
        assert sum(line.startswith("PATCH") for line in modern.requests) == 2


async def test_a_download_that_breaks_goes_on_where_it_was(plain: Server, client: Registry) -> None:
    content = noise(SIZE, 16)
    await push_blob(client, of(plain, "broken/download"), content, OCI_LAYER)
    async with Relay(plain.host) as relay:
        relay.cuts_down = [10_000_000, 20_000_000]
        assert await read(client, of(relay, "broken/download"), digest_of(content)) == content
        assert relay.cuts_down == []
        assert relay.down < SIZE + SLACK + 2 * 2**16


async def test_a_registry_that_restarts_in_the_middle_of_an_upload_is_waited_for(client: Registry) -> None:
    content = noise(SIZE, 17)
    with Server() as server:
        sent = 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            for start in range(0, SIZE, 1_000_000):
                if start == 13_000_000 and server.process.poll() is None and not sent:
                    sent = start
                    server.kill()
                    asyncio.get_running_loop().call_later(1.0, server.start)
                yield content[start : start + 1_000_000]

        assert await client.push_blob(of(server, "restart"), pieces, digest_of(content), SIZE)
        assert sent
        assert server.log.count('"POST /v2/restart/blobs/uploads/') == 1, "it went on, and did not begin again"
        assert await read(client, of(server, "restart"), digest_of(content)) == content


async def test_a_registry_that_goes_away_for_good_is_given_up() -> None:
    content = noise(SIZE, 18)
    with Server() as server:

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, SIZE, 1_000_000):
                if start == 13_000_000:
                    server.kill()
                yield content[start : start + 1_000_000]

        async with Registry(piece_bytes=PIECE, patience=1.0) as client:
            began = time.monotonic()
            with pytest.raises(RegistryUnreachable, match=f"can't push the blob .* to {server.host}/away"):
                await client.push_blob(of(server, "away"), pieces, digest_of(content), SIZE)
            assert time.monotonic() - began < 20
        server.start()
        async with Registry() as client:
            assert not await client.blob_exists(of(server, "away"), digest_of(content))


async def test_a_registry_that_is_not_there_is_given_up_soon() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    async with Registry() as client:
        began = time.monotonic()
        with pytest.raises(RegistryUnreachable, match=f"can't list the tags of {host}/a: .*check the address"):
            await client.tags(Reference.parse(f"{host}/a"))
        assert time.monotonic() - began < 5
    async with Registry(patience=1.0) as client:
        with pytest.raises(RegistryUnreachable, match=r"nowhere\.invalid"):
            await client.tags(Reference.parse("nowhere.invalid/a"))


async def test_a_busy_registry_is_asked_again_when_it_says(plain: Server, client: Registry) -> None:
    with Modern(plain.url) as modern:
        reference = of(modern, "busy:1")
        await push_image(client, reference)
        modern.answers = [(429, {"Retry-After": "1"}), (503, {}), (500, {})]
        began = time.monotonic()
        assert await client.tags(reference) == ["1"]
        assert 1.0 < time.monotonic() - began < 10
        modern.answers = [(503, {})]
        content = noise(PIECE * 2 + 1, 19)
        assert await client.push_blob(reference, content, digest_of(content), len(content))
        modern.answers = [(429, {"Retry-After": "3600"})]
        with pytest.raises(RegistryUnreachable, match="429"):
            await client.tags(reference)


async def test_an_upload_survives_an_error_of_the_registry_in_each_place(plain: Server, client: Registry) -> None:
    for place in range(6):
        content = noise(PIECE * 3, 20 + place)
        with Modern(plain.url) as modern:
            modern.answers = [(404, {})]  # what HEAD would say
            reference = of(modern, "places")

            async def failing(
                modern: Modern = modern, place: int = place, content: bytes = content
            ) -> AsyncIterator[bytes]:
                for start in range(0, len(content), PIECE):
                    if start == PIECE and not any(line.startswith("GET") for line in modern.requests):
                        modern.answers = [(502, {})] * (place + 1)
                    yield content[start : start + PIECE]

            assert await client.push_blob(reference, failing, digest_of(content), len(content))
        assert await read(client, of(plain, "places"), digest_of(content)) == content


async def test_a_redirect_does_not_take_the_login_along(plain: Server) -> None:
    content = b"kept by a storage"
    async with Registry() as client:
        await push_blob(client, of(plain, "redirected"), content, OCI_LAYER)
    with Modern(plain.url) as modern, Modern(plain.url) as storage:
        reference = of(modern, "redirected")
        modern.answers = [
            (200, {}),  # it speaks HTTP
            (401, {"WWW-Authenticate": 'Basic realm="x"'}),
            (307, {"Location": f"http://{storage.host}/v2/redirected/blobs/{digest_of(content)}"}),
        ]
        async with Registry(Credentials({modern.host: Login("me", "open-sesame")})) as client:
            assert await read(client, reference, digest_of(content)) == content
        assert [head.get("Authorization") is not None for head in modern.heads] == [False, False, True]
        assert [head.get("Authorization") for head in storage.heads] == [None]


async def test_an_endless_redirect_and_a_missing_repository_are_errors(plain: Server) -> None:
    with Modern(plain.url) as modern:
        async with Registry() as client:
            with pytest.raises(NotInRegistry):
                await client.tags(of(modern, "missing"))
            modern.answers = [(307, {"Location": "/v2/again"})] * 20
            with pytest.raises(RegistryError, match="without end"):
                await client.tags(of(modern, "missing"))
