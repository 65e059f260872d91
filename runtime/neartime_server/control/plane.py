"""The control plane as the API sees it: submit, cancel, sessions, and what jobs said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Row

from neartime.contract.events import INLINE_LIMIT, LogRecord
from neartime.contract.gateways import Lease, LeaseAsked
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobAccepted, JobRequest, JobStatus, ReasonCode
from neartime.contract.launch import Beat, Fetch, Fetchable, Start
from neartime.contract.problem import ErrorCode, Fault
from neartime.contract.sessions import SessionMode, SessionRequest, SessionState, SessionView
from neartime.contract.subjects import JOBS
from neartime.stream import Event
from neartime_server.backends import Backends
from neartime_server.builder import Builder
from neartime_server.bus import Bus, Keys
from neartime_server.control import leases, limits
from neartime_server.control.archive import Archive
from neartime_server.control.fleet import Assignment
from neartime_server.control.leadership import Leadership
from neartime_server.control.lifecycle import MAX_RESUMES
from neartime_server.control.line import Line
from neartime_server.control.patience import end
from neartime_server.control.reconciler import Reconciler
from neartime_server.control.reign import Reign
from neartime_server.control.workers import Workers
from neartime_server.errors import Refused, ServerError
from neartime_server.executors import Executor
from neartime_server.gateways import Gateways
from neartime_server.settings import Settings
from neartime_server.store import Store, blobs, instances, jobs, positions, programs, sessions
from neartime_server.store.engine import utc_now
from neartime_server.store.instances import Limits
from neartime_server.store.programs import Version

log = logging.getLogger(__name__)
T = TypeVar("T")

LONE_JOB_MARGIN: Final = 600
"""Seconds that a lone job's session outlives its attempts' time limits."""
LAST_WORDS: Final = 30.0
"""Seconds that what a lost worker has said may take to be in the store; after that it is looked at again."""
PREPARE_PAUSES: Final = (10.0, 60.0, 300.0)
"""Seconds before the base environment is tried again, where a registry or an index was away."""
POSITION_LOOK: Final = 0.05
"""Seconds between two looks at how far another server has folded the events."""


class Control:
    """One server's control plane. It always takes requests; it acts on them while it holds the lease."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: Bus,
        executor: Executor,
        builder: Builder,
        backends: Backends,
        keys: Keys,
        gateways: Gateways,
    ) -> None:
        self._settings, self._store, self._bus, self._executor = settings, store, bus, executor
        self._builder, self._backends, self._keys = builder, backends, keys
        self._gateways = gateways
        self._leadership = Leadership(store, self._reign)
        self._archive = Archive(store, bus)
        self._defaults = limits.defaults(settings)
        self._acting: Reign | None = None
        self._closing = False
        self.line = Line(store, backends, self._defaults, self._building)
        """Where waiting jobs stand."""
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Begins to act as soon as no other server does."""
        self._bus.on_beat(self._beat)
        self._bus.on_fetch(self._fetch)
        if self._backends.gateways():
            await self._bus.serve_gateways(self._lease)
        self._spawn(self._leadership.run())
        self._spawn(self._prepare_base())

    async def close(self) -> None:
        """Stops acting; workers and their jobs go on, and the next server finds them, and gateways."""
        self._closing = True
        await end(self._tasks)

    async def shut_down(self) -> None:
        """Ends all workers, and their jobs with them, in good order. No job begins any more here."""
        if self._acting is not None:
            await self._acting.workers.shut_down()

    def wake(self) -> None:
        """The queue is looked at again at once."""
        if self._acting is not None:
            self._acting.reconciler.wake()

    # --- jobs

    async def submit(
        self,
        instance_id: str,
        request: JobRequest,
        params: bytes | blobs.Info,
        version: Version,
        *,
        within: Callable[[Connection, JobAccepted], None] | None = None,
    ) -> JobAccepted:
        """Queue a job of a program version. `within` is called in the transaction that does. `params` are the encoded
        inputs, or a large value that `blobs.stage` has written ahead.

        A job whose session has an idle worker of its program ready is told to it at once.

        Raises:
            Refused: 404 or 409, there is no such session, or it takes no more jobs; 422, a field is at fault; 429, the
                instance has reached a limit.
        """
        await self._bus.add_instance(instance_id)
        await self._backends.learn(version.manifest.backends)
        # Whatever becomes of the request, what was committed is carried on.
        return await asyncio.shield(self._spawn(self._submit(instance_id, request, params, version, within)))

    async def _submit(
        self,
        instance_id: str,
        request: JobRequest,
        params: bytes | blobs.Info,
        version: Version,
        within: Callable[[Connection, JobAccepted], None] | None,
    ) -> JobAccepted:
        seconds = self._time_limit(request, version)
        lone = request.session_id is None
        session_id = request.session_id or new_id()
        backend = self._backend(request.backend, version) if lone or request.backend else ""
        job_id = new_id()
        acting = self._acting
        worker = acting.workers.fleet.ready_for(session_id, version.id) if acting and not lone else None
        if acting and worker:
            acting.workers.fleet.assign(worker, job_id)

        def work(connection: Connection) -> tuple[JobAccepted, bool, str]:
            where, at_once = backend, False
            own = self._limits(connection, instance_id)
            limits.check_job(connection, own, instance_id)
            if lone:
                attempts = MAX_RESUMES if version.manifest.checkpoints else request.max_attempts
                sessions.add(
                    connection, session_id, instance_id, backend, SessionMode.JOB,
                    attempts * seconds + LONE_JOB_MARGIN, self._settings.session_interactive_ttl,
                )  # fmt: skip
            else:
                row = self._open(sessions.find(connection, instance_id, session_id, lock=True), session_id, backend)
                where = row.backend
                self._backends.check(where, version.manifest.backends)
                at_once = (
                    worker is not None
                    and row.state == SessionState.ACTIVE.value
                    and limits.may_run(connection, own, instance_id)
                    and self._leadership.holds(connection)
                )
            digest = blobs.put(connection, params) if isinstance(params, bytes) else blobs.keep(connection, params)
            values = {
                "id": job_id,
                "instance_id": instance_id,
                "session_id": session_id,
                "program_id": version.program_id,
                "version_id": version.id,
                "backend": where,
                "inputs": digest,
                "log_level": request.log_level,
                "max_execution_time": seconds,
                "max_attempts": request.max_attempts,
                "qpy_version": request.qpy_version,
                "worker_id": worker.id if worker is not None and at_once else None,
            }
            jobs.add(connection, values, request.tags)
            accepted = JobAccepted(id=job_id, backend=where, session_id=session_id, program_version=version.id)
            if within is not None:
                within(connection, accepted)
            return accepted, at_once, digest

        try:
            accepted, at_once, digest = await self._store.run(work)
        except BaseException:
            if acting and worker:
                acting.workers.fleet.release(worker, job_id)
            raise
        if acting and worker and at_once:
            size = len(params) if isinstance(params, bytes) else params.size
            body = params if isinstance(params, bytes) and size <= INLINE_LIMIT else b""
            chunks = -(-size // blobs.CHUNK)
            fetch = None if body else Fetchable(digest=digest, size=size, chunks=chunks)
            start = Start(
                job_id=job_id,
                max_execution_time=seconds,
                log_level=request.log_level,
                inputs=fetch,
                qpy_version=request.qpy_version,
            )
            acting.workers.hand_over(worker, Assignment(start, body))
        elif acting:
            if worker:
                acting.workers.fleet.release(worker, job_id)
            acting.workers.fleet.wait(session_id, accepted.backend)
            acting.reconciler.wake()
        return accepted

    def limits(self, connection: Connection, instance_id: str) -> dict[str, tuple[int | None, float]]:
        """An instance's limits by name, each with what it has of that now."""
        return limits.standing(connection, self._limits(connection, instance_id), instance_id)

    def _limits(self, connection: Connection, instance_id: str) -> Limits:
        return instances.limits(connection, instance_id).over(self._defaults)

    @staticmethod
    def _time_limit(request: JobRequest, version: Version) -> int:
        most = version.manifest.max_execution_time
        wanted = request.max_execution_time
        if wanted is not None and wanted > most:
            message = f"{wanted} s is more than the program's own max-execution-time of {most} s"
            raise Refused.faults(ErrorCode.INVALID_REQUEST, [Fault(path="cost", message=message)])
        return wanted or most

    def _backend(self, name: str | None, version: Version) -> str:
        chosen: str = self._backends.get(name or self._backends.default).name
        self._backends.check(chosen, version.manifest.backends)
        return chosen

    @staticmethod
    def _open(row: Row[Any] | None, session_id: str, backend: str) -> Row[Any]:
        if row is None:
            raise Refused.not_found("session", session_id, "neartime session list shows yours")
        if row.state not in sessions.OPEN:
            raise Refused.of(
                409,
                ErrorCode.SESSION_CLOSED,
                f"the session {session_id!r} takes no more jobs{f': {row.reason}' if row.reason else ''}",
                solution="open a new one",
            )
        if backend and row.backend != backend:
            message = f"the session {session_id!r} is on {row.backend!r}, not on {backend!r}"
            raise Refused.faults(ErrorCode.INVALID_REQUEST, [Fault(path="backend", message=message)])
        return row

    async def cancel(self, instance_id: str, job_id: str) -> None:
        """End a job that has not ended; returns when that is decided, before it has.

        Raises:
            Refused: 404, there is no such job; 409, it has ended.
        """

        def work(connection: Connection) -> None:
            row = _found(jobs.find(connection, instance_id, job_id), job_id)
            if JobStatus(row.status).final:
                message = f"the job {job_id!r} has ended: {row.status}"
                raise Refused.of(409, ErrorCode.JOB_FINISHED, message)
            jobs.ask_cancel(connection, ReasonCode.CANCELLED_BY_USER, "cancelled by the user", job_id=job_id)

        await self._store.run(work)
        self.wake()

    async def prioritize(self, job_id: str, priority: int) -> None:
        """Let a job that waits, of whichever instance, go before others of a lower priority, or after.

        Raises:
            Refused: 404, there is no such job; 409, it runs, or has ended.
        """
        row = _found(await self._store.run(lambda connection: jobs.prioritize(connection, job_id, priority)), job_id)
        status = JobStatus(row.status)
        if row.worker_id is not None or status is not JobStatus.QUEUED:
            code, what = (
                (ErrorCode.JOB_FINISHED, f"has ended: {row.status}")
                if status.final
                else (ErrorCode.JOB_STARTED, "waits no more: a worker has it")
            )
            raise Refused.of(409, code, f"the job {job_id!r} {what}")
        self.wake()

    async def delete(self, instance_id: str, job_id: str) -> None:
        """Forget a job that has ended, its result and its log.

        Raises:
            Refused: 404, there is no such job; 409, it has not ended.
        """

        def work(connection: Connection) -> None:
            row = _found(jobs.find(connection, instance_id, job_id), job_id)
            if not JobStatus(row.status).final:
                raise Refused.of(
                    409,
                    ErrorCode.JOB_NOT_FINISHED,
                    f"the job {job_id!r} has not ended: {row.status}",
                    solution=f"cancel it first: neartime job cancel {job_id}",
                )
            jobs.remove(connection, job_id)

        await self._store.run(work)

    # --- sessions

    async def open_session(
        self,
        instance_id: str,
        request: SessionRequest,
        within: Callable[[Connection, SessionView], None] | None = None,
    ) -> SessionView:
        """A new session; it gets its backend with its first job. `within` is called in the transaction that makes it.

        Raises:
            Refused: 422, there is no such backend, or a field is out of its bounds.
        """
        await self._bus.add_instance(instance_id)
        backend = self._backends.get(request.backend or self._backends.default).name
        most = self._settings.session_max_ttl
        faults = []
        if request.mode is SessionMode.JOB:
            faults.append(
                Fault(path="mode", message="expected dedicated or batch; sessions of mode job are the server's")
            )
        if request.max_ttl is not None and request.max_ttl > most:
            faults.append(Fault(path="max_ttl", message=f"{request.max_ttl} is more than the maximum of {most} s"))
        if request.interactive_ttl is not None and request.interactive_ttl > most:
            message = f"{request.interactive_ttl} is more than the maximum of {most} s"
            faults.append(Fault(path="interactive_ttl", message=message))
        if faults:
            raise Refused.faults(ErrorCode.INVALID_REQUEST, faults)
        session_id = new_id()

        def work(connection: Connection) -> SessionView:
            limits.check_session(connection, self._limits(connection, instance_id), instance_id)
            sessions.add(
                connection, session_id, instance_id, backend, request.mode, request.max_ttl or most,
                request.interactive_ttl or self._settings.session_interactive_ttl,
            )  # fmt: skip
            view = sessions.view(connection, instance_id, session_id)
            assert view is not None
            if within is not None:
                within(connection, view)
            return view

        view = await self._store.run(work)
        self.wake()  # it idles out, if nothing comes
        return view

    async def close_session(self, instance_id: str, session_id: str) -> None:
        """It takes no more jobs; those it has run to their end. Closing a closed one is no error.

        Raises:
            Refused: 404, there is no such session.
        """
        await self._end_session(instance_id, session_id, cancel=False)

    async def cancel_session(self, instance_id: str, session_id: str) -> None:
        """It ends: queued jobs are dropped, running ones cancelled.

        Raises:
            Refused: 404, there is no such session.
        """
        await self._end_session(instance_id, session_id, cancel=True)

    async def _end_session(self, instance_id: str, session_id: str, *, cancel: bool) -> None:
        def work(connection: Connection) -> None:
            if sessions.find(connection, instance_id, session_id, lock=True) is None:
                raise Refused.not_found("session", session_id, "neartime session list shows yours")
            if not jobs.any_live(connection, session_id):
                sessions.move(connection, session_id, SessionState.CLOSED, sessions.NOT_CLOSED, closed=utc_now())
                return
            sessions.move(connection, session_id, SessionState.DRAINING, sessions.NOT_CLOSED)
            if cancel:
                reason = "its session was cancelled"
                jobs.ask_cancel(connection, ReasonCode.SESSION_CLOSED, reason, session_id=session_id)

        await self._store.run(work)
        self.wake()

    # --- what jobs said

    async def projected(self, instance_id: str, sequence: int, timeout: float) -> None:
        """Returns when the store reflects the JOBS stream up to `sequence`.

        Raises:
            Refused: 503, it did not within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                if self._acting and (projector := self._acting.projectors.get(instance_id)):
                    await projector.reached(sequence)
                    return
                # Another server folds, or this one is about to: the store says how far it is.
                while True:
                    if await self._store.read(lambda one: positions.get(one, instance_id, JOBS)) >= sequence:
                        return
                    await asyncio.sleep(POSITION_LOOK)
        except TimeoutError as error:
            raise Refused.of(
                503,
                ErrorCode.UNAVAILABLE,
                f"the store does not reflect event {sequence} yet, after {timeout:g} s",
                solution="try again",
            ) from error

    async def job_events(self, instance_id: str, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """A job's events past stream sequence `after`, as they come, until its final status.

        Raises:
            Refused: 404, there is no such job.
            StreamError: events are missing from the stream.
        """
        row = await self._row(instance_id, job_id)
        follow = not JobStatus(row.status).final
        events = self._bus.job_events(instance_id, row.session_id, job_id, logs=False, after=after, follow=follow)
        async with aclosing(events):
            async for event in events:
                yield event

    async def interim_results(self, instance_id: str, job_id: str) -> AsyncIterator[bytes]:
        """A job's interim results so far, in order, each as the program encoded it.

        Raises:
            Refused: 404, there is no such job.
        """
        row = await self._row(instance_id, job_id)
        async for value in self._archive.interim_results(row):
            yield value

    async def logs(self, instance_id: str, job_id: str) -> list[LogRecord]:
        """A job's log so far.

        Raises:
            Refused: 404, there is no such job.
        """
        return await self._archive.log(await self._row(instance_id, job_id))

    async def _row(self, instance_id: str, job_id: str) -> Row[Any]:
        return _found(await self._store.read(lambda connection: jobs.find(connection, instance_id, job_id)), job_id)

    # --- what workers say

    async def _beat(self, instance_id: str, beat: Beat) -> None:
        if self._acting is not None:
            await self._acting.workers.beat(instance_id, beat)

    async def _fetch(self, instance_id: str, worker_id: str, fetch: Fetch) -> bytes:
        """A chunk of its program's files, or of what it was told to fetch for the job that it runs; of nothing else."""

        def work(connection: Connection) -> bytes:
            if fetch.job_id is None:
                own = programs.archive_of(connection, instance_id, worker_id)
                return blobs.chunk(connection, own, fetch.chunk) if own == fetch.digest else b""
            row = jobs.find(connection, instance_id, fetch.job_id)
            if row is None or row.worker_id != worker_id or JobStatus(row.status).final:
                return b""
            if fetch.digest not in (row.inputs, row.checkpoint):
                return b""
            return blobs.chunk(connection, fetch.digest, fetch.chunk)

        try:
            return await self._store.read(work)
        except blobs.MissingBlob:
            return b""

    async def _lease(self, backend: str, question: LeaseAsked) -> Lease:
        return await self._store.read(partial(leases.find, backends=self._backends, backend=backend, question=question))

    # --- acting

    def _building(self, job_id: str) -> str | None:
        return self._acting.workers.building(job_id) if self._acting is not None else None

    async def _reign(self) -> None:
        workers = Workers(
            self._settings, self._store, self._bus, self._executor, self._builder, self._backends, self._keys,
            self._leadership.guard, self.wake, self._leadership.before,
        )  # fmt: skip
        projected = partial(self.projected, timeout=LAST_WORDS)
        reconciler = Reconciler(
            self._store, self._bus, self._backends, workers, self._leadership.guard, projected, self._defaults
        )
        self._acting = Reign(self._settings, self._store, self._bus, workers, reconciler, self._leadership.guard)
        keeping = self._spawn(self._gateways.run())
        try:
            await self._acting.run()
        finally:
            self._acting = None
            await end([keeping])
            if not self._closing:  # another server acts, and keeps its own
                await self._gateways.end()

    async def _prepare_base(self) -> None:
        """What programs without requirements run in stands ready before the first job comes."""
        for pause in (0.0, *PREPARE_PAUSES):
            await asyncio.sleep(pause)
            try:
                if (own := await self._builder.ready()) is not None:
                    await self._executor.stand_by(own)
                return
            except ServerError as error:
                log.warning("the base environment could not be prepared: %s", error)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _found(row: Row[Any] | None, job_id: str) -> Row[Any]:
    if row is None:
        raise Refused.not_found("job", job_id, "neartime job list shows yours")
    return row
