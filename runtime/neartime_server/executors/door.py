"""A door: what workers in containers without a network have of it. A Unix socket leads to NATS, and to nothing else.

It is a process of its own, and outlives the server: workers in containers do, too. Nobody has to end it, as it ends by
itself when it has had no connection for long.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from neartime_server import variables
from neartime_server.errors import ExecutorError
from neartime_server.executors import addresses

log = logging.getLogger(__name__)

SOCKET_MODE: Final = 0o666
"""Workers are another user. What keeps other users of the machine out is the folder around it."""
CONNECT_SECONDS: Final = 5.0
START_SECONDS: Final = 20.0
"""How long a new one may take until it listens."""
TAKEN: Final = 3
"""Exit code where another one lives already."""


# --- the server's side


async def opened(home: Path, to: str) -> subprocess.Popen[bytes] | None:
    """Have a door to these servers, `host:port` with commas between: its process, if it had to be started.

    Raises:
        ExecutorError: it does not come up; with the end of its log.
    """
    path, process = addresses.door(home, to), None
    log = home / "logs" / f"{path.parent.name}.log"
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while not await asyncio.to_thread(_answers, path):
        code = process.poll() if process is not None else TAKEN  # then another one was there, on its way up or down
        if (code is not None and code != TAKEN) or asyncio.get_running_loop().time() > deadline:
            said = "\n".join(log.read_text(errors="replace").strip().splitlines()[-5:])
            raise ExecutorError(f"there is no door to NATS for workers in containers: {said or 'it said nothing'}")
        if code == TAKEN:
            process = await asyncio.to_thread(_start, path, to, home, log)
        await asyncio.sleep(0.02)
    return process


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(str(path))
        except OSError:
            return False
    return True


def _start(path: Path, to: str, home: Path, log: Path) -> subprocess.Popen[bytes]:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.parent.chmod(0o755)  # whatever this process's umask is
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-P", "-m", "neartime_server", "door", "--socket", str(path), "--home", str(home)]
    for one in to.split(","):
        command += ["--to", one]
    try:
        with log.open("ab") as file:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=variables.of_worker(own=True),
                cwd="/",
                start_new_session=True,  # so that it outlives the server
            )
    except OSError as error:
        raise ExecutorError(f"{sys.executable} can't be started: {error.strerror}") from error


# --- its process


def serve(path: Path, to: Sequence[str], alone: float) -> int:
    """Relays until SIGTERM, or until it has had no connection for `alone` seconds. Returns its exit code."""
    logging.basicConfig(format="%(asctime)s door %(levelname)s %(message)s")
    # Not beside the socket, where containers see it: who can open a file can lock it.
    held = os.open(path.parent.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return TAKEN
    targets = [(host.strip("[]"), int(port)) for host, _, port in (one.rpartition(":") for one in to)]
    try:
        asyncio.run(_Door(targets, alone).run(path))
    finally:
        path.unlink(missing_ok=True)
    return 0


class _Door:
    def __init__(self, to: Sequence[tuple[str, int]], alone: float) -> None:
        self._to, self._alone = to, alone
        self._tasks: set[asyncio.Task[None]] = set()
        self._left = 0.0
        """When the last connection ended; loop time."""

    async def run(self, path: Path) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, done.set)
        # Under another name first: whoever finds the socket can connect.
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(draft))
            draft.chmod(SOCKET_MODE)
            listener.listen(128)
            draft.rename(path)
            await loop.create_unix_server(lambda: _End(opened=self._opened), sock=listener)
            self._left = loop.time()
            ending = asyncio.ensure_future(done.wait())
            while not ending.done() and (self._tasks or loop.time() - self._left < self._alone):
                await asyncio.wait({ending}, timeout=min(self._alone, 5.0))

    def _opened(self, inside: _End) -> None:
        task = asyncio.ensure_future(self._relay(inside))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._left = asyncio.get_running_loop().time()

    async def _relay(self, inside: _End) -> None:
        for host, port in self._to:
            opening = asyncio.get_running_loop().create_connection(lambda: _End(other=inside), host, port)
            try:
                _, outside = await asyncio.wait_for(opening, CONNECT_SECONDS)
            except (OSError, asyncio.TimeoutError) as error:
                log.debug("%s:%d can't be reached: %s", host, port, error)
                continue
            await asyncio.wait({inside.closed, outside.closed})
            return
        inside.transport.abort()


class _End(asyncio.Protocol):
    """One end of what is relayed: what comes here goes out at the other one, no faster than that takes it.

    The first is given `opened`, and hears nothing until the second, which is given it as `other`, is there.
    """

    transport: asyncio.Transport

    def __init__(self, *, opened: Callable[[_End], None] | None = None, other: _End | None = None) -> None:
        self._opened, self.other = opened, other
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.other is None:
            transport.pause_reading()
        elif self.other.closed.done():  # meanwhile
            transport.abort()
        else:
            self.other.other = self
            self.other.transport.resume_reading()
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed.set_result(None)
        if self.other is not None:
            self.other.transport.close()
