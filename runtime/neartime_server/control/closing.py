"""What the control plane itself says of a job whose worker can't: that it has ended, or waits for another attempt.

It speaks as an event in the job's stream, after the worker was cut off, so that the projector and every reader take it
in the same place: where the worker's own last word is stored before it, that one counts. Repeating it does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from datetime import datetime, timezone
from typing import Any, Final

from sqlalchemy import Row

from neartime.contract.events import CONTROL, Envelope, StatusEvent, decode_log
from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime_server.bus import Bus

log = logging.getLogger(__name__)

TAIL_LINES: Final = 20
"""Lines of the job's log that its reason ends with, when its worker is gone."""
TAIL_SECONDS: Final = 5.0
"""How long the log is read for them."""
# The control plane's own sequence within an attempt: the broker drops the second of a kind.
_QUEUED, _CLOSED = 1, 2


async def close(
    bus: Bus, job: Row[Any], status: JobStatus, code: ReasonCode, reason: str, ran_until: datetime | None = None
) -> None:
    """Publish the status that ends a job. `ran_until` (UTC, naive) is when its worker ended, where that is known."""
    await _say(bus, job, job.attempt, _CLOSED, status, code, reason, ran_until)


async def queue_again(bus: Bus, job: Row[Any], code: ReasonCode, reason: str) -> None:
    """Publish that the job waits for its next attempt, and why this one ended."""
    await _say(bus, job, job.attempt + 1, _QUEUED, JobStatus.QUEUED, code, reason)


async def _say(
    bus: Bus, job: Row[Any], attempt: int, sequence: int, status: JobStatus, code: ReasonCode, reason: str,
    ran_until: datetime | None = None,
) -> None:  # fmt: skip
    usage = None
    if ran_until is not None and job.started is not None:
        usage = Usage(seconds=max(0.0, (ran_until - job.started).total_seconds()))
    event = StatusEvent(
        status=status,
        time=datetime.now(timezone.utc),
        reason=reason,
        reason_code=code,
        worker_id=job.worker_id,
        interims=job.interims if status.final else 0,
        usage=usage,
    )
    envelope = Envelope(CONTROL, attempt, sequence)
    await bus.publish(
        job.instance_id, job.session_id, job.id, "status", envelope, event.model_dump_json(exclude_none=True).encode()
    )


async def with_log_tail(bus: Bus, job: Row[Any], reason: str) -> str:
    """The reason, followed by the last lines of the job's log as far as they can be had."""
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        async with asyncio.timeout(TAIL_SECONDS):
            events = bus.job_events(job.instance_id, job.session_id, job.id, logs=True, follow=False)
            async for event in events:
                try:
                    tail.extend(record.text for record in decode_log(event.body))
                except ValueError:
                    continue  # no log record: the bus drops such events for readers, here it costs a line
    except TimeoutError:
        log.warning("the log of job %s could not be read to its end in %s s", job.id, TAIL_SECONDS)
    return "\n".join([reason, "last lines of its log:", *tail]) if tail else reason
