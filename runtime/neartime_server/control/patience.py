"""Doing a thing again while a part of the server is away, and ending what is under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

from neartime_server.errors import ServerError

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSES: Final = (0.1, 5.0)
"""Seconds between two tries: at first, and at most."""


class LeaseLost(ServerError):
    """Another server acts now; this one must not write."""


async def patiently(what: str, work: Callable[[], Awaitable[T]]) -> T:
    """The outcome of `work`, once the store or the bus is there; a log line when it is away and one when it is back.

    Raises:
        LeaseLost: another server acts now.
    """
    pause, told = PAUSES[0], False
    while True:
        try:
            value = await work()
        except LeaseLost:
            raise
        except ServerError as error:
            if not told:
                log.warning("%s has to wait: %s", what, error)
            told = True
        else:
            if told:
                log.info("%s goes on", what)
            return value
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSES[1])


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks, those too that begin meanwhile, until all have ended.

    Once is not enough: `asyncio.wait_for` up to Python 3.11 can lose a cancellation that comes with its result.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=1.0)
