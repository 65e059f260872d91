"""What each instance has used of each backend, with what is long ago counting less. Written by the one who acts."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from neartime_server.store.engine import upsert, utc_now
from neartime_server.store.tables import instances, shares

Decay = Callable[[float, float], float]
"""What is left of seconds that were used, so many seconds later."""


def charge(connection: Connection, instance_id: str, backend: str, seconds: float, decay: Decay) -> None:
    """Adds to what an instance has used of a backend."""
    now = utc_now()
    found = connection.execute(
        select(shares.c.seconds, shares.c.as_of).where(shares.c.instance_id == instance_id, shares.c.backend == backend)
    ).one_or_none()
    before = decay(found.seconds, (now - found.as_of).total_seconds()) if found else 0.0
    values = {"seconds": before + max(seconds, 0.0), "as_of": now}
    statement = upsert(connection, shares).values(instance_id=instance_id, backend=backend, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["instance_id", "backend"], set_=values))


def read(connection: Connection, decay: Decay) -> dict[tuple[str, str], float]:
    """(instance id, backend): seconds used, decayed until now, divided by the instance's weight."""
    now = utc_now()
    query = select(shares, instances.c.weight).join(instances, instances.c.id == shares.c.instance_id)
    return {
        (row.instance_id, row.backend): decay(row.seconds, (now - row.as_of).total_seconds()) / row.weight
        for row in connection.execute(query)
    }
