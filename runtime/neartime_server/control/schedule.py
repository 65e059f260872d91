"""Who runs next: a pure function from what is to what should be done about it.

Each backend has one queue of jobs. The next one is of the instance that has used the backend least, by its weight and
with what is long ago counting less; inside an instance, first come, first served. A backend has as many places as its
parallelism. A job outside a session and a job of a batch session take one each. A dedicated session takes the whole
backend: it begins when no other job runs there, and until it is closed only its own jobs run, one after the other.
Nobody overtakes a dedicated session that waits at the head of the queue.

Nobody starves: who waits uses nothing, so its share sinks, while the share of whoever is served before it rises.

A session gets the backend with its first job, not when it is opened: what runs nothing holds nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from sys import maxsize
from typing import Final

from neartime.contract.sessions import SessionMode


@dataclass(frozen=True, slots=True)
class Session:
    """A session that is not closed. Times are naive UTC; times to live in seconds."""

    id: str
    instance_id: str
    backend: str
    mode: SessionMode
    draining: bool
    started: datetime | None
    """When it got the backend; None while it waits."""
    last_activity: datetime
    max_ttl: int
    interactive_ttl: int


@dataclass(frozen=True, slots=True)
class Job:
    """A job that is not final."""

    id: str
    instance_id: str
    session_id: str
    version_id: str
    worker_id: str | None
    """Who was told to run it."""
    not_before: datetime | None = None
    cancelled: bool = False
    """Whether it is to end, and so starts no more."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that takes jobs, or will when it has started."""

    id: str
    session_id: str
    version_id: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What is, at one moment."""

    now: datetime
    parallelism: Mapping[str, int]
    """Of each backend that is configured."""
    sessions: Sequence[Session]
    jobs: Sequence[Job]
    workers: Sequence[Worker]
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """What an instance has used of a backend, (instance id, backend): seconds, decayed, divided by its weight."""
    most: int | None = None
    """Jobs of one instance that may run at a time."""


@dataclass(frozen=True, slots=True)
class Give:
    """A job begins: on this worker, or on a new one where `worker_id` is None. Its session has the backend from now."""

    job: Job
    session: Session
    worker_id: str | None


@dataclass(frozen=True, slots=True)
class Close:
    """A session is over, and no job of it is left."""

    session: Session
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Expire:
    """A session has reached its time to live: its jobs are to be cancelled."""

    session: Session
    reason: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    """A worker whose session is closed."""

    worker_id: str


Decision = Give | Close | Expire | Dismiss


@dataclass(slots=True)
class Plan:
    decisions: list[Decision] = field(default_factory=list)
    due: datetime | None = None
    """When to look again, if nothing happens before."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Sessions with jobs that still wait, and the backend that they wait for."""

    def look_again(self, at: datetime) -> None:
        self.due = at if self.due is None else min(self.due, at)


HALF_LIFE: Final = 3600.0
"""Seconds after which what was used counts half."""
EXPECTED: Final = 60.0
"""Seconds that a job which runs, or is about to, counts with: what it uses is known at its end."""


def decayed(seconds: float, age: float) -> float:
    """What is left, `age` seconds later, of seconds that were used."""
    return float(seconds * 0.5 ** (max(age, 0.0) / HALF_LIFE))


def schedule(picture: Picture) -> Plan:
    """What to do now. Carrying out a part of it, or none, does no harm: the next look finds what is left."""
    plan = Plan()
    jobs: defaultdict[str, list[Job]] = defaultdict(list)
    for job in picture.jobs:
        jobs[job.session_id].append(job)
    for session in picture.sessions:
        _end_session(plan, picture.now, session, jobs[session.id])
    ending = {decision.session.id for decision in plan.decisions if not isinstance(decision, Give | Dismiss)}

    sessions = {session.id: session for session in picture.sessions}
    plan.decisions += [Dismiss(worker.id) for worker in picture.workers if worker.session_id not in sessions]

    busy = {job.worker_id for job in picture.jobs}
    idle: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for worker in picture.workers:
        if worker.id not in busy:
            idle[worker.session_id, worker.version_id].append(worker.id)

    backends: defaultdict[str, list[Job]] = defaultdict(list)
    for job in picture.jobs:
        if (owner := sessions.get(job.session_id)) is not None and owner.id not in ending:
            backends[owner.backend].append(job)
    running = Counter(job.instance_id for job in picture.jobs if job.worker_id is not None)
    for backend, queue in backends.items():
        places = picture.parallelism.get(backend, 0)
        holders = [one for one in picture.sessions if one.backend == backend and one.started is not None]
        shares = _shares(picture.shares, backend, queue)
        room = {one: maxsize if picture.most is None else picture.most - running[one] for one in shares}
        for job in _next(plan, picture.now, queue, sessions, holders, places, shares, room):
            running[job.instance_id] += 1
            ready = idle[job.session_id, job.version_id]
            plan.decisions.append(Give(job, sessions[job.session_id], ready.pop(0) if ready else None))
        given = {decision.job.id for decision in plan.decisions if isinstance(decision, Give)}
        left = (job for job in queue if job.worker_id is None and not job.cancelled and job.id not in given)
        plan.waiting.update((job.session_id, backend) for job in left)
    return plan


def _end_session(plan: Plan, now: datetime, session: Session, jobs: Sequence[Job]) -> None:
    if session.started is not None and session.mode is not SessionMode.JOB:
        end = session.started + timedelta(seconds=session.max_ttl)
        if now >= end:
            reason = f"the session reached its max_ttl of {session.max_ttl} s"
            if not session.draining or not all(job.cancelled for job in jobs):
                plan.decisions.append(Expire(session, reason))
                return
        else:
            plan.look_again(end)
    if jobs:
        return
    if session.draining or session.mode is SessionMode.JOB:
        plan.decisions.append(Close(session))
        return
    idle_until = session.last_activity + timedelta(seconds=session.interactive_ttl)
    if now >= idle_until:
        plan.decisions.append(Close(session, f"no job came within its interactive_ttl of {session.interactive_ttl} s"))
    else:
        plan.look_again(idle_until)


def _arrival(job: Job) -> str:
    """Ids are ordered by time."""
    return job.id


def _shares(used: Mapping[tuple[str, str], float], backend: str, queue: Sequence[Job]) -> dict[str, float]:
    """What each instance has used of the backend, those jobs with it that run now."""
    shares = {job.instance_id: used.get((job.instance_id, backend), 0.0) for job in queue}
    for job in queue:
        if job.worker_id is not None:
            shares[job.instance_id] += EXPECTED
    return shares


def _fairly(runnable: Sequence[Job], shares: dict[str, float], room: dict[str, int]) -> Iterator[Job]:
    """The jobs, each time the first of the instance that has used least, counting what was handed out meanwhile; of
    each instance as many as it has room for."""
    queues: dict[str, deque[Job]] = {}
    for job in runnable:
        queue = queues.setdefault(job.instance_id, deque())
        if len(queue) < room[job.instance_id]:
            queue.append(job)
    queues = {instance_id: queue for instance_id, queue in queues.items() if queue}
    while queues:
        instance_id = min(queues, key=lambda one: (shares[one], queues[one][0].id))
        yield queues[instance_id].popleft()
        shares[instance_id] += EXPECTED
        if not queues[instance_id]:
            del queues[instance_id]


def _next(
    plan: Plan,
    now: datetime,
    queue: Sequence[Job],
    sessions: Mapping[str, Session],
    holders: Sequence[Session],
    places: int,
    shares: dict[str, float],
    room: dict[str, int],
) -> Iterable[Job]:
    """The jobs of one backend that begin now."""
    taken = sum(job.worker_id is not None for job in queue)
    waiting = [job for job in queue if job.worker_id is None and not job.cancelled]
    for job in waiting:
        if job.not_before is not None and job.not_before > now:
            plan.look_again(job.not_before)
    runnable = sorted((job for job in waiting if job.not_before is None or job.not_before <= now), key=_arrival)

    owner = next((one for one in holders if one.mode is SessionMode.DEDICATED), None)
    if owner is not None:
        own = [job for job in runnable if job.session_id == owner.id]
        # Jobs of others that began before the owner did are not there: it waited for their end.
        return own[:1] if taken == 0 else []
    chosen: list[Job] = []
    for job in _fairly(runnable, shares, room):
        if sessions[job.session_id].mode is SessionMode.DEDICATED:
            if taken == 0 and places > 0:
                chosen.append(job)
            break
        if taken >= places:
            break
        taken += 1
        chosen.append(job)
    return chosen
