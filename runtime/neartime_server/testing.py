"""A runtime for tests: the real servers, in a folder of its own, on free loopback ports.

    from neartime_server.testing import Runtime

    with Runtime() as runtime, runtime.service() as service:
        service.upload_program("my-program/")
        assert service.run("my-program", inputs={"shots": 100}).result(timeout=60) == …

The NATS server, the API server and the workers are processes as in `neartime up`; there is no watchdog, so that a test
can kill one and see what its program does until it starts it again. Needs the extra `neartime[local]`.
"""

from __future__ import annotations

import asyncio
import atexit
import shutil
import tempfile
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from neartime_server.admin import Admin
from neartime_server.bus.keys import Keys
from neartime_server.bus.server import NatsServer
from neartime_server.embedded import ApiServer, processes
from neartime_server.errors import ConfigurationError
from neartime_server.settings import PREFIX, Settings

if TYPE_CHECKING:
    from neartime import RuntimeService

T = TypeVar("T")

_GRACE = 2.0
"""Seconds that workers get to end when the runtime does."""


class Runtime:
    """A context manager, sync and async. Its methods block; call them in a thread where an event loop must go on."""

    def __init__(self, home: Path | None = None, **settings: object) -> None:
        """
        Args:
            home: where it keeps its data, and leaves it; without it a temporary folder, deleted at the end.
            settings: fields of the server's settings, `worker_heartbeat=0.5` or the like.
        """
        self._temporary = home is None
        self.home = home.resolve() if home is not None else Path(tempfile.mkdtemp(prefix="neartime-"))
        """The folder of everything that this runtime keeps."""
        self._environment: Mapping[str, str] = {
            PREFIX + name.upper(): str(value) for name, value in settings.items() if value is not None
        }
        self.settings = Settings.read({**self._environment, PREFIX + "HOME": str(self.home)})
        self._nats: NatsServer | None = None
        self._server: ApiServer | None = None

    # --- where it is

    @property
    def url(self) -> str:
        """Of the REST API."""
        return self._running(self._server).url

    @property
    def nats_url(self) -> str:
        return self._running(self._nats).url

    @property
    def token(self) -> str:
        """Of the runtime's owner, an operator."""
        return (self.home / "token").read_text().strip()

    @property
    def server_log(self) -> str:
        """What the API server has said so far."""
        return (self.home / "logs" / "server.log").read_text(errors="replace")

    def service(self, token: str | None = None) -> RuntimeService:
        """A client of this runtime; the owner's, unless `token` is another's. Close it, or use it in a `with` block."""
        from neartime import RuntimeService

        return RuntimeService(self.url, token or self.token)

    def new_instance(self, name: str) -> str:
        """Make another tenant; returns a token of it."""
        admin = Admin(self.settings)
        try:
            admin.create_instance(name)
            return admin.create_token(name, "owner")
        finally:
            admin.close()

    # --- its life

    def start(self) -> None:
        """Start both servers; returns when they answer.

        Raises:
            ConfigurationError: one of them does not come up; with the end of its log.
        """
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._nats = NatsServer(self.home / "nats", Keys.load(self.settings.secret_path, create=True))
        self._server = ApiServer(
            self.home, self._environment_port(), self.home / "logs" / "server.log", self._environment
        )
        atexit.register(self.stop)  # where a test is ended in the middle
        try:
            self.start_nats()
            self.start_server()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all of it, workers too. A second call does nothing."""
        atexit.unregister(self.stop)
        server, nats, self._server, self._nats = self._server, self._nats, None, None
        if server is not None:
            _complete(server.stop())
        processes.end_runners(self.home, _GRACE)
        if nats is not None:
            _complete(nats.stop())
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def kill_server(self) -> None:
        """SIGKILL to the API server. Workers and NATS go on."""
        self._running(self._server).kill()

    def start_server(self) -> None:
        """Start the API server again, on the same port."""
        _complete(self._running(self._server).start())

    def kill_nats(self) -> None:
        """SIGKILL to the NATS server."""
        self._running(self._nats).kill()

    def start_nats(self) -> None:
        """Start the NATS server again, on the same port."""
        _complete(self._running(self._nats).start())

    def __enter__(self) -> Runtime:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Runtime:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def __repr__(self) -> str:
        return f"<Runtime in {self.home}{'' if self._server else ', not running'}>"

    def _environment_port(self) -> int:
        return self.settings.port if PREFIX + "PORT" in self._environment else 0

    def _running(self, part: T | None) -> T:
        if part is None:
            raise ConfigurationError("the runtime is not running: use it in a `with` block, or call start()")
        return part


def _complete(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, in a thread of its own: the caller's may have a running event loop."""
    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="neartime-testing")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
