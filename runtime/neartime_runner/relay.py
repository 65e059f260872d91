"""The way of a program's circuits: from the child, which has no connection, over its supervisor, to the gateway.

The child makes a pair of sockets for each question and sends one end over the pair that it was born with: so threads,
and processes that a program forks, don't get in each other's way, and who gives up closes its end.

    child ▶ supervisor    verb, length, message        supervisor ▶ child    whether it was answered, length, message

The supervisor opens nothing of it. What a child may ask is for NATS and the gateway to say.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from neartime.contract.gateways import PART_BYTES, Verb
from neartime.errors import NeartimeError

_HEADER: Final = struct.Struct("!BI")
_VERBS: Final = tuple(Verb)
MESSAGE_BYTES: Final = PART_BYTES + (64 << 10)
"""The largest message: a part and its header."""
_LONGEST_ANSWER: Final = 2 << 20


class GatewayAway(NeartimeError):
    """The gateway does not answer."""


class Relay:
    """The supervisor's side, for one child after the other. `ask` (verb, message) is what asks the gateway."""

    def __init__(self, ask: Callable[[Verb, bytes], Awaitable[bytes]]) -> None:
        self._ask = ask
        self._control: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.used = False
        """Whether anything was asked since this was last set."""

    def pair(self) -> int:
        """The end of a new child's; the one before it is gone."""
        self.close()
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._accept, self._control)
        return theirs.detach()

    def close(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        for task in self._tasks:
            task.cancel()

    def _accept(self, control: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            asyncio.get_running_loop().remove_reader(control)
        for descriptor in descriptors:
            task = asyncio.create_task(self._serve(socket.socket(fileno=descriptor)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            kind, size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            if kind >= len(_VERBS) or size > MESSAGE_BYTES:
                raise GatewayAway("this is no question to a gateway")
            self.used = True
            message = await reader.readexactly(size)
            try:
                good, answer = 1, await self._ask(_VERBS[kind], message)
            except GatewayAway as error:
                good, answer = 0, str(error).encode()
            writer.write(_HEADER.pack(good, len(answer)) + answer)
            await writer.drain()
        except (OSError, EOFError, GatewayAway):  # it has given up, or talks nonsense
            return
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def ask(control: int, verb: Verb, message: bytes) -> bytes:
    """The child's side: one question and its answer. Blocks.

    Raises:
        GatewayAway: the gateway did not answer, or the supervisor is gone.
    """
    ours, theirs = socket.socketpair()
    with ours:
        try:
            with theirs, socket.socket(fileno=os.dup(control)) as way:
                socket.send_fds(way, [b"\0"], [theirs.fileno()])
            ours.sendall(_HEADER.pack(_VERBS.index(verb), len(message)) + message)
            good, size = _HEADER.unpack(_read(ours, _HEADER.size))
            answer = _read(ours, size)
        except OSError as error:
            raise GatewayAway(f"its supervisor is gone: {error}") from error
    if not good:
        raise GatewayAway(answer.decode(errors="replace"))
    return answer


def _read(connection: socket.socket, size: int) -> bytes:
    if size > _LONGEST_ANSWER:
        raise ConnectionError("its answer is too long")
    data = bytearray()
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("it closed the connection")
        data += more
    return bytes(data)
