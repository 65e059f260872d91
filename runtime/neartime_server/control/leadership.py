"""Which server acts: the one that holds the lease in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from neartime.contract.ids import new_id
from neartime_server.control.patience import LeaseLost, end, patiently
from neartime_server.errors import StoreUnavailable
from neartime_server.store import Store, leases

log = logging.getLogger(__name__)

NAME: Final = "control"
SECONDS: Final = 3.0
"""How long the lease lasts without being held on: the pause that a killed server leaves to its successor."""


class Leadership:
    """Takes the lease, holds it on, and runs `reign` for as long as it has it."""

    def __init__(self, store: Store, reign: Callable[[], Awaitable[None]], seconds: float = SECONDS) -> None:
        self._store = store
        self._reign = reign
        self._seconds = seconds
        self._holder = new_id()
        self.acting = False
        self.before: datetime | None = None
        """When the server that acted before this one was last alive, where it died; None where it ended in order."""

    def guard(self, connection: Connection) -> None:
        """To be called in every transaction of the one that acts.

        Raises:
            LeaseLost: it is another server by now. As long as this transaction lasts, it can't become one.
        """
        if not self.holds(connection):
            raise LeaseLost("another server acts now")

    def holds(self, connection: Connection) -> bool:
        """Whether this server acts, for as long as the transaction lasts."""
        return leases.held(connection, NAME, self._holder)

    async def run(self) -> None:
        """For ever, until cancelled; the lease is given back then."""
        try:
            while True:
                if await self._take():
                    await self._act()
                await asyncio.sleep(self._seconds / 3)
        finally:
            try:
                await self._store.run(lambda connection: leases.give_back(connection, NAME, self._holder))
            except StoreUnavailable:
                log.info("the lease could not be given back; it ends in %s s", self._seconds)

    async def _act(self) -> None:
        reign = asyncio.create_task(self._supervised())
        self.acting = True
        try:
            while not reign.done() and await self._take():
                await asyncio.wait([reign], timeout=self._seconds / 3)
        finally:
            self.acting = False
            await end([reign])

    async def _supervised(self) -> None:
        try:
            await self._reign()
        except LeaseLost:
            log.warning("another server has taken over")
        except Exception:  # begin again from what the store says: everything here is level-triggered
            log.exception("the control plane stopped and starts again")

    async def _take(self) -> bool:
        """Whether this server has the lease. While the database is away nobody else can get it either."""
        return await patiently("holding the lease", lambda: self._store.run(self._taken))

    def _taken(self, connection: Connection) -> bool:
        if not self.acting:
            until = leases.expires(connection, NAME)
            self.before = None if until is None else until - timedelta(seconds=self._seconds)
        return leases.take(connection, NAME, self._holder, self._seconds)
