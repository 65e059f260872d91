"""What the scheduler decides on, read from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row

from neartime.contract.sessions import SessionMode, SessionState
from neartime_server.control import schedule
from neartime_server.store import instances, jobs, sessions, shares
from neartime_server.store.engine import utc_now
from neartime_server.store.instances import Limits


@dataclass(slots=True)
class View:
    """What the store says, at one moment."""

    now: datetime
    sessions: list[Row[Any]]
    """Those that are not closed."""
    jobs: list[Row[Any]]
    """Those that have not ended."""
    shares: dict[tuple[str, str], float]
    most: dict[str, int]
    """Jobs of an instance that may run at a time, where it has such a limit."""


def look(connection: Connection, defaults: Limits, window: int | None = jobs.WINDOW) -> View:
    """`window` is how many of a session's waiting jobs are read; None is all."""
    limits = {one: own.over(defaults).running_jobs for one, own in instances.all_limits(connection).items()}
    return View(
        utc_now(),
        sessions.live(connection),
        jobs.live(connection, window),
        shares.read(connection, schedule.decayed),
        {instance_id: most for instance_id, most in limits.items() if most is not None},
    )


def picture(view: View, parallelism: Mapping[str, int], workers: Sequence[schedule.Worker] = ()) -> schedule.Picture:
    """`parallelism` is of each backend that is configured; `workers` are those that are idle, or of no use."""
    return schedule.Picture(
        now=view.now,
        parallelism=parallelism,
        sessions=[
            schedule.Session(
                row.id, row.instance_id, row.backend, SessionMode(row.mode),
                row.state == SessionState.DRAINING.value, row.started, row.last_activity,
                row.max_ttl, row.interactive_ttl,
            )
            for row in view.sessions
        ],
        jobs=[
            schedule.Job(
                row.id, row.instance_id, row.session_id, row.version_id, row.worker_id, row.not_before,
                row.cancel_code is not None, row.priority, row.created,
            )
            for row in view.jobs
        ],
        workers=workers,
        shares=view.shares,
        most=view.most,
    )  # fmt: skip
