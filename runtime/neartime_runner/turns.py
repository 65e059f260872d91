"""Whose turn it is on a backend: calls of several sessions, none of which may interleave with another's."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`places` is how many sessions may have calls under way at once, where none of them wants to be alone."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._inside: Counter[str] = Counter()
        """Calls under way, by session."""
        self._alone: str | None = None
        """The session that shares with nobody."""
        self._waiting: deque[tuple[str, bool, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def turn(self, session: str, *, alone: bool) -> AsyncIterator[None]:
        """Entered when calls of others have ended, as far as they must; in the order in which it was asked for."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((session, alone, ready))
        self._admit()
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():
                self._leave(session)
            raise
        try:
            yield
        finally:
            self._leave(session)

    def _leave(self, session: str) -> None:
        self._inside[session] -= 1
        if not self._inside[session]:
            del self._inside[session]
            if self._alone == session:
                self._alone = None
        self._admit()

    def _admit(self) -> None:
        """Lets in whoever is first, as long as that fits. Whoever is behind waits, too: nobody is overtaken by another
        session's calls; those of a session that is inside already change nothing for the others."""
        left: deque[tuple[str, bool, asyncio.Future[None]]] = deque()
        blocked = False
        while self._waiting:
            session, alone, ready = self._waiting.popleft()
            if ready.done():
                continue
            if session in self._inside or (not blocked and self._fits(session, alone)):
                self._inside[session] += 1
                if alone:
                    self._alone = session
                ready.set_result(None)
            else:
                blocked = True
                left.append((session, alone, ready))
        self._waiting = left

    def _fits(self, session: str, alone: bool) -> bool:
        if self._alone is not None:
            return False
        return not self._inside if alone else len(self._inside) < self._places
