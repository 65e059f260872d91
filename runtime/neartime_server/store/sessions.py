"""Sessions as rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, bindparam, case, func, insert, select, update

from neartime.contract.jobs import Usage
from neartime.contract.sessions import SessionMode, SessionPage, SessionState, SessionView
from neartime_server.store.engine import utc, utc_now
from neartime_server.store.tables import jobs, sessions

OPEN: Final = (SessionState.OPEN.value, SessionState.ACTIVE.value)
"""States in which a session takes jobs."""
NOT_CLOSED: Final = (SessionState.OPEN, SessionState.ACTIVE, SessionState.DRAINING)
LIVE: Final = tuple(state.value for state in NOT_CLOSED)


# --- what the API asks for


def view(connection: Connection, instance_id: str, session_id: str) -> SessionView | None:
    """A session of this instance as the API shows it; None where there is none."""
    row = connection.execute(
        _views().where(sessions.c.instance_id == instance_id, sessions.c.id == session_id)
    ).one_or_none()
    return None if row is None else _view(row)


def page(
    connection: Connection,
    instance_id: str,
    *,
    limit: int = 10,
    offset: int = 0,
    states: Collection[SessionState] = (),
    backend: str | None = None,
) -> SessionPage:
    """The instance's sessions that somebody opened, the newest first; those that the server made for lone jobs are
    left out."""
    conditions = [sessions.c.instance_id == instance_id, sessions.c.mode != SessionMode.JOB.value]
    if states:
        conditions.append(sessions.c.state.in_([state.value for state in states]))
    if backend is not None:
        conditions.append(sessions.c.backend == backend)
    count = connection.execute(select(func.count()).select_from(sessions).where(*conditions)).scalar_one()
    rows = connection.execute(_views().where(*conditions).order_by(sessions.c.id.desc()).limit(limit).offset(offset))
    return SessionPage(sessions=[_view(row) for row in rows], count=count)


def _views() -> Select[Any]:
    count = select(func.count()).select_from(jobs).where(jobs.c.session_id == sessions.c.id).scalar_subquery()
    return select(sessions, count.label("jobs"))


def _view(row: Row[Any]) -> SessionView:
    return SessionView(
        id=row.id,
        backend_name=row.backend,
        mode=SessionMode(row.mode),
        state=SessionState(row.state),
        accepting_jobs=row.state in OPEN,
        max_ttl=row.max_ttl,
        interactive_ttl=row.interactive_ttl,
        created=utc(row.created),
        started=utc(row.started) if row.started else None,
        last_activity=utc(row.last_activity),
        closed=utc(row.closed) if row.closed else None,
        reason=row.reason,
        usage=Usage(seconds=row.seconds, quantum_seconds=row.quantum_seconds),
        jobs=row.jobs,
    )


# --- what the control plane asks for


def add(
    connection: Connection,
    session_id: str,
    instance_id: str,
    backend: str,
    mode: SessionMode,
    max_ttl: int,
    interactive_ttl: int,
) -> None:
    """A new session, `open`. Times to live in seconds."""
    now = utc_now()
    connection.execute(
        insert(sessions),
        {
            "id": session_id,
            "instance_id": instance_id,
            "backend": backend,
            "mode": mode.value,
            "state": SessionState.OPEN.value,
            "max_ttl": max_ttl,
            "interactive_ttl": interactive_ttl,
            "created": now,
            "last_activity": now,
        },
    )


_FIND: Final = select(sessions).where(sessions.c.instance_id == bindparam("instance"), sessions.c.id == bindparam("id"))
_LOCK: Final = _FIND.with_for_update()


def find(connection: Connection, instance_id: str, session_id: str, *, lock: bool = False) -> Row[Any] | None:
    """A session of this instance; `lock` keeps it in its state until the transaction ends."""
    names = {"instance": instance_id, "id": session_id}
    return connection.execute(_LOCK if lock else _FIND, names).one_or_none()


def live(connection: Connection) -> list[Row[Any]]:
    """Every session that is not closed, in the order of opening."""
    return list(connection.execute(select(sessions).where(sessions.c.state.in_(LIVE)).order_by(sessions.c.id)))


def count_open(connection: Connection, instance_id: str) -> int:
    """How many sessions of an instance take jobs, but for those that the server makes for a job each."""
    query = select(func.count()).select_from(sessions)
    mine = sessions.c.instance_id == instance_id, sessions.c.state.in_(OPEN), sessions.c.mode != SessionMode.JOB.value
    return int(connection.execute(query.where(*mine)).scalar_one())


def move(
    connection: Connection, session_id: str, state: SessionState, come_from: Collection[SessionState], **values: Any
) -> bool:
    """Change the state, where it is one of `come_from`. False where it is not, or no longer."""
    done = connection.execute(
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.state.in_([one.value for one in come_from]))
        .values(state=state.value, **values)
    )
    return bool(done.rowcount)


def begin(connection: Connection, session_id: str) -> None:
    """The session has the backend from now; one that drains goes on draining."""
    connection.execute(
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.started.is_(None), sessions.c.state.in_(LIVE))
        .values(
            started=utc_now(),
            state=case(
                (sessions.c.state == SessionState.OPEN.value, SessionState.ACTIVE.value), else_=sessions.c.state
            ),
        )
    )


def use(connection: Connection, session_id: str, seconds: float = 0.0, quantum_seconds: float = 0.0) -> None:
    """A job came or ended: the session is not idle. Adds what the job used, in seconds."""
    connection.execute(
        update(sessions)
        .where(sessions.c.id == session_id)
        .values(
            last_activity=utc_now(),
            seconds=sessions.c.seconds + seconds,
            quantum_seconds=sessions.c.quantum_seconds + quantum_seconds,
        )
    )
