"""The zygote of an environment: has imported what programs need, and forks workers for whoever speaks to its socket.

It runs one thread and opens no connection of its own. Its client, the API server, may go and come again: workers go on,
and their exits are kept until the client says `Forget`. It speaks `contract.launch.ZygoteRequest` and `ZygoteEvent`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import selectors
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ValidationError

from neartime.contract.launch import (
    Forget,
    Kill,
    Launch,
    Spawn,
    Spawned,
    WorkerExit,
    ZygoteRequest,
    ZygoteState,
)
from neartime.errors import NeartimeError
from neartime_runner import preload, processes, worker

log = logging.getLogger(__name__)

LINE_LIMIT: Final = 16 << 20
"""Bytes of one request."""
UNREAD_LIMIT: Final = 16 << 20
"""Bytes that a client may leave unread before it is dropped; it hears the state when it comes again."""
END_GRACE: Final = 5.0
"""Seconds that workers have to end when the zygote is told to."""
NO_PROCESS: Final = 71
"""Exit code of a worker for which no process could be made (EX_OSERR)."""


class AlreadyRunning(NeartimeError):
    """Another zygote listens on that socket."""


def serve(path: Path, alone: float) -> None:
    """Listens on a socket of its own at `path` until SIGTERM.

    Raises:
        AlreadyRunning: another one does.
        OSError: there can be no socket.
    """
    logging.basicConfig(format="%(asctime)s zygote %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    processes.keep_private(True)
    lock = _lock(path)
    preload.preload()
    zygote = Zygote(_listen(path), lock, alone)
    try:
        zygote.run()
    finally:
        path.unlink(missing_ok=True)


def _lock(path: Path) -> int:
    """One zygote a socket; the lock goes with the process."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(f"another zygote listens on {path}") from None
    return descriptor


def _listen(path: Path) -> socket.socket:
    """The socket, in place of one that a dead zygote left; there is none before it takes connections."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(draft))
    finally:
        os.umask(mask)
    listener.listen(16)
    listener.setblocking(False)
    draft.rename(path)
    return listener


class _Client:
    """A connection: what came and is no whole line yet, and what could not be sent yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received = bytearray()
        self.unsent = bytearray()


def _do_nothing(number: int, frame: object) -> None:
    """So that a signal wakes the zygote up, and does nothing else."""


class Zygote:
    def __init__(self, listener: socket.socket, lock: int, alone: float) -> None:
        self._listener, self._lock, self._alone = listener, lock, alone
        self._packages = preload.versions()  # of what is loaded, whatever is installed later
        self._selector = selectors.DefaultSelector()
        self._clients: dict[socket.socket, _Client] = {}
        self._running: dict[str, int] = {}
        """Pids of supervisors by worker."""
        self._exited: dict[str, int] = {}
        """Exit codes that are not forgotten yet, by worker."""
        self._deadlines: dict[str, float] = {}
        """When a worker that was told to end is killed."""
        self._wanted: deque[Launch] = deque()
        """Of workers that are to be forked. Nothing else refers to them then, so that a worker can forget them."""
        self._ending = False
        self._needed = time.monotonic()
        """When somebody was connected, or a worker ran, last."""

    def run(self) -> None:
        """Serves until SIGTERM; then ends all workers."""
        processes.adopt_orphans()
        self._wake, waker = socket.socketpair()
        self._wake.setblocking(False)
        waker.setblocking(False)
        self._waker = waker
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _do_nothing)  # the number comes through the socket
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        log.info("ready, pid %d", os.getpid())
        while not self._ending or self._running:
            for key, events in self._selector.select(self._patience()):
                if key.fileobj is self._wake:
                    self._hear_signals()
                elif key.fileobj is self._listener:
                    self._accept()
                elif (client := self._clients.get(key.data)) is not None:
                    self._tend(client, events)
            self._reap()
            self._kill_late()
            while self._wanted:
                self._fork()
            self._end_alone()

    # --- signals and time

    def _hear_signals(self) -> None:
        with suppress(BlockingIOError):
            numbers = self._wake.recv(4096)
            if not self._ending and {signal.SIGTERM, signal.SIGINT}.intersection(numbers):
                self._ending = True
                for worker_id in self._running:
                    self._end(worker_id, END_GRACE)

    def _patience(self) -> float:
        return max(0.0, min([self._needed + self._alone, *self._deadlines.values()]) - time.monotonic())

    def _end_alone(self) -> None:
        """A server that was killed and does not come back leaves no zygote for ever."""
        now = time.monotonic()
        if self._clients or self._running:
            self._needed = now
        elif now - self._needed >= self._alone:
            log.info("no server was connected for %.0f s", self._alone)
            self._ending = True

    def _end(self, worker_id: str, grace: float) -> None:
        pid = self._running.get(worker_id)
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace
            self._deadlines[worker_id] = min(self._deadlines.get(worker_id, deadline), deadline)

    def _kill_late(self) -> None:
        now = time.monotonic()
        for worker_id in [one for one, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[worker_id]
            log.warning("worker %s did not end by itself and is killed", worker_id)
            os.kill(self._running[worker_id], signal.SIGKILL)  # its nursery and child die with it

    def _reap(self) -> None:
        """Notes workers that have ended, and ends what programs have left behind them."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            ended = True
            worker_id = next((one for one, running in self._running.items() if running == pid), None)
            if worker_id is not None:
                self._note_exit(worker_id, os.waitstatus_to_exitcode(status))
        if ended:
            processes.kill_children(spare=set(self._running.values()))

    def _note_exit(self, worker_id: str, exit_code: int) -> None:
        self._running.pop(worker_id, None)
        self._deadlines.pop(worker_id, None)
        self._exited[worker_id] = exit_code
        log.info("worker %s ended with exit code %d", worker_id, exit_code)
        self._tell_all(WorkerExit(worker_id=worker_id, exit_code=exit_code))

    # --- requests

    def _obey(self, client: _Client, line: bytes) -> None:
        try:
            request = ZygoteRequest.validate_json(line)
        except ValidationError as error:
            # Without the input: it may hold the secrets of a launch.
            log.error("a request that is none: %s", error.errors(include_input=False, include_url=False))
            self._drop(client)
            return
        if isinstance(request, Spawn):
            self._want(client, request.launch)
        elif isinstance(request, Kill):
            self._kill(request)
        elif isinstance(request, Forget):
            self._exited.pop(request.worker_id, None)

    def _kill(self, request: Kill) -> None:
        for launch in self._wanted:
            if launch.worker_id == request.worker_id:
                self._wanted.remove(launch)
                self._note_exit(request.worker_id, -signal.SIGTERM)
                return
        self._end(request.worker_id, request.grace)

    def _want(self, client: _Client, launch: Launch) -> None:
        worker_id = launch.worker_id
        if worker_id in self._exited:
            self._tell(client, WorkerExit(worker_id=worker_id, exit_code=self._exited[worker_id]))
        elif worker_id in self._running:
            self._tell(client, Spawned(worker_id=worker_id, pid=self._running[worker_id]))
        elif not self._ending and all(one.worker_id != worker_id for one in self._wanted):
            self._wanted.append(launch)

    def _fork(self) -> None:
        worker_id = self._wanted[0].worker_id
        try:
            pid = processes.fork(self._become_worker)
        except OSError as error:
            log.error("no process for worker %s: %s", worker_id, error)
            self._note_exit(worker_id, NO_PROCESS)
            return
        finally:
            self._wanted.popleft()
        self._running[worker_id] = pid
        log.info("worker %s has pid %d", worker_id, pid)
        self._tell_all(Spawned(worker_id=worker_id, pid=pid))

    def _become_worker(self) -> None:
        """In the process that was forked."""
        self._selector.close()
        for one in (self._listener, self._wake, self._waker, *self._clients):
            one.close()
        os.close(self._lock)
        for handler in logging.getLogger().handlers[:]:
            logging.getLogger().removeHandler(handler)
        self._clients.clear()
        sys.exit(worker.supervise(self._wanted.popleft, self._wanted.clear))

    # --- connections

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        connection.setblocking(False)
        client = self._clients[connection] = _Client(connection)
        self._selector.register(connection, selectors.EVENT_READ, connection)
        self._tell(client, self._state())

    def _state(self) -> ZygoteState:
        return ZygoteState(
            python=platform.python_version(),
            packages=self._packages,
            running=[Spawned(worker_id=worker_id, pid=pid) for worker_id, pid in self._running.items()],
            exited=[WorkerExit(worker_id=worker_id, exit_code=code) for worker_id, code in self._exited.items()],
        )

    def _tend(self, client: _Client, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._flush(client)
            if events & selectors.EVENT_READ and client.connection in self._clients:
                self._read(client)
        except Exception:  # all workers would end with the zygote
            log.exception("a request failed")
            self._drop(client)

    def _read(self, client: _Client) -> None:
        try:
            data = client.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.received += data
        if not data or len(client.received) > LINE_LIMIT:
            self._drop(client)
            return
        *lines, rest = client.received.split(b"\n")
        client.received = rest
        while lines and client.connection in self._clients:
            self._obey(client, bytes(lines.pop(0)))

    def _tell_all(self, event: BaseModel) -> None:
        for client in list(self._clients.values()):
            self._tell(client, event)

    def _tell(self, client: _Client, event: BaseModel) -> None:
        client.unsent += event.model_dump_json().encode() + b"\n"
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        try:
            sent = client.connection.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        del client.unsent[:sent]
        if len(client.unsent) > UNREAD_LIMIT:
            self._drop(client)
            return
        interest = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, interest, client.connection)

    def _drop(self, client: _Client) -> None:
        if self._clients.pop(client.connection, None) is not None:
            self._selector.unregister(client.connection)
            client.connection.close()
