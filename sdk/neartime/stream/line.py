"""A NATS connection that is always there: opened when first asked for, and again before its credential ends.

nats-py closes for good when a credential ends. So a fresh connection with a fresh credential takes over before that,
and one that was closed for good is opened again, for as long as the line is not closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from neartime.errors import ConnectionFailed, LimitReached, ServerFailed, StreamError
from neartime.stream.link import AWAY, Access, Link, lifetime

log = logging.getLogger("neartime.stream")

RENEW_MARGIN: Final = 60.0
"""Seconds before a credential's end at which a fresh connection takes over; at most a third of its life."""
PAUSES: Final = (0.05, 2.0)
"""Seconds between two tries to open: at first, and at most."""
PATIENCE: Final = 10.0
"""Seconds after which a server that is away is worth a warning."""

_CLOSED: Final = "the event stream is closed"
_PASSING = (ConnectionFailed, ServerFailed, LimitReached, StreamError, *AWAY)


class Line:
    """`access` gives a credential whenever one is needed. `opened` is called with each new connection before anybody
    gets it; with it, a connection that was closed for good is opened again at once, not only when it is asked for."""

    def __init__(
        self,
        access: Callable[[], Awaitable[Access]],
        *,
        name: str,
        opened: Callable[[Link], Awaitable[None]] | None = None,
    ) -> None:
        self._access, self._name, self._opened = access, name, opened
        self._current: Link | None = None
        self._opening: asyncio.Task[Link] | None = None
        self._renewal: asyncio.TimerHandle | None = None
        self._closed = False

    async def link(self) -> Link:
        """The connection; waits for as long as the server is away.

        Raises:
            StreamError: the line is closed.
            NeartimeError: no credential is given any more.
        """
        if self._closed:
            raise StreamError(_CLOSED)
        current = self._current
        if current is not None and not current.client.is_closed:
            return current
        opening = self._open_soon()
        await asyncio.wait({opening})  # which leaves it to the others where this one is cancelled
        if opening.cancelled():
            raise StreamError(_CLOSED)
        return opening.result()

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._current is not None and bool(self._current.client.is_connected)

    async def close(self) -> None:
        """Ends it; whoever reads gets a StreamError."""
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait({self._opening})
        if self._current is not None:
            await self._current.close()

    def _open_soon(self) -> asyncio.Task[Link]:
        if self._opening is None or self._opening.done():
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._outcome)
        return self._opening

    def _outcome(self, opening: asyncio.Task[Link]) -> None:
        """Whoever waits is told; where nobody does, nobody else would hear of it."""
        if not opening.cancelled() and (error := opening.exception()) is not None:
            log.warning("the connection to the event stream can't be renewed: %s", error)

    async def _open(self) -> Link:
        loop = asyncio.get_running_loop()
        pause, began, told = PAUSES[0], loop.time(), False
        while True:
            try:
                access = await self._access()
                link = await Link.open(access, name=self._name)
                try:
                    if self._opened is not None:
                        await self._opened(link)
                except BaseException:
                    await link.close()
                    raise
                break
            except _PASSING as error:
                log.debug("opening the event stream: %r", error)
                if not told and loop.time() - began > PATIENCE:
                    told = True
                    log.warning("%s; it is tried again", error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSES[1])
        await self._take(link, access)
        return link

    async def _take(self, link: Link, access: Access) -> None:
        old, self._current = self._current, link
        link.listen(self._ended)
        if (seconds := lifetime(access.credential)) is not None:
            delay = max(seconds - min(RENEW_MARGIN, seconds / 3), 0.1)
            if self._renewal is not None:
                self._renewal.cancel()
            self._renewal = asyncio.get_running_loop().call_later(delay, self._open_soon)
        if old is not None:
            await old.close()  # which moves its readers over

    def _ended(self) -> None:
        if self._opened is not None and not self._closed and self._current and self._current.client.is_closed:
            self._open_soon()
