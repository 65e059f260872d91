"""Instances: the tenants. Everything else is owned by one."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, bindparam, exists, insert, or_, select, update

from neartime.contract.ids import new_id
from neartime.contract.jobs import ReasonCode
from neartime.contract.sessions import SessionState
from neartime_server.errors import AdminError
from neartime_server.store.engine import upsert, utc_now
from neartime_server.store.tables import instances, jobs, sessions, tokens, workers

LOCAL = "local"
"""The instance of the embedded runtime's owner."""
PREINSTALLED = "neartime"
"""The instance that owns the programs which every server has. It has no token."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


NO_LIMIT = -1
"""In place of a limit: there is none, whatever the server's settings say."""


@dataclass(frozen=True)
class Limits:
    """What an instance may have at a time, or use in a day. None where nothing is said; NO_LIMIT for none."""

    running_jobs: int | None = None
    """Jobs that run at a time; others wait."""
    live_jobs: int | None = None
    """Jobs that wait or run; another one is refused."""
    open_sessions: int | None = None
    """Sessions that take jobs; another one is refused."""
    seconds_per_day: int | None = None
    """Seconds that its jobs ran within the last 24 hours, from which on another one is refused."""

    def over(self, others: Limits) -> Limits:
        """These limits, and where they say nothing the others; None then stands for none."""
        chosen = {}
        for one in fields(Limits):
            own = getattr(self, one.name)
            value = getattr(others, one.name) if own is None else own
            chosen[one.name] = None if value == NO_LIMIT else value
        return Limits(**chosen)


@dataclass(frozen=True)
class Instance:
    id: str
    name: str
    created: datetime
    ended: datetime | None
    weight: float
    """Its part of a busy backend, beside those of others."""
    limits: Limits
    """Its own; what they leave out is as the server's settings say."""


def create(connection: Connection, name: str, weight: float = 1.0) -> str:
    """A new instance; returns its id.

    Raises:
        AdminError: the name is taken (by an ended one too), or is none.
    """
    if not _NAME.fullmatch(name):
        raise AdminError(f"{name!r} is no name: a-z, 0-9, '.', '_' and '-', at most 63, a letter or digit first")
    if by_name(connection, name):
        raise AdminError(f"there is an instance {name!r} already, or was one; choose another name")
    instance_id = new_id()
    connection.execute(insert(instances), {"id": instance_id, "name": name, "weight": weight, "created": utc_now()})
    return instance_id


def ensure(connection: Connection, name: str) -> str:
    """The id of the instance of this name, made where it isn't there."""
    row = {"id": new_id(), "name": name, "weight": 1.0, "created": utc_now()}
    # Two servers may begin on one empty database at once: the first one's stays.
    connection.execute(upsert(connection, instances).values(row).on_conflict_do_nothing())
    return str(connection.execute(select(instances.c.id).where(instances.c.name == name)).scalar_one())


def by_name(connection: Connection, name: str) -> Instance | None:
    row = connection.execute(select(instances).where(instances.c.name == name)).one_or_none()
    return None if row is None else _instance(row)


def by_id(connection: Connection, instance_id: str) -> Instance | None:
    row = connection.execute(select(instances).where(instances.c.id == instance_id)).one_or_none()
    return None if row is None else _instance(row)


def page(connection: Connection, *, ended: bool = False) -> list[Instance]:
    """Every instance, oldest first; the ended ones too where `ended`."""
    query = select(instances).order_by(instances.c.id)
    rows = connection.execute(query if ended else query.where(instances.c.ended.is_(None)))
    return [_instance(row) for row in rows]


def weigh(connection: Connection, instance_id: str, weight: float) -> None:
    """Gives an instance another part of busy backends."""
    connection.execute(update(instances).where(instances.c.id == instance_id).values(weight=weight))


def limit(connection: Connection, instance_id: str, limits: Limits) -> None:
    """Gives an instance limits of its own, in place of those that it had."""
    connection.execute(update(instances).where(instances.c.id == instance_id).values(asdict(limits)))


_LIMITS = select(*[instances.c[one.name] for one in fields(Limits)]).where(instances.c.id == bindparam("id"))


def limits(connection: Connection, instance_id: str) -> Limits:
    """An instance's own limits."""
    row = connection.execute(_LIMITS, {"id": instance_id}).one_or_none()
    return Limits() if row is None else Limits(*row)


def all_limits(connection: Connection) -> dict[str, Limits]:
    """Every live instance's own limits, by instance id."""
    return {one.id: one.limits for one in page(connection)}


def unfinished(connection: Connection) -> list[Instance]:
    """Those that were not ended, and those of which something runs still, or is not in the store yet."""
    owner = instances.c.id
    runs = exists().where(workers.c.instance_id == owner, workers.c.state != "gone")
    unkept = or_(jobs.c.interim_archive.is_(None), jobs.c.log_archive.is_(None))
    query = select(instances).where(
        or_(instances.c.ended.is_(None), runs, exists().where(jobs.c.instance_id == owner, unkept))
    )
    return [_instance(row) for row in connection.execute(query)]


def end(connection: Connection, instance_id: str) -> None:
    """End an instance and its tokens; its jobs are cancelled. What it owns stays, unreachable."""
    now = utc_now()
    reason = "its instance was ended"
    connection.execute(
        update(jobs)
        .where(jobs.c.instance_id == instance_id, jobs.c.ended.is_(None), jobs.c.cancel_code.is_(None))
        .values(cancel_code=ReasonCode.SESSION_CLOSED.value, cancel_reason=reason)
    )
    open_states = [SessionState.OPEN.value, SessionState.ACTIVE.value]
    connection.execute(
        update(sessions)
        .where(sessions.c.instance_id == instance_id, sessions.c.state.in_(open_states))
        .values(state=SessionState.DRAINING.value, reason=reason)
    )
    connection.execute(
        update(instances).where(instances.c.id == instance_id, instances.c.ended.is_(None)).values(ended=now)
    )
    connection.execute(
        update(tokens).where(tokens.c.instance_id == instance_id, tokens.c.ended.is_(None)).values(ended=now)
    )


def _instance(row: Row[Any]) -> Instance:
    limits = Limits(row.running_jobs, row.live_jobs, row.open_sessions, row.seconds_per_day)
    return Instance(row.id, row.name, row.created, row.ended, row.weight, limits)
