"""What several ask an executor for at once, and is done once for all: starts of workers, checks of images."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final

log = logging.getLogger(__name__)

CHECKED: Final = 1000
"""How many checks are remembered."""
Work = Coroutine[Any, Any, None]


class Starts:
    """Starts that are under way, by worker."""

    def __init__(self, stopped: set[str], started: Callable[[str], None] = lambda worker_id: None) -> None:
        """
        Args:
            stopped: workers that were to be ended; one whose start is given up is added.
            started: called of each one that was started.
        """
        self._stopped, self._started = stopped, started
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, worker_id: object) -> bool:
        return worker_id in self._tasks

    async def __call__(self, worker_id: str, work: Callable[[], Work]) -> None:
        """Start a worker, once for all who ask. Who gives up ends it for all: `work` takes away what it has made."""
        if (task := self._tasks.get(worker_id)) is None:
            task = self._tasks[worker_id] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(worker_id, done))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stopped.add(worker_id)
            task.cancel()
            raise

    async def over(self, worker_id: str) -> None:
        """Returns when no start of this worker is under way."""
        if (task := self._tasks.get(worker_id)) is not None:
            await asyncio.wait({task})

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._tasks.values())

    def _ended(self, worker_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(worker_id, None)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.debug("worker %s was not started: %s", worker_id, error)  # perhaps nobody waits any more
        else:
            self._started(worker_id)


class Checks:
    """What was looked at and found good is not looked at again; what was not, is."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    async def __call__(self, key: Hashable, work: Callable[[], Work]) -> None:
        """Returns when `work` has, now or before; raises what it raises."""
        if (task := self._tasks.get(key)) is None:
            if len(self._tasks) >= CHECKED:
                self._tasks = {one: task for one, task in self._tasks.items() if not task.done()}
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        await asyncio.shield(task)

    def forget(self, key: Hashable) -> None:
        self._tasks.pop(key, None)

    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._tasks.values())

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if (task.cancelled() or task.exception() is not None) and self._tasks.get(key) is task:
            del self._tasks[key]  # the next one tries again
