"""Hands on the events of jobs in the order in which each job published them, each once; says where one is missing."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Final

from neartime.contract import subjects
from neartime.contract.events import CONTROL, Sequencer
from neartime.errors import StreamError
from neartime.stream.event import Event, parse
from neartime.stream.link import LinkSource
from neartime.stream.reader import HEARTBEAT, Quiet, Stored, read

log = logging.getLogger("neartime.stream")

GAP_SECONDS: Final = 5.0
"""How long, with the broker there, a reader waits for an event that is missing: of a job that has said that it ended,
of a log, and where a job's first events are missing. A job that goes on may still publish any other."""
HELD_BYTES: Final = 64 << 20
"""Of a job's events that wait for a missing one; as many as a worker keeps for the broker."""
OVERHEAD: Final = 1 << 10
"""Bytes that an event which waits is counted with beyond its body."""


class Order:
    """The order of one job's events, or of many jobs', each by itself. Pure: `now` is any clock's seconds.

    With `after`, the stream sequence of the event that was handed on last, it goes on behind that one. Events are not
    stored in the order in which they are handed on, so all of them are ordered anew and the first ones left out.
    """

    def __init__(self, after: int = 0) -> None:
        self._after = after
        self._found: Event | None = None
        """The event of sequence `after`, once it has come by."""
        self._jobs: dict[str, _Job] = {}
        self.ended: set[str] = set()
        """Jobs whose final status was handed on; what still arrives of them is not read."""
        self.dropped = 0
        """Events whose body is not what their kind allows."""

    def push(self, event: Event, now: float) -> list[Event]:
        """The events that are due now, often just this one.

        Raises:
            StreamError: too much waits for an event that is missing.
        """
        if event.job_id in self.ended:
            return []
        job = self._jobs.setdefault(event.job_id, _Job())
        return self._hand_on(event, job.push(event, now))

    def look(self, now: float) -> list[Event]:
        """Events of logs that need not wait any longer for lines that are missing.

        Raises:
            StreamError: an event of a job that has ended is missing.
        """
        due: list[Event] = []
        for job_id, job in list(self._jobs.items()):
            due += self._hand_on(None, job.look(job_id, now))
        return due

    def begin_anew(self, now: float) -> None:
        """The broker was away: waiting begins again."""
        for job in self._jobs.values():
            job.since = now

    @property
    def waiting(self) -> bool:
        """Whether an event waits for one that is missing."""
        return any(job.sequencer.gap for job in self._jobs.values())

    def finish(self) -> list[Event]:
        """There is no more to come for now: what waits, up to the next one that is missing.

        Raises:
            StreamError: other events wait for one that is missing.
        """
        due: list[Event] = []
        for job_id, job in list(self._jobs.items()):
            due += self._hand_on(None, job.finish(job_id))
        return due

    def _hand_on(self, arrived: Event | None, due: list[Event]) -> list[Event]:
        """Of what is due of one job, what there is no reason to leave out."""
        for at, event in enumerate(due):
            if event.final:
                due = due[: at + 1]
                self.ended.add(event.job_id)
                self._jobs.pop(event.job_id, None)
                break
        if self._after:
            due = self._behind(arrived, due)
        valid = [event for event in due if event.valid]
        self.dropped += len(due) - len(valid)
        return valid

    def _behind(self, arrived: Event | None, due: list[Event]) -> list[Event]:
        if arrived is not None:
            if arrived.sequence == self._after:
                self._found = arrived
            elif self._found is None and arrived.sequence > self._after:
                self._after = 0  # none of these events has that sequence
                return due
        for at, event in enumerate(due):
            if event.sequence == self._after:
                self._after = 0
                return due[at + 1 :]
        if self._found is not None and not self._waits(self._found):
            self._after = 0  # it came twice, or waited in vain: its turn will not come
            return due
        return []

    def _waits(self, event: Event) -> bool:
        job = self._jobs.get(event.job_id)
        return job is not None and job.holds(event)


class _Job:
    """One job's events."""

    __slots__ = ("begun", "closing", "log", "queued", "sequencer", "since")

    def __init__(self) -> None:
        self.sequencer: Sequencer[Event] = Sequencer()
        self.since = 0.0
        """When the waiting began."""
        self.closing = False
        """Whether the final status is among what waits."""
        self.log = False
        self.begun = False
        """Whether an event was handed on. Before that, what is missing may have been let go of by a full stream."""
        self.queued = 0
        """The attempt for which the control plane has queued the job last."""

    def push(self, event: Event, now: float) -> list[Event]:
        if event.envelope.source == CONTROL:
            return self._overtake(event)
        attempt, waited = self.sequencer.attempt, self.sequencer.gap
        due = self.sequencer.push(event.envelope, event, len(event.body) + OVERHEAD)
        self.begun = self.begun or bool(due)
        if self.sequencer.attempt != attempt:
            waited = self.closing = False  # what waited in the attempt before waits no more
        if not self.sequencer.gap:
            self.closing = False
            return due
        if due or not waited:
            self.since = now
        self.log = event.kind == "log"
        self.closing = self.closing or (event.final and self.holds(event))
        return self.finish(event.job_id) if self.sequencer.size > HELD_BYTES else due

    def _overtake(self, event: Event) -> list[Event]:
        """The control plane speaks: by now the worker is cut off, and nothing fills a gap any more."""
        if event.final:
            return [*self.sequencer.rest(), event]
        if event.envelope.attempt <= self.queued:
            return []  # it said so before
        self.queued = event.envelope.attempt
        return [event]

    def holds(self, event: Event) -> bool:
        held = self.sequencer.held.get(event.envelope.sequence)
        return held is not None and held[1] is event

    def look(self, job_id: str, now: float) -> list[Event]:
        if not (self.sequencer.gap and (self.log or self.closing or not self.begun)) or now - self.since < GAP_SECONDS:
            return []
        return self.finish(job_id)

    def finish(self, job_id: str) -> list[Event]:
        if not self.sequencer.gap:
            return []
        if self.begun and not self.log:
            raise StreamError(self._missing(job_id))
        log.warning("%s", self._missing(job_id))
        if self.log:
            return self.sequencer.rest()
        self.begun = True
        return self.sequencer.skip()

    def _missing(self, job_id: str) -> str:
        number, attempt = self.sequencer.last + 1, self.sequencer.attempt
        what = "a part of the log" if self.log else "an event"
        return f"{what} of job {job_id} is missing from its stream: number {number} of attempt {attempt}"


class Patience:
    """Seconds that a reader has waited, with the broker there, for what is not in the stream yet.

    A busy stream never falls silent, so the time is taken from its messages too: what lies between two of them counts
    where it passed for the broker, which stored them, and for the reader. So neither a reader that takes its time nor
    one that reads old messages is out of patience with what it has not read yet.
    """

    STEP: Final = 2 * HEARTBEAT
    """Of a longer silence no more counts: a broker that is there is heard."""

    def __init__(self, now: float) -> None:
        self.seconds = 0.0
        self._now = now
        self._stored = -math.inf

    def tick(self, now: float, stored: float | None = None) -> float:
        """Of the reader's clock, and the broker's where it is of a message."""
        step = min(now - self._now, self.STEP)
        self._now = now
        if stored is not None:
            step = min(step, max(stored - self._stored, 0.0))
            self._stored = max(stored, self._stored)
        self.seconds += step
        return self.seconds


def filters(kinds: Iterable[str], session_id: str | None, job_id: str | None) -> list[str]:
    """The subjects of events; None stands for all sessions, or all jobs."""
    return [subjects.event(session_id or "*", job_id or "*", kind) for kind in kinds]


async def follow(
    source: LinkSource,
    *,
    session_id: str | None = None,
    job_id: str | None = None,
    after: int = 0,
    logs: bool = False,
    end: bool = False,
    drop: Callable[[int], None] = lambda count: None,
) -> AsyncGenerator[Event, None]:
    """A job's events, a session's or all, in the order of publishing, each once, past the one of sequence `after`.

    Of one job it ends behind the final status. `logs` reads the log instead, which has no end. With `end` it ends
    in any case when all that is stored now was read. `drop` is told of messages that are no valid events.

    Raises:
        StreamError: an event of a job that has ended is missing, or the stream is closed.
    """
    stream, kinds = (subjects.BULK, ["log"]) if logs else (subjects.JOBS, subjects.JOB_KINDS)
    order = Order(after)
    clock = asyncio.get_running_loop().time
    patience, looked = Patience(clock()), 0.0
    async with aclosing(read(source, stream, filters(kinds, session_id, job_id))) as messages:
        async for item in messages:
            dropped = order.dropped
            now = patience.tick(clock(), item.time if isinstance(item, Stored) else None)
            if isinstance(item, Quiet):
                if item.fresh:
                    order.begin_anew(now)
            elif (event := parse(item)) is None:
                drop(1)
            else:
                for one in order.push(event, now):
                    yield one
            if isinstance(item, Quiet) or now - looked >= HEARTBEAT:
                looked = now
                for one in order.look(now):
                    yield one
            if order.dropped != dropped:
                drop(order.dropped - dropped)
            if job_id is not None and job_id in order.ended:
                return
            if end and item.pending == 0:
                while order.waiting:
                    for one in order.finish():
                        yield one
                return
