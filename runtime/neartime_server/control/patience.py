"""Doing a thing again while a part of the server is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

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
