"""Compares what should be with what is, and does the difference: on a timer, and whenever it is woken.

Each look begins from the store, so it does not matter where the one before it ended, or which server made it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row

from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.sessions import SessionMode, SessionState
from neartime.contract.subjects import JOBS
from neartime_server.backends import Backends
from neartime_server.bus import Bus
from neartime_server.control import closing, lifecycle, schedule
from neartime_server.control.patience import PAUSES, LeaseLost, end
from neartime_server.control.picture import View, look, picture
from neartime_server.control.workers import Workers, read_assignment
from neartime_server.errors import ServerError, StoreUnavailable
from neartime_server.store import Store, jobs, sessions, shares, workers
from neartime_server.store.engine import utc_now
from neartime_server.store.instances import Limits
from neartime_server.store.workers import WorkerState

log = logging.getLogger(__name__)

TICK: Final = 1.0
"""Seconds between two looks at most."""
REST: Final = 0.1
"""Seconds at most between two looks where the first one found nothing to do."""
SAID: Final = 5.0
"""Seconds for which a status that was published is waited for before it is published again."""


@dataclass(slots=True)
class _View(View):
    workers: dict[str, Row[Any]]
    """Those that are not gone."""
    gone: dict[str, Row[Any]]
    """Those that are gone and whose job has not ended."""


class Reconciler:
    """`guard` raises in a transaction where another server has taken over; `projected` (instance id, sequence) returns
    when the store reflects the instance's JOBS stream up to there;
    `defaults` are the limits of an instance that has none of its own."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        backends: Backends,
        fleet: Workers,
        guard: Callable[[Connection], None],
        projected: Callable[[str, int], Awaitable[None]],
        defaults: Limits,
    ) -> None:
        self._store, self._bus, self._backends = store, bus, backends
        self._workers, self._guard, self._projected = fleet, guard, projected
        self._defaults = defaults
        self._awake = asyncio.Event()
        self._settling: dict[str, asyncio.Task[None]] = {}
        self._said: dict[str, float] = {}
        self._due = TICK

    def wake(self) -> None:
        """Look again at once."""
        self._awake.set()

    async def run(self) -> None:
        """Looks, for ever."""
        now = asyncio.get_running_loop().time
        pause, told = PAUSES[0], False
        try:
            while True:
                self._awake.clear()
                began = now()
                try:
                    changed = await self.look()
                except LeaseLost:
                    raise
                except ServerError as error:
                    if not told:
                        log.warning("the queue has to wait: %s", error)
                    told = True
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, PAUSES[1])
                    continue
                if told:
                    log.info("the queue goes on")
                pause, told = PAUSES[0], False
                if not changed:  # then the next wake, of a queue that can't move, takes no more than half of the time
                    await asyncio.sleep(min(now() - began, REST))
                try:
                    async with asyncio.timeout(self._due):
                        await self._awake.wait()
                except TimeoutError:
                    pass
        finally:
            await end(list(self._settling.values()))

    async def look(self) -> bool:
        """One comparison of what should be with what is. Whether anything had to be done about the queue."""
        self._workers.fleet.looking()
        view = await self._store.read(lambda connection: _view(connection, self._defaults))
        await self._workers.tend(view.workers, {row.id: row.backend for row in view.sessions})
        now = asyncio.get_running_loop().time()
        self._said = {key: at for key, at in self._said.items() if now - at < SAID}
        for row in view.jobs:
            await _alone(f"job {row.id}", self._attend(row, view))
        picture = self._picture(view)
        plan = schedule.schedule(picture)
        for decision in plan.decisions:
            await _alone(str(decision), self._carry_out(decision))
        begun = {one.session.id for one in plan.decisions if isinstance(one, schedule.Give)}
        over = {one.session.id for one in plan.decisions if isinstance(one, schedule.Close | schedule.Expire)}
        self._workers.fleet.looked(
            {
                one.id: one if one.started or one.id not in begun else replace(one, started=picture.now)
                for one in picture.sessions
                if one.id not in over
            },
            plan.waiting,
        )
        self._due = TICK if plan.due is None else max(0.0, min(TICK, (plan.due - utc_now()).total_seconds()))
        return bool(plan.decisions)

    # --- jobs that have a worker, or are to end

    async def _attend(self, row: Row[Any], view: _View) -> None:
        fleet = self._workers.fleet
        if fleet.finished(row.id) or row.id in self._settling:
            return
        if row.worker_id is not None and row.worker_id not in fleet.workers:
            if (gone := view.gone.get(row.worker_id)) is not None:
                self._settle(row, gone)
            return
        if row.worker_id is not None and row.id not in fleet.jobs:
            await self._adopt(row)
        if row.cancel_code is not None and not self._workers.cancel(row):
            await self._close(row, JobStatus.CANCELLED, ReasonCode(row.cancel_code), row.cancel_reason)
        await self._workers.hurry(row)

    async def _adopt(self, row: Row[Any]) -> None:
        """A job that the store says a worker runs, and nobody here knows of: another server gave it."""
        worker = self._workers.fleet.workers[row.worker_id]
        if worker.job is not None or worker.state is WorkerState.STOPPING:
            return
        assignment = await self._store.read(lambda connection: read_assignment(connection, row))
        if worker.job is not None or self._workers.fleet.finished(row.id):
            return
        assignment.sent = True  # perhaps; that its worker is ready may not have been noted yet
        assignment.taken = row.status == JobStatus.RUNNING.value
        self._workers.fleet.assign(worker, row.id)
        self._workers.hand_over(worker, assignment)

    async def close(self, job_id: str, code: ReasonCode, reason: str) -> None:
        """End a job whose events can't be had."""
        rows = await self._store.read(lambda connection: jobs.by_id(connection, [job_id]))
        if (row := rows.get(job_id)) is not None and not JobStatus(row.status).final:
            await self._close(row, JobStatus.FAILED, code, reason)

    async def _close(
        self, row: Row[Any], status: JobStatus, code: ReasonCode, reason: str, ran_until: datetime | None = None
    ) -> None:
        if self._just_said(f"{row.id} has ended"):
            return
        await closing.close(self._bus, row, status, code, reason, ran_until)

    def _just_said(self, word: str) -> bool:
        """Whether this was published a moment ago, and is on its way to the store."""
        if word in self._said:
            return True
        self._said[word] = asyncio.get_running_loop().time()
        return False

    # --- jobs whose worker is gone

    def _settle(self, row: Row[Any], worker: Row[Any]) -> None:
        task = asyncio.create_task(self._settled(row.id, worker))
        self._settling[row.id] = task

        def done(task: asyncio.Task[None]) -> None:
            self._settling.pop(row.id, None)
            if not task.cancelled() and (error := task.exception()) is not None:
                unexpected = not isinstance(error, ServerError)
                log.warning("job %s is still to be settled: %s", row.id, error, exc_info=error if unexpected else None)

        task.add_done_callback(done)

    async def _settled(self, job_id: str, worker: Row[Any]) -> None:
        """A job that has not ended, of a worker that is gone: it is cut off for certain and heard to its end, then the
        word is ours."""
        await self._workers.revoke(worker.instance_id)
        await self._projected(worker.instance_id, await self._bus.last_sequence(worker.instance_id, JOBS))
        row = (await self._store.read(lambda connection: jobs.by_id(connection, [job_id]))).get(job_id)
        if row is None or JobStatus(row.status).final or row.worker_id != worker.id:
            return
        code = ReasonCode(worker.reason_code) if worker.reason_code else ReasonCode.WORKER_LOST
        reason = worker.reason or "its worker ended without a reason"
        if row.cancel_code is not None:
            await self._close(row, JobStatus.CANCELLED, ReasonCode(row.cancel_code), row.cancel_reason)
        elif worker.reason_code is None and not await self._said_anything(row):
            await self._take_back(row)
        elif code in _WORTH_ANOTHER and lifecycle.another_attempt(
            row.attempt, row.max_attempts, has_checkpoint=row.checkpoint is not None
        ):
            if not self._just_said(f"{job_id} has attempt {row.attempt + 1}"):
                await closing.queue_again(self._bus, row, code, reason)
        else:
            tail = await closing.with_log_tail(self._bus, row, reason)
            await self._close(row, JobStatus.FAILED, code, tail, worker.ended)

    async def _take_back(self, row: Row[Any]) -> None:
        """The worker ended in good order, or never was, and did not begin the job: another one does."""

        def work(connection: Connection) -> None:
            self._guard(connection)
            jobs.unassign(connection, row.id, row.worker_id)

        await self._store.run(work)
        self.wake()

    async def _said_anything(self, row: Row[Any]) -> bool:
        events = self._bus.job_events(row.instance_id, row.session_id, row.id, logs=False, follow=False)
        async with aclosing(events):
            async for event in events:
                if event.envelope.attempt >= row.attempt:
                    return True
        return False

    # --- the queue

    def _picture(self, view: _View) -> schedule.Picture:
        fleet = self._workers.fleet
        fleet.parallelism = {name: self._backends.get(name).parallelism for name in self._backends.names()}
        open_sessions = {row.id for row in view.sessions}
        workers = [
            schedule.Worker(worker.id, worker.session_id, worker.version_id)
            for worker in fleet.workers.values()
            if worker.idle or (worker.session_id not in open_sessions and worker.state is not WorkerState.STOPPING)
        ]
        return picture(view, fleet.parallelism, workers)

    async def _carry_out(self, decision: schedule.Decision) -> None:
        match decision:
            case schedule.Give(job, session, worker_id):
                if not await self._workers.give(job, session, worker_id):
                    self.wake()
            case schedule.Dismiss(worker_id):
                await self._workers.dismiss(worker_id)
            case schedule.Close(session, reason):
                await self._close_session(session, reason)
            case schedule.Expire(session, reason):
                await self._expire(session, reason)

    async def _close_session(self, session: schedule.Session, reason: str | None) -> None:
        def work(connection: Connection) -> None:
            self._guard(connection)
            row = sessions.find(connection, session.instance_id, session.id, lock=True)
            if row is None or jobs.any_live(connection, session.id):
                return
            if reason is not None and row.last_activity != session.last_activity:
                return  # it was idle when it was looked at, and is not any more
            values = {"closed": utc_now(), "reason": row.reason or reason}
            if row.started is not None and row.mode == SessionMode.DEDICATED.value:
                idle = (values["closed"] - row.started).total_seconds() - row.seconds  # nobody else had it then
                shares.charge(connection, row.instance_id, row.backend, idle, schedule.decayed)
            sessions.move(connection, session.id, SessionState.CLOSED, sessions.NOT_CLOSED, **values)

        await self._store.run(work)
        self.wake()

    async def _expire(self, session: schedule.Session, reason: str) -> None:
        def work(connection: Connection) -> None:
            self._guard(connection)
            sessions.move(connection, session.id, SessionState.DRAINING, sessions.NOT_CLOSED, reason=reason)
            jobs.ask_cancel(connection, ReasonCode.SESSION_CLOSED, reason, session_id=session.id)

        await self._store.run(work)
        self.wake()


_WORTH_ANOTHER: Final = {
    ReasonCode.WORKER_LOST,
    ReasonCode.PROCESS_DIED,
    ReasonCode.OUT_OF_MEMORY,
    ReasonCode.START_FAILED,
}


async def _alone(what: str, work: Coroutine[Any, Any, None]) -> None:
    """Does one thing of a look. What fails here, for one tenant whose stream is full say, holds up nothing else."""
    try:
        await work
    except (LeaseLost, StoreUnavailable):
        raise
    except ServerError as error:
        log.warning("%s is left for the next look: %s", what, error)


def _view(connection: Connection, defaults: Limits) -> _View:
    view = look(connection, defaults)
    here = {row.id: row for row in workers.live(connection)}
    missing = {row.worker_id for row in view.jobs if row.worker_id is not None} - here.keys()
    gone = workers.by_id(connection, missing) if missing else {}
    return _View(view.now, view.sessions, view.jobs, view.shares, view.most, here, gone)
