"""Transactions and migrations, on both databases."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import Postgres
from sqlalchemy import Connection, insert, select, update

from neartime_server.errors import StoreUnavailable
from neartime_server.store import Store
from neartime_server.store.engine import utc_now
from neartime_server.store.tables import instances, metadata


def _add(connection: Connection, name: str) -> None:
    connection.execute(insert(instances), {"id": name.ljust(20, "x"), "name": name, "created": utc_now()})


def _names(connection: Connection) -> list[str]:
    return sorted(connection.execute(select(instances.c.name)).scalars())


def test_the_migrations_make_exactly_the_tables_that_the_code_knows(store: Store) -> None:
    def difference(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    assert store.transact(difference) == []


def test_two_servers_that_start_at_once_migrate_once(database_url: str) -> None:
    stores = [Store(database_url) for _ in range(4)]
    threads = [threading.Thread(target=store.migrate) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[0].migrate()
    stores[0].transact(lambda connection: _add(connection, "a"))
    assert stores[1].transact(_names) == ["a"]
    for store in stores:
        store.close()


async def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    def work(connection: Connection) -> None:
        _add(connection, "a")
        raise LookupError

    with pytest.raises(LookupError):
        await store.run(work)
    assert await store.read(_names) == []


async def test_a_read_sees_what_was_committed_before_it(store: Store) -> None:
    for number in range(20):
        await store.run(lambda connection, number=number: _add(connection, f"i{number}"))
        assert len(await store.read(_names)) == number + 1


async def test_writers_in_other_processes_are_waited_for(store: Store, database_url: str) -> None:
    """Each adds one to a number that it has read: no addition is lost."""
    others = [Store(database_url) for _ in range(3)]
    await store.run(lambda connection: _add(connection, "0"))

    def bump(connection: Connection) -> None:
        value = connection.execute(select(instances.c.name).with_for_update()).scalar_one()
        connection.execute(update(instances).values(name=str(int(value) + 1)))

    await asyncio.gather(*(one.run(bump) for one in (store, *others) for _ in range(10)))
    assert await store.read(_names) == ["40"]
    for other in others:
        other.close()


async def test_a_lost_connection_is_made_again(postgres: Postgres, tmp_path: Path) -> None:
    store = Store(postgres.create("lost"))
    store.migrate()
    await store.run(lambda connection: _add(connection, "a"))
    other = Store(postgres.url("lost"))
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'lost' AND pid <> pg_backend_pid()"
    await other.run(lambda connection: connection.exec_driver_sql(kill))
    assert await store.read(_names) == ["a"]
    store.close()
    other.close()


async def test_a_database_that_is_away_for_a_moment_is_waited_for() -> None:
    server = Postgres()
    store = Store(server.url("postgres"))
    store.migrate()
    await store.run(lambda connection: _add(connection, "a"))
    server.kill()
    reading = asyncio.create_task(store.read(_names))
    server.start()
    assert await reading == ["a"]
    store.close()
    server.stop()


async def test_a_database_that_stays_away_is_reported_as_unavailable() -> None:
    store = Store("postgresql+psycopg://nobody@127.0.0.1:1/nothing", patience=0.5)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.read(_names)
    store.close()


def test_the_database_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "home" / "neartime.db"
    store = Store(f"sqlite:///{file}")
    store.migrate()
    store.transact(lambda connection: _add(connection, "a"))
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()
