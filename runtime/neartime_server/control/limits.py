"""What one instance may have at a time, and use in a day: asked in the transaction that would add to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from neartime.contract.problem import ErrorCode
from neartime_server.errors import Refused
from neartime_server.settings import Settings
from neartime_server.store import jobs, sessions
from neartime_server.store.engine import utc_now
from neartime_server.store.instances import Limits

DAY: Final = timedelta(days=1)


def defaults(settings: Settings) -> Limits:
    """What holds for an instance that has no limits of its own."""
    return Limits(
        settings.limit_running_jobs,
        settings.limit_live_jobs,
        settings.limit_open_sessions,
        settings.limit_seconds_per_day,
    )


def check_job(connection: Connection, limits: Limits, instance_id: str) -> None:
    """Raises Refused (429), which says the limit and when it frees, where the instance may not submit another job."""
    most = limits.live_jobs
    if most is not None and (live := jobs.count_live(connection, instance_id)) >= most:
        raise _refused(f"{live} jobs of this instance wait or run, and {most} may", "submit again when one has ended")
    seconds = limits.seconds_per_day
    if seconds is None:
        return
    used, first = jobs.used_since(connection, instance_id, utc_now() - DAY)
    if used >= seconds and first is not None:
        when = f"{first + DAY:%Y-%m-%d %H:%M:%S} UTC"
        message = f"the jobs of this instance ran for {used:.0f} s within a day, and may for {seconds} s"
        raise _refused(message, f"the first of them are a day old at {when}")


def may_run(connection: Connection, limits: Limits, instance_id: str) -> bool:
    """Whether another job of the instance may begin now."""
    most = limits.running_jobs
    return most is None or jobs.count_running(connection, instance_id) < most


def check_session(connection: Connection, limits: Limits, instance_id: str) -> None:
    """Raises Refused (429) where the instance may not open another session."""
    most = limits.open_sessions
    if most is not None and (count := sessions.count_open(connection, instance_id)) >= most:
        message = f"{count} sessions of this instance are open, and {most} may be"
        raise _refused(message, "close one, or wait until one closes by itself: neartime session list shows them")


def standing(connection: Connection, limits: Limits, instance_id: str) -> dict[str, tuple[int | None, float]]:
    """Each limit by its name, with what the instance has of that now."""
    return {
        "running_jobs": (limits.running_jobs, jobs.count_running(connection, instance_id)),
        "live_jobs": (limits.live_jobs, jobs.count_live(connection, instance_id)),
        "open_sessions": (limits.open_sessions, sessions.count_open(connection, instance_id)),
        "seconds_per_day": (limits.seconds_per_day, jobs.used_since(connection, instance_id, utc_now() - DAY)[0]),
    }


def _refused(message: str, solution: str) -> Refused:
    return Refused.of(429, ErrorCode.LIMIT_REACHED, message, solution=solution)
