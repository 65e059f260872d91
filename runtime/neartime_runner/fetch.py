"""Large inputs and checkpoints: asked for chunk by chunk, handed on while they come, and checked as a whole."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from nats.errors import Error as NatsError

from neartime.contract.launch import Fetch, Fetchable
from neartime.errors import NeartimeError

log = logging.getLogger(__name__)

AHEAD: Final = 4
"""Chunks that are asked for at a time."""
ANSWER_SECONDS: Final = 10.0
PAUSES: Final = (0.05, 2.0)
"""Seconds before a chunk that was not answered is asked for again: at first, and at most."""

Ask = Callable[[Fetch, float], Awaitable[bytes]]
"""Sends a signed request, and gives the body of its answer within so many seconds.

Raises:
    NatsError, OSError, asyncio.TimeoutError: there was none.
"""


class FetchFailed(NeartimeError):
    """The control plane does not give the value, or what came is not it."""


async def fetch(ask: Ask, job_id: str | None, wanted: Fetchable) -> AsyncGenerator[bytes, None]:
    """The value's chunks in order; waits for as long as the broker is away. No job: the program's own files.

    The last one may come before it shows that the value is damaged: then this raises behind it.

    Raises:
        FetchFailed: the value is refused or damaged.
    """
    digest, size = hashlib.sha256(), 0
    asked: deque[asyncio.Task[bytes]] = deque()
    try:
        for number in range(wanted.chunks + AHEAD):
            if number < wanted.chunks:
                asked.append(asyncio.create_task(_chunk(ask, Fetch(job_id=job_id, digest=wanted.digest, chunk=number))))
            if number >= AHEAD and asked:
                chunk = await asked.popleft()
                digest.update(chunk)
                size += len(chunk)
                yield chunk
        while asked:
            chunk = await asked.popleft()
            digest.update(chunk)
            size += len(chunk)
            yield chunk
    finally:
        for task in asked:
            task.cancel()
    if size != wanted.size or digest.hexdigest() != wanted.digest.rpartition(":")[2]:
        raise FetchFailed(f"a value arrived damaged: {size} of {wanted.size} bytes")


async def _chunk(ask: Ask, request: Fetch) -> bytes:
    pause = PAUSES[0]
    while True:
        with suppress(NatsError, OSError, asyncio.TimeoutError):
            if chunk := await ask(request, ANSWER_SECONDS):
                return chunk
            raise FetchFailed(f"chunk {request.chunk} of a value was refused")
        log.info("chunk %d was not answered: asking again", request.chunk)
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSES[1])
