"""What the control plane has in mind: its workers, what each was told to run, and who may begin at once.

All of it can be made again from the store, the executor and the workers' heartbeats; it saves looking there while a
session goes on. Nothing here waits or does anything outside.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from neartime.contract.launch import Start
from neartime.contract.sessions import SessionMode
from neartime_server.control.schedule import Session
from neartime_server.store.workers import WorkerState

REMEMBERED: Final = 10_000
"""Jobs whose end was heard that are kept in mind, so that an older look at the store does not bring them back."""


@dataclass(slots=True, eq=False)
class Assignment:
    """A job that was given to a worker."""

    start: Start
    body: bytes
    """The encoded inputs, where they travel in the command itself."""
    sent: bool = False
    """Whether a `Start` has left for the worker: from then on only the worker can say that it did not begin."""
    taken: bool = False
    """Whether the worker has answered that it has it."""
    cancelled_at: float = 0.0
    """When it was first to be cancelled, loop time."""
    disowned: bool = False
    """Whether the worker does not have it, and won't get it."""

    @property
    def job_id(self) -> str:
        return self.start.job_id


@dataclass(slots=True, eq=False)
class Worker:
    """A worker that is not gone."""

    id: str
    instance_id: str
    session_id: str
    version_id: str
    backend: str
    state: WorkerState
    heard: float
    """When it was last heard, or came to be known here; loop time."""
    started_here: bool = False
    """Whether this server started it, rather than one before."""
    met: bool = False
    """Whether this server has heard it."""
    present: bool = False
    """Whether the executor says that it runs."""
    job: str | None = None
    """The job that it is to run, from the moment that this is decided."""
    assignment: Assignment | None = None
    """What it is told about that job, from the moment that the store says so too."""
    stopping_since: float = 0.0
    verdict: tuple[str, str] | None = None
    """Reason code and reason of its end, where that was decided here."""

    @property
    def idle(self) -> bool:
        return self.state is WorkerState.READY and self.job is None


@dataclass(slots=True)
class Fleet:
    """The workers by id, and what the last look at the queue found."""

    workers: dict[str, Worker] = field(default_factory=dict)
    jobs: dict[str, Worker] = field(default_factory=dict)
    """Who runs a job, or is to."""
    sessions: Mapping[str, Session] = field(default_factory=dict)
    """Sessions that are not closed."""
    parallelism: Mapping[str, int] = field(default_factory=dict)
    _waiting: dict[str, str] = field(default_factory=dict)
    _fresh: dict[str, str] = field(default_factory=dict)
    _finished: OrderedDict[str, None] = field(default_factory=OrderedDict)

    # --- jobs and workers

    def assign(self, worker: Worker, job_id: str) -> None:
        worker.job, worker.assignment = job_id, None
        self.jobs[job_id] = worker

    def release(self, worker: Worker, job_id: str) -> None:
        """The worker has nothing to do with this job, or no longer."""
        if worker.job == job_id:
            worker.job = worker.assignment = None
        if self.jobs.get(job_id) is worker:
            del self.jobs[job_id]

    def finish(self, job_id: str) -> Worker | None:
        """The job has ended: whoever ran it is free. Returns that worker."""
        self._finished[job_id] = None
        if len(self._finished) > REMEMBERED:
            self._finished.popitem(last=False)
        worker = self.jobs.get(job_id)
        if worker is not None:
            self.release(worker, job_id)
        return worker

    def finished(self, job_id: str) -> bool:
        return job_id in self._finished

    def forget(self, worker_id: str) -> Worker | None:
        """The worker is gone, and is told nothing more."""
        worker = self.workers.pop(worker_id, None)
        if worker is not None and worker.job is not None:
            self.release(worker, worker.job)
        return worker

    def busy(self, backend: str) -> int:
        return sum(worker.backend == backend for worker in self.jobs.values())

    # --- beginning at once, without a look at the queue

    def looking(self) -> None:
        """A look at the queue begins: who comes to wait from now on is not in it."""
        self._fresh = {}

    def looked(self, sessions: Mapping[str, Session], waiting: Mapping[str, str]) -> None:
        self.sessions = sessions
        self._waiting = {**waiting, **self._fresh}

    def wait(self, session_id: str, backend: str) -> None:
        """A job of this session has to wait for a look at the queue."""
        self._waiting[session_id] = self._fresh[session_id] = backend

    def ready_for(self, session_id: str, version_id: str) -> Worker | None:
        """A worker on which a job that comes now can begin at once, overtaking nobody and sharing nothing it must not.

        It is the answer that `schedule` would give; where that would take more than what is known here, None.
        """
        session = self.sessions.get(session_id)
        if session is None or session.started is None or session.draining or session_id in self._waiting:
            return None
        if session.mode is SessionMode.DEDICATED:
            if self.busy(session.backend):
                return None
        elif (
            session.backend in self._waiting.values()
            or self.busy(session.backend) >= self.parallelism.get(session.backend, 0)
            or self._owned(session.backend)
        ):
            return None
        for worker in self.workers.values():
            if worker.idle and worker.session_id == session_id and worker.version_id == version_id:
                return worker
        return None

    def quiet(self, session_ids: Collection[str]) -> bool:
        """Whether a job's end in these sessions lets nobody begin and closes none of them."""
        if self._waiting:
            return False
        known = (self.sessions.get(session_id) for session_id in session_ids)
        return all(one is not None and not one.draining and one.mode is not SessionMode.JOB for one in known)

    def _owned(self, backend: str) -> bool:
        return any(
            one.backend == backend and one.mode is SessionMode.DEDICATED and one.started is not None
            for one in self.sessions.values()
        )
