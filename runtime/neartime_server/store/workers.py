"""Workers as rows, and the credentials of those that are gone, until these have expired by themselves."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from neartime_server.store.engine import upsert, utc, utc_now
from neartime_server.store.tables import jobs, revocations, workers


class WorkerState(str, Enum):
    STARTING = "starting"
    """Its row is written before anything of it exists."""
    READY = "ready"
    """It was heard."""
    STOPPING = "stopping"
    """It was told to end, and takes no more jobs."""
    GONE = "gone"


KEPT: Final = timedelta(days=1)
"""How long the row of a worker stays after its end."""
LIVE: Final = tuple(state.value for state in WorkerState if state is not WorkerState.GONE)


def add(
    connection: Connection,
    worker_id: str,
    instance_id: str,
    session_id: str,
    version_id: str,
    user_key: str,
    expires: datetime,
) -> None:
    """A worker that is about to be started. `user_key` and `expires` are its NATS user's."""
    row = {
        "id": worker_id,
        "instance_id": instance_id,
        "session_id": session_id,
        "version_id": version_id,
        "state": WorkerState.STARTING.value,
        "user_key": user_key,
        "expires": expires,
        "created": utc_now(),
    }
    connection.execute(insert(workers), row)


def by_id(connection: Connection, ids: Collection[str]) -> dict[str, Row[Any]]:
    return {row.id: row for row in connection.execute(select(workers).where(workers.c.id.in_(ids)))}


def live(connection: Connection) -> list[Row[Any]]:
    """Every worker that is not gone."""
    return list(connection.execute(select(workers).where(workers.c.state.in_(LIVE)).order_by(workers.c.id)))


def move(connection: Connection, worker_id: str, state: WorkerState, come_from: Collection[WorkerState]) -> bool:
    """Change the state, where it is one of `come_from`. False where it is not, or no longer."""
    done = connection.execute(
        update(workers)
        .where(workers.c.id == worker_id, workers.c.state.in_([one.value for one in come_from]))
        .values(state=state.value)
    )
    return bool(done.rowcount)


def end(
    connection: Connection,
    worker_id: str,
    *,
    exit_code: int | None,
    reason_code: str | None,
    reason: str | None,
    ended: datetime,
) -> bool:
    """Note that a worker is gone, and why, and that its credential is void. Whether that has to be made known.

    It need not be of a worker that ended by itself, in good order, with all its jobs: nobody has its credential any
    more, and all that it could speak for is said. The list of those that are void goes to NATS whole, each time.
    """
    found = connection.execute(
        update(workers)
        .where(workers.c.id == worker_id, workers.c.state.in_(LIVE))
        .values(
            state=WorkerState.GONE.value,
            ended=ended,
            exit_code=exit_code,
            reason_code=reason_code,
            reason=reason,
        )
        .returning(workers.c.instance_id, workers.c.user_key, workers.c.expires)
    ).one_or_none()
    live = select(jobs.c.id).where(jobs.c.worker_id == worker_id, jobs.c.ended.is_(None)).limit(1)
    if found is None or (exit_code == 0 and connection.execute(live).first() is None):
        return False
    row = {"instance_id": found.instance_id, "user_key": found.user_key, "expires": found.expires}
    connection.execute(upsert(connection, revocations).values(revoked=utc_now(), **row).on_conflict_do_nothing())
    return True


# --- revocations


def revoked(connection: Connection, instance_id: str) -> dict[str, int]:
    """Public keys of the instance's void credentials, with the Unix time up to which what they were given is void."""
    rows = connection.execute(
        select(revocations.c.user_key, revocations.c.revoked).where(
            revocations.c.instance_id == instance_id, revocations.c.expires > utc_now()
        )
    )
    return {row.user_key: int(utc(row.revoked).timestamp()) + 1 for row in rows}


def prune(connection: Connection) -> None:
    """Forget credentials that have expired by themselves, and workers that are gone, a while after."""
    now = utc_now()
    connection.execute(delete(revocations).where(revocations.c.expires <= now))
    live_jobs = select(jobs.c.worker_id).where(jobs.c.worker_id == workers.c.id, jobs.c.ended.is_(None))
    connection.execute(delete(workers).where(workers.c.ended < now - KEPT, ~live_jobs.exists()))
