"""Program versions, and which of them can still be run."""

from __future__ import annotations

from sqlalchemy import Connection, update

from neartime.contract.ids import new_id
from neartime.contract.programs import Manifest
from neartime_server.store import Store, blobs, instances, programs, workers
from neartime_server.store.engine import utc_now
from neartime_server.store.programs import NewVersion, Program
from neartime_server.store.tables import sessions
from neartime_server.store.tables import workers as worker_rows

DIGEST = "sha256:" + "ab" * 32


def saved(connection: Connection, instance: str, name: str, digest: str = DIGEST) -> Program:
    archive = blobs.put(connection, b"files")
    new = NewVersion(Manifest(name=name), digest, archive, DIGEST, "six==1.16.0\n", f"lab.example/{name}@{DIGEST}")
    program, _ = programs.save(connection, instance, new, None)
    return program


def test_a_version_keeps_the_whole_digest_of_its_environment(store: Store) -> None:
    def work(connection: Connection) -> str | None:
        program = saved(connection, instances.create(connection, "lab"), "one")
        found = programs.version(connection, program.version.id)
        assert found is not None
        return found.environment

    assert store.transact(work) == DIGEST


def test_versions_are_needed_while_their_program_is_there_or_a_worker_of_them_is(store: Store) -> None:
    def needed() -> set[str]:
        return {one.manifest.name for one in store.transact(programs.needed)}

    def make(connection: Connection) -> dict[str, Program]:
        instance = instances.create(connection, "lab")
        made = {name: saved(connection, instance, name) for name in ("there", "deleted", "works")}
        session, now = new_id(), utc_now()
        row = {"id": session, "instance_id": instance, "backend": "aer", "mode": "batch", "state": "open"}
        times = {"max_ttl": 60, "interactive_ttl": 60, "created": now, "last_activity": now}
        connection.execute(sessions.insert().values(**row, **times))
        workers.add(connection, new_id(), instance, session, made["works"].version.id, "UKEY", now)
        programs.remove(connection, made["deleted"].id)
        programs.remove(connection, made["works"].id)
        return made

    store.transact(make)
    assert needed() == {"there", "works"}
    assert set(store.transact(programs.names)) == {"there", "works", "deleted"}
    store.transact(lambda connection: connection.execute(update(worker_rows).values(state="gone")))
    assert needed() == {"there"}
