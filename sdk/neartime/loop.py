"""The event loop behind the sync face: one background thread a process, shared by all services.

Sync methods hand a coroutine to it and wait, so they work in a script and inside a Jupyter cell, whose own loop runs in
the main thread. A process that was forked makes a loop of its own when it first needs one.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
CLOSING_SECONDS = 2.0
"""How long the end of the interpreter waits for connections to close."""


class Loop:
    """An event loop in a daemon thread of its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closers: dict[int, Callable[[], Awaitable[None]]] = {}
        self._thread = threading.Thread(target=self._run, name="neartime-loop", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def start(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts the coroutine on the loop; callable from any thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """What the coroutine returns or raises. An interrupt, or the timeout (seconds), cancels it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("a sync method of neartime was called on its own event loop's thread")
        future = self.start(work)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T], timeout: float | None = None) -> Iterator[T]:
        """The items of an async iterator, one by one, for up to `timeout` seconds; leaving early closes it."""
        deadline = None if timeout is None else time.monotonic() + timeout
        step: asyncio.Task[Any] | None = None

        async def following() -> tuple[bool, Any]:
            nonlocal step
            step = asyncio.current_task()
            try:
                return True, await items.__anext__()
            except StopAsyncIteration:
                return False, None

        async def closed(close: Callable[[], Awaitable[None]]) -> None:
            if step is not None:  # it was told to stop, and may be about to
                await asyncio.wait({step})
            await close()

        try:
            while True:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                more, item = self.run(following(), left)
                if not more:
                    return
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and self._loop.is_running():
                self.run(closed(close))

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls the function on the loop's thread, soon."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def at_exit(self, owner: object, close: Callable[[], Awaitable[None]]) -> None:
        """Awaits `close()` when the interpreter ends, unless `forget(owner)` came first."""
        self._closers[id(owner)] = close

    def forget(self, owner: object) -> None:
        self._closers.pop(id(owner), None)

    def _end(self) -> None:
        if self.pid != os.getpid() or not self._thread.is_alive():
            return

        async def close() -> None:
            await asyncio.gather(*(close() for close in list(self._closers.values())), return_exceptions=True)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        try:
            self.run(close(), CLOSING_SECONDS)
        except (concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            pass  # the process is ending; what did not close in time ends with it
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSING_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


_shared: Loop | None = None
_lock = threading.Lock()


def shared() -> Loop:
    """The loop of this process."""
    global _shared
    with _lock:
        if _shared is None or _shared.pid != os.getpid():
            _shared = Loop()
        return _shared


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
