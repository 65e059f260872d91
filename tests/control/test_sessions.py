"""Sessions: who has the backend, who waits, and how a session ends."""

from __future__ import annotations

import pytest
from control.harness import Plane, wait_for

from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.sessions import SessionMode, SessionRequest, SessionState
from neartime.errors import StreamError
from neartime.stream import Link
from neartime_server.errors import Refused
from neartime_server.store import instances

DEDICATED = SessionMode.DEDICATED


async def test_a_dedicated_session_keeps_others_off_its_backend_until_it_is_closed(plane: Plane) -> None:
    session = await plane.open(DEDICATED, "aer")
    assert (await plane.session(session)).state is SessionState.OPEN
    mine = await plane.submit({"wait": True}, session_id=session)
    await plane.until(mine, JobStatus.RUNNING)
    assert (await plane.session(session)).state is SessionState.ACTIVE
    other = await plane.submit({}, backend="aer")
    second = await plane.submit({}, session_id=session)
    elsewhere = await plane.submit({}, backend="single")
    assert (await plane.until(elsewhere)).status is JobStatus.COMPLETED
    release(plane)
    assert (await plane.until(second)).status is JobStatus.COMPLETED
    waiting = await plane.job(other)
    assert (waiting.status, waiting.position) == (JobStatus.QUEUED, 1)
    await plane.control.close_session(plane.instance, session)
    assert (await plane.until(other)).status is JobStatus.COMPLETED
    assert [job for _, job, _ in plane.executor.starts] == [mine, elsewhere, second, other]


async def test_a_batch_session_runs_as_many_jobs_at_once_as_the_backend_has_places(plane: Plane) -> None:
    session = await plane.open()
    held = [await plane.submit({"wait": True}, session_id=session) for _ in range(3)]
    await plane.until(held[0], JobStatus.RUNNING)
    await plane.until(held[1], JobStatus.RUNNING)
    assert (await plane.job(held[2])).status is JobStatus.QUEUED
    release(plane)
    assert (await plane.until(held[0])).status is JobStatus.COMPLETED
    await plane.until(held[2], JobStatus.RUNNING)
    release(plane)
    assert (await plane.until(held[2])).status is JobStatus.COMPLETED
    assert len({worker for worker, *_ in plane.executor.starts}) == 2


async def test_each_program_version_of_a_session_has_a_worker_of_its_own(plane: Plane) -> None:
    session = await plane.open(DEDICATED)
    for version in (0, 1, 0, 1):
        assert (await plane.until(await plane.submit({}, session_id=session, version=version))).status.final
    workers = [worker for worker, *_ in plane.executor.starts]
    assert (workers[0], workers[1]) == (workers[2], workers[3])
    assert workers[0] != workers[1]


async def test_a_closed_session_runs_what_was_queued_and_ends_its_workers(plane: Plane) -> None:
    session = await plane.open(DEDICATED)
    first = await plane.submit({"wait": True}, session_id=session)
    second = await plane.submit({}, session_id=session)
    await plane.until(first, JobStatus.RUNNING)
    await plane.control.close_session(plane.instance, session)
    assert (await plane.session(session)).state is SessionState.DRAINING
    release(plane)
    assert (await plane.until(second)).status is JobStatus.COMPLETED
    view = await plane.until_closed(session)
    assert not view.accepting_jobs
    await wait_for(lambda: none_left(plane))


async def test_a_cancelled_session_drops_queued_jobs_and_cancels_running_ones(plane: Plane) -> None:
    session = await plane.open(DEDICATED)
    running = await plane.submit({"wait": True}, session_id=session)
    queued = await plane.submit({}, session_id=session)
    await plane.until(running, JobStatus.RUNNING)
    await plane.control.cancel_session(plane.instance, session)
    for job_id in (running, queued):
        job = await plane.until(job_id)
        assert (job.status, job.state.reason_code) == (JobStatus.CANCELLED, ReasonCode.SESSION_CLOSED)
    await plane.until_closed(session)
    assert queued not in {job for _, job, _ in plane.executor.starts}


async def test_an_idle_session_closes_itself_and_frees_the_backend_to_the_next_in_line(plane: Plane) -> None:
    session = await plane.open(DEDICATED, interactive_ttl=1)
    await plane.until(await plane.submit({}, session_id=session))
    other = await plane.submit({})
    assert (await plane.job(other)).status is JobStatus.QUEUED
    assert (await plane.until(other)).status is JobStatus.COMPLETED
    assert "interactive_ttl of 1 s" in str((await plane.session(session)).reason)


async def test_a_session_ends_at_its_time_to_live_with_the_jobs_in_it(plane: Plane) -> None:
    session = await plane.open(DEDICATED, max_ttl=1)
    job = await plane.until(await plane.submit({"wait": True}, session_id=session))
    assert (job.status, job.state.reason_code) == (JobStatus.CANCELLED, ReasonCode.SESSION_CLOSED)
    assert "max_ttl of 1 s" in str((await plane.until_closed(session)).reason)


async def test_a_session_that_was_never_used_closes_itself_too(plane: Plane) -> None:
    view = await plane.until_closed(await plane.open(interactive_ttl=1))
    assert view.started is None


async def test_a_worker_loses_its_credential_when_its_session_ends(plane: Plane) -> None:
    session = await plane.open()
    await plane.until(await plane.submit({}, session_id=session))
    (worker,) = plane.executor.workers.values()
    del plane.executor.workers[worker.id]  # it does not end, whatever it is told
    plane.executor.deaf.add(worker.id)
    await plane.control.close_session(plane.instance, session)
    await plane.until_closed(session)
    await wait_for(lambda: gone(worker.nc.is_connected))
    plane.executor.workers[worker.id] = worker


async def test_session_requests_out_of_bounds_are_refused_with_every_fault(plane: Plane) -> None:
    request = SessionRequest(mode=SessionMode.JOB, max_ttl=10**7, interactive_ttl=10**7)
    with pytest.raises(Refused) as refused:
        await plane.control.open_session(plane.instance, request)
    assert [problem.path for problem in refused.value.problems] == ["mode", "max_ttl", "interactive_ttl"]


def release(plane: Plane) -> None:
    """Lets every job that waits go on."""
    for worker in plane.executor.workers.values():
        if worker.start is not None:
            worker.go_on.set()


async def none_left(plane: Plane) -> bool:
    return not plane.executor.workers


async def gone(connected: bool) -> bool:
    return not connected


async def test_an_instance_that_is_ended_takes_its_jobs_and_its_account_with_it(plane: Plane) -> None:
    session = await plane.open(DEDICATED, "single")
    running = await plane.submit({"wait": True}, session_id=session)
    await plane.until(running, JobStatus.RUNNING)
    queued = await plane.submit({}, session_id=session)
    await plane.store.run(lambda connection: instances.end(connection, plane.instance))
    plane.control.wake()
    for job_id in (running, queued):
        job = await plane.until(job_id)
        assert (job.status, job.state.reason) == (JobStatus.CANCELLED, "its instance was ended")
    await wait_for(lambda: _shut_out(plane))


async def _shut_out(plane: Plane) -> bool:
    try:
        link = await Link.open(plane.bus.reader_access(plane.instance, 60), name="late")
    except StreamError:
        return True
    await link.close()
    return False


async def test_nothing_is_kept_in_mind_of_sessions_that_are_over(plane: Plane) -> None:
    for _ in range(8):
        session = await plane.open()
        await plane.until(await plane.submit({}, session_id=session))
        await plane.until(await plane.submit({}))
        await plane.control.close_session(plane.instance, session)
        await plane.until_closed(session)
    acting = plane.control._acting
    assert acting is not None
    workers, fleet = acting.workers, acting.workers.fleet

    async def all_gone() -> bool:
        kept = (fleet.workers, fleet.jobs, fleet.sessions, fleet._waiting, workers._present, workers._exits)
        more = (workers._starting, workers._stopping, acting.reconciler._settling, plane.executor.workers)
        return not any(kept) and not any(more)

    await wait_for(all_gone)
