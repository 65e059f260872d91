"""Where waiting jobs stand, for whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Table, select

from neartime.contract.jobs import JobStatus, JobView, QueueEntry
from neartime_server.backends import Backends
from neartime_server.control import schedule
from neartime_server.control.picture import View, look, picture
from neartime_server.store import Store
from neartime_server.store.engine import utc
from neartime_server.store.instances import Limits
from neartime_server.store.tables import instances, programs


class Line:
    """Tells of each job that waits its place in its backend's queue, and what it waits for."""

    def __init__(
        self, store: Store, backends: Backends, defaults: Limits, building: Callable[[str], str | None]
    ) -> None:
        """
        Args:
            building: what is being done for the environment of a job whose worker is started, where this server knows.
        """
        self._store, self._backends, self._defaults = store, backends, defaults
        self._building = building

    async def placed(self, views: Sequence[JobView]) -> list[JobView]:
        """The jobs, with their places."""
        if not any(view.status is JobStatus.QUEUED for view in views):
            return list(views)
        places = self._lines(await self._store.read(lambda connection: look(connection, self._defaults, None)))
        return [self._placed(view, places.get(view.id)) for view in views]

    async def entries(self, instance_id: str | None, backend: str | None = None) -> list[QueueEntry]:
        """What runs and what waits, of one instance or of all: by backend, what runs, then what waits in its order."""

        def read(connection: Connection) -> tuple[View, list[Row[Any]], dict[str, str], dict[str, str]]:
            view = look(connection, self._defaults, None)
            mine = [
                row for row in view.jobs if instance_id in (None, row.instance_id) and backend in (None, row.backend)
            ]
            owners = _names(connection, instances, {row.instance_id for row in mine})
            return view, mine, owners, _names(connection, programs, {row.program_id for row in mine})

        view, mine, owners, names = await self._store.read(read)
        places = self._lines(view)
        found = [self._entry(row, places.get(row.id), owners[row.instance_id], names[row.program_id]) for row in mine]
        return sorted(found, key=lambda one: (one.backend, one.position or 0, one.id))

    def _lines(self, view: View) -> dict[str, schedule.Place]:
        parallelism = {name: self._backends.get(name).parallelism for name in self._backends.names()}
        shown = picture(view, parallelism)
        backends = {row.backend for row in view.jobs if row.worker_id is None}
        return {place.job.id: place for backend in backends for place in schedule.line(shown, backend)}

    def _placed(self, view: JobView, place: schedule.Place | None) -> JobView:
        if view.status is not JobStatus.QUEUED:
            return view
        position = place.position if place else None
        return view.model_copy(update={"position": position, "waits_for": self._waits_for(view.id, view.status, place)})

    def _entry(self, row: Row[Any], place: schedule.Place | None, instance: str, program: str) -> QueueEntry:
        status = JobStatus(row.status)
        return QueueEntry(
            id=row.id,
            instance=instance,
            backend=row.backend,
            program=program,
            session_id=row.session_id,
            status=status,
            priority=row.priority,
            position=place.position if place else None,
            waits_for=self._waits_for(row.id, status, place),
            created=utc(row.created),
            started=utc(row.started) if row.started else None,
        )

    def _waits_for(self, job_id: str, status: JobStatus, place: schedule.Place | None) -> str | None:
        """Of a job that is queued: it has a place, or else a worker."""
        if status is not JobStatus.QUEUED:
            return None
        if place is not None:
            return place.waits_for
        told = self._building(job_id)
        return "its worker, which is being started" if told is None else f"its environment, which is made once: {told}"


def _names(connection: Connection, table: Table, ids: set[str]) -> dict[str, str]:
    return {row.id: row.name for row in connection.execute(select(table.c.id, table.c.name).where(table.c.id.in_(ids)))}
