"""Binary values as JSON strings, a block at a time: base64, with and without deflate.

The form is that of Qiskit Runtime: `base64(zlib(data))`, one string. Nothing here holds more than a block of it.
"""

from __future__ import annotations

import binascii
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from neartime.errors import DecodeError

Block: TypeAlias = "bytes | bytearray | memoryview"

BLOCK = 384 << 10
"""Bytes of one block, a multiple of three, so that base64 goes on without padding."""
DECODED_LIMIT = 4 << 30
"""Bytes that the binary values of one payload may hold together once they are inflated."""

_SAMPLE = 64 << 10
_WORTHWHILE = 0.9
"""Deflate is left out where a sample shrinks to no less than this part: measured floats do not shrink."""
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


def blocks(data: Block) -> Iterator[memoryview]:
    view = memoryview(data).cast("B")
    for start in range(0, len(view), BLOCK):
        yield view[start : start + BLOCK]


def quoted(parts: Iterable[Block]) -> Iterator[bytes]:
    """A JSON string that holds `parts` in base64, piece by piece."""
    yield b'"'
    rest = b""
    for part in parts:
        if rest or len(part) % 3:
            part = rest + bytes(part)
            end = len(part) - len(part) % 3
            part, rest = part[:end], part[end:]
        if part:
            yield binascii.b2a_base64(part, newline=False)
    yield binascii.b2a_base64(rest, newline=False) + b'"'


def deflate(parts: Iterable[Block]) -> Iterator[bytes]:
    """The zlib stream of `parts`: compressed where a sample of the first one says that it pays, else stored."""
    packer = None
    for part in parts:
        if packer is None:
            sample = memoryview(part)[:_SAMPLE]
            level = 1 if len(zlib.compress(sample, 1)) < _WORTHWHILE * len(sample) else 0
            packer = zlib.compressobj(level)
        if packed := packer.compress(part):
            yield packed
    yield (packer or zlib.compressobj(0)).flush()


def pack(data: bytes) -> str:
    """`base64(zlib(data))` of a small value, at once."""
    return binascii.b2a_base64(zlib.compress(data, 1), newline=False).decode("ascii")


class Budget:
    """What one payload may still inflate to, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def spend(self, size: int) -> None:
        """Raises: DecodeError: over the limit."""
        self._left -= size
        if self._left < 0:
            raise DecodeError(
                f"the binary values of this payload hold more than the limit of {self._limit} bytes; "
                "pass a larger limit to decode() if you trust where it comes from"
            )


class Unquote:
    """Turns base64 text, in whatever pieces it comes, into blocks of bytes for `write`."""

    def __init__(self, write: Callable[[bytes], None], *, strict: bool) -> None:
        self._write = write
        self._strict = strict
        """Refuse foreign characters. Where a checksum follows they are skipped, and the sum is wrong."""
        self._rest = b""
        self._padded = False

    def feed(self, text: Block) -> None:
        """Raises: DecodeError: this is no base64."""
        data = self._rest + text if self._rest else text
        end = len(data) - len(data) % 4
        self._rest = bytes(data[end:])
        if not end:
            return
        data = bytes(data[:end])
        if self._padded or (self._strict and data.translate(None, _ALPHABET)):
            raise DecodeError("a binary value is no base64")
        self._padded = data.endswith(b"=")
        try:
            self._write(binascii.a2b_base64(data))
        except binascii.Error as error:
            raise DecodeError(f"a binary value is no base64: {error}") from error

    def finish(self) -> None:
        if self._rest:
            raise DecodeError("a binary value ends within its base64")


class Inflate:
    """Inflates a zlib stream into `write`, a block at a time, however much a small input swells to."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._unpacker = zlib.decompressobj()

    def feed(self, data: bytes) -> None:
        """Raises: DecodeError: this is no zlib stream, or goes on after its end."""
        try:
            while data:
                if self._unpacker.eof:
                    raise DecodeError("a compressed value goes on after its end")
                if out := self._unpacker.decompress(data, BLOCK):
                    self._write(out)
                data = self._unpacker.unused_data or self._unpacker.unconsumed_tail
        except zlib.error as error:
            raise DecodeError(f"a compressed value is broken: {error}") from error

    def finish(self) -> None:
        try:
            while out := self._unpacker.decompress(b"", BLOCK):
                self._write(out)
        except zlib.error as error:
            raise DecodeError(f"a compressed value is broken: {error}") from error
        if not self._unpacker.eof:
            raise DecodeError("a compressed value is cut off")


class BytesSink:
    """Collects the bytes of base64 text, inflated where `deflated`."""

    def __init__(self, budget: Budget, *, deflated: bool = False) -> None:
        self._budget = budget
        self._buffer = io.BytesIO()
        self._inflate = Inflate(self._collect) if deflated else None
        self._unquote = Unquote(self._inflate.feed if self._inflate else self._collect, strict=not deflated)

    def _collect(self, data: bytes) -> None:
        self._budget.spend(len(data))
        self._buffer.write(data)

    def feed(self, text: Block) -> None:
        self._unquote.feed(text)

    def finish(self) -> bytes:
        self._unquote.finish()
        if self._inflate:
            self._inflate.finish()
        return self._buffer.getvalue()  # shares the buffer: no second copy


def unpack(text: object, budget: Budget) -> bytes:
    """The data in `base64(zlib(data))`.

    Raises:
        DecodeError: it is no text, no base64, no zlib stream, or over the budget.
    """
    if not isinstance(text, str):
        raise DecodeError(f"expected base64 text, got {type(text).__name__}")
    sink = BytesSink(budget, deflated=True)
    sink.feed(ascii_bytes(text))
    return sink.finish()


def ascii_bytes(text: str) -> bytes:
    try:
        return text.encode("ascii")
    except UnicodeEncodeError as error:
        raise DecodeError("a binary value is no base64") from error
