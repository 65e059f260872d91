"""A worker runs jobs: what goes in, what comes out, in which order."""

from __future__ import annotations

from runner.harness import World

from neartime.contract.jobs import JobStatus


async def test_a_program_runs_and_its_events_come_in_order(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger, count):\n"
        "    for number in range(count):\n"
        "        user_messenger.publish(number)\n"
        "    return {'count': count, 'backend': backend.name}\n"
    )
    job = await worker.run({"count": 3})
    assert [event.kind for event in job.events] == ["status", "interim", "interim", "interim", "result", "status"]
    assert [status.status for status in job.statuses] == [JobStatus.RUNNING, JobStatus.COMPLETED]
    assert await worker.values(job) == [0, 1, 2]
    assert await worker.result(job) == {"count": 3, "backend": "none"}
    assert job.end.interims == 3
