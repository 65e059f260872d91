"""The door to the database: transactions on SQLite or PostgreSQL, run in threads beside the event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from neartime_server.errors import StoreUnavailable
from neartime_server.store import migrations

T = TypeVar("T")

BUSY_TIMEOUT: Final = 10.0
"""Seconds that a SQLite writer waits for a writer in another process."""
PATIENCE: Final = 10.0
"""Seconds over which a transaction that lost a race, or its connection, is tried again."""
READERS: Final = 4
"""Threads that read SQLite; one more writes."""
PAGES: Final = 512
"""KiB of SQLite's file that each connection holds; the system holds the rest."""
CONNECTIONS: Final = 16
"""Threads, each with a connection, that work on PostgreSQL."""
_RACES: Final = {"40001", "40P01", "55P03"}  # serialization failure, deadlock, lock not available


def utc_now() -> datetime:
    """The time as the database holds it: UTC, naive."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def utc(value: datetime) -> datetime:
    """A time of the database with its zone, as the API speaks it."""
    return value.replace(tzinfo=timezone.utc)


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT, in the dialect of the connection."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


class Store:
    """A database. SQLite has one writing thread and a few that read; PostgreSQL a pool that does both.

    `work` is a plain function of a connection, inside one transaction that commits when it returns and rolls back when
    it raises. It may be called again after a lost race, so it must do nothing but talk to the connection.

    Raises (each method):
        StoreUnavailable: the database can't be reached, or was lost; what was not committed is undone.
    """

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self.url = make_url(url)
        self.patience = patience
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = _sqlite(url, "BEGIN IMMEDIATE", pool_size=1, readonly=False)
            self._reader = _sqlite(url, "BEGIN", pool_size=READERS, readonly=True)
            self._writing = ThreadPoolExecutor(1, "store-writer")
            self._reading = ThreadPoolExecutor(READERS, "store-reader")
        else:
            self._writer = self._reader = create_engine(
                url, pool_size=CONNECTIONS, max_overflow=2, pool_pre_ping=False, connect_args={"connect_timeout": 5}
            )
            self._writing = self._reading = ThreadPoolExecutor(CONNECTIONS, "store")

    async def run(self, work: Callable[[Connection], T]) -> T:
        """One transaction that may write."""
        return await asyncio.get_running_loop().run_in_executor(self._writing, self._attempt, self._writer, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One transaction that only reads; it sees all that was committed before."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._attempt, self._reader, work)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """`run` in the calling thread, for commands and tests that have no event loop."""
        return self._attempt(self._writer, work)

    def migrate(self) -> None:
        """Bring the tables up to date. Several servers may do so at once: the first does, the others wait."""
        if self.is_sqlite and (file := self.url.database):
            migrations.private_file(file)
        migrations.upgrade(self._writer)

    def close(self) -> None:
        """Wait for the transactions under way, then close every connection."""
        self._writing.shutdown()
        self._reading.shutdown()
        self._writer.dispose()
        self._reader.dispose()

    def _attempt(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        deadline = time.monotonic() + self.patience
        pause = 0.005
        while True:
            committing = False
            try:
                with engine.connect() as connection, connection.begin() as transaction:
                    value = work(connection)
                    committing = True
                    transaction.commit()
                    return value
            except DBAPIError as error:
                # A connection that is lost while it commits may have committed: that is never tried again.
                lost = error.connection_invalidated or _unreachable(error)
                if not (_raced(error) or (lost and not committing)):
                    if lost:
                        raise StoreUnavailable(f"the database was lost while it committed: {error.orig}") from error
                    raise
                if time.monotonic() + pause > deadline:
                    raise StoreUnavailable(f"the database does not answer: {error.orig}") from error
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 2, 0.5)


def _sqlite(url: str, begin: str, *, pool_size: int, readonly: bool) -> Engine:
    # The pool holds one connection more than there are threads, for `transact` in a caller's own.
    engine = create_engine(
        url,
        pool_size=pool_size + 1,
        max_overflow=4,
        pool_reset_on_return=None,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT},
    )

    @event.listens_for(engine, "connect")
    def tune(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver starts no transaction of its own; `start` does
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # A commit outlives the process however it ends; only a machine that loses power may lose the last ones.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute(f"PRAGMA cache_size={-PAGES}")
        if readonly:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        # A writer that begins by reading could not turn into one once another has written: SQLite answers `locked`
        # at once, without waiting. So it says at the start that it writes.
        connection.exec_driver_sql(begin)

    return engine


def _raced(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _RACES or "database is locked" in str(error.orig)


def _unreachable(error: DBAPIError) -> bool:
    """Whether there was no connection to begin with: a server that is down, starts up or shuts down."""
    state = getattr(error.orig, "sqlstate", None)
    return type(error.orig).__name__ == "OperationalError" and (
        (state is None and "sqlite3" not in type(error.orig).__module__)
        or str(state).startswith("08")
        or state in {"57P01", "57P02", "57P03", "53300"}
    )
