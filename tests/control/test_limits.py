"""What one instance may have at a time, and use in a day."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from control.harness import Plane

from neartime.contract.jobs import JobStatus
from neartime.contract.sessions import SessionMode
from neartime_server.errors import Refused
from neartime_server.store import instances
from neartime_server.store.instances import NO_LIMIT, Limits


async def limited(plane: Plane, **limits: Any) -> None:
    """The plane under another server that has these limits."""
    await plane.control.close()
    plane.settings = replace(plane.settings, **limits)
    plane.control = plane.new_control()
    await plane.control.start()


async def test_a_job_too_many_is_refused_with_the_limit_and_taken_when_one_has_ended(plane: Plane) -> None:
    await limited(plane, limit_live_jobs=2)
    held = [await plane.submit({"wait": True}) for _ in range(2)]
    with pytest.raises(Refused, match="2 jobs of this instance wait or run, and 2 may") as caught:
        await plane.submit({})
    assert caught.value.status == 429
    await plane.control.cancel(plane.instance, held[0])
    await plane.until(held[0])
    assert (await plane.until(await plane.submit({}))).status is JobStatus.COMPLETED


async def test_a_session_too_many_is_refused_and_lone_jobs_are_none(plane: Plane) -> None:
    await limited(plane, limit_open_sessions=1)
    session = await plane.open()
    assert (await plane.until(await plane.submit({}))).status is JobStatus.COMPLETED
    with pytest.raises(Refused, match="1 sessions of this instance are open, and 1 may be"):
        await plane.open()
    await plane.control.close_session(plane.instance, session)
    await plane.open()


async def test_an_instance_that_has_used_its_seconds_is_told_when_it_may_go_on(plane: Plane) -> None:
    await limited(plane, limit_seconds_per_day=1)
    for _ in range(2):  # each of them says that it ran for half a second
        assert (await plane.until(await plane.submit({}))).status is JobStatus.COMPLETED
    with pytest.raises(Refused, match="ran for 1 s within a day") as caught:
        await plane.submit({})
    assert "UTC" in str(caught.value.problems[0].solution)


async def test_an_instances_own_limits_go_before_the_servers(plane: Plane) -> None:
    await limited(plane, limit_live_jobs=1, limit_open_sessions=1)

    async def own(**limits: int | None) -> None:
        await plane.store.run(lambda connection: instances.limit(connection, plane.instance, Limits(**limits)))

    await own(live_jobs=2, open_sessions=NO_LIMIT)
    held = [await plane.submit({"wait": True}) for _ in range(2)]
    with pytest.raises(Refused, match="and 2 may"):
        await plane.submit({})
    await plane.open()
    await plane.open()
    await own()
    with pytest.raises(Refused, match="2 sessions of this instance are open, and 1 may be"):
        await plane.open()
    for job_id in held:
        await plane.control.cancel(plane.instance, job_id)
        await plane.until(job_id)


async def test_an_instance_may_be_kept_to_one_running_job(plane: Plane) -> None:
    limits = Limits(running_jobs=1)
    await plane.store.run(lambda connection: instances.limit(connection, plane.instance, limits))
    first = await plane.submit({"wait": True})
    await plane.until(first, JobStatus.RUNNING)
    second = await plane.submit({}, backend="single")
    assert (await plane.job(second)).waits_for == "a job of its instance to end: 1 may run at a time"
    await plane.store.run(lambda connection: instances.limit(connection, plane.instance, Limits()))
    assert (await plane.until(second)).status is JobStatus.COMPLETED


async def test_no_more_jobs_of_an_instance_run_than_may_and_the_others_wait(plane: Plane) -> None:
    await limited(plane, limit_running_jobs=1)
    session = await plane.open(SessionMode.BATCH)
    first = await plane.submit({"wait": True}, session_id=session)
    await plane.until(first, JobStatus.RUNNING)
    second = await plane.submit({}, session_id=session)
    elsewhere = await plane.submit({}, backend="single")
    for job_id in (second, elsewhere):
        assert (await plane.job(job_id)).status is JobStatus.QUEUED
    await plane.control.cancel(plane.instance, first)
    for job_id in (second, elsewhere):
        assert (await plane.until(job_id)).status is JobStatus.COMPLETED
    assert (await plane.job(first)).status is JobStatus.CANCELLED
