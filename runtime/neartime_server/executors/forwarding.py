"""A connection to a port of a pod's loopback, over the API server, as HTTP's client takes a socket. It blocks.

Source of the frames: Kubernetes, the kubelet's `portforward/websocket.go`. A byte says the channel, 0 for data and 1
for what went wrong; the first frame of each is the port's number.
"""

from __future__ import annotations

import io
from typing import Any, Final

from websocket import ABNF, WebSocketException

DATA: Final = 0
PIECE: Final = 64 << 10
"""Bytes of a frame that is sent."""


class Forwarded(io.RawIOBase):
    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self._begun: set[int] = set()
        self._rest = b""

    # --- as a file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            OSError: the port can't be reached, or not any more.
        """
        while not self._rest:
            if (found := self._next()) is None:
                return 0
            self._rest = found
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    # --- as a socket

    def sendall(self, data: bytes) -> None:
        try:
            for at in range(0, len(data), PIECE):
                self._websocket.send_binary(bytes([DATA]) + data[at : at + PIECE])
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Borrowed(self), 1 << 20)

    def _next(self) -> bytes | None:
        """What came; None at the end."""
        try:
            opcode, frame = self._websocket.recv_data(control_frame=True)
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error
        if opcode == ABNF.OPCODE_CLOSE:
            return None
        if opcode != ABNF.OPCODE_BINARY or not frame:
            return b""
        channel, content = frame[0], bytes(frame[1:])
        if channel not in self._begun:
            self._begun.add(channel)
            return b""
        if channel != DATA:
            raise ConnectionError(content.decode(errors="replace").strip())
        return content


class _Borrowed(io.RawIOBase):
    """Who has read one answer closes its file; the connection stays."""

    def __init__(self, forwarded: Forwarded) -> None:
        self._forwarded = forwarded

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._forwarded.readinto(buffer)
