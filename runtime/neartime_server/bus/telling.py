"""What a NATS server is told again when a connection is back: another one may be in its place, which knows nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from neartime.errors import NeartimeError
from neartime.stream import Link
from neartime.stream.link import AWAY
from neartime_server.errors import ServerError

log = logging.getLogger(__name__)

PAUSES: Final = (0.1, 2.0)
"""Seconds before it is told again where it did not take it, at first and at most: a cluster elects a leader first."""


class Telling:
    """One thing to be told, for as long as a connection stands."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def spawn(self, tell: Callable[[], Awaitable[None]], link: Link) -> None:
        self.cancel()
        self._task = asyncio.create_task(self._tell(tell, link))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _tell(self, tell: Callable[[], Awaitable[None]], link: Link) -> None:
        pause = PAUSES[0]
        while link.client.is_connected:  # whenever it is back, this begins anew
            try:
                await tell()
            except (*AWAY, NeartimeError, ServerError) as error:
                log.info("NATS did not take what it is told again: %s", error)
            else:
                return
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSES[1])
