"""Who observes the Docker Engine: what is to be said, each once, and the engine's events, read by a thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import Any

from neartime_server.executors.protocol import Exited, Observed, Running

log = logging.getLogger(__name__)


class Listener:
    """One of any number, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.queue: asyncio.Queue[Observed | dict[str, Any] | None] = asyncio.Queue()
        """An event of the engine's is a dict; None says that there are no more."""
        self._told: dict[str, type[Running | Exited]] = {}
        self._stream: Any = None

    def follow(self, stream: Any) -> None:
        self._stream = stream
        threading.Thread(target=self._read, args=(stream,), name="docker events", daemon=True).start()

    def _read(self, stream: Any) -> None:
        try:
            for event in stream:
                self._loop.call_soon_threadsafe(self.queue.put_nowait, event)
        except Exception as error:  # the connection broke, or was closed from here
            log.debug("the engine's events end: %r", error)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.queue.put_nowait, None)

    def tell(self, seen: Running | Exited) -> None:
        before = self._told.get(seen.worker_id)
        if before is not Exited and before is not type(seen):
            self._told[seen.worker_id] = type(seen)
            self.queue.put_nowait(seen)

    def forget(self, worker_id: str) -> None:
        if self._told.get(worker_id) is Exited:
            del self._told[worker_id]

    def close(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(Exception):
                self._stream.close()
