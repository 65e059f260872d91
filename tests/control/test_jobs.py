"""A job's way through the control plane, over a real store, a real NATS server and workers that speak the protocol."""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timezone

import pytest
from control.harness import Plane, wait_for

from neartime.contract import subjects
from neartime.contract.events import Envelope, StatusEvent
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Drain, Fetch, Start
from neartime.contract.sessions import SessionMode
from neartime_server.errors import BusError, Refused
from neartime_server.executors import Exited
from neartime_server.store import jobs, positions


async def test_a_lone_job_runs_end_to_end_and_its_session_closes_with_it(plane: Plane) -> None:
    job_id = await plane.submit({"say": [1, 2, 3], "result": {"energy": -1.1}})
    job = await plane.until(job_id)
    assert job.status is JobStatus.COMPLETED
    assert (job.interims, job.usage.seconds, job.attempt) == (3, 0.5, 1)
    assert await plane.result(job_id) == {"energy": -1.1}
    session = await plane.until_closed(job.session_id)
    assert (session.mode, session.usage.seconds) == (SessionMode.JOB, 0.5)
    await wait_for(lambda: _no_workers(plane))
    assert any(isinstance(command, Drain) for command in plane.executor.commands)


async def test_jobs_of_a_session_share_a_worker_that_is_told_at_once(plane: Plane) -> None:
    session = await plane.open(SessionMode.DEDICATED)
    for number in range(5):
        job_id = await plane.submit({"result": number}, session_id=session)
        assert (await plane.until(job_id)).status is JobStatus.COMPLETED
        assert await plane.result(job_id) == number
    assert len({worker for worker, *_ in plane.executor.starts}) == 1
    await plane.control.close_session(plane.instance, session)
    view = await plane.until_closed(session)
    assert (view.jobs, view.usage.seconds, view.reason) == (5, 2.5, None)


async def test_jobs_go_on_with_a_nats_server_that_knows_nothing_and_whose_streams_begin_anew(plane: Plane) -> None:
    """As where one server becomes three."""
    before = await plane.submit({"say": list(range(20)), "result": 1})
    assert (await plane.until(before)).status is JobStatus.COMPLETED
    last = await plane.bus.last_sequence(plane.instance, subjects.JOBS)
    plane.nats.kill()
    for name in ("js", "jwt"):
        shutil.rmtree(plane.settings.home / "nats" / name)
    await plane.nats.start()
    await wait_for(lambda: _reached(plane))
    job_id = await plane.submit({"say": [1], "result": 2})
    assert (await plane.until(job_id)).status is JobStatus.COMPLETED
    assert await plane.result(job_id) == 2
    now = await plane.bus.last_sequence(plane.instance, subjects.JOBS)
    assert now < last
    position = await plane.store.read(lambda connection: positions.get(connection, plane.instance, subjects.JOBS))
    assert position <= now, "what comes next would be taken for what was folded"


async def _reached(plane: Plane) -> bool:
    try:
        await plane.bus.last_sequence(plane.instance, subjects.JOBS)
    except BusError:
        return False
    return True


async def test_a_program_that_fails_gives_its_reason(plane: Plane) -> None:
    job = await plane.until(await plane.submit({"fail": "Traceback: no \0 luck"}))
    assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.PROGRAM_ERROR)
    assert job.state.reason == "Traceback: no \N{REPLACEMENT CHARACTER} luck"


async def test_large_inputs_and_results_travel_in_chunks(plane: Plane) -> None:
    script = {"result": "x" * 1_500_000, "say": ["y" * 700_000]}
    job_id = await plane.submit(script)
    assert (await plane.until(job_id)).status is JobStatus.COMPLETED
    (start,) = [command for command in plane.executor.commands if isinstance(command, Start)]
    assert start.inputs is not None
    assert start.inputs.chunks == 5
    assert json.loads(plane.executor.inputs[0]) == script
    assert await plane.result(job_id) == script["result"]
    interims = [json.loads(value) async for value in plane.control.interim_results(plane.instance, job_id)]
    assert interims == script["say"]


async def test_a_worker_fetches_nothing_but_what_its_own_job_was_given(plane: Plane) -> None:
    first = await plane.submit({"wait": True, "pad": "x" * 600_000})
    second = await plane.submit({"wait": True, "pad": "y" * 600_000})
    await wait_for(lambda: _count(len(plane.executor.inputs), 2))
    starts = [command for command in plane.executor.commands if isinstance(command, Start)]
    digests = {start.job_id: start.inputs.digest for start in starts if start.inputs}
    owners = {job: worker for worker, job, _ in plane.executor.starts}
    worker = plane.executor.workers[owners[first]]
    assert len(await worker.fetch(first, digests[first], 0)) == 512 << 10
    assert await worker.fetch(first, digests[second], 0) == b""
    assert await worker.fetch(second, digests[second], 0) == b""
    assert await worker.fetch(first, digests[first], 99) == b""
    answer = await plane.control._fetch(plane.instance, "z" * 20, Fetch(job_id=first, digest=digests[first], chunk=0))
    assert answer == b""


async def test_a_queued_job_is_cancelled_without_a_worker(plane: Plane) -> None:
    running = await plane.submit({"wait": True}, backend="single")
    await plane.until(running, JobStatus.RUNNING)
    queued = await plane.submit({}, backend="single")
    assert (await plane.job(queued)).position == 1
    await plane.control.cancel(plane.instance, queued)
    job = await plane.until(queued)
    assert (job.status, job.state.reason_code) == (JobStatus.CANCELLED, ReasonCode.CANCELLED_BY_USER)
    assert (await plane.job(running)).status is JobStatus.RUNNING
    assert queued not in {job for _, job, _ in plane.executor.starts}
    with pytest.raises(Refused, match="has ended"):
        await plane.control.cancel(plane.instance, queued)


async def test_a_running_job_is_cancelled_by_its_worker_which_lives_on(plane: Plane) -> None:
    session = await plane.open()
    running = await plane.submit({"wait": True}, session_id=session)
    await plane.until(running, JobStatus.RUNNING)
    await plane.control.cancel(plane.instance, running)
    job = await plane.until(running)
    assert (job.status, job.state.reason) == (JobStatus.CANCELLED, "cancelled by the user")
    assert (await plane.until(await plane.submit({}, session_id=session))).status is JobStatus.COMPLETED
    assert len({worker for worker, *_ in plane.executor.starts}) == 1


async def test_a_lost_worker_fails_its_job_with_the_end_of_its_log(plane: Plane) -> None:
    job_id = await plane.submit({"say": [1, 2], "die": 1})
    job = await plane.until(job_id)
    assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.WORKER_LOST)
    assert "SIGKILL" in str(job.state.reason)
    assert "running in " in str(job.state.reason)
    assert job.interims == 2
    events = [event async for event in plane.control.job_events(plane.instance, job_id)]
    assert [event.kind for event in events] == ["status", "interim", "interim", "status"]
    assert events[-1].envelope.source == "control"


async def test_a_lost_worker_is_cut_off_before_its_job_is_closed(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    (worker,) = plane.executor.workers.values()
    plane.executor.workers.pop(worker.id)
    plane.executor.tell(Exited(worker.id, -9, ReasonCode.WORKER_LOST, "gone"))
    assert (await plane.until(job_id)).status is JobStatus.FAILED
    await wait_for(lambda: _count(worker.nc.is_connected, False))
    plane.executor.workers[worker.id] = worker  # so that the fixture ends it


async def test_a_lost_job_with_attempts_left_runs_again(plane: Plane) -> None:
    job_id = await plane.submit({"die": 1, "result": 7, "say": ["a"]}, max_attempts=2)
    job = await plane.until(job_id)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 2)
    assert [attempt for _, _, attempt in plane.executor.starts] == [1, 2]
    assert await plane.result(job_id) == 7


async def test_a_lost_job_with_a_checkpoint_resumes_from_it(plane: Plane) -> None:
    job_id = await plane.submit({"say": ["a", "b", "c"], "save": ["a", "b", "c"], "die": 1, "result": 1})
    job = await plane.until(job_id)
    assert (job.status, job.attempt, job.interims) == (JobStatus.COMPLETED, 2, 3)
    starts = [command for command in plane.executor.commands if isinstance(command, Start)]
    assert starts[-1].interims == 3
    assert starts[-1].checkpoint is not None


async def test_a_worker_that_can_not_be_started_fails_its_job(plane: Plane) -> None:
    plane.executor.refuse = 1
    job = await plane.until(await plane.submit({}))
    assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.START_FAILED)
    assert "no room" in str(job.state.reason)
    assert (await plane.until(await plane.submit({}))).status is JobStatus.COMPLETED


async def test_a_job_that_ended_is_archived_and_then_read_from_the_store(plane: Plane) -> None:
    job_id = await plane.submit({"say": [1, "z" * 600_000, 3]})
    job = await plane.until(job_id)
    live = [value async for value in plane.control.interim_results(plane.instance, job_id)]
    log = await plane.control.logs(plane.instance, job_id)
    await wait_for(lambda: _archived(plane, job_id))
    assert [value async for value in plane.control.interim_results(plane.instance, job_id)] == live
    assert await plane.control.logs(plane.instance, job_id) == log
    assert len(live) == job.interims == 3
    assert "running in" in log[0].text


async def test_a_job_is_deleted_once_it_has_ended(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    with pytest.raises(Refused, match="has not ended"):
        await plane.control.delete(plane.instance, job_id)
    await plane.control.cancel(plane.instance, job_id)
    await plane.until(job_id)
    await plane.control.delete(plane.instance, job_id)
    with pytest.raises(Refused, match="there is no job"):
        await plane.control.cancel(plane.instance, job_id)


async def test_duplicates_forgeries_and_nonsense_change_nothing_and_stop_nothing(plane: Plane) -> None:
    session = await plane.open()
    job_id = await plane.submit({"wait": True}, session_id=session)
    await plane.until(job_id, JobStatus.RUNNING)
    (worker,) = plane.executor.workers.values()
    now = datetime.now(timezone.utc)
    done = StatusEvent(status=JobStatus.COMPLETED, time=now).model_dump_json().encode()
    stranger = Envelope("s" * 20, 1, 1)
    await plane.bus.publish(plane.instance, session, job_id, "status", stranger, done)
    await worker.publish("status", b"nonsense")
    await worker.publish("interim", b"9", index=2**40)
    await worker.publish("checkpoint", b"x", interims=2**40)
    await worker.js.publish(subjects.event(session, job_id, "status"), b"no envelope")
    await worker.js.publish(
        subjects.event(session, "n" * 20, "status"), done, headers=stranger.headers("n" * 20, "JOBS")
    )
    worker.go_on.set()
    job = await plane.until(job_id)
    assert (job.status, job.interims) == (JobStatus.COMPLETED, 0)
    assert (await plane.until(await plane.submit({}, session_id=session))).status is JobStatus.COMPLETED


async def test_a_completed_that_overtook_its_result_waits_for_it(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    (worker,) = plane.executor.workers.values()
    await worker.status(JobStatus.COMPLETED)
    assert (await plane.job(job_id)).status is JobStatus.RUNNING
    await worker.publish("result", b"42")
    job = await plane.until(job_id)
    assert job.status is JobStatus.COMPLETED
    assert await plane.result(job_id) == 42


async def test_a_read_can_wait_for_what_its_client_has_seen(plane: Plane) -> None:
    job_id = await plane.submit({"say": [1]})
    async for event in plane.control.job_events(plane.instance, job_id):
        last = event.sequence
    await plane.control.projected(plane.instance, last, 10)
    job = await plane.job(job_id)
    assert (job.status, job.sequence) == (JobStatus.COMPLETED, last)
    with pytest.raises(Refused, match="does not reflect"):
        await plane.control.projected(plane.instance, last + 1, 0.05)


async def test_a_request_that_can_not_be_met_is_refused_and_queues_nothing(plane: Plane) -> None:
    session = await plane.open(backend="single")
    with pytest.raises(Refused, match="max-execution-time"):
        await plane.submit({}, cost=10**6)
    with pytest.raises(Refused, match="is on 'single'"):
        await plane.submit({}, session_id=session, backend="aer")
    with pytest.raises(Refused, match="no session"):
        await plane.submit({}, session_id="n" * 20)
    await plane.control.close_session(plane.instance, session)
    with pytest.raises(Refused, match="takes no more jobs"):
        await plane.submit({}, session_id=session)
    page = await plane.store.read(lambda connection: jobs.page(connection, plane.instance))
    assert page.count == 0


async def _no_workers(plane: Plane) -> bool:
    return not plane.executor.workers


async def _count(value: object, wanted: object) -> bool:
    return value == wanted


async def _archived(plane: Plane, job_id: str) -> bool:
    row = await plane.store.read(lambda connection: jobs.find(connection, plane.instance, job_id))
    return row is not None and row.log_archive is not None and row.interim_archive is not None
