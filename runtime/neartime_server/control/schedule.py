"""Who runs next: a pure function from what is to what should be done about it.

Each backend has one queue of jobs. The next one is of the instance that has used the backend least, by its weight and
with what is long ago counting less; inside an instance, first come, first served. A backend has as many places as its
parallelism. A job outside a session and a job of a batch session take one each. A dedicated session takes the whole
backend: it begins when no other job runs there, and until it is closed only its own jobs run, one after the other.
Nobody overtakes a dedicated session that waits at the head of the queue.

An operator may give a job a priority. A higher one goes first, whatever the shares; but each minute of waiting makes up
for one level, so that a job of priority 0 is overtaken by one of priority 30 for half an hour at most.

Nobody starves: who waits uses nothing, so its share sinks, while the share of whoever is served before it rises; and
who waits long enough is as high as anybody.

A session gets the backend with its first job, not when it is opened: what runs nothing holds nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
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
    priority: int = 0
    """As an operator has set it; the higher one goes first."""
    created: datetime | None = None
    """Since when it waits; None is since now."""


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
    most: Mapping[str, int] = field(default_factory=dict)
    """Jobs of an instance that may run at a time, by instance id; whoever is missing has no limit."""


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
PATIENCE: Final = 60.0
"""Seconds of waiting that make up for one level of priority."""
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

    queued: defaultdict[str, list[Job]] = defaultdict(list)
    for job in picture.jobs:
        if (owner := sessions.get(job.session_id)) is not None and owner.id not in ending:
            queued[owner.backend].append(job)
    running = Counter(job.instance_id for job in picture.jobs if job.worker_id is not None)
    for backend, of_backend in queued.items():
        queue = _Queue.of(picture, backend, of_backend)
        for job in queue.later:
            assert job.not_before is not None
            plan.look_again(job.not_before)
        given = queue.next(sessions, running)
        for job in given:
            running[job.instance_id] += 1
            ready = idle[job.session_id, job.version_id]
            plan.decisions.append(Give(job, sessions[job.session_id], ready.pop(0) if ready else None))
        left = {job.id for job in given}
        plan.waiting.update((job.session_id, backend) for job in queue.waiting if job.id not in left)
    return plan


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job stands that waits."""

    job: Job
    position: int
    """In the order in which jobs would begin if nobody else came, from 1."""
    waits_for: str
    """What has to happen before it begins, in words for its owner."""


def line(picture: Picture, backend: str) -> list[Place]:
    """Who waits for a backend, in the order in which they would begin if nobody else came."""
    sessions = {session.id: session for session in picture.sessions}
    of_backend = [
        job for job in picture.jobs if job.session_id in sessions and sessions[job.session_id].backend == backend
    ]
    queue = _Queue.of(picture, backend, of_backend)
    running = Counter(job.instance_id for job in picture.jobs if job.worker_id is not None)
    order = [*queue.in_order(), *sorted(queue.later, key=lambda job: (job.not_before, job.id))]
    places, dedicated_before = [], False
    for position, job in enumerate(order, 1):
        session = sessions[job.session_id]
        most = picture.most.get(job.instance_id)
        limit = most if most is not None and running[job.instance_id] >= most else None
        places.append(Place(job, position, queue.waits_for(job, session, limit, dedicated_before)))
        dedicated_before |= session.mode is SessionMode.DEDICATED
    return places


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


@dataclass(slots=True)
class _Queue:
    """One backend's jobs at one moment."""

    backend: str
    places: int
    running: list[Job]
    ready: list[Job]
    """Those that wait for nothing but a place."""
    later: list[Job]
    """Attempts that wait for their time."""
    owner: Session | None
    """The dedicated session that has the backend."""
    used: dict[str, float]
    """What each instance has used of the backend, those jobs with it that run now."""
    limits: Mapping[str, int]
    now: datetime

    @classmethod
    def of(cls, picture: Picture, backend: str, jobs: Sequence[Job]) -> _Queue:
        holders = (one for one in picture.sessions if one.backend == backend and one.started is not None)
        used = {job.instance_id: picture.shares.get((job.instance_id, backend), 0.0) for job in jobs}
        queue = cls(
            backend,
            picture.parallelism.get(backend, 0),
            [job for job in jobs if job.worker_id is not None],
            [],
            [],
            next((one for one in holders if one.mode is SessionMode.DEDICATED), None),
            used,
            picture.most,
            picture.now,
        )
        for job in jobs:
            if job.worker_id is not None:
                used[job.instance_id] += EXPECTED
            elif not job.cancelled:
                waits = job.not_before is not None and job.not_before > picture.now
                (queue.later if waits else queue.ready).append(job)
        return queue

    @property
    def waiting(self) -> list[Job]:
        return self.ready + self.later

    def next(self, sessions: Mapping[str, Session], running: Mapping[str, int]) -> list[Job]:
        """The jobs that begin now. `running` is how many jobs of each instance run, on whichever backend."""
        taken = len(self.running)
        if self.owner is not None:
            # Jobs of others that began before the owner did are not there: it waited for their end.
            own = (job for job in self.in_order() if job.session_id == self._owner_id)
            return [job for job in islice(own, 1) if taken == 0 and self._room(job, running) > 0]
        chosen: list[Job] = []
        began: Counter[str] = Counter()
        for job in self.in_order():
            if self._room(job, running) <= began[job.instance_id]:
                continue
            if sessions[job.session_id].mode is SessionMode.DEDICATED:
                if taken == 0 and self.places > 0:
                    chosen.append(job)
                break
            if taken >= self.places:
                break
            taken += 1
            began[job.instance_id] += 1
            chosen.append(job)
        return chosen

    def in_order(self) -> Iterator[Job]:
        """Those that are ready, each time the first of the instance that has used least, counting what was handed out
        meanwhile; higher levels first. The owner's before all."""
        levels = self._levels()
        ordered = sorted(self.ready, key=lambda job: (job.session_id != self._owner_id, -levels[job.id], job.id))
        own = [job for job in ordered if job.session_id == self._owner_id]
        yield from own
        queues: dict[str, deque[Job]] = {}
        for job in ordered[len(own) :]:
            queues.setdefault(job.instance_id, deque()).append(job)
        shares = dict(self.used)

        def rank(instance_id: str) -> tuple[int, float, str]:
            first = queues[instance_id][0]
            return -levels[first.id], shares[instance_id], first.id

        while queues:
            instance_id = min(queues, key=rank)
            yield queues[instance_id].popleft()
            shares[instance_id] += EXPECTED
            if not queues[instance_id]:
                del queues[instance_id]

    def waits_for(self, job: Job, session: Session, limit: int | None, dedicated_before: bool) -> str:
        """In words, why a job of this queue does not begin. `limit` is its instance's where that is reached."""
        if not self.places:
            return f"the backend {self.backend!r}, which is not offered any more"
        if job.not_before is not None and job.not_before > self.now:
            return f"its next attempt, at {job.not_before:%Y-%m-%d %H:%M:%S} UTC"
        if self.owner is not None and self.owner.id != session.id:
            whose = "another" if self.owner.instance_id == session.instance_id else "somebody else's"
            assert self.owner.started is not None
            end = self.owner.started + timedelta(seconds=self.owner.max_ttl)
            return f"{whose} dedicated session, which has the backend until {end:%Y-%m-%d %H:%M:%S} UTC at the latest"
        if limit is not None:
            return f"a job of its instance to end: {limit} may run at a time"
        if self.owner is not None:
            return "the job before it: a dedicated session runs one at a time"
        if dedicated_before:
            return "a dedicated session, which comes before it"
        if session.mode is SessionMode.DEDICATED and self.running:
            return "the end of what runs now: its session is dedicated, and wants the backend alone"
        if len(self.running) >= self.places:
            return f"a place: {self.places} may run at a time"
        return "nothing: it is about to begin"

    @property
    def _owner_id(self) -> str | None:
        return None if self.owner is None else self.owner.id

    def _room(self, job: Job, running: Mapping[str, int]) -> int:
        return self.limits.get(job.instance_id, maxsize) - running.get(job.instance_id, 0)

    def _levels(self) -> dict[str, int]:
        """The highest priority here that a job's own, and its waiting, come up to."""
        present = sorted({job.priority for job in self.ready}, reverse=True)
        return {job.id: next(one for one in present if one <= job.priority + self._waited(job)) for job in self.ready}

    def _waited(self, job: Job) -> float:
        return 0.0 if job.created is None else max(0.0, (self.now - job.created).total_seconds()) / PATIENCE
