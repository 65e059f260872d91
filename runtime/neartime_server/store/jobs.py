"""Jobs as rows: accepted by the API, folded from events by the projector, moved by the scheduler.

The columns have three owners, as `tables` lists them: what was asked for never changes; status, reason, usage and
results are the projector's alone; worker, not_before and the wish to cancel are the scheduler's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, and_, bindparam, case, delete, exists, func, insert, or_, select, update

from neartime.contract.jobs import (
    JobMetrics,
    JobPage,
    JobState,
    JobStatus,
    JobView,
    ProgramReference,
    ReasonCode,
    Usage,
)
from neartime_server.store.engine import utc, utc_now
from neartime_server.store.tables import job_tags, jobs, programs

FINAL: Final = tuple(status.value for status in JobStatus if status.final)
LIVE: Final = tuple(status.value for status in JobStatus if not status.final)
WINDOW: Final = 64
"""Waiting jobs of one session that a look at the queue takes in: more can't start before the next look."""


# --- what the API asks for


def view(connection: Connection, instance_id: str, job_id: str) -> JobView | None:
    """A job of this instance as the API shows it; None where there is none."""
    row = connection.execute(_views().where(jobs.c.instance_id == instance_id, jobs.c.id == job_id)).one_or_none()
    return None if row is None else _view(row)


def page(
    connection: Connection,
    instance_id: str,
    *,
    limit: int = 10,
    offset: int = 0,
    statuses: Collection[JobStatus] = (),
    program: str | None = None,
    session_id: str | None = None,
    backend: str | None = None,
    tags: Sequence[str] = (),
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    ascending: bool = False,
) -> JobPage:
    """The instance's jobs that match all filters, the newest first unless `ascending`.

    `program` is an id or a name; a job matches `tags` when it has every one of them; times are naive UTC.
    """
    conditions = [jobs.c.instance_id == instance_id]
    if statuses:
        conditions.append(jobs.c.status.in_([status.value for status in statuses]))
    if program is not None:
        named = select(programs.c.id).where(programs.c.name == program)
        conditions.append(or_(jobs.c.program_id == program, jobs.c.program_id.in_(named)))
    if session_id is not None:
        conditions.append(jobs.c.session_id == session_id)
    if backend is not None:
        conditions.append(jobs.c.backend == backend)
    conditions += [exists().where(job_tags.c.job_id == jobs.c.id, job_tags.c.tag == tag) for tag in tags]
    if created_after is not None:
        conditions.append(jobs.c.created >= created_after)
    if created_before is not None:
        conditions.append(jobs.c.created <= created_before)
    count = connection.execute(select(func.count()).select_from(jobs).where(*conditions)).scalar_one()
    order = jobs.c.id.asc() if ascending else jobs.c.id.desc()
    rows = connection.execute(_views().where(*conditions).order_by(order).limit(limit).offset(offset))
    return JobPage(jobs=[_view(row) for row in rows], count=count, limit=limit, offset=offset)


def metrics(job: JobView) -> JobMetrics:
    """Times, usage and counts of a job."""
    return JobMetrics(
        timestamps={"created": job.created, "started": job.started, "running": job.started, "finished": job.ended},
        usage=job.usage,
        attempts=job.attempt,
        interims=job.interims,
        position_in_queue=job.position,
    )


_FIND: Final = select(jobs).where(jobs.c.instance_id == bindparam("instance"), jobs.c.id == bindparam("id"))


def find(connection: Connection, instance_id: str, job_id: str) -> Row[Any] | None:
    """The whole row of a job of this instance: `inputs`, `result` and the archives are digests of blobs."""
    return connection.execute(_FIND, {"instance": instance_id, "id": job_id}).one_or_none()


def set_tags(connection: Connection, instance_id: str, job_id: str, tags: Sequence[str]) -> bool:
    """Replace a job's tags. False where the instance has no such job."""
    text = json.dumps(list(tags))
    changed = connection.execute(
        update(jobs).where(jobs.c.instance_id == instance_id, jobs.c.id == job_id).values(tags=text)
    ).rowcount
    if changed:
        connection.execute(delete(job_tags).where(job_tags.c.job_id == job_id))
        _index_tags(connection, job_id, tags)
    return bool(changed)


def remove(connection: Connection, job_id: str) -> None:
    """Delete a job's row; its blobs go when nothing else refers to them."""
    connection.execute(delete(job_tags).where(job_tags.c.job_id == job_id))
    connection.execute(delete(jobs).where(jobs.c.id == job_id))


def waiting(connection: Connection, backend: str) -> int:
    """How many jobs wait for this backend."""
    condition = and_(jobs.c.status == JobStatus.QUEUED.value, jobs.c.backend == backend)
    return connection.execute(select(func.count()).select_from(jobs).where(condition)).scalar_one()


def _views() -> Select[Any]:
    return select(jobs, programs.c.name.label("program_name")).join(programs, programs.c.id == jobs.c.program_id)


def _view(row: Row[Any]) -> JobView:
    status = JobStatus(row.status)
    code = ReasonCode(row.reason_code) if row.reason_code else None
    return JobView(
        id=row.id,
        backend=row.backend,
        program=ProgramReference(id=row.program_id, name=row.program_name, version=row.version_id),
        session_id=row.session_id,
        status=status,
        state=JobState(status=status, reason=row.reason, reason_code=code),
        created=utc(row.created),
        started=utc(row.started) if row.started else None,
        ended=utc(row.ended) if row.ended else None,
        tags=json.loads(row.tags),
        cost=row.max_execution_time,
        usage=Usage(seconds=row.seconds, quantum_seconds=row.quantum_seconds),
        attempt=row.attempt,
        interims=row.interims,
        sequence=row.sequence,
        priority=row.priority,
    )


# --- what the control plane asks for


def add(connection: Connection, values: dict[str, Any], tags: Sequence[str]) -> None:
    """A new job, `Queued`. `values` are the columns that were asked for, and `worker_id` where one stands ready."""
    row = {"status": JobStatus.QUEUED.value, "created": utc_now(), "tags": json.dumps(list(tags))}
    connection.execute(insert(jobs), row | values)
    _index_tags(connection, values["id"], tags)


def _index_tags(connection: Connection, job_id: str, tags: Sequence[str]) -> None:
    if tags:
        connection.execute(insert(job_tags), [{"job_id": job_id, "tag": tag} for tag in dict.fromkeys(tags)])


def live(connection: Connection, window: int | None = WINDOW) -> list[Row[Any]]:
    """Every job that is not final and has a worker or wants to be cancelled, and of each session the first `window`
    that wait, or all; in the order of their ids, which is that of their arrival."""
    if window is None:
        return list(connection.execute(select(jobs).where(jobs.c.status.in_(LIVE)).order_by(jobs.c.id)))
    waits = and_(jobs.c.worker_id.is_(None), jobs.c.cancel_code.is_(None))
    place = func.row_number().over(
        partition_by=(jobs.c.session_id, case((waits, 1), else_=0)),
        order_by=(jobs.c.priority.desc(), jobs.c.id),
    )
    ranked = (
        select(jobs, case((waits, place), else_=0).label("place")).where(jobs.c.status.in_(LIVE)).subquery("ranked")
    )
    return list(connection.execute(select(ranked).where(ranked.c.place <= window).order_by(ranked.c.id)))


def by_id(connection: Connection, ids: Collection[str], *, lock: bool = False) -> dict[str, Row[Any]]:
    """Rows by id; `lock` keeps other writers off them until the transaction ends."""
    query = select(jobs).where(jobs.c.id.in_(ids))
    return {row.id: row for row in connection.execute(query.with_for_update() if lock else query)}


def change(connection: Connection, job_id: str, **values: Any) -> None:
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(values))


def any_live(connection: Connection, session_id: str) -> bool:
    """Whether a session has a job that is not final."""
    query = select(jobs.c.id).where(jobs.c.session_id == session_id, jobs.c.status.in_(LIVE)).limit(1)
    return connection.execute(query).first() is not None


def of_worker(connection: Connection, instance_id: str, worker_id: str) -> Row[Any] | None:
    """The job that a worker of this instance was given and that is not final."""
    mine = jobs.c.instance_id == instance_id, jobs.c.worker_id == worker_id, jobs.c.status.in_(LIVE)
    return connection.execute(select(jobs).where(*mine).limit(1)).one_or_none()


def any_given(connection: Connection) -> bool:
    """Whether a worker was given a job that is not final."""
    query = select(jobs.c.id).where(jobs.c.worker_id.is_not(None), jobs.c.status.in_(LIVE)).limit(1)
    return connection.execute(query).first() is not None


def assign(connection: Connection, job_id: str, worker_id: str) -> bool:
    """Give a waiting job to a worker. False where it no longer waits: it ended, was taken, or is to be cancelled."""
    waits = and_(jobs.c.worker_id.is_(None), jobs.c.cancel_code.is_(None), jobs.c.status.in_(LIVE))
    done = connection.execute(update(jobs).where(jobs.c.id == job_id, waits).values(worker_id=worker_id))
    return bool(done.rowcount)


def prioritize(connection: Connection, job_id: str, priority: int) -> Row[Any] | None:
    """Give a job that waits, of whichever instance, a priority; its row as it was then, None where there is none. The
    priority of one that runs or has ended stays as it is."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    waits = and_(jobs.c.worker_id.is_(None), jobs.c.status == JobStatus.QUEUED.value)
    connection.execute(update(jobs).where(jobs.c.id == job_id, waits).values(priority=priority))
    return row


def unassign(connection: Connection, job_id: str, worker_id: str) -> bool:
    """Take a job back from a worker that never began it. False where it has begun, or is another's."""
    never_began = and_(jobs.c.worker_id == worker_id, jobs.c.status == JobStatus.QUEUED.value)
    done = connection.execute(update(jobs).where(jobs.c.id == job_id, never_began).values(worker_id=None))
    return bool(done.rowcount)


def ask_cancel(connection: Connection, code: ReasonCode, reason: str, *, job_id: str = "", session_id: str = "") -> int:
    """Note that a job, or every live job of a session, is to be cancelled; the first reason stays. Returns how many."""
    which = jobs.c.id == job_id if job_id else jobs.c.session_id == session_id
    done = connection.execute(
        update(jobs)
        .where(which, jobs.c.status.in_(LIVE), jobs.c.cancel_code.is_(None))
        .values(cancel_code=code.value, cancel_reason=reason)
    )
    return done.rowcount


def unarchived(connection: Connection, before: datetime, limit: int) -> list[Row[Any]]:
    """Jobs that ended before a time and whose interim results or log are not in the store yet, the oldest first."""
    missing = or_(jobs.c.interim_archive.is_(None), jobs.c.log_archive.is_(None))
    return list(
        connection.execute(
            select(jobs)
            .where(jobs.c.status.in_(FINAL), jobs.c.ended < before, missing)
            .order_by(jobs.c.id)
            .limit(limit)
        )
    )


def count_live(connection: Connection, instance_id: str) -> int:
    """How many jobs of an instance wait or run."""
    query = select(func.count()).select_from(jobs).where(jobs.c.instance_id == instance_id, jobs.c.status.in_(LIVE))
    return int(connection.execute(query).scalar_one())


def count_running(connection: Connection, instance_id: str) -> int:
    """How many jobs of an instance have a worker."""
    mine = jobs.c.instance_id == instance_id, jobs.c.status.in_(LIVE), jobs.c.worker_id.is_not(None)
    return int(connection.execute(select(func.count()).select_from(jobs).where(*mine)).scalar_one())


def used_since(connection: Connection, instance_id: str, moment: datetime) -> tuple[float, datetime | None]:
    """Seconds that an instance's jobs ran which ended since then, and when the first of them ended."""
    query = select(func.sum(jobs.c.seconds), func.min(jobs.c.ended)).where(
        jobs.c.instance_id == instance_id, jobs.c.ended > moment, jobs.c.seconds > 0
    )
    used, first = connection.execute(query).one()
    return float(used or 0.0), first


def in_streams(connection: Connection, instance_id: str) -> list[tuple[str, str]]:
    """(session id, job id) of the instance's jobs that have begun, and whose interim results and logs are not all in
    the store yet."""
    missing = or_(jobs.c.interim_archive.is_(None), jobs.c.log_archive.is_(None))
    begun = or_(jobs.c.worker_id.is_not(None), jobs.c.attempt > 1)
    query = select(jobs.c.session_id, jobs.c.id).where(jobs.c.instance_id == instance_id, missing, begun)
    return [(row.session_id, row.id) for row in connection.execute(query)]
