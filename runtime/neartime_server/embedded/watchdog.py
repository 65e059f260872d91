"""The watchdog of a home: starts NATS server and API server, and starts again what dies."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import IO, Protocol

from neartime_server.bus.keys import Keys
from neartime_server.bus.server import NatsServer
from neartime_server.embedded import processes
from neartime_server.embedded.processes import Process
from neartime_server.embedded.server import SHUT_DOWN_SECONDS, STOP_SECONDS, ApiServer
from neartime_server.errors import ConfigurationError
from neartime_server.settings import SHUT_DOWN, Settings

log = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.2, 30.0
"""Seconds before something that died is started again; doubled each time that it dies young."""
STEADY_SECONDS = 60.0
"""What lived for so long did not die young."""
RUNNER_GRACE = 5.0
"""Seconds that workers get to end when the runtime goes down."""
LOG_BYTES, LOG_FILES, LOG_CHECK_SECONDS = 10 << 20, 3, 60.0


@dataclass(frozen=True)
class Up:
    """What `run/up.json` says of a runtime that is up."""

    url: str
    nats_url: str
    watchdog_pid: int
    server_pid: int
    nats_pid: int | None
    """None where the NATS server is somebody else's."""
    started: str
    """When the watchdog began, ISO 8601."""
    version: str
    starts: dict[str, str]
    """By pid, when the process began: so that a pid that was given away again is not taken for it."""

    def process(self, pid: int | None) -> Process | None:
        """The process of this runtime that had this pid."""
        return Process(pid, self.starts[str(pid)]) if pid is not None and str(pid) in self.starts else None


def read_up(home: Path) -> Up | None:
    """What was written last; None where there is nothing, or nothing that can be read."""
    try:
        return Up(**json.loads((home / "run" / "up.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def prepare_home(home: Path) -> None:
    """Make the home folder, for its owner alone."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    home.chmod(0o700)
    for name in ("run", "logs"):
        (home / name).mkdir(exist_ok=True, mode=0o700)


def lock(home: Path, name: str, *, wait: bool = True) -> IO[str]:
    """The lock `run/<name>.lock`, held until the file is closed or the process ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is False.
    """
    file = (home / "run" / f"{name}.lock").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        file.close()
        raise
    return file


class _Part(Protocol):
    @property
    def pid(self) -> int | None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Watchdog:
    """Runs until SIGTERM or SIGINT; then it ends everything of the home, workers too."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home
        self._settings = settings
        self._stopping = asyncio.Event()
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._nats: NatsServer | None = None
        self._server = ApiServer(self._home, settings.port, self._home / "logs" / "server.log")

    async def run(self, ready: Callable[[Up], None]) -> None:
        """Calls `ready` once, when both servers answer.

        Raises:
            ConfigurationError: another watchdog has this home, or a server does not come up.
        """
        prepare_home(self._home)
        try:
            held = lock(self._home, "watchdog", wait=False)
        except BlockingIOError as error:
            raise ConfigurationError(f"{self._home} is in use by another runtime; `neartime down` ends it") from error
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        with held:
            end_servers(self._home)  # of a watchdog that was killed; its workers go on and are taken over
            try:
                if self._settings.nats_url is None:
                    keys = Keys.load(self._settings.secret_path, create=True)
                    self._nats = NatsServer(self._home / "nats", keys)
                    await self._nats.start()
                await self._server.start()
                ready(self._record())
                await self._watch()
            finally:
                await self._end()

    async def _watch(self) -> None:
        parts: list[tuple[str, _Part]] = [("API server", self._server)]
        if self._nats is not None:
            parts.append(("NATS server", self._nats))
        tasks = [asyncio.create_task(self._keep(name, part)) for name, part in parts]
        tasks.append(asyncio.create_task(self._rotate()))
        stop = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, *tasks):
            task.cancel()
        for task in done - {stop}:
            task.result()

    async def _keep(self, name: str, part: _Part) -> None:
        delay = FIRST_DELAY
        while True:
            began = time.monotonic()
            await _ended(part.pid)
            log.warning("the %s died; starting it again", name)
            if time.monotonic() - began > STEADY_SECONDS:
                delay = FIRST_DELAY
            while True:
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY)
                try:
                    await part.stop()  # reaps it
                    await part.start()
                    break
                except ConfigurationError as error:
                    log.error("%s; the next try is in %.1f s", error, delay)
            self._record()
            log.info("the %s is back", name)

    async def _rotate(self) -> None:
        files = [
            *((self._home / "logs") / f"{name}.log" for name in ("server", "watchdog")),
            self._home / "nats/nats.log",
        ]
        while True:
            for file in files:
                await asyncio.to_thread(rotate, file)
            await asyncio.sleep(LOG_CHECK_SECONDS)

    def _record(self) -> Up:
        pids = {os.getpid(), self._server.pid, self._nats.pid if self._nats else None}
        found = [process for pid in pids if pid is not None and (process := Process.of(pid))]
        up = Up(
            url=self._server.url,
            nats_url=self._nats.url if self._nats else str(self._settings.nats_url),
            watchdog_pid=os.getpid(),
            server_pid=self._server.pid or 0,
            nats_pid=self._nats.pid if self._nats else None,
            started=self._started,
            version=version("neartime"),
            starts={str(process.pid): process.start for process in found},
        )
        file = self._home / "run" / "up.json"
        draft = file.with_name(f".up.{secrets.token_hex(4)}")
        draft.write_text(json.dumps(asdict(up)) + "\n")
        draft.replace(file)
        return up

    async def _end(self) -> None:
        """First who takes requests, who ends the jobs and their workers; then what is left of those, then what they
        speak over."""
        await self._server.stop(workers=True)
        await asyncio.to_thread(processes.end_runners, self._home, RUNNER_GRACE)
        if self._nats is not None:
            await self._nats.stop()
        (self._home / "run" / "up.json").unlink(missing_ok=True)


async def _ended(pid: int | None) -> None:
    """Returns when the process has ended."""
    process = Process.of(pid) if pid is not None else None
    living = [process] if process else []
    while living:
        living = await asyncio.to_thread(processes.wait, living, 1.0)


def end_servers(home: Path, *, workers: bool = False) -> list[str]:
    """End the servers that `run/up.json` still names, and workers with their jobs. Returns which servers lived."""
    up = read_up(home)
    if up is None:
        return []
    ended = []
    for name, pid in (("API server", up.server_pid), ("NATS server", up.nats_pid)):
        process = up.process(pid)
        if process is not None and workers and pid == up.server_pid and process.signal(SHUT_DOWN):
            if processes.wait([process], SHUT_DOWN_SECONDS):
                process.signal(signal.SIGKILL)
                processes.wait([process], STOP_SECONDS)
            ended.append(name)
        elif process is not None and processes.end([process], STOP_SECONDS):
            ended.append(name)
    (home / "run" / "up.json").unlink(missing_ok=True)
    return ended


def rotate(file: Path, limit: int = LOG_BYTES, keep: int = LOG_FILES) -> None:
    """Put a log aside that has grown past `limit` bytes: `server.log.1` is the newest of `keep`.

    It is copied and truncated, since the process that appends to it holds it open; a line that is written between the
    two is lost.
    """
    if not file.exists() or file.stat().st_size <= limit:
        return
    for number in range(keep, 1, -1):
        older = file.with_name(f"{file.name}.{number - 1}")
        if older.exists():
            older.replace(file.with_name(f"{file.name}.{number}"))
    shutil.copyfile(file, file.with_name(f"{file.name}.1"))
    os.truncate(file, 0)
