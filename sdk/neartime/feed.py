"""From the event stream to those who wait for a job: futures for its end, a thread for its callbacks.

A session has one reader, made when it opens, for all of its jobs; a job without one gets a reader of its own. Both feed
`Watch`es. What a callback is to be given is put, still encoded, on the queue of one delivery thread per service, which
decodes it and calls back: in order, and without holding up the loop however slow a callback is. A large value is
fetched only when its turn comes, so that one at most is in memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from neartime.contract.events import StatusEvent
from neartime.errors import NeartimeError, StreamError
from neartime.loop import Loop
from neartime.stream import Event
from neartime.transport import Sink

log = logging.getLogger("neartime")

Callback = Callable[[str, Any], Any]
"""Called with the job's id and one decoded interim result."""
Decode = Callable[[bytes], Any]


class Source(Protocol):
    """Where events come from: `neartime.stream.EventStream`."""

    def events(
        self, *, session_id: str | None = None, job_id: str | None = None, after: int = 0, logs: bool = False
    ) -> AsyncIterator[Event]: ...
    def value(self, event: Event) -> AsyncIterator[bytes]: ...
    async def close(self) -> None: ...


class Watch:
    """A job as its events tell it. `take` is called on the loop's thread alone."""

    def __init__(
        self,
        job_id: str,
        session_id: str,
        callback: Callback | None = None,
        decode: Decode | None = None,
        after: int = 0,
    ) -> None:
        self.job_id = job_id
        self.session_id = session_id
        self.callback = callback
        """None once no more is wanted of it."""
        self.decode = decode
        self.sequence = 0
        """Of the newest event, in the stream."""
        self.status: StatusEvent | None = None
        self.result: Event | None = None
        self.ended: Future[None] = Future()
        """Done at the job's final status; StreamError where it can't be known."""
        self.delivered: Future[None] = Future()
        """Done when the callbacks for all interim results before it have returned, too."""
        self.last_index = after
        """Of the newest interim result."""

    def take(self, event: Event, deliver: Callable[[Event], None]) -> bool:
        """Notes the event; whether it was the job's last."""
        self.sequence = max(self.sequence, event.sequence)
        if event.kind == "interim":
            if event.envelope.index > self.last_index:
                self.last_index = event.envelope.index
                if self.callback is not None:
                    deliver(event)
        elif event.kind == "result":
            self.result = event
        elif event.kind == "status":
            self.status = event.status()
            return self.status.status.final
        return False

    def end(self, error: Exception | None = None) -> None:
        for future in (self.ended, self.delivered):
            settle(future, error)


def settle(future: Future[None], error: Exception | None = None) -> None:
    """Ends a future that may have ended already."""
    try:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    except InvalidStateError:
        pass  # the first end counts


class Delivery:
    """The thread that calls back."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[Watch, Iterable[Any] | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def current(self) -> bool:
        """Whether the caller is a callback."""
        return threading.current_thread() is self._thread

    def put(self, watch: Watch, values: Iterable[Any]) -> None:
        """Has the callback called with each of the values; they are made when their turn comes."""
        self._put((watch, values))

    def end(self, watch: Watch) -> None:
        """Settles `watch.delivered` after all that was put before."""
        if watch.callback is None:
            settle(watch.delivered)
        else:
            self._put((watch, None))

    def close(self) -> None:
        self._queue.put(None)

    def _put(self, item: tuple[Watch, Iterable[Any] | None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="neartime-callbacks", daemon=True)
            self._thread.start()
        self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            watch, values = item
            if values is None:
                settle(watch.delivered)
                continue
            self._deliver(watch, values)
            del item, values  # a large value is not to live on until the next one comes

    def _deliver(self, watch: Watch, values: Iterable[Any]) -> None:
        try:
            for value in values:
                if (callback := watch.callback) is None:
                    return
                try:
                    callback(watch.job_id, value)
                except (Exception, SystemExit):
                    log.warning("the callback of job %s raised; delivery goes on", watch.job_id, exc_info=True)
                del value
        except Exception:  # a decoder may be the user's own and raise anything; the thread has to live on
            log.exception("an interim result of job %s can't be delivered", watch.job_id)


class Feed:
    """All that one service hears of its jobs."""

    def __init__(
        self,
        stream: Source,
        loop: Loop,
        sink: Callable[[], Sink[Any]],
        decode: Decode,
        seen: Callable[[int], None],
    ) -> None:
        self.stream = stream
        self.delivery = Delivery()
        self._loop = loop
        self._sink = sink
        self._decode = decode
        self._seen = seen
        self._tasks: set[asyncio.Task[None]] = set()

    def follow(self, watch: Watch) -> None:
        """Reads the job's events, from its first, until it has ended. On the loop's thread."""
        self.spawn(self._follow(watch))

    def session(self, session_id: str) -> SessionFeed:
        """Reads the events of all jobs of a session that was just opened. On the loop's thread."""
        return SessionFeed(self, session_id)

    def take(self, watch: Watch, event: Event) -> bool:
        if watch.ended.done():
            return True
        last = watch.take(event, partial(self._deliver, watch))
        self._seen(event.sequence)
        if last:
            settle(watch.ended)
            self.delivery.end(watch)
        return last

    def complete(self, watch: Watch, rest: Callable[[int], Iterable[Any]]) -> None:
        """Ends a watch whose events do not come, of a job that has ended: `rest` has the interim results past a number.

        On the loop's thread.
        """
        if not watch.ended.done():
            if watch.callback is not None:
                self.delivery.put(watch, rest(watch.last_index))
            settle(watch.ended)
            self.delivery.end(watch)

    def value(self, event: Event, decode: Decode | None = None, timeout: float | None = None) -> Any:
        """The decoded value of an event, fetched now where it is large. Not on the loop's thread.

        Raises:
            StreamError: its chunks are no longer in the stream.
            DecodeError: it is no encoded value.
        """
        if event.envelope.reference is None:
            return (decode or self._decode)(event.body)
        return self._loop.run(self._fetch(event, decode), timeout).finish()

    async def _fetch(self, event: Event, decode: Decode | None) -> Sink[Any]:
        sink = self._sink() if decode is None else Collector(decode)
        async for chunk in self.stream.value(event):
            sink.feed(chunk)
        return sink

    def _deliver(self, watch: Watch, event: Event) -> None:
        self.delivery.put(watch, self._values(watch, event))

    def _values(self, watch: Watch, event: Event) -> Iterator[Any]:
        yield self.value(event, watch.decode)

    async def _follow(self, watch: Watch) -> None:
        try:
            async for event in self.stream.events(session_id=watch.session_id, job_id=watch.job_id):
                if self.take(watch, event) or watch.ended.done():
                    return
            watch.end(StreamError(f"the events of job {watch.job_id} ended before the job did"))
        except NeartimeError as error:
            watch.end(error)
        except asyncio.CancelledError:
            watch.end(closed_while_waiting(watch))
            raise

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """A task that the feed cancels when it is closed."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.stream.close()
        self.delivery.close()


class Collector:
    """A sink for a decoder of the user's own, which takes the whole value."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._data = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._data += chunk

    def finish(self) -> Any:
        return self._decode(bytes(self._data))


class SessionFeed:
    """The one reader of a session's events. On the loop's thread."""

    def __init__(self, feed: Feed, session_id: str) -> None:
        self.session_id = session_id
        self._feed = feed
        self._watches: dict[str, Watch] = {}
        self._expected = 0
        self._early: list[Event] = []
        self._leaving = False
        self._task: asyncio.Task[None] | None = feed.spawn(self._read())

    @contextmanager
    def submission(self) -> Iterator[Callable[[Watch], None]]:
        """Holds back events of jobs not known yet, since the first ones may overtake the answer to their POST.

        Gives the function that adds the watch when its job has a name.
        """
        self._expected += 1
        try:
            yield self._add
        finally:
            self._expected -= 1
            if not self._expected:
                self._early.clear()

    def leave(self) -> None:
        """Stops reading when the jobs that are watched have ended."""
        self._leaving = True
        self._rest()

    def _add(self, watch: Watch) -> None:
        if self._task is None:
            self._feed.follow(watch)
            return
        self._watches[watch.job_id] = watch
        for event in [one for one in self._early if one.job_id == watch.job_id]:
            self._take(event)

    def _take(self, event: Event) -> None:
        watch = self._watches.get(event.job_id)
        if watch is None:
            if self._expected:
                self._early.append(event)
        elif self._feed.take(watch, event):
            del self._watches[event.job_id]
            self._rest()

    def _rest(self) -> None:
        if self._leaving and not self._watches and not self._expected and self._task is not None:
            self._task.cancel()

    async def _read(self) -> None:
        events: AsyncIterator[Event] = self._feed.stream.events(session_id=self.session_id)
        try:
            async for event in events:
                self._take(event)
        except NeartimeError as error:
            # One job's events are broken. Each job gets a reader of its own, so that only that one's wait fails.
            log.debug("session %s: %s", self.session_id, error)
            self._task = None
            for watch in self._watches.values():
                self._feed.follow(watch)
            self._watches.clear()
        except asyncio.CancelledError:
            self._task = None
            for watch in self._watches.values():
                watch.end(closed_while_waiting(watch))
            raise


def closed_while_waiting(watch: Watch) -> StreamError:
    return StreamError(f"the service was closed while job {watch.job_id} was waited for; the job goes on")
