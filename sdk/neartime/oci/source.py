"""Where the bytes of an upload come from, read from any place again: a connection may break anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from neartime.errors import DamagedContent

Source = bytes | Path | Callable[[], AsyncIterator[bytes]]
"""Content itself, a file, or a function that begins to read it each time that it is called."""


class Reader:
    """A source, piece by piece. It holds one piece in memory."""

    def __init__(self, source: Source, size: int) -> None:
        self.size = size
        """Bytes that there are said to be."""
        self._source = source
        self._position = 0
        self._iterator: AsyncIterator[bytes] | None = None
        self._left = b""

    async def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on: `length` of them, or fewer at the end.

        Raises:
            DamagedContent: there are fewer bytes than was said, or more.
        """
        length = min(length, self.size - offset)
        if isinstance(self._source, bytes):
            self._expect(len(self._source) == self.size)
            return self._source[offset : offset + length]
        if isinstance(self._source, Path):
            return await asyncio.to_thread(self._from_file, self._source, offset, length)
        return await self._from_iterator(self._source, offset, length)

    def _from_file(self, path: Path, offset: int, length: int) -> bytes:
        with path.open("rb") as file:
            self._expect(path.stat().st_size == self.size)
            file.seek(offset)
            data = file.read(length)
        self._expect(len(data) == length)
        return data

    async def _from_iterator(self, begin: Callable[[], AsyncIterator[bytes]], offset: int, length: int) -> bytes:
        if self._iterator is None or offset < self._position:
            await self.close()
            self._iterator, self._position, self._left = begin(), 0, b""
        while self._position < offset:
            self._position += len(await self._take(offset - self._position))
        pieces = []
        while length > 0:
            pieces.append(await self._take(length))
            self._position += len(pieces[-1])
            length -= len(pieces[-1])
        if self._position == self.size:
            self._expect(not self._left and await anext(self._iterator, None) is None)
        return b"".join(pieces)

    async def _take(self, length: int) -> bytes:
        """At most `length` bytes, at least one."""
        assert self._iterator is not None
        while not self._left:
            piece = await anext(self._iterator, None)
            self._expect(piece is not None)
            self._left = piece or b""
        taken, self._left = self._left[:length], self._left[length:]
        return taken

    def _expect(self, right: bool) -> None:
        if not right:
            raise DamagedContent(f"what is to be pushed does not have the {self.size} bytes that were announced")

    async def close(self) -> None:
        """Ends the iterator, if there is one."""
        if (close := getattr(self._iterator, "aclose", None)) is not None:
            await close()
        self._iterator = None
