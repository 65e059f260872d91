"""The one writer of a job's status: reads an instance's JOBS stream and folds it into the store.

Each batch of events and the position behind it are one transaction, so a crash neither loses an event nor counts a
final status twice. The order is the stream's own, and the fold (`lifecycle`) takes late and repeated events without
harm; only a `Completed` must not overtake its result. What can't be folded yet is held in memory: such a `Completed`,
and a large value until its chunks were copied. The stored position stays before the first event that is held, so that
a successor reads it again, together with what came after it, which then changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from enum import Enum
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row

from neartime.contract.events import StatusEvent
from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime.contract.subjects import JOBS
from neartime.errors import StreamError
from neartime.stream import Event
from neartime_server.bus import Bus
from neartime_server.control import lifecycle
from neartime_server.control.lifecycle import JobState
from neartime_server.control.patience import PAUSES, LeaseLost, end, patiently
from neartime_server.control.schedule import decayed
from neartime_server.errors import ServerError
from neartime_server.store import Store, blobs, jobs, positions, sessions, shares
from neartime_server.store.engine import utc

log = logging.getLogger(__name__)
T = TypeVar("T")

LINGER: Final = 0.05
"""Seconds that events wait for company where nobody waits for them: one transaction folds a short job's whole life, and
does not stand in the way of the next one's submission."""
INTERIMS_LINGER: Final = 0.5
"""The same, of interim results alone: they change no more than a count, and a transaction for a few of them would take
time from the program that publishes them."""
ANEW: Final = 0
"""In place of a message: those behind it are of a stream that was lost and made anew."""
BATCH: Final = 500
"""Events that one transaction folds."""
RESULT_SECONDS: Final = 15.0
"""How long a `Completed` waits for the result that was published before it."""
REASON: Final = 64 << 10
"""Characters of a reason that are kept, from its end: there a traceback says what happened."""
MAX_COUNT: Final = 2**31 - 1
"""What a count in the database holds."""


@dataclass(frozen=True, slots=True)
class Change:
    """A job that was folded: its row as it was, and what it is now."""

    row: Row[Any]
    state: JobState


@dataclass(slots=True)
class _Held:
    """A result or checkpoint whose chunks are being copied, or a `Completed` that came before its result."""

    event: Event
    staged: blobs.Info | None = None
    broken: str | None = None
    """Why its value can't be had."""


@dataclass(slots=True)
class _Batch:
    """What one transaction did, told when it has committed."""

    changes: list[Change] = field(default_factory=list)
    waits: list[Event] = field(default_factory=list)
    """`Completed` events that came before their result."""
    settled: list[int] = field(default_factory=list)
    """Stream sequences that need not be held any more."""


class Projector:
    """Folds one instance's events, from the stored position, for ever.

    `guard` is called in each transaction and raises where another server has taken over;
    `heard` is called with each final status before it is stored, in the stream's order, and answers whether somebody
    waits for it to be; `folded` is called after each commit;
    `broken` (job id, code, reason) when the events of a job can't be had.
    """

    def __init__(
        self,
        store: Store,
        bus: Bus,
        instance_id: str,
        *,
        guard: Callable[[Connection], None],
        heard: Callable[[Event], bool],
        folded: Callable[[list[Change]], None],
        broken: Callable[[str, ReasonCode, str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._bus = bus
        self._instance = instance_id
        self._guard = guard
        self._heard, self._folded, self._broken = heard, folded, broken
        self._queue: asyncio.Queue[Event | int] = asyncio.Queue(BATCH)
        self._held: dict[int, _Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._urgent = asyncio.Event()
        self._more = asyncio.Event()
        """Whether something else than interim results waits."""
        self.sequence = 0
        """Stream sequence up to which everything is folded, or held."""
        self.dropped = 0
        """Events that could not be folded."""

    # --- for others

    async def reached(self, sequence: int) -> None:
        """Returns when everything up to `sequence` is in the store."""
        if self.sequence >= sequence and not any(held <= sequence for held in self._held):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((sequence, future))
        self._hurry()
        await future

    async def run(self) -> None:
        """Reads and folds until it is cancelled; a store or bus that is away is waited for."""
        try:
            self.sequence = await self._patiently(
                lambda: self._store.read(lambda connection: positions.get(connection, self._instance, JOBS))
            )
            self._wake_waiters()  # who came before it was known may wait for what a server before this one has folded
            self._spawn(self._read())
            while True:
                await self._fold_each(await self._collect())
        finally:
            await end(self._tasks)
            for _, future in self._waiters:
                future.cancel()

    # --- reading

    async def _read(self) -> None:
        after, pause = self.sequence, PAUSES[0]
        while True:
            try:
                async with aclosing(self._bus.events(self._instance, JOBS, after)) as events:
                    async for item in events:
                        if _sequence(item) <= after:
                            await self._queue.put(ANEW)
                        if isinstance(item, Event):
                            self._listen(item)
                        await self._queue.put(item)
                        after, pause = _sequence(item), PAUSES[0]
            except (ServerError, StreamError) as error:
                log.warning("the events of instance %s can't be read for now: %s", self._instance, error)
            except Exception:  # whatever a message holds, the ones behind it are read
                log.exception("reading the events of instance %s", self._instance)
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSES[1])

    def _listen(self, event: Event) -> None:
        if event.kind != "interim":
            self._more.set()
        if event.kind == "status" and event.status().status.final and self._heard(event):
            self._hurry()

    async def _collect(self) -> list[Event | int]:
        """The next events, at least one; a few wait for more, unless somebody waits for them."""
        first = await self._queue.get()
        if not self._waiters and not self._urgent.is_set() and self._queue.qsize() < BATCH // 2:
            if not self._more.is_set():
                await self._wait(self._more, INTERIMS_LINGER)
            await self._wait(self._urgent, LINGER)
        self._urgent.clear()
        self._more.clear()
        batch = [first]
        while len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch

    def _hurry(self) -> None:
        self._more.set()
        self._urgent.set()

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass

    # --- folding

    async def _fold_each(self, batch: list[Event | int]) -> None:
        """Folds a batch; where it can't be, whatever the reason, each event by itself without the one at fault."""
        if ANEW in batch:
            at = batch.index(ANEW)
            if before := batch[:at]:
                await self._fold_each(before)
            self._begin_anew()
            if batch := batch[at + 1 :]:
                await self._fold_each(batch)
            return
        try:
            await self._patiently(lambda: self._fold(batch))
        except LeaseLost:
            raise
        except Exception:
            if len(batch) > 1:
                for item in batch:
                    await self._fold_each([item])
                return
            log.exception("event %s of instance %s can't be folded and is left out", batch[0], self._instance)
            if isinstance(item := batch[0], Event):
                self.dropped += 1
                self._held.pop(item.sequence, None)
                self.sequence = max(self.sequence, item.sequence)

    async def _fold(self, batch: list[Event | int]) -> None:
        """Folds a batch; a number in it stands for the message of that sequence: an event that was held and can go on,
        or what is no event."""
        known = {item.job_id for item in batch if isinstance(item, Event)}
        for item in batch:
            if isinstance(item, Event) and item.envelope.reference and item.kind in ("result", "checkpoint"):
                self._hold(item)
        known |= {held.event.job_id for held in self._held.values()}
        reached = max(self.sequence, *map(_sequence, batch))
        held = dict(self._held)
        events = sorted(
            [item for item in batch if isinstance(item, Event) and item.sequence not in held]
            + [one.event for one in held.values() if one.staged is not None or one.event.kind == "status"],
            key=lambda event: event.sequence,
        )

        def work(connection: Connection) -> _Batch:
            self._guard(connection)
            done = _Batch()
            rows = jobs.by_id(connection, known, lock=True)
            rows = {key: row for key, row in rows.items() if row.instance_id == self._instance}
            states = {key: state_of(row) for key, row in rows.items()}
            touched: dict[str, int] = {}
            queue = events
            while queue:
                waits: list[Event] = []
                for event in queue:
                    before = states.get(event.job_id)
                    if before is None or rows[event.job_id].session_id != event.session_id:
                        done.settled.append(event.sequence)
                        continue
                    entry = held.get(event.sequence)
                    after = _apply(connection, before, event, entry.staged if entry else None)
                    if after is None:
                        waits.append(event)
                        continue
                    done.settled.append(event.sequence)
                    states[event.job_id] = after
                    touched[event.job_id] = max(event.sequence, touched.get(event.job_id, 0))
                # A result that came behind its `Completed` lets that one be folded now.
                queue = [event for event in waits if states[event.job_id].result is not None]
                done.waits += [event for event in waits if event not in queue]
            for job_id, sequence in touched.items():
                row, state = rows[job_id], states[job_id]
                _save(connection, row, state_of(row), state, max(sequence, row.sequence))
                done.changes.append(Change(row, state))
            still = {*held, *(event.sequence for event in done.waits)} - set(done.settled)
            position = min([reached, *(sequence - 1 for sequence in still)])
            positions.put(connection, self._instance, JOBS, position)
            return done

        done = await self._store.run(work)
        for sequence in done.settled:
            self._held.pop(sequence, None)
        for event in done.waits:
            if event.sequence not in self._held:
                self._held[event.sequence] = _Held(event)
                self._spawn(self._expect_result(event))
        self._forget_held({change.row.id for change in done.changes if change.state.status.final})
        self.sequence = reached
        self._wake_waiters()
        if done.changes:
            self._folded(done.changes)

    def _begin_anew(self) -> None:
        """The stream was lost and made anew: its numbers mean other messages, and what was waited for does not come."""
        self.sequence = 0
        self._held.clear()
        for _, future in self._waiters:
            if not future.done():
                future.set_result(None)
        self._waiters.clear()

    def _forget_held(self, ended: set[str]) -> None:
        for sequence in [key for key, held in self._held.items() if held.event.job_id in ended]:
            del self._held[sequence]

    def _wake_waiters(self) -> None:
        floor = min([self.sequence, *(sequence - 1 for sequence in self._held)])
        due = [waiter for waiter in self._waiters if waiter[0] <= floor or waiter[1].done()]
        self._waiters = [waiter for waiter in self._waiters if waiter not in due]
        for _, future in due:
            if not future.done():
                future.set_result(None)

    # --- what is held

    def _hold(self, event: Event) -> None:
        if event.sequence not in self._held:
            self._held[event.sequence] = _Held(event)
            self._spawn(self._copy(event))

    async def _copy(self, event: Event) -> None:
        """Copies a large value out of the stream, then lets its event go on."""
        if (held := self._held.get(event.sequence)) is None:
            return
        try:
            held.staged = await self._patiently(
                lambda: blobs.stage(self._store, self._bus.value(self._instance, event))
            )
        except StreamError as error:
            log.warning("a large %s of job %s can't be had: %s", event.kind, event.job_id, error)
            if event.kind == "result":
                await self._broken(event.job_id, ReasonCode.STREAM_BROKEN, f"its result can't be had: {error}")
        if self._held.get(event.sequence) is not held:
            return  # the stream is another one by now, or the job has ended
        if held.staged is None:
            del self._held[event.sequence]
        await self._nudge(event.sequence)

    async def _expect_result(self, event: Event) -> None:
        await asyncio.sleep(RESULT_SECONDS)
        copying = any(one.event.job_id == event.job_id and one.event.kind == "result" for one in self._held.values())
        if (
            event.sequence in self._held and not copying
        ):  # a large result takes its time, and says so if it can't be had
            reason = "its result is missing from its event stream"
            await self._broken(event.job_id, ReasonCode.STREAM_BROKEN, reason)

    async def _nudge(self, sequence: int) -> None:
        self._hurry()
        await self._queue.put(sequence)

    # --- staying alive

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("the projector of instance %s", self._instance, exc_info=error)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        return await patiently(f"folding the events of instance {self._instance}", work)


def _sequence(item: Event | int) -> int:
    return item if isinstance(item, int) else item.sequence


def state_of(row: Row[Any]) -> JobState:
    """What of a row is folded from events."""
    return JobState(
        status=JobStatus(row.status),
        attempt=row.attempt,
        worker_id=row.worker_id,
        started=utc(row.started) if row.started else None,
        ended=utc(row.ended) if row.ended else None,
        not_before=utc(row.not_before) if row.not_before else None,
        reason=row.reason,
        reason_code=ReasonCode(row.reason_code) if row.reason_code else None,
        interims=row.interims,
        seconds=row.seconds,
        quantum_seconds=row.quantum_seconds,
        result=row.result,
        checkpoint=row.checkpoint,
        checkpoint_interims=row.checkpoint_interims,
    )


def _apply(connection: Connection, state: JobState, event: Event, staged: blobs.Info | None) -> JobState | None:
    """The job after one event; None where the event must wait for the job's result."""
    envelope = event.envelope
    if event.kind == "status":
        status = _clean(event.status())
        if lifecycle.awaits_result(state, envelope, status):
            return None
        return lifecycle.fold_status(state, envelope, status)
    if event.kind == "interim":
        return lifecycle.fold_interim(state, envelope) if envelope.index <= MAX_COUNT else state
    if not lifecycle.counts(state, envelope) or envelope.interims > MAX_COUNT:
        return state
    digest = blobs.keep(connection, staged) if staged else blobs.put(connection, event.body)
    if event.kind == "result":
        return lifecycle.fold_result(state, envelope, digest)
    return lifecycle.fold_checkpoint(state, envelope, digest)


def _save(connection: Connection, row: Row[Any], before: JobState, after: JobState, sequence: int) -> None:
    """Writes what changed; a job that ended adds what it used to its session and to its instance's share."""
    changed: dict[str, Any] = {"sequence": sequence}
    for one in fields(JobState):
        value = getattr(after, one.name)
        if value != getattr(before, one.name):
            changed[one.name] = _column(value)
    jobs.change(connection, row.id, **changed)
    if after.status.final and not before.status.final:
        sessions.use(connection, row.session_id, after.seconds, after.quantum_seconds)
        shares.charge(connection, row.instance_id, row.backend, after.seconds, decayed)


def _column(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).replace(tzinfo=None)
    return value


def _clean(event: StatusEvent) -> StatusEvent:
    """The status with nothing in it that a database refuses or JSON can't say: a worker can publish what it likes."""
    usage = event.usage
    if usage is not None:
        usage = Usage(seconds=_finite(usage.seconds), quantum_seconds=_finite(usage.quantum_seconds))
    zone = event.time.tzinfo or timezone.utc
    return event.model_copy(
        update={
            "time": event.time.replace(tzinfo=zone),
            "reason": event.reason.replace("\0", "\N{REPLACEMENT CHARACTER}")[-REASON:] if event.reason else None,
            "usage": usage,
            "interims": max(0, min(event.interims, MAX_COUNT)),
        }
    )


def _finite(seconds: float) -> float:
    return seconds if 0.0 <= seconds < 1e9 else 0.0
