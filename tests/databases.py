"""The databases that the suites of the store, the API and the control plane run on: SQLite and a real PostgreSQL.

A test that asks for `database_url` runs once on each, with an empty database of its own. The PostgreSQL server is
started once per test session, in a temporary folder, on a free loopback port.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from neartime_server.store import Store


class Postgres:
    """A PostgreSQL server in a temporary folder. It refuses to be root, so there it runs as `postgres` or `nobody`."""

    def __init__(self) -> None:
        self.bin = _binaries()
        self.user = _unprivileged()
        self.folder = Path(tempfile.mkdtemp(prefix="neartime-postgres-"))
        self.data = self.folder / "data"
        self.password = secrets.token_hex(16)
        secret = self.folder / "password"
        secret.touch(0o600)
        secret.write_text(self.password)
        if self.user:
            for path in (self.folder, secret):
                shutil.chown(path, self.user, pwd.getpwnam(self.user).pw_gid)
        self._call(
            "initdb", "-D", self.data, "-U", "neartime", "--pwfile", secret, "-A", "scram-sha-256", "-E", "UTF8",
            "--locale=C", "--no-sync",
        )  # fmt: skip
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    def start(self) -> None:
        """Start it, again too, on the same port."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # of one that was killed
        # fsync is off: the machine won't lose power within a test.
        options = ["-F", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-p", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.bin / "postgres"), "-D", str(self.data), *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd="/", **self._as_user(),
            )  # fmt: skip
        engine = create_engine(self.url("postgres"))
        deadline = time.monotonic() + 30
        while True:
            try:
                engine.connect().close()
                break
            except OperationalError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)
        engine.dispose()

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://neartime:{self.password}@127.0.0.1:{self.port}/{database}"

    def kill(self) -> None:
        """End it at once, as a crash would: its own children see that it is gone and follow."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # without waiting for clients
            self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create(self, name: str) -> str:
        """A new, empty database; returns its URL."""
        self._admin(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop(self, name: str) -> None:
        self._admin(f"DROP DATABASE {name} WITH (FORCE)")

    def _admin(self, statement: str) -> None:
        engine = create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def _call(self, program: str, *arguments: object) -> None:
        command = [str(self.bin / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", **self._as_user())  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    def _as_user(self) -> dict[str, object]:
        if not self.user:
            return {}
        return {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []}


def _binaries() -> Path:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    reason = "PostgreSQL is not installed: apt-get install postgresql"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def _unprivileged() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'neartime.db'}"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = f"test_{secrets.token_hex(8)}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """A store with its tables made."""
    store = Store(database_url)
    store.migrate()
    yield store
    store.close()
