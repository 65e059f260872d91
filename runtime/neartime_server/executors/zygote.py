"""One zygote as the server knows it: a connection, what it said, and how it is started and ended."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from neartime.contract.launch import Forget, Kill, Launch, Spawn, Spawned, WorkerExit, ZygoteEvent, ZygoteState
from neartime_server import variables
from neartime_server.errors import ExecutorError
from neartime_server.executors.protocol import Place
from neartime_server.executors.reasons import how

CONNECT_SECONDS: Final = 10.0
"""How long a zygote may take to say what it is; one that is busy forking answers later than one that rests."""
START_SECONDS: Final = 90.0
"""How long a new one may take to import everything."""
SPAWN_SECONDS: Final = 30.0
_LINE_BYTES: Final = 16 << 20
_TRIES: Final = 3
_LOOK: Final = 0.01
"""Seconds between two looks whether a new zygote answers."""


class ZygoteLost(Exception):
    """The connection has ended, and perhaps the zygote with it."""


class Zygote:
    """`hear` is called with what it says of workers, `lost` when the connection ends by itself."""

    def __init__(
        self,
        name: str,
        connection: Connection,
        hear: Callable[[Spawned | WorkerExit], None],
        lost: Callable[[Zygote], None],
    ) -> None:
        self.name, self.pid, self.state = name, connection.pid, connection.state
        self._connection, self._hear, self._lost = connection, hear, lost
        self.running = {one.worker_id: one.pid for one in connection.state.running}
        self._asked: dict[str, asyncio.Future[None]] = {}
        """Workers that were asked for, until it says what became of them."""
        self.unanswered: set[str] = set()
        """Of these, those of which it said nothing more."""
        self._reading = asyncio.create_task(self._read())

    def has(self, worker_id: str) -> bool:
        """Whether this worker runs, or has been asked for."""
        return worker_id in self.running or worker_id in self._asked

    @property
    def busy(self) -> bool:
        return bool(self.running or self._asked)

    async def spawn(self, launch: Launch) -> None:
        """Have it fork a worker.

        Raises:
            ZygoteLost: it is gone.
            ExecutorError: it could not, or does not answer.
        """
        waiting = asyncio.get_running_loop().create_future()
        self._asked[launch.worker_id] = waiting
        await self._send(Spawn(launch=launch))
        try:
            # Whoever gives up leaves the question open: the worker may come yet, and be ended.
            await asyncio.wait_for(asyncio.shield(waiting), SPAWN_SECONDS)
        except asyncio.TimeoutError as error:
            raise ExecutorError(f"the zygote {self.name} does not answer") from error

    async def kill(self, worker_id: str, grace: float) -> None:
        """Raises ZygoteLost where it is gone."""
        await self._send(Kill(worker_id=worker_id, grace=grace))

    async def forget(self, worker_id: str) -> None:
        """Raises ZygoteLost where it is gone."""
        await self._send(Forget(worker_id=worker_id))

    async def close(self) -> None:
        """End the connection. The zygote goes on."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _send(self, message: BaseModel) -> None:
        try:
            await self._connection.send(message)
        except (OSError, RuntimeError) as error:  # RuntimeError: uvloop's, of a transport that is closed
            raise ZygoteLost from error

    async def _read(self) -> None:
        try:
            while (event := await self._connection.read()) is not None:
                if isinstance(event, Spawned):
                    self.running[event.worker_id] = event.pid
                    self._answer(event.worker_id, None)
                    self._hear(event)
                elif isinstance(event, WorkerExit):
                    self.running.pop(event.worker_id, None)
                    self._answer(event.worker_id, ExecutorError(f"its process {how(event.exit_code)} at once"))
                    self._hear(event)
        finally:
            self._connection.close()
            self.unanswered = set(self._asked)
            for worker_id in self.unanswered:
                self._answer(worker_id, ZygoteLost())
        self._lost(self)

    def _answer(self, worker_id: str, error: Exception | None) -> None:
        waiting = self._asked.pop(worker_id, None)
        if waiting is None or waiting.done():
            return
        if error is None:
            waiting.set_result(None)
        else:
            waiting.set_exception(error)
            waiting.exception()  # perhaps nobody waits any more


class Connection:
    """JSON lines to and from a zygote."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pid: int | None, state: ZygoteState
    ) -> None:
        self._reader, self._writer, self.pid, self.state = reader, writer, pid, state

    @classmethod
    async def open(cls, path: Path) -> Connection:
        """Connect and hear what state it is in.

        Raises:
            OSError: nobody listens there.
            TimeoutError: it is silent.
            ExecutorError: it speaks another language.
        """
        loop, end = asyncio.get_running_loop(), socket.socket(socket.AF_UNIX)
        end.setblocking(False)
        async with asyncio.timeout(CONNECT_SECONDS):
            try:
                await loop.sock_connect(end, str(path))
                pid = _peer(end)
                reader, writer = await asyncio.open_unix_connection(sock=end, limit=_LINE_BYTES)
            except BaseException:
                end.close()
                raise
            try:
                state = await _event(reader)
            except BaseException:
                writer.close()
                raise
        if not isinstance(state, ZygoteState):
            writer.close()
            raise ConnectionResetError("it ended the connection") if state is None else ExecutorError("no zygote")
        return cls(reader, writer, pid, state)

    async def send(self, message: BaseModel) -> None:
        self._writer.write(message.model_dump_json().encode() + b"\n")
        await self._writer.drain()

    async def read(self) -> Spawned | WorkerExit | ZygoteState | None:
        """What it says next; None where it says nothing more."""
        try:
            return await _event(self._reader)
        except (OSError, ExecutorError):
            return None

    def close(self) -> None:
        self._writer.close()


async def look(path: Path) -> ZygoteState:
    """What state a zygote is in, by a connection of its own. Raises as `Connection.open` does."""
    connection = await Connection.open(path)
    connection.close()
    return connection.state


async def _event(reader: asyncio.StreamReader) -> Spawned | WorkerExit | ZygoteState | None:
    try:
        line = await reader.readline()
        return ZygoteEvent.validate_json(line) if line.endswith(b"\n") else None
    except (ValidationError, ValueError) as error:
        raise ExecutorError(f"a zygote says what this server does not understand: {error}") from error


def _peer(end: socket.socket) -> int | None:
    """The process at the other end. Source: unix(7), SO_PEERCRED; macOS' sys/un.h, LOCAL_PEERPID."""
    if hasattr(socket, "SO_PEERCRED"):
        pid: int = struct.unpack("3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid
    return end.getsockopt(0, 2) if os.uname().sysname == "Darwin" else None


# --- its process


async def started(place: Place, path: Path, home: Path, log: Path) -> tuple[Connection, subprocess.Popen[bytes] | None]:
    """A connection to the zygote at `path`; it is started if none is there. Its process, if it was started here.

    Raises:
        ExecutorError: it ends before it is ready, or does not answer; with the end of its log.
    """
    since = _begin(log)
    loop = asyncio.get_running_loop()
    deadline, process, tries = loop.time() + START_SECONDS, None, 0
    while loop.time() < deadline:
        try:
            return await Connection.open(path), process
        except (OSError, TimeoutError):
            pass
        if process is None and not lives(path):
            process = await asyncio.to_thread(_start, place, path, home, log)
            tries += 1
        elif process is not None and (code := process.poll()) is not None:
            if (code != 1 or tries == _TRIES) and not lives(path):
                raise ExecutorError(f"its zygote {how(code)} before it was ready:\n{_tail(log, since)}")
            process = None  # another one may have been there, on its way up or down: then this one gave way
        await asyncio.sleep(_LOOK if process is not None else _LOOK * 10)  # to look takes the lock, for a moment
    if process is not None:
        process.kill()
        await asyncio.to_thread(process.wait)
    raise ExecutorError(f"its zygote was not ready within {START_SECONDS:g} s:\n{_tail(log, since)}")


def _start(place: Place, path: Path, home: Path, log: Path) -> subprocess.Popen[bytes]:
    """In a session of its own, so that it outlives the server."""
    command = [str(place.python), "-m", "neartime_runner", "zygote", "--socket", str(path), "--home", str(home)]
    try:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=variables.of_worker(own=place.digest is None),
                cwd=path.parent,  # which comes first on its sys.path, and holds no module
                start_new_session=True,
            )
    except OSError as error:
        raise ExecutorError(f"{place.python} can't be started: {error.strerror}") from error


def _begin(log: Path) -> int:
    """Where in its log a zygote that is started now begins."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return log.stat().st_size if log.exists() else 0


def lives(path: Path) -> bool:
    """Whether a zygote lives that listens on this socket, or will, or did: it holds a lock beside it."""
    try:
        with path.with_name(f"{path.name}.lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:  # it is held; or that can't be known, and what may live is not taken for dead
        return True
    return False


async def end(pid: int, process: subprocess.Popen[bytes] | None, grace: float) -> None:
    """SIGTERM to a zygote that has no workers, SIGKILL after `grace` seconds. `process` is its own, as a child's."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace
    try:
        os.kill(pid, signal.SIGTERM)
        while loop.time() < deadline:
            await asyncio.sleep(0.05)
            if process is not None and process.poll() is not None:
                return
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log: Path, since: int) -> str:
    with log.open("rb") as file:
        file.seek(since)
        lines = file.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-20:]) or "it said nothing"
