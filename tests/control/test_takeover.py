"""A server that ends in the middle of everything, and the one that takes over: no job is lost, none starts twice."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from control.harness import Plane, wait_for
from sqlalchemy import Connection, insert, select, update

from neartime.contract import subjects
from neartime.contract.events import Envelope, StatusEvent
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Cancel
from neartime.contract.sessions import SessionMode
from neartime_server.bus import Bus
from neartime_server.control.leadership import Leadership
from neartime_server.control.patience import LeaseLost, end
from neartime_server.control.projector import Projector
from neartime_server.store import jobs, positions
from neartime_server.store.engine import utc_now
from neartime_server.store.tables import jobs as job_table
from neartime_server.store.tables import leases, workers


async def crash(plane: Plane) -> None:
    """The server is gone at once: nothing of it runs on, and nothing is given back in good order."""
    for task in plane.control._tasks:
        task.cancel()
    await asyncio.wait(plane.control._tasks or [asyncio.ensure_future(asyncio.sleep(0))])


async def restart(plane: Plane) -> None:
    await crash(plane)
    plane.control = plane.new_control()
    await plane.control.start()


async def test_a_running_job_is_adopted_and_completes(plane: Plane) -> None:
    session = await plane.open(SessionMode.DEDICATED)
    job_id = await plane.submit({"wait": True, "say": [1, 2], "result": 5}, session_id=session)
    await plane.until(job_id, JobStatus.RUNNING)
    await crash(plane)
    (worker,) = plane.executor.workers.values()
    worker.go_on.set()  # it ends while no server is there
    await asyncio.wait_for(worker.job or asyncio.sleep(0), 10)
    plane.control = plane.new_control()
    await plane.control.start()
    job = await plane.until(job_id)
    assert (job.status, job.attempt, job.interims) == (JobStatus.COMPLETED, 1, 2)
    assert await plane.result(job_id) == 5
    # The session goes on, on the same worker.
    assert (await plane.until(await plane.submit({}, session_id=session))).status is JobStatus.COMPLETED
    assert len({worker for worker, *_ in plane.executor.starts}) == 1


async def test_a_job_that_waits_runs_after_a_restart(plane: Plane) -> None:
    first = await plane.submit({"wait": True}, backend="single")
    second = await plane.submit({}, backend="single")
    await plane.until(first, JobStatus.RUNNING)
    await restart(plane)
    await plane.control.cancel(plane.instance, first)
    assert (await plane.until(first)).status is JobStatus.CANCELLED
    assert (await plane.until(second)).status is JobStatus.COMPLETED


async def test_a_worker_that_was_written_down_and_never_started_gives_its_job_back(plane: Plane) -> None:
    plane.executor.hang = asyncio.Event()
    job_id = await plane.submit({})
    await asyncio.wait_for(plane.executor.hang.wait(), 10)
    row = await plane.store.read(lambda connection: connection.execute(select(workers)).one())
    await crash(plane)
    plane.executor.hang = None
    plane.control = plane.new_control()
    await plane.control.start()
    job = await plane.until(job_id)
    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)
    assert row.id not in {worker for worker, *_ in plane.executor.starts}


async def test_a_worker_that_died_while_no_server_was_there_is_found(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    await crash(plane)
    (worker,) = plane.executor.workers.values()
    plane.executor.exit(worker.id, -9, ReasonCode.WORKER_LOST, "killed")
    plane.control = plane.new_control()
    await plane.control.start()
    job = await plane.until(job_id)
    assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.WORKER_LOST)


async def test_a_job_whose_machine_was_switched_off_ends_at_once_with_the_seconds_that_it_ran(plane: Plane) -> None:
    """A worker that was ready, and of which the executor has no process when the next server comes."""
    plane.settings = replace(plane.settings, worker_heartbeat=60)
    failed = await plane.submit({"wait": True})
    again = await plane.submit({"wait": True}, max_attempts=2)
    for job_id in (failed, again):
        await plane.until(job_id, JobStatus.RUNNING)
    await crash(plane)
    await switched_off(plane)
    began, died = utc_now() - timedelta(seconds=100), utc_now() - timedelta(seconds=60)

    def left(connection: Connection) -> None:
        connection.execute(update(job_table).values(started=began))
        row = {"name": "control", "holder": "0" * 20, "expires": died + timedelta(seconds=3)}
        connection.execute(insert(leases), row)

    await plane.store.run(left)
    plane.control = plane.new_control()
    await plane.control.start()
    async with asyncio.timeout(10):
        job = await plane.until(failed)
        assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.WORKER_LOST)
        assert "was ended while the job ran" in str(job.state.reason)
        assert job.usage.seconds == pytest.approx(40, abs=1)
        await wait_for(lambda: _starts(plane, again, 2))
    for worker in plane.executor.workers.values():
        worker.go_on.set()
    assert (await plane.until(again)).status is JobStatus.COMPLETED


async def test_a_worker_that_an_executor_may_overlook_is_not_lost_at_once(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    await crash(plane)
    plane.executor.overlooks = True
    plane.control = plane.new_control()
    await plane.control.start()
    await wait_for(lambda: _acts(plane))
    await asyncio.sleep(0.5)
    for worker in plane.executor.workers.values():
        worker.go_on.set()
    assert (await plane.until(job_id)).status is JobStatus.COMPLETED


async def test_a_shutdown_ends_what_runs_and_leaves_what_waits_to_the_next_server(plane: Plane) -> None:
    failed = await plane.submit({"wait": True}, backend="single")
    waits = await plane.submit({}, backend="single")
    again = await plane.submit({"wait": True}, max_attempts=2)
    resumes = await plane.submit({"wait": True, "say": [1], "save": [1]})
    for job_id in (failed, again, resumes):
        await plane.until(job_id, JobStatus.RUNNING)
    await wait_for(lambda: _has_checkpoint(plane, resumes))
    async with asyncio.timeout(10):
        await plane.control.shut_down()
    job = await plane.job(failed)
    assert (job.status, job.state.reason_code) == (JobStatus.FAILED, ReasonCode.WORKER_LOST)
    assert str(job.state.reason).startswith("the runtime was shut down")
    for job_id, attempt in ((waits, 1), (again, 2), (resumes, 2)):
        job = await plane.job(job_id)
        assert (job.status, job.attempt) == (JobStatus.QUEUED, attempt)
    assert not plane.executor.workers
    await restart(plane)
    assert (await plane.until(waits)).status is JobStatus.COMPLETED
    for job_id in (again, resumes):
        await wait_for(partial(_starts, plane, job_id, 2))
    for worker in plane.executor.workers.values():
        worker.go_on.set()
    for job_id in (again, resumes):
        assert (await plane.until(job_id)).status is JobStatus.COMPLETED


async def switched_off(plane: Plane) -> None:
    """Every worker is gone, and nobody is there who could say so."""
    for worker_id, worker in list(plane.executor.workers.items()):
        plane.executor.tasks[worker_id].cancel()
        if worker.job is not None:
            worker.job.cancel()
        await worker.nc.close()
    plane.executor.workers.clear()


async def _starts(plane: Plane, job_id: str, attempt: int) -> bool:
    return any(start[1:] == (job_id, attempt) for start in plane.executor.starts)


async def _has_checkpoint(plane: Plane, job_id: str) -> bool:
    rows = await plane.store.read(lambda connection: jobs.by_id(connection, [job_id]))
    return rows[job_id].checkpoint is not None


async def test_a_job_that_may_have_begun_is_cancelled_by_its_worker(plane: Plane) -> None:
    """The server died after it had told the worker the job, and before it had noted that the worker is ready."""
    job_id = await plane.submit({"wait": True})
    await plane.until(job_id, JobStatus.RUNNING)
    await crash(plane)
    (worker_id,) = plane.executor.workers

    def left(connection: Connection) -> None:
        connection.execute(update(workers).values(state="starting").where(workers.c.id == worker_id))
        jobs.ask_cancel(connection, ReasonCode.CANCELLED_BY_USER, "cancelled by the user", job_id=job_id)

    await plane.store.run(left)
    plane.control = plane.new_control()
    await plane.control.start()
    assert (await plane.until(job_id)).status is JobStatus.CANCELLED
    assert Cancel in map(type, plane.executor.commands), "it runs on"


async def test_a_job_that_was_told_behind_another_is_not_ended_over_its_workers_head(plane: Plane) -> None:
    """The server died when it had heard of the first job's end, and had given its worker the second one."""
    session = await plane.open(SessionMode.DEDICATED)
    first = await plane.submit({"wait": True}, session_id=session)
    await plane.until(first, JobStatus.RUNNING)
    await crash(plane)
    (worker,) = plane.executor.workers.values()
    second = await plane.submit({"wait": True}, session_id=session)

    def left(connection: Connection) -> None:
        jobs.change(connection, second, worker_id=worker.id)
        jobs.ask_cancel(connection, ReasonCode.CANCELLED_BY_USER, "cancelled by the user", job_id=second)

    await plane.store.run(left)
    plane.control = plane.new_control()
    await plane.control.start()
    await wait_for(lambda: _acts(plane))
    await asyncio.sleep(1)
    assert (await plane.job(second)).status is JobStatus.QUEUED
    worker.go_on.set()
    assert (await plane.until(first)).status is JobStatus.COMPLETED
    assert (await plane.until(second)).status is JobStatus.CANCELLED
    assert Cancel in map(type, plane.executor.commands)


async def test_a_lost_job_is_closed_though_the_last_message_of_its_stream_is_no_event(plane: Plane) -> None:
    job_id = await plane.submit({"wait": True})
    job = await plane.until(job_id, JobStatus.RUNNING)
    (worker,) = plane.executor.workers.values()
    await worker.js.publish(subjects.event(job.session_id, job_id, "interim"), b"no event at all")
    plane.executor.exit(worker.id, -9, ReasonCode.WORKER_LOST, "killed")
    async with asyncio.timeout(10):
        assert (await plane.until(job_id)).status is JobStatus.FAILED


async def test_a_worker_that_no_row_knows_is_stopped(plane: Plane) -> None:
    session = await plane.open()
    await plane.until(await plane.submit({}, session_id=session))
    await crash(plane)
    (worker_id,) = plane.executor.workers
    await plane.store.run(
        lambda connection: connection.execute(update(workers).values(state="gone").where(workers.c.id == worker_id))
    )
    plane.control = plane.new_control()
    await plane.control.start()
    await wait_for(lambda: _not_in(worker_id, plane))


async def test_what_a_server_before_has_folded_is_reached_at_once(plane: Plane) -> None:
    """Whoever asks a projector that has not read its position yet would wait for an event that may never come."""
    job = await plane.until(await plane.submit({}))
    await plane.control.projected(plane.instance, job.sequence, 10)
    await crash(plane)
    projector = Projector(
        plane.store,
        plane.bus,
        plane.instance,
        guard=lambda connection: None,
        heard=lambda event: False,
        folded=lambda changes: None,
        broken=lambda job_id, code, reason: asyncio.sleep(0),
    )
    reached = asyncio.ensure_future(projector.reached(job.sequence))
    await asyncio.sleep(0)
    running = asyncio.ensure_future(projector.run())
    await asyncio.wait_for(reached, 5)
    await end([running])


async def test_reading_events_again_from_the_beginning_changes_nothing(plane: Plane) -> None:
    session = await plane.open()
    ids = [await plane.submit({"say": [1, 2], "result": n}, session_id=session) for n in range(4)]
    for job_id in ids:
        await plane.until(job_id)
    await plane.control.projected(plane.instance, (await plane.job(ids[-1])).sequence, 10)
    before = [await plane.job(job_id) for job_id in ids], (await plane.session(session)).usage
    await crash(plane)
    await plane.store.run(lambda connection: positions.put(connection, plane.instance, "JOBS", 0))
    plane.control = plane.new_control()
    await plane.control.start()
    await plane.until(await plane.submit({}, session_id=session))
    assert [await plane.job(job_id) for job_id in ids] == before[0]
    assert (await plane.session(session)).usage.seconds == before[1].seconds + 0.5


async def test_a_server_that_lost_its_lease_writes_nothing_more(plane: Plane) -> None:
    async def reign() -> None:
        raise AssertionError("it must not act")

    late = Leadership(plane.store, reign)
    with pytest.raises(LeaseLost):
        await plane.store.run(late.guard)
    bus = Bus(plane.settings, plane.keys)
    await bus.connect(plane.url)
    other = plane.new_control(bus)
    await other.start()
    await plane.until(await plane.submit({}))
    holders = await plane.store.read(lambda connection: connection.execute(select(leases.c.holder)).scalars().all())
    assert len(holders) == 1
    await crash(plane)
    plane.control = other  # it takes over
    assert (await plane.until(await plane.submit({}))).status is JobStatus.COMPLETED
    await other.close()
    await bus.close()


@pytest.mark.timeout(240)
async def test_a_server_that_is_killed_again_and_again_loses_no_job_and_starts_none_twice(plane: Plane) -> None:
    chance = random.Random(7)
    session = await plane.open()
    ids: list[str] = []
    for _ in range(6):
        for _ in range(2):
            ids.append(await plane.submit({"say": [1], "sleep": 0.02, "result": len(ids)}, session_id=session))
        ids.append(await plane.submit({"result": len(ids)}))
        await asyncio.sleep(chance.uniform(0, 0.08))
        await restart(plane)
    for number, job_id in enumerate(ids):
        job = await plane.until(job_id)
        assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1), job.state
        assert await plane.result(job_id) == number
    begun = [(job, attempt) for _, job, attempt in plane.executor.starts]
    assert len(begun) == len(set(begun))
    await plane.control.close_session(plane.instance, session)
    await wait_for(lambda: _none(plane))


async def test_closing_a_job_that_has_said_its_last_word_changes_nothing(plane: Plane) -> None:
    """The worker completes and is lost right after: what stands first in the stream is what happened."""
    job_id = await plane.submit({"result": 1})
    job = await plane.until(job_id)
    event = StatusEvent(status=JobStatus.FAILED, time=job.created).model_dump_json().encode()
    sequence = await plane.bus.publish(
        plane.instance, job.session_id, job_id, "status", Envelope("control", 1, 2), event
    )
    await plane.control.projected(plane.instance, sequence, 10)
    assert (await plane.job(job_id)).status is JobStatus.COMPLETED
    row = await plane.store.read(
        lambda connection: connection.execute(select(job_table).where(job_table.c.id == job_id)).one()
    )
    assert row.sequence < sequence or row.status == "Completed"


async def _acts(plane: Plane) -> bool:
    return plane.control._acting is not None and bool(plane.control._acting.workers.fleet.jobs)


async def _not_in(worker_id: str, plane: Plane) -> bool:
    return worker_id not in plane.executor.workers


async def _none(plane: Plane) -> bool:
    left = await plane.store.read(
        lambda connection: connection.execute(select(workers.c.id).where(workers.c.state != "gone")).all()
    )
    return not left and not plane.executor.workers
