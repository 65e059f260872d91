"""A request's body of any size: in memory while it is small, then in a file that is read like memory."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

IN_MEMORY: Final = 1 << 20
"""Bytes beyond which a body goes to a file."""


@dataclass(frozen=True)
class Body:
    data: bytes | mmap.mmap
    digest: str
    """SHA-256, hexadecimal."""

    @property
    def large(self) -> bool:
        return not isinstance(self.data, bytes)

    async def parts(self, start: int, end: int, size: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to `end`, in parts of `size`."""
        for at in range(start, end, size):
            yield self.data[at : min(at + size, end)]


async def receive(request: Request) -> Body:
    """Take a body in as it comes. The file has no name and is gone with the last reference to it."""
    total = hashlib.sha256()
    held = bytearray()
    stream = request.stream()
    async for chunk in stream:
        total.update(chunk)
        held += chunk
        if len(held) > IN_MEMORY:
            break
    else:
        return Body(bytes(held), total.hexdigest())
    with tempfile.TemporaryFile() as file:
        file.write(held)
        del held
        async for chunk in stream:
            total.update(chunk)
            file.write(chunk)
        file.flush()
        return Body(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), total.hexdigest())
