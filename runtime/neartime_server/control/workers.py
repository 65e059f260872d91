"""Starts workers, speaks to them, and takes note of their end.

A worker's row is written before anything of it exists, and a job's row says who was told to run it before it is told.
So a server that takes over finds every worker that runs, stops those that no row knows, and says again what was
perhaps not heard: commands are idempotent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Row

from neartime.contract.events import CONTROL, INLINE_LIMIT
from neartime.contract.ids import new_id
from neartime.contract.jobs import ReasonCode
from neartime.contract.launch import Beat, Cancel, Drain, Fetchable, Launch, Limits, NatsAccess, Start
from neartime.stream import Event
from neartime_server.backends import Backends
from neartime_server.builder import Builder, Source
from neartime_server.bus import Bus, Keys
from neartime_server.control.fleet import Assignment, Fleet, Worker
from neartime_server.control.patience import LeaseLost, end, patiently
from neartime_server.control.schedule import Job, Session
from neartime_server.errors import BusError, NoAnswer, ServerError
from neartime_server.executors import Executor, Exited, Running
from neartime_server.settings import Settings
from neartime_server.store import Store, blobs, jobs, programs, sessions, tokens, workers
from neartime_server.store.engine import utc, utc_now
from neartime_server.store.workers import WorkerState

log = logging.getLogger(__name__)

CREDENTIAL_MARGIN: Final = 600.0
"""Seconds that a worker's credential outlives its session's max_ttl: it still has to say how its last job ended."""
KNOWN_ON: Final = 10
"""Seconds for which a server may still take a token that has ended, and give out stream credentials for it."""
STOP_AFTER: Final = 3.0
"""Seconds that a dismissed worker has to end by itself before the executor ends it."""
READY_SECONDS: Final = 120.0
"""How long a worker that was started may take to be heard for the first time."""
MISSED_BEATS: Final = 3
REFUSALS: Final = 40
"""How often a worker may refuse a job that it was given; it is busy for a moment after the one before."""
SAY_AGAIN: Final = (0.05, 2.0)
"""Seconds before a command that was not answered, or refused, is sent again: at first, and at most."""
SHUT_DOWN: Final = "the runtime was shut down while the job ran"
SHUT_DOWN_SECONDS: Final = 15.0
"""How long workers have to end, within the executor's grace, and what became of their jobs to be stored."""
OVERTIME: Final = 60.0
"""Seconds beyond a job's time limit, or after it was told to cancel, at which its worker is ended: it should have."""


class _Stale(Exception):
    """What was decided no longer holds: the transaction is undone."""


class Workers:
    """`guard` raises in a transaction where another server has taken over; `wake` asks for a look at what is;
    `before` is when the server before this one was last alive, where it died."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: Bus,
        executor: Executor,
        builder: Builder,
        backends: Backends,
        keys: Keys,
        guard: Callable[[Connection], None],
        wake: Callable[[], None],
        before: datetime | None = None,
    ) -> None:
        self._settings, self._store, self._bus, self._executor = settings, store, bus, executor
        self._builder, self._backends, self._keys = builder, backends, keys
        self._guard, self._wake, self._before = guard, wake, before
        self.fleet = Fleet()
        self.synced = False
        """Whether the executor has said all that it knows."""
        self._complete = False
        """Whether that is all that there is."""
        self._shutting_down = False
        self._present: set[str] = set()
        self._exits: dict[str, Exited] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._building: dict[str, str] = {}
        """What is being done for the environment of a worker that is started."""

    def building(self, job_id: str) -> str | None:
        """What is being done for the environment of a job's worker, in the builder's words; None where it is there."""
        worker = self.fleet.jobs.get(job_id)
        return None if worker is None else self._building.get(worker.id)

    async def close(self) -> None:
        """Ends what is under way here; workers go on."""
        await end(self._tasks)

    # --- giving jobs

    async def give(self, job: Job, session: Session, worker_id: str | None) -> bool:
        """A job begins, on an idle worker or on one that is started for it. False where that no longer holds."""
        fleet = self.fleet
        if self._shutting_down:
            await asyncio.sleep(SAY_AGAIN[0])  # it is asked for again and again
            return False
        if fleet.finished(job.id) or job.id in fleet.jobs:
            return False
        if worker_id is None:
            return await self._launch(job, session)
        worker = fleet.workers.get(worker_id)
        if worker is None or not worker.idle:
            return False
        fleet.assign(worker, job.id)

        def work(connection: Connection) -> Assignment:
            return self._assign(connection, job, session, worker.id)

        return await self._given(worker, job, work)

    async def _launch(self, job: Job, session: Session) -> bool:
        lifetime = session.max_ttl + CREDENTIAL_MARGIN
        worker = Worker(
            new_id(), job.instance_id, session.id, job.version_id, session.backend, WorkerState.STARTING, self._now()
        )
        worker.started_here = True
        access, user_key = self._bus.worker_credential(
            job.instance_id, worker.id, session.id, lifetime, self._backends.gateway_of(session.backend)
        )
        expires = utc_now() + timedelta(seconds=lifetime)
        self.fleet.workers[worker.id] = worker
        self.fleet.assign(worker, job.id)

        def work(connection: Connection) -> Assignment:
            workers.add(connection, worker.id, job.instance_id, session.id, job.version_id, user_key, expires)
            return self._assign(connection, job, session, worker.id)

        given = False
        try:
            given = await self._given(worker, job, work)
        finally:
            if not given:  # where the row was written all the same, the next look finds it
                self.fleet.forget(worker.id)
        if not given:
            return False
        task = self._spawn(self._start(worker, session, access))
        self._starting[worker.id] = task
        task.add_done_callback(lambda _: self._starting.pop(worker.id, None))
        return True

    def _assign(self, connection: Connection, job: Job, session: Session, worker_id: str) -> Assignment:
        self._guard(connection)
        if session.started is None:
            sessions.begin(connection, session.id)
        if not jobs.assign(connection, job.id, worker_id):
            raise _Stale
        return read_assignment(connection, jobs.by_id(connection, [job.id])[job.id])

    async def _given(self, worker: Worker, job: Job, work: Callable[[Connection], Assignment]) -> bool:
        try:
            assignment = await self._store.run(work)
        except _Stale:
            self.fleet.release(worker, job.id)
            return False
        except BaseException:
            self.fleet.release(worker, job.id)
            raise
        self.hand_over(worker, assignment)
        return True

    def hand_over(self, worker: Worker, assignment: Assignment) -> None:
        """The store says that this worker runs the job: it is told, at once or when it is ready."""
        if worker.job != assignment.job_id:
            return  # it ended meanwhile
        worker.assignment = assignment
        if worker.state is WorkerState.READY:
            self._spawn(self._send(worker, assignment))

    async def _send(self, worker: Worker, assignment: Assignment) -> None:
        pause, refused = SAY_AGAIN[0], 0
        while worker.assignment is assignment and not assignment.taken and not assignment.cancelled_at:
            assignment.sent = True
            try:
                answer = await self._bus.command(worker.instance_id, worker.id, assignment.start, assignment.body)
            except BusError:  # whether the worker is there is for its heartbeats and the executor to say
                answer = None
            if answer is not None and answer.ok:
                assignment.taken = True
                return
            if answer is not None:
                refused += 1
                if refused >= REFUSALS:
                    reason = f"its worker refused to run it: {answer.error}"
                    worker.verdict = (ReasonCode.INTERNAL_ERROR.value, reason)
                    self._stop(worker.id)
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 2, SAY_AGAIN[1])

    async def _start(self, worker: Worker, session: Session, access: NatsAccess) -> None:
        try:
            version, files = await self._store.read(lambda connection: _program(connection, worker.version_id))
            config = self._backends.get(session.backend)
            told = partial(self._building.__setitem__, worker.id)
            built = await self._builder.build(source(self._store, version), told)
            if not (version.environment or version.image) and (built.digest or built.image):  # saved without a build
                new = (version.id, built.digest, built.lock, built.image)
                await self._store.run(lambda connection: programs.keep_build(connection, *new))
            launch = Launch(
                worker_id=worker.id,
                session_id=worker.session_id,
                program_id=version.program_id,
                version_id=version.id,
                manifest=version.manifest.model_dump(mode="json"),
                path=built.path,
                files=files,
                backend=config.for_worker(),
                nats=access,
                control_key=self._keys.control_key(worker.id),
                limits=Limits(
                    cancel_grace=self._settings.cancel_grace,
                    heartbeat=self._settings.worker_heartbeat,
                    idle=max(Limits().idle, session.interactive_ttl + 60.0),
                ),
            )
            await self._executor.start(launch, built)
        except LeaseLost:
            raise
        except (ServerError, OSError) as error:
            await self.end(worker.id, None, ReasonCode.START_FAILED, f"no worker could be started: {error}")
        except Exception as error:
            log.exception("starting worker %s", worker.id)
            await self.end(worker.id, None, ReasonCode.INTERNAL_ERROR, f"no worker could be started: {error!r}")
        finally:
            self._building.pop(worker.id, None)
            worker.heard = self._now()

    # --- what is heard

    async def beat(self, instance_id: str, beat: Beat) -> None:
        """A worker's heartbeat; its first says that it is ready."""
        worker = self.fleet.workers.get(beat.worker_id)
        if worker is None or worker.instance_id != instance_id:
            self._wake()
            return
        worker.heard, worker.met = self._now(), True
        if beat.draining and worker.state is not WorkerState.STOPPING:
            worker.state, worker.stopping_since = WorkerState.STOPPING, worker.heard
            self._wake()
        if worker.state is not WorkerState.STARTING or not beat.ready:
            return
        worker.state = WorkerState.READY
        if worker.assignment is not None:
            self._spawn(self._send(worker, worker.assignment))
        elif worker.job is None:
            self._wake()
        self._spawn(self._note_ready(worker))

    async def _note_ready(self, worker: Worker) -> None:
        def work(connection: Connection) -> None:
            self._guard(connection)
            workers.move(connection, worker.id, WorkerState.READY, [WorkerState.STARTING])

        await patiently(f"noting that worker {worker.id} is ready", lambda: self._store.run(work))

    def heard(self, event: Event) -> bool:
        """A job's final status came by: its worker is free at once, before that is stored. Whether it should be soon:
        another job can begin then, or a session end."""
        worker = self.fleet.jobs.get(event.job_id)
        if worker is not None and worker.assignment is not None:
            envelope = event.envelope
            own = envelope.source == worker.id and envelope.attempt == worker.assignment.start.attempt
            if own or envelope.source == CONTROL:
                self.fleet.finish(event.job_id)
        return not self.fleet.quiet([event.session_id])

    # --- ending jobs and workers

    def cancel(self, row: Row[Any]) -> bool:
        """Have a job's worker cancel it. False where no worker has it, so that only the control plane can end it."""
        worker = self.fleet.jobs.get(row.id)
        if worker is None:  # one that is here may have been told by a server before: when it can be adopted, look again
            return row.worker_id in self.fleet.workers
        assignment = worker.assignment
        if assignment is None:
            return True  # it is being given to the worker at this moment: look again
        if assignment.cancelled_at:
            return not assignment.disowned
        assignment.cancelled_at = self._now()
        if not assignment.sent:
            assignment.disowned = True
            return False
        command = Cancel(job_id=row.id, reason_code=ReasonCode(row.cancel_code), reason=row.cancel_reason)
        self._spawn(self._cancel(worker, assignment, command))
        return True

    async def _cancel(self, worker: Worker, assignment: Assignment, command: Cancel) -> None:
        pause = SAY_AGAIN[0]
        while worker.assignment is assignment:
            try:
                answer = await self._bus.command(worker.instance_id, worker.id, command)
            except BusError:
                answer = None
            if answer is not None and answer.ok:
                return
            await asyncio.sleep(SAY_AGAIN[1] if answer is not None else pause)
            if answer is not None:  # it does not have the job, and what it said of the job's end would be here by now
                assignment.disowned = True
                self._wake()
                return
            pause = min(pause * 2, SAY_AGAIN[1])

    async def _tell(self, worker: Worker, command: Cancel | Drain) -> None:
        try:
            answer = await self._bus.command(worker.instance_id, worker.id, command)
            if not answer.ok:
                log.info("worker %s on %s: %s", worker.id, command.type, answer.error)
        except NoAnswer:
            log.info("worker %s does not answer to %s", worker.id, command.type)

    async def dismiss(self, worker_id: str) -> None:
        """A worker is to end: it drains, and is ended where it does not."""
        worker = self.fleet.workers.get(worker_id)
        if worker is None or worker.state is WorkerState.STOPPING:
            return
        was_ready = worker.state is WorkerState.READY
        worker.state, worker.stopping_since = WorkerState.STOPPING, self._now()

        def work(connection: Connection) -> None:
            self._guard(connection)
            workers.move(connection, worker_id, WorkerState.STOPPING, [WorkerState.STARTING, WorkerState.READY])

        await self._store.run(work)
        if (starting := self._starting.get(worker_id)) is not None:
            await end([starting])
        if was_ready:
            self._spawn(self._tell(worker, Drain()))
        else:
            self._stop(worker_id)

    def _stop(self, worker_id: str) -> None:
        """Have the executor end a worker; it says when that has happened."""
        if worker_id not in self._stopping:
            self._stopping.add(worker_id)
            task = self._spawn(self._executor.stop(worker_id))
            task.add_done_callback(lambda _: self._stopping.discard(worker_id))

    async def shut_down(self) -> None:
        """Ends all workers; returns when they are gone and the store knows what became of their jobs, or after
        `SHUT_DOWN_SECONDS`. No job begins any more. Those that have an attempt left, or a checkpoint, wait for the
        next server, like those that no worker was told of yet; the others have failed."""
        self._shutting_down = True
        try:
            async with asyncio.timeout(SHUT_DOWN_SECONDS):
                while workers := list(self.fleet.workers.values()):
                    for worker in workers:
                        await self._end_for_good(worker)
                    await asyncio.sleep(SAY_AGAIN[0])
                while True:
                    if not await self._store.read(jobs.any_given):
                        return
                    await asyncio.sleep(SAY_AGAIN[0])
        except TimeoutError:
            log.warning("workers, or their jobs, have not ended within %g s", SHUT_DOWN_SECONDS)

    async def _end_for_good(self, worker: Worker) -> None:
        if worker.verdict is None and worker.assignment is not None and worker.assignment.sent:
            worker.verdict = (ReasonCode.WORKER_LOST.value, SHUT_DOWN)
        worker.state, worker.stopping_since = WorkerState.STOPPING, worker.stopping_since or self._now()
        if (starting := self._starting.get(worker.id)) is not None:
            await end([starting])
        self._stop(worker.id)

    async def end(
        self,
        worker_id: str,
        exit_code: int | None,
        code: ReasonCode | None,
        reason: str | None,
        ended: datetime | None = None,
    ) -> None:
        """A worker is gone: that is noted, and its credential is void from now on. `ended` None is now."""

        def work(connection: Connection) -> bool:
            self._guard(connection)
            return workers.end(
                connection,
                worker_id,
                exit_code=exit_code,
                reason_code=code.value if code else None,
                reason=reason,
                ended=ended or utc_now(),
            )

        void = await patiently(f"noting the end of worker {worker_id}", lambda: self._store.run(work))
        worker = self.fleet.forget(worker_id)
        if void and worker is not None:
            self._spawn(self._revoke_soon(worker.instance_id))
        self._wake()

    async def revoke(self, instance_id: str) -> None:
        """Push which credentials of an instance are void: those of workers that are gone, and what was given out for
        tokens that have ended. Whoever holds one is cut off when this returns."""
        since = utc_now() - timedelta(seconds=self._settings.stream_token_ttl)

        def read(connection: Connection) -> dict[str, int]:
            readers = {
                self._keys.reader(one.id).public: int(utc(one.over).timestamp()) + KNOWN_ON
                for one in tokens.ended_since(connection, since)
                if one.instance_id == instance_id and one.over
            }
            return readers | workers.revoked(connection, instance_id)

        await self._bus.revoke(instance_id, await self._store.read(read))

    async def _revoke_soon(self, instance_id: str) -> None:
        await patiently(f"revoking credentials of instance {instance_id}", lambda: self.revoke(instance_id))

    # --- what the executor says

    async def observe(self) -> None:
        """Follows the executor, for ever."""
        while True:
            try:
                async for seen in self._executor.observe():
                    if isinstance(seen, Running):
                        self._present.add(seen.worker_id)
                        if (worker := self.fleet.workers.get(seen.worker_id)) is not None:
                            worker.present = True
                    elif isinstance(seen, Exited):
                        self._present.discard(seen.worker_id)
                        self._exits[seen.worker_id] = seen
                        self._wake()
                    else:
                        self.synced, self._complete = True, seen.complete
                        self._wake()
            except ServerError as error:
                log.warning("the executor can't be observed for now: %s", error)
            self.synced = False
            self._present.clear()
            await asyncio.sleep(1.0)

    async def tend(self, rows: dict[str, Row[Any]], backends: dict[str, str]) -> None:
        """Make the fleet what the rows of workers that are not gone and the executor say; `backends` is by session."""
        for row in rows.values():
            if row.id not in self.fleet.workers:
                self.fleet.workers[row.id] = Worker(
                    row.id, row.instance_id, row.session_id, row.version_id, backends.get(row.session_id, ""),
                    WorkerState(row.state), self._now(), row.id in self._present,
                    stopping_since=self._now() if row.state == WorkerState.STOPPING.value else 0.0,
                )  # fmt: skip
        for exited in list(self._exits.values()):
            await self._note_exit(exited, rows)
        for worker in list(self.fleet.workers.values()):
            worker.present = worker.id in self._present
            await self._tend_one(worker)
        unknown = self._present - self.fleet.workers.keys()
        if self.synced and unknown:
            known = await self._store.read(lambda connection: workers.by_id(connection, unknown))
            for worker_id in unknown:
                if worker_id not in known or known[worker_id].state == WorkerState.GONE.value:
                    log.warning("worker %s runs and should not: it is stopped", worker_id)
                    self._stop(worker_id)

    async def _note_exit(self, exited: Exited, rows: dict[str, Row[Any]]) -> None:
        worker = self.fleet.workers.get(exited.worker_id)
        if worker is not None or exited.worker_id in rows:
            code, reason = exited.reason_code, exited.reason
            if worker is not None and worker.verdict is not None:
                code, reason = ReasonCode(worker.verdict[0]), worker.verdict[1]
            elif worker is not None and worker.state is WorkerState.STARTING and exited.exit_code != 0:
                code, reason = ReasonCode.START_FAILED, f"its worker ended before it was ready: {reason}"
            await self.end(exited.worker_id, exited.exit_code, code, reason)
        await self._executor.forget(exited.worker_id)
        self._exits.pop(exited.worker_id, None)

    async def _tend_one(self, worker: Worker) -> None:
        now = self._now()
        if worker.state is WorkerState.STOPPING and now - worker.stopping_since > STOP_AFTER:
            worker.stopping_since = now
            if worker.present or not self.synced:
                self._stop(worker.id)
        unheard = now - worker.heard
        late = worker.state is WorkerState.STARTING and unheard > READY_SECONDS and worker.id not in self._starting
        if late and worker.present and worker.verdict is None:
            worker.verdict = (ReasonCode.START_FAILED.value, f"its worker was not ready within {READY_SECONDS:g} s")
            self._stop(worker.id)
        if worker.present or not self.synced or worker.id in self._starting:
            return
        if worker.state is WorkerState.STARTING and not worker.started_here:
            # Taken over from a server that died between writing the row and starting the worker.
            await self.end(worker.id, None, None, "it was never started")
        elif self._complete and not worker.started_here and not worker.met:
            # It was there before this server, and no process of it was when this one came.
            reason = "its worker is gone: the runtime or the machine was ended while the job ran"
            await self.end(worker.id, None, ReasonCode.WORKER_LOST, reason, self._before)
        elif unheard > MISSED_BEATS * self._settings.worker_heartbeat:
            reason = f"its worker was not heard of for {unheard:.0f} s and is not seen any more"
            await self.end(worker.id, None, ReasonCode.WORKER_LOST, reason)

    async def hurry(self, row: Row[Any]) -> None:
        """End the worker of a job that should have ended long ago, by its time limit or because it was cancelled."""
        worker = self.fleet.jobs.get(row.id)
        if worker is None or worker.verdict is not None:
            return
        assignment = worker.assignment
        cancelled = assignment.cancelled_at if assignment is not None else 0.0
        if row.started and utc_now() > row.started + timedelta(seconds=row.max_execution_time + OVERTIME):
            reason = f"it ran for longer than its max_execution_time of {row.max_execution_time} s"
            worker.verdict = (ReasonCode.TIMED_OUT.value, reason)
            self._stop(worker.id)
        elif row.cancel_code and cancelled and self._now() - cancelled > OVERTIME:
            worker.verdict = (row.cancel_code, row.cancel_reason)
            self._stop(worker.id)

    # --- staying alive

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if isinstance(error, ServerError):
            log.warning("%s", error)  # the next look finds what was left undone
        else:
            log.error("a task of the control plane failed", exc_info=error)


def read_assignment(connection: Connection, row: Row[Any]) -> Assignment:
    """What a worker is told of a job: small inputs with the command itself, others to be fetched."""
    found = blobs.info(connection, row.inputs)
    inline = found.size <= INLINE_LIMIT
    checkpoint = blobs.info(connection, row.checkpoint) if row.checkpoint else None
    return Assignment(
        start_of(row, None if inline else fetchable(found), fetchable(checkpoint) if checkpoint else None),
        blobs.get(connection, row.inputs) if inline else b"",
    )


def _program(connection: Connection, version_id: str) -> tuple[programs.Version, Fetchable]:
    """A program version, and how its files are to be fetched.

    Raises:
        ServerError: it is gone.
    """
    version = programs.version(connection, version_id)
    if version is None:
        raise ServerError(f"program version {version_id} is gone")
    try:
        return version, fetchable(blobs.info(connection, version.archive))
    except blobs.MissingBlob as error:
        raise ServerError(f"the files of program version {version_id} are gone") from error


def fetchable(info: blobs.Info) -> Fetchable:
    return Fetchable(digest=info.digest, size=info.size, chunks=info.chunks)


def start_of(row: Row[Any], inputs: Fetchable | None, checkpoint: Fetchable | None) -> Start:
    return Start(
        job_id=row.id,
        attempt=row.attempt,
        max_execution_time=row.max_execution_time,
        log_level=row.log_level,
        inputs=inputs,
        checkpoint=checkpoint,
        interims=row.checkpoint_interims,
        qpy_version=row.qpy_version,
    )


def source(store: Store, version: programs.Version) -> Source:
    """A version that is stored, as a builder takes it."""

    async def archive() -> bytes:
        found: bytes = await store.read(lambda connection: blobs.get(connection, version.archive))
        return found

    return Source(version.manifest, version.digest, archive, version.lock, version.image)
