"""Where a worker's children are forked: a small process beside the supervisor.

It is forked before the supervisor knows a secret, opens a connection or starts a thread, and never does any of it. So a
child has nothing of the kind in its memory, and can be replaced at any time by a clean one.

    supervisor ▶ nursery    one byte, with four descriptors: the child's ends of its pipes; a fifth leads to a gateway
    nursery ▶ supervisor    FORKED pid, then EXITED with its exit code, when all that it had started is gone too
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Final

from neartime.errors import NeartimeError
from neartime_runner import child as child_process
from neartime_runner import preload, processes
from neartime_runner.frames import HEADER, Frame, Setup, pack
from neartime_runner.logs import Capture, LogBook

_MESSAGE: Final = struct.Struct("!Bi")
_FORKED, _EXITED = 1, 2
_PIPE_BYTES: Final = 256 << 10
"""Of frames that a child may be ahead of its supervisor: thousands of small interim results."""
_READ: Final = 256 << 10


class NurseryLost(NeartimeError):
    """The process that forks children is gone; so are they."""


class Nursery:
    """The supervisor's side. Made before the supervisor starts anything; `forget` is called in the new process."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self._socket, theirs = socket.socketpair()

        def entry() -> None:
            self._socket.close()
            forget()
            processes.keep_private(False)  # programs may look at themselves
            preload.preload_first()
            _serve(theirs)

        self.pid = processes.fork(entry)
        theirs.close()
        self._socket.setblocking(False)
        self._received = bytearray()
        self._forked: asyncio.Future[int] | None = None
        self._child: Child | None = None
        self._lost = False

    def attach(self, lost: Callable[[], None]) -> None:
        """Begins to listen, in the supervisor's event loop. `lost` is called when the nursery is gone."""
        self._note_loss = lost
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    async def child(self, setup: Setup, book: LogBook, gateway: int | None = None) -> Child:
        """A new child; the one before it has ended. `gateway` is a descriptor for it, which is closed here.

        Raises:
            NurseryLost: there is none any more.
        """
        loop = asyncio.get_running_loop()
        commands, frames, stdout, stderr = (os.pipe() for _ in range(4))
        theirs = [commands[0], frames[1], stdout[1], stderr[1], *([] if gateway is None else [gateway])]
        ours = [commands[1], frames[0], stdout[0], stderr[0]]
        processes.widen(frames[1], _PIPE_BYTES)
        try:
            if self._lost:
                raise NurseryLost("the process that forks children is gone")
            self._forked = loop.create_future()
            socket.send_fds(self._socket, [b"F"], theirs)
            pid = await self._forked
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._child = made = Child(pid)
        await made.open(ours, book)
        made.say(Frame.SETUP, setup.model_dump_json().encode())
        return made

    def close(self) -> None:
        """Listens no more; what is in it is for the supervisor to kill."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _hear(self) -> None:
        try:
            data = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
        self._received += data
        while len(self._received) >= _MESSAGE.size:
            kind, number = _MESSAGE.unpack_from(self._received)
            del self._received[: _MESSAGE.size]
            if kind == _FORKED and self._forked is not None:
                self._forked.set_result(number)
            elif kind == _EXITED and self._child is not None:
                self._child.exited.set_result(number)

    def _lose(self) -> None:
        self._lost = True
        self._note_loss()
        asyncio.get_running_loop().remove_reader(self._socket)
        lost = NurseryLost("the process that forks children is gone")
        if self._forked is not None and not self._forked.done():
            self._forked.set_exception(lost)
        if self._child is not None and not self._child.exited.done():
            self._child.kill(signal.SIGKILL)  # it has died with the nursery, but what it had started holds its pipes
            self._child.exited.set_result(-signal.SIGKILL)


class Child:
    """The supervisor's hold on a child. Made by `Nursery.child`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code, negative for the signal that killed it; done when all that it had started is gone too."""
        self.gone = False
        """Whether it has closed its pipe: no job can run in it any more."""
        self.used = False
        """Whether a job was given to it."""

    async def open(self, descriptors: list[int], book: LogBook) -> None:
        """Takes over the supervisor's ends of its pipes."""
        commands, frames, stdout, stderr = descriptors
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop=loop), os.fdopen(commands, "wb", buffering=0)
        )
        transport.set_write_buffer_limits(high=0)
        self._writer = asyncio.StreamWriter(transport, protocol, None, loop)
        self._frames = await _reader(frames, 2 * _READ)
        self._captures = [
            Capture("stdout", await _reader(stdout, 1 << 16), book),
            Capture("stderr", await _reader(stderr, 1 << 16), book),
        ]

    def say(self, kind: Frame, body: bytes = b"") -> None:
        self._writer.write(pack(kind, body))

    async def flushed(self) -> None:
        """Returns when all that was said is in its pipe; at once where it is gone."""
        try:
            await self._writer.drain()
        except ConnectionError:
            return

    async def frames(self) -> AsyncIterator[tuple[Frame, bytes]]:
        """What it says, until it is gone or closes its pipe."""
        held = bytearray()
        while data := await self._frames.read(_READ):
            held += data
            at = 0
            while len(held) - at >= HEADER.size:
                kind, size = HEADER.unpack_from(held, at)
                end = at + HEADER.size + size
                if len(held) < end:
                    break
                body = bytes(memoryview(held)[at + HEADER.size : end])
                at = end
                yield Frame(kind), body
            del held[:at]

    def expect(self, mark: bytes) -> list[asyncio.Future[None]]:
        """Done when what it wrote to stdout and stderr before the mark is in the log book."""
        return [capture.expect(mark) for capture in self._captures]

    async def read_out(self, timeout: float) -> None:
        """Returns when all that a child which is gone has written is in the log book."""
        tasks = [capture.task for capture in self._captures]
        _, late = await asyncio.wait(tasks, timeout=timeout)
        for task in late:
            task.cancel()

    def interrupt(self, number: int) -> None:
        """Tells it, and it alone."""
        if not self.exited.done():
            os.kill(self.pid, number)

    def kill(self, number: int) -> None:
        """Tells it and the processes that it started, as far as they stayed in its group."""
        if not self.exited.done():
            processes.kill_group(self.pid, number)


async def _reader(descriptor: int, limit: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=limit)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", buffering=0)
    )
    return reader


def _serve(connection: socket.socket) -> None:
    """The nursery's own side: one child at a time, until the supervisor is gone."""
    processes.adopt_orphans()
    with suppress(ConnectionError):
        while True:
            request, descriptors, _, _ = socket.recv_fds(connection, 1, 5)
            if not request:
                return
            _raise(connection, descriptors)


def _raise(connection: socket.socket, descriptors: list[int]) -> None:
    """One child, from its fork until all that it had started is gone."""

    def entry() -> None:
        connection.close()
        child_process.run(*descriptors)

    pid = processes.fork(entry)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(_MESSAGE.pack(_FORKED, pid))
    exit_code = processes.wait_for(pid)
    # Its pid stays taken until the supervisor knows, and so can't kill another process in its place.
    processes.kill_children(spare={pid})
    connection.sendall(_MESSAGE.pack(_EXITED, exit_code))
    os.waitpid(pid, 0)
