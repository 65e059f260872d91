"""The life of a job, whatever order its events come in."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from neartime.contract.events import CONTROL, Envelope, StatusEvent
from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime_server.control import lifecycle
from neartime_server.control.lifecycle import JobState

WORKER, OTHER = "w" * 20, "v" * 20
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
RANK = {JobStatus.QUEUED: 0, JobStatus.RUNNING: 1}

envelopes = st.builds(
    Envelope,
    source=st.sampled_from([WORKER, OTHER, CONTROL]),
    attempt=st.integers(1, 4),
    sequence=st.integers(1, 9),
    index=st.integers(0, 5),
    interims=st.integers(0, 5),
)
statuses = st.builds(
    StatusEvent,
    status=st.sampled_from(list(JobStatus)),
    time=st.integers(0, 100).map(lambda second: NOW + timedelta(seconds=second)),
    reason_code=st.none() | st.sampled_from(list(ReasonCode)),
    usage=st.none() | st.builds(Usage, seconds=st.floats(0, 100)),
    interims=st.integers(0, 5),
)
steps = st.tuples(envelopes, st.sampled_from(["status", "interim", "result", "checkpoint", "assign"]), statuses)


def fold(state: JobState, step: tuple[Envelope, str, StatusEvent]) -> JobState:
    """One event; `assign` is the scheduler's, which gives a waiting attempt to a worker."""
    envelope, kind, event = step
    if kind == "status":
        return lifecycle.fold_status(state, envelope, event)
    if kind == "interim":
        return lifecycle.fold_interim(state, envelope)
    if kind == "result":
        return lifecycle.fold_result(state, envelope, "digest")
    if kind == "checkpoint":
        return lifecycle.fold_checkpoint(state, envelope, "digest")
    if state.worker_id is None and not state.status.final:
        return JobState(attempt=state.attempt, worker_id=WORKER, interims=state.interims, started=state.started)
    return state


@given(st.lists(steps, max_size=40))
def test_a_job_never_goes_back_whatever_comes_and_however_often(
    events: list[tuple[Envelope, str, StatusEvent]],
) -> None:
    state = JobState(worker_id=WORKER)
    for step in events:
        after = fold(state, step)
        assert after.attempt >= state.attempt
        assert after.interims >= state.interims
        if after.attempt == state.attempt:
            assert RANK.get(after.status, 2) >= RANK.get(state.status, 2)
        if state.status.final:
            assert after is state
        state = after


@given(st.lists(steps, max_size=20))
def test_folding_everything_again_changes_nothing_of_a_job_that_has_ended(
    events: list[tuple[Envelope, str, StatusEvent]],
) -> None:
    state = JobState(worker_id=WORKER)
    for step in events:
        state = fold(state, step)
    if state.status.final:
        for step in events:
            assert fold(state, step) is state


@given(steps)
def test_an_event_that_comes_twice_counts_once(step: tuple[Envelope, str, StatusEvent]) -> None:
    once = fold(JobState(worker_id=WORKER), step)
    assert fold(once, step) == once


def status(status: JobStatus, **more: object) -> StatusEvent:
    return StatusEvent.model_validate({"status": status, "time": NOW, **more})


RUNNING = Envelope(WORKER, 1, 1)


def test_the_plain_way_is_queued_running_completed() -> None:
    state = lifecycle.fold_status(JobState(worker_id=WORKER), RUNNING, status(JobStatus.RUNNING))
    assert (state.status, state.started) == (JobStatus.RUNNING, NOW)
    done = status(JobStatus.COMPLETED, usage=Usage(seconds=2.0), interims=3)
    assert lifecycle.awaits_result(state, Envelope(WORKER, 1, 3), done)
    state = lifecycle.fold_result(state, Envelope(WORKER, 1, 2), "digest")
    assert not lifecycle.awaits_result(state, Envelope(WORKER, 1, 3), done)
    state = lifecycle.fold_status(state, Envelope(WORKER, 1, 3), done)
    assert (state.status, state.result, state.seconds, state.interims) == (JobStatus.COMPLETED, "digest", 2.0, 3)


def test_only_the_worker_that_was_told_to_run_a_job_speaks_for_it() -> None:
    state = JobState(worker_id=WORKER)
    for envelope in (Envelope(OTHER, 1, 1), Envelope(WORKER, 2, 1)):
        assert lifecycle.fold_status(state, envelope, status(JobStatus.RUNNING)) is state
        assert lifecycle.fold_status(state, envelope, status(JobStatus.FAILED)) is state


def test_a_lost_attempt_is_queued_again_and_its_worker_speaks_no_more() -> None:
    state = lifecycle.fold_status(JobState(worker_id=WORKER), RUNNING, status(JobStatus.RUNNING))
    again = lifecycle.fold_status(state, Envelope(CONTROL, 2, 1), status(JobStatus.QUEUED))
    assert (again.status, again.attempt, again.worker_id) == (JobStatus.QUEUED, 2, None)
    assert again.not_before == NOW + timedelta(seconds=1)
    assert lifecycle.fold_status(again, Envelope(CONTROL, 2, 1), status(JobStatus.QUEUED)) is again
    assert lifecycle.fold_status(again, Envelope(WORKER, 1, 9), status(JobStatus.FAILED)) is again


def test_the_control_plane_can_close_every_attempt() -> None:
    for attempt in (1, 2, 3):
        state = JobState(attempt=2, worker_id=WORKER)
        closed = lifecycle.fold_status(state, Envelope(CONTROL, attempt, 2), status(JobStatus.CANCELLED))
        assert closed.status is JobStatus.CANCELLED


def test_a_late_checkpoint_does_not_replace_a_newer_one() -> None:
    state = lifecycle.fold_checkpoint(JobState(worker_id=WORKER), Envelope(WORKER, 1, 5, interims=5), "new")
    assert lifecycle.fold_checkpoint(state, Envelope(WORKER, 1, 3, interims=3), "old").checkpoint == "new"


def test_the_pause_before_an_attempt_doubles_up_to_a_minute() -> None:
    assert [lifecycle.back_off(attempt).total_seconds() for attempt in (2, 3, 4, 9, 10)] == [1, 2, 4, 60, 60]


def test_a_job_with_a_checkpoint_is_resumed_and_others_as_often_as_they_asked() -> None:
    assert not lifecycle.another_attempt(1, 1, has_checkpoint=False)
    assert lifecycle.another_attempt(1, 2, has_checkpoint=False)
    assert lifecycle.another_attempt(9, 1, has_checkpoint=True)
    assert not lifecycle.another_attempt(10, 1, has_checkpoint=True)
