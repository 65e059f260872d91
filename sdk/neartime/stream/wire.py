"""nats-py's client, but nothing that one message holds ends the reading of those behind it.

Whoever may publish, a worker's program for one, chooses a message's subject, reply subject and headers, and the server
passes on what is neither UTF-8 nor printable. nats-py gives the connection up at such a message, in silence or again
and again, and with it all that the process reads.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final
from urllib.parse import ParseResult, urlsplit

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, Parser

_END: Final = b"\r\n"
_DOOR: Final = "+unix"
"""Ends the scheme of a URL whose path is a Unix socket, behind which the server is that the rest of it names."""


class WireClient(Client):
    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)

    def through_door(self, url: str) -> str:
        """The URL to connect to. Of `nats+unix://server:4222/path/of/socket`, the socket is what is connected to then,
        whichever server it is for."""
        parts = urlsplit(url)
        if not parts.scheme.endswith(_DOOR):
            return url
        self._transport = _DoorTransport(parts.path)
        return f"{parts.scheme.removesuffix(_DOOR)}://{parts.netloc or 'localhost'}"

    def abandon(self) -> None:
        """Closes the socket, also where the connection is not made yet, or its closing was broken off."""
        if self._transport:
            self._transport.close()  # type: ignore[no-untyped-call]

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        message: Msg
        try:
            message = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            message = super()._build_message(sid, _readable(subject), _readable(reply), data, headers)
        return message

    async def _process_headers(self, headers: bytes | None) -> dict[str, str] | None:
        try:
            parsed: dict[str, str] | None = await super()._process_headers(headers)
        except (UnicodeDecodeError, IndexError):
            return {}
        return parsed

    @staticmethod
    def _parse_header_lines(raw: bytes) -> dict[str, str]:
        """As nats-py's, in a third of its time: each event has six headers, and reading them is what reading costs."""
        headers: dict[str, str] = {}
        for line in raw.decode("utf-8", "replace").split("\r\n"):
            name, colon, value = line.partition(":")
            if colon and " " not in name:
                headers[name] = value.strip()
        return headers


class _DoorTransport(TcpTransport):
    """A connection to a Unix socket. It is there from the start, so that nats-py makes none of its own."""

    def __init__(self, path: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._path = path

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        opening = asyncio.open_unix_connection(self._path, limit=buffer_size)
        self._io_reader, self._io_writer = await asyncio.wait_for(opening, connect_timeout)
        self._bare_io_reader, self._bare_io_writer = self._io_reader, self._io_writer

    def __bool__(self) -> bool:
        return True


def _readable(subject: bytes) -> bytes:
    """With a replacement character for what is no UTF-8: no subject of ours, then."""
    return subject.decode(errors="replace").encode()


class _Parser(Parser):
    """A line's words end at a space, as the server ends them. nats-py's ends them at form feeds and vertical tabs too,
    of which a subject may have some, and takes the rest of the line for something else."""

    async def parse(self, data: bytes = b"") -> None:
        self.buf += data
        while self.buf:
            if self.state == AWAITING_MSG_PAYLOAD:
                if len(self.buf) < self.needed + len(_END):
                    return
                headers = bytes(self.buf[: self.header_needed])
                body = bytes(self.buf[self.header_needed : self.needed])
                del self.buf[: self.needed + len(_END)]
                self.state = AWAITING_CONTROL_LINE
                await self.nc._process_msg(**self.msg_arg, data=body, headers=headers or None)
                continue
            end = self.buf.find(_END)
            if end < 0:
                return
            line = bytes(self.buf[:end])
            del self.buf[: end + len(_END)]
            await self._take(line)

    async def _take(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        if operation in (b"MSG", b"HMSG"):
            self._expect(rest.split(b" "), with_headers=operation == b"HMSG")
        elif operation == b"PING":
            await self.nc._process_ping()
        elif operation == b"PONG":
            await self.nc._process_pong()
        elif operation == b"-ERR":
            await self.nc._process_err(rest.strip().decode(errors="replace").lower())
        elif operation == b"INFO":
            await self.nc._process_info(json.loads(rest))
        elif operation != b"+OK":
            raise ProtocolError(f"nats: unknown protocol: {line[:80]!r}")

    def _expect(self, words: list[bytes], *, with_headers: bool) -> None:
        """Subject, subscription, reply subject where there is one, length of headers where they are, whole length."""
        subject, sid, *reply = words[: -2 if with_headers else -1]
        self.msg_arg: dict[str, Any] = {"sid": int(sid), "subject": subject, "reply": reply[0] if reply else b""}
        self.header_needed = int(words[-2]) if with_headers else 0
        self.needed = int(words[-1])
        self.state = AWAITING_MSG_PAYLOAD
