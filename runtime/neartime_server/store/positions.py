"""How far each instance's stream has been folded: written in the transaction that folds."""

from __future__ import annotations

from sqlalchemy import Connection, select

from neartime_server.store.engine import upsert
from neartime_server.store.tables import positions


def get(connection: Connection, instance_id: str, stream: str) -> int:
    """The stream sequence up to which everything is folded; 0 before the first event."""
    found = connection.execute(
        select(positions.c.sequence).where(positions.c.instance_id == instance_id, positions.c.stream == stream)
    ).scalar()
    return found or 0


def put(connection: Connection, instance_id: str, stream: str, sequence: int) -> None:
    statement = upsert(connection, positions).values(instance_id=instance_id, stream=stream, sequence=sequence)
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["instance_id", "stream"], set_={"sequence": statement.excluded.sequence}
        )
    )
