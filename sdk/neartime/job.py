"""A job, as the one who runs it sees it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any, TypeVar

from neartime.connection import Connection, new_sink
from neartime.contract.events import LogRecord, StatusEvent, decode_log
from neartime.contract.jobs import JobAccepted, JobStatus, JobView
from neartime.contract.programs import ProgramView
from neartime.decoders import as_decode, as_decodes, elements
from neartime.errors import JobCancelled, JobFailed, JobTimeout, NeartimeError, StreamError
from neartime.feed import Callback, Collector, Decode, Watch
from neartime.transport import Sink, segment

T = TypeVar("T")
SILENCE = 15.0
"""Seconds without an end from the stream after which the server is asked."""
LOG_TAIL = 20
"""Lines of the log that the error of a failed job carries."""


@dataclass(frozen=True)
class JobEvent:
    """A step in a job's life: its `status` changed, or an `interim` result came."""

    kind: str
    time: datetime | None
    """The server's, UTC; None where it is no longer known."""
    status: JobStatus | None = None
    reason: str | None = None
    value: Any = None
    """Of an interim result."""


class RuntimeJob:
    """A job that was submitted. Made by `RuntimeService.run`, `Session.run` and `RuntimeService.job`."""

    def __init__(
        self,
        connection: Callable[[], Connection],
        *,
        accepted: JobAccepted | None = None,
        program: ProgramView | None = None,
        view: JobView | None = None,
        watch: Watch | None = None,
        inputs: Mapping[str, Any] | None = None,
        decoder: Any = None,
    ) -> None:
        self._connect = connection
        self._view = view
        self._program = program
        self._accepted = accepted or _accepted(view)
        self._watch = watch
        """Of the job's end; it may have a callback."""
        self._others: list[Watch] = []
        """Of further callbacks."""
        self._inputs = inputs
        self._interim_decode, self._decode = as_decodes(decoder)
        self._result: list[Any] = []

    @classmethod
    def read(cls, connection: Callable[[], Connection], job_id: str) -> RuntimeJob:
        """The job of that id; raises NotFound where there is none."""
        answer = connection().json("GET", f"/jobs/{segment(job_id)}", query={"exclude_params": "true"})
        return cls(connection, view=JobView.model_validate(answer))

    # --- what it is

    def job_id(self) -> str:
        """The job's id."""
        return self._accepted.id

    @property
    def session_id(self) -> str:
        """The session it runs in; a lone job has one of its own."""
        return self._accepted.session_id

    @property
    def program_id(self) -> str:
        """Id of its program."""
        return self._program.id if self._program else self._known().program.id

    @property
    def program_version(self) -> str:
        """Id of the program version that it was given when it was accepted."""
        return self._accepted.program_version

    @property
    def backend_name(self) -> str:
        return self._accepted.backend

    def backend(self) -> Any:
        """The backend it runs on, a `RuntimeBackend`."""
        from neartime.backends import RuntimeBackend

        return RuntimeBackend.read(self._connect, self._accepted.backend)

    @property
    def inputs(self) -> dict[str, Any]:
        """What it was given."""
        if self._inputs is None:
            answer = self._download("", query=None)
            self._inputs = answer.get("params") or {}
        return dict(self._inputs)

    @property
    def tags(self) -> list[str]:
        return list(self._known().tags)

    @property
    def creation_date(self) -> datetime:
        """When the server accepted it, UTC."""
        return self._known().created

    @property
    def view(self) -> JobView:
        """What the server told of it when it was last asked; `details()` asks."""
        return self._known()

    def update_tags(self, new_tags: Sequence[str]) -> list[str]:
        """Replaces the tags; returns what they are now."""
        self._connect().json("PUT", f"{self._path}/tags", {"tags": list(new_tags)})
        return list(self._refresh().tags)

    # --- where it stands

    def status(self) -> JobStatus:
        """Queued, Running, Completed, Failed or Cancelled. Never Running once its result was seen."""
        return self._final_event().status if self._ended else self._refresh().status

    def in_final_state(self) -> bool:
        return self.status().final

    def queued(self) -> bool:
        return self.status() is JobStatus.QUEUED

    def running(self) -> bool:
        return self.status() is JobStatus.RUNNING

    def done(self) -> bool:
        """Whether it completed."""
        return self.status() is JobStatus.COMPLETED

    def errored(self) -> bool:
        return self.status() is JobStatus.FAILED

    def cancelled(self) -> bool:
        return self.status() is JobStatus.CANCELLED

    def error_message(self) -> str | None:
        """Why it did not complete: where main() raised, the traceback of the program's own frames."""
        if not self._ended:
            self._refresh()
        return self._final_event().reason if self._ended else None

    def details(self) -> JobView:
        """All that the server tells of it, now."""
        return self._refresh()

    def metrics(self) -> dict[str, Any]:
        """Time stamps, usage, attempts, number of interim results, place in the queue."""
        answer: dict[str, Any] = self._connect().json("GET", f"{self._path}/metrics")
        return answer

    def usage(self) -> float:
        """Seconds that main() ran."""
        usage = self._final_event().usage if self._ended else None
        return (usage or self._refresh().usage).seconds

    # --- what it gives

    def result(self, timeout: float | None = None, decoder: Any = None) -> Any:
        """What the program returned. All callbacks for interim results have returned before.

        `timeout` is in seconds; `decoder` reads the value in place of the one given to `run`.

        Raises:
            JobFailed: the job failed; the message is the reason, with the program's traceback.
            JobCancelled: it was cancelled.
            JobTimeout: the time ran out; the job goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self.wait_for_final_state(timeout)
        self._raise_unless_completed()
        own = as_decode(decoder) if decoder is not None else self._decode
        if self._result and decoder is None:
            return self._result[0]
        value = self._fetch_result(own, deadline)
        if decoder is None:
            self._result = [value]
        return value

    def wait_for_final_state(self, timeout: float | None = None) -> None:
        """Returns when the job has ended, however it did, and its callbacks have returned.

        Raises:
            JobTimeout: it has not within `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        watch = self._watching()
        # A callback that waits for its own job would wait for itself: it waits for the job's end only.
        inside = self._connect().feed.delivery.current
        ends = [] if watch is None else [watch.ended if inside else watch.delivered]
        ends += [other.delivered for other in self._others if not inside]
        try:
            for end in ends:
                self._wait_for(end, deadline, timeout)
        except StreamError:
            if not self._refresh().status.final:
                raise

    def stream_results(self, callback: Callback, decoder: Any = None, *, after: int = 0) -> None:
        """Has `callback(job_id, interim)` called with each interim result, from the first one on, also of a job that
        began, or ended, long ago. `after` leaves out so many: those that were heard before."""
        interim = as_decode(decoder) if decoder is not None else self._interim_decode
        connection = self._connect()
        watch = Watch(self.job_id(), self.session_id, callback, interim, after)
        self._others.append(watch)
        if self._ended or (self._watch is None and self._refresh().status.final):
            connection.feed.delivery.put(watch, self._archived(interim, after))
            connection.feed.delivery.end(watch)
        else:
            connection.loop.call(connection.feed.follow, watch)

    def cancel_result_streaming(self) -> None:
        """No callback is called any more; the job goes on."""
        for watch in self._others:
            watch.callback = None
            watch.end()
        self._others = []
        if self._watch is not None:
            self._watch.callback = None

    def interim_results(self, decoder: Any = None) -> list[Any]:
        """All interim results so far."""
        return list(self._archived(as_decode(decoder) if decoder is not None else self._interim_decode, 0))

    def logs(self) -> str:
        """What the program has printed and logged so far."""
        return self._connect().run(self._connect().transport.request("GET", f"{self._path}/logs")).decode()

    def log_records(self, follow: bool = False) -> Iterator[LogRecord]:
        """The records of the log so far; with `follow`, as they come, until the job has ended."""
        connection, told = self._connect(), 0
        if follow and not self.in_final_state() and (watch := self._watching()) is not None:
            for record in connection.loop.iterate(self._live_records(connection, watch)):
                told += 1
                yield record
        request = connection.transport.request("GET", f"{self._path}/logs", query={"format": "json"})
        yield from decode_log(connection.run(request))[told:]

    def events(self, timeout: float | None = None) -> Iterator[JobEvent]:
        """The job's life from its beginning, as it happens: statuses and interim results; ends when the job has.

        Raises:
            JobTimeout: it has not ended within `timeout` seconds.
        """
        if self._watch is None and self.in_final_state():
            for value in self._archived(self._interim_decode, 0):
                yield JobEvent("interim", None, value=value)
            final = self._final_event()
            yield JobEvent("status", final.time, final.status, final.reason)
            return
        connection = self._connect()
        watch, last_index = Watch(self.job_id(), self.session_id), 0
        stream = connection.feed.stream.events(session_id=self.session_id, job_id=self.job_id())
        for event in self._in_time(connection.loop.iterate(stream, timeout), timeout):
            when = datetime.fromtimestamp(event.time, timezone.utc)
            connection.loop.call(connection.feed.take, watch, event)
            if event.kind == "status":
                status = event.status()
                yield JobEvent("status", status.time, status.status, status.reason)
            elif event.kind == "interim" and event.envelope.index > last_index:
                last_index = event.envelope.index
                yield JobEvent("interim", when, value=connection.feed.value(event, self._interim_decode))
        if self._watch is None:
            self._watch = watch

    # --- what is done to it

    def cancel(self) -> None:
        """Ends the job: main() sees a `JobCancelled`, and is killed where it does not heed it.

        Raises:
            Conflict: it has ended already.
        """
        self._connect().json("POST", f"{self._path}/cancel")

    # --- inside

    @property
    def _path(self) -> str:
        return f"/jobs/{self.job_id()}"

    @property
    def _ended(self) -> bool:
        return self._stream_end is not None or (self._view is not None and self._view.status.final)

    @property
    def _stream_end(self) -> StatusEvent | None:
        status = self._watch.status if self._watch else None
        return status if status is not None and status.status.final else None

    def _final_event(self) -> StatusEvent:
        """How it ended, as the stream told it or as the server tells it."""
        if (said := self._stream_end) is not None:
            return said
        view = self._known()
        return StatusEvent(
            status=view.status,
            time=view.ended or view.created,
            reason=view.state.reason,
            reason_code=view.state.reason_code,
            usage=view.usage,
            interims=view.interims,
        )

    def _known(self) -> JobView:
        return self._view or self._refresh()

    def _refresh(self) -> JobView:
        self._view = JobView.model_validate(self._connect().json("GET", self._path, query={"exclude_params": "true"}))
        return self._view

    def _watching(self) -> Watch | None:
        """The watch of the job's end, begun where there is none; None where it is known to have ended."""
        if self._watch is None and not self._ended:
            connection = self._connect()
            self._watch = Watch(self.job_id(), self.session_id)
            connection.loop.call(connection.feed.follow, self._watch)
        return self._watch

    def _raise_unless_completed(self) -> None:
        final = self._final_event()
        if final.status is JobStatus.COMPLETED:
            return
        kind = JobCancelled if final.status is JobStatus.CANCELLED else JobFailed
        try:
            log = self.logs().rstrip().splitlines()
        except NeartimeError:
            log = []  # the reason is worth more than the log
        tail = "\n".join(log[-LOG_TAIL:])
        reason = (final.reason or "no reason was given").rstrip()
        lines = _unsaid(log, reason.splitlines()[1:])[-LOG_TAIL:]
        code = f" ({final.reason_code.value})" if final.reason_code else ""
        message = f"job {self.job_id()} {'was cancelled' if kind is JobCancelled else 'failed'}{code}: {reason}"
        if kind is JobFailed and lines:
            message += "\n\nThe end of its log:\n" + "\n".join(lines)
        raise kind(message, self.job_id(), final.reason_code, tail)

    def _wait_for(self, end: concurrent.futures.Future[None], deadline: float | None, timeout: float | None) -> None:
        """Waits for an end that the stream tells. Where the server has known for a while that the job has ended and the
        stream has not told it, the stream can't be reached from here: the rest is read from the server."""
        known = False
        while True:
            left = _left(deadline)
            try:
                return end.result(SILENCE if left is None else min(left, SILENCE))
            except concurrent.futures.TimeoutError:
                if left is not None and left <= SILENCE:
                    raise self._goes_on(timeout) from None
            watch = next(
                (one for one in (self._watch, *self._others) if one and end in (one.ended, one.delivered)), None
            )
            if watch is None or watch.ended.done():  # a callback takes its time
                continue
            if known:
                connection = self._connect()
                connection.loop.call(connection.feed.complete, watch, partial(self._archived, watch.decode))
            known = self._refresh().status.final

    def _in_time(self, items: Iterator[T], timeout: float | None) -> Iterator[T]:
        try:
            yield from items
        except concurrent.futures.TimeoutError:
            raise self._goes_on(timeout) from None

    def _goes_on(self, timeout: float | None) -> JobTimeout:
        return JobTimeout(
            f"job {self.job_id()} has not ended within {timeout or 0:g} s; it goes on. "
            "Wait again, or end it with cancel()"
        )

    def _fetch_result(self, own: Decode | None, deadline: float | None) -> Any:
        connection = self._connect()
        event = self._watch.result if self._watch else None
        try:
            if event is not None:
                try:
                    return connection.feed.value(event, own, _left(deadline))
                except StreamError:
                    pass  # the stream has let go of it; the server keeps it
            return self._download("/results", own, timeout=_left(deadline))
        except concurrent.futures.TimeoutError:
            raise JobTimeout(
                f"job {self.job_id()} has completed, its result did not come in time; call result() again"
            ) from None

    def _download(
        self,
        what: str,
        own: Decode | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        def sink() -> Sink[Any]:
            return new_sink() if own is None else Collector(own)

        connection = self._connect()
        fed = connection.run(connection.transport.download(f"{self._path}{what}", sink, query=query), timeout)
        return None if fed is None else fed.finish()

    def _archived(self, own: Decode | None, after: int) -> Iterator[Any]:
        """The interim results that the server has, but for the first `after`."""
        values: Iterator[Any]
        if own is None:
            values = iter(self._download("/interim_results") or [])
        else:
            values = map(own, elements(self._download("/interim_results", bytes) or b"[]"))
        for number, value in enumerate(values, 1):
            if number > after:
                yield value

    async def _live_records(self, connection: Connection, watch: Watch) -> AsyncIterator[LogRecord]:
        """Log records until the watch has ended."""
        ended = asyncio.wrap_future(watch.ended)
        events = connection.feed.stream.events(session_id=self.session_id, job_id=self.job_id(), logs=True)
        following: asyncio.Task[Any] | None = None
        try:
            while True:
                following = asyncio.ensure_future(events.__anext__())
                await asyncio.wait({ended, following}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                for record in decode_log(following.result().body):
                    yield record
        finally:
            if following is not None and not following.done():
                following.cancel()
                await asyncio.wait({following})
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    def __repr__(self) -> str:
        status = self._final_event().status if self._ended else (self._view.status if self._view else None)
        program = self._program.name if self._program else (self._view.program.name if self._view else None)
        parts = [f"<RuntimeJob {self.job_id()!r}", f"program={program!r}", f"backend={self.backend_name!r}"]
        return ", ".join([*parts, *([f"status={status.value!r}"] if status else [])]) + ">"


def _accepted(view: JobView | None) -> JobAccepted:
    if view is None:
        raise ValueError("a job is made of what the server answered")
    return JobAccepted(
        id=view.id, backend=view.backend, session_id=view.session_id, program_version=view.program.version
    )


def _unsaid(log: list[str], said: list[str]) -> list[str]:
    """The end of a log without what was said: a traceback, or the log's own last lines."""
    last = log[-(len(said) + 2 * LOG_TAIL) :]  # what came through another pipe may stand behind it
    for size in range(min(len(said), len(last)), 0, -1):
        kept, at = [], 0
        while at < len(last):
            found = last[at : at + size] == said[-size:]
            kept += [] if found else [last[at]]
            at += size if found else 1
        if len(kept) < len(last):
            return kept
    return last


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
