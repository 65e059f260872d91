"""The life of a job: a pure function from what it is and what is said of it to what it is then.

    Queued ──▶ Running ──▶ Completed | Failed | Cancelled
       ▲          │
       └──────────┘   its worker was lost, and there is an attempt left

Two numbers only ever rise: the attempt, and within it the step from Queued over Running to a final status. So events
may come twice, late, or out of order, and a job never goes back; and what is final stays as it is.

Whose word counts: the worker that was told to run the job speaks for its attempt; the control plane speaks for every
attempt, since it cuts the worker off before it does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from neartime.contract.events import CONTROL, Envelope, StatusEvent
from neartime.contract.jobs import JobStatus, ReasonCode

BACK_OFF: Final = (1.0, 60.0)
"""Seconds before the second attempt, doubled for each further one, and at most."""
MAX_RESUMES: Final = 10
"""Attempts of a job that saves checkpoints, whatever its max_attempts."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What events make of a job. Times are the ones that the events carry, UTC."""

    status: JobStatus = JobStatus.QUEUED
    attempt: int = 1
    worker_id: str | None = None
    """The worker whose events count; None while the attempt waits for one."""
    started: datetime | None = None
    ended: datetime | None = None
    not_before: datetime | None = None
    """When an attempt that waits may begin."""
    reason: str | None = None
    reason_code: ReasonCode | None = None
    interims: int = 0
    seconds: float = 0.0
    quantum_seconds: float = 0.0
    result: str | None = None
    """Digest of the result's blob."""
    checkpoint: str | None = None
    """Digest of the newest checkpoint's blob."""
    checkpoint_interims: int = 0
    """How many interim results that checkpoint accounts for."""


def counts(state: JobState, envelope: Envelope) -> bool:
    """Whether what this source says can still change the job."""
    if state.status.final:
        return False
    if envelope.source == CONTROL:
        return True
    return envelope.attempt == state.attempt and envelope.source == state.worker_id


def awaits_result(state: JobState, envelope: Envelope, event: StatusEvent) -> bool:
    """Whether this `Completed` overtook its result, which was published before it: then it is folded after it."""
    return (
        event.status is JobStatus.COMPLETED
        and envelope.source != CONTROL
        and state.result is None
        and counts(state, envelope)
    )


def fold_status(state: JobState, envelope: Envelope, event: StatusEvent) -> JobState:
    """The job after a status event; the same object where the event changes nothing."""
    if not counts(state, envelope):
        return state
    if event.status.final:
        return _end(state, event)
    if event.status is JobStatus.RUNNING:
        if state.status is not JobStatus.QUEUED or envelope.attempt != state.attempt:
            return state
        return replace(state, status=JobStatus.RUNNING, started=state.started or event.time)
    if envelope.source != CONTROL or envelope.attempt != state.attempt + 1:
        return state
    return replace(
        state,
        status=JobStatus.QUEUED,
        attempt=envelope.attempt,
        worker_id=None,
        not_before=event.time + back_off(envelope.attempt),
        result=None,
    )


def _end(state: JobState, event: StatusEvent) -> JobState:
    seconds = event.usage.seconds if event.usage else 0.0
    started = state.started
    if started is None and seconds:
        started = event.time - timedelta(seconds=seconds)  # its `Running` was overtaken
    if started is not None and not event.usage:
        seconds = max(0.0, (event.time - started).total_seconds())  # nobody was left to measure it
    return replace(
        state,
        status=event.status,
        started=started,
        ended=event.time,
        not_before=None,
        reason=event.reason,
        reason_code=event.reason_code,
        interims=max(state.interims, event.interims),
        seconds=seconds,
        quantum_seconds=event.usage.quantum_seconds if event.usage else 0.0,
        result=state.result if event.status is JobStatus.COMPLETED else None,
    )


def fold_interim(state: JobState, envelope: Envelope) -> JobState:
    """The job after an interim result."""
    if not counts(state, envelope) or envelope.index <= state.interims:
        return state
    return replace(state, interims=envelope.index)


def fold_result(state: JobState, envelope: Envelope, digest: str) -> JobState:
    """The job after its result was kept as a blob; the first one counts."""
    if not counts(state, envelope) or state.result is not None:
        return state
    return replace(state, result=digest)


def fold_checkpoint(state: JobState, envelope: Envelope, digest: str) -> JobState:
    """The job after a checkpoint was kept as a blob; one that accounts for fewer interim results came late."""
    if not counts(state, envelope) or envelope.interims < state.checkpoint_interims:
        return state
    return replace(state, checkpoint=digest, checkpoint_interims=envelope.interims)


def back_off(attempt: int) -> timedelta:
    """How long an attempt waits before it begins."""
    first, most = BACK_OFF
    return timedelta(seconds=min(most, first * 2.0 ** max(0, attempt - 2)))


def another_attempt(attempt: int, max_attempts: int, has_checkpoint: bool) -> bool:
    """Whether a job whose worker was lost is started again."""
    return attempt < (max(max_attempts, MAX_RESUMES) if has_checkpoint else max_attempts)
