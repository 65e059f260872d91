"""Who acts: a lease that one server holds at a time, and that frees itself when its holder is gone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, bindparam, delete, or_, select

from neartime_server.store.engine import upsert, utc_now
from neartime_server.store.tables import leases


def take(connection: Connection, name: str, holder: str, seconds: float) -> bool:
    """Take the lease, or hold it on, for so many seconds. False where somebody else holds it."""
    now = utc_now()
    statement = upsert(connection, leases).values(name=name, holder=holder, expires=now + timedelta(seconds=seconds))
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": statement.excluded.holder, "expires": statement.excluded.expires},
        where=or_(leases.c.holder == holder, leases.c.expires < now),
    )
    return connection.execute(statement.returning(leases.c.holder)).scalar() == holder


def expires(connection: Connection, name: str) -> datetime | None:
    """When the lease ends, or has ended, that somebody has not given back."""
    found: datetime | None = connection.execute(select(leases.c.expires).where(leases.c.name == name)).scalar()
    return found


_HELD: Final = select(leases.c.holder).where(leases.c.name == bindparam("name")).with_for_update(read=True)


def held(connection: Connection, name: str, holder: str) -> bool:
    """Whether `holder` has the lease. Where it has, nobody else can take it before this transaction ends."""
    return connection.execute(_HELD, {"name": name}).scalar() == holder


def give_back(connection: Connection, name: str, holder: str) -> None:
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
