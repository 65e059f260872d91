"""A job is stopped: by a cancel, by its time, by its worker's end, by a full quota; heeded, or not."""

from __future__ import annotations

import asyncio
import time

from runner.harness import Job, Worker, World, until

from neartime.codec import encode
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Cancel, Drain, Fetchable, Kill, Start

HEEDING = """
import time
from neartime.errors import JobCancelled

def main(backend, user_messenger, wait=True):
    if not wait:
        return "not waiting"
    try:
        user_messenger.publish("begun")
        while True:
            time.sleep(60)
    except JobCancelled as stopped:
        user_messenger.publish([type(stopped).__name__, str(stopped), stopped.reason_code.value])
        raise
"""
IGNORING = """
import time

def main(backend, user_messenger):
    words = iter(["begun"])
    while True:
        try:
            for word in words:
                user_messenger.publish(word)
            time.sleep(60)
        except Exception:
            user_messenger.publish("ignored")
"""
IN_NATIVE_CODE = """
import itertools

def main(backend, user_messenger):
    words = iter(["begun"])
    while True:
        try:
            for word in words:
                user_messenger.publish(word)
            sum(itertools.repeat(0))  # holds the GIL, looks after no signal, for ever
        except Exception:
            continue
"""
DEAF_TO_SIGTERM = """
import signal, time

def main(backend, user_messenger):
    signal.signal(signal.SIGTERM, lambda number, frame: user_messenger.publish("SIGTERM"))
    words = iter(["begun"])
    while True:
        try:
            for word in words:
                user_messenger.publish(word)
            time.sleep(60)
        except Exception:
            pass
"""


async def begun(worker: Worker, **more: object) -> Job:
    """A job that has said its first word."""
    job = await worker.start(**more)
    await worker.follow(job, lambda event: event.kind == "interim")
    return job


async def test_a_cancel_is_an_exception_in_main(world: World) -> None:
    worker = await world.worker(HEEDING)
    job = await begun(worker)
    start = time.monotonic()
    assert (await worker.cancel(job)).ok
    await worker.follow(job)
    assert time.monotonic() - start < 0.3
    assert await worker.values(job) == ["begun", ["JobCancelled", "cancelled by the user", "CancelledByUser"]]
    assert job.end.status is JobStatus.CANCELLED
    assert (job.end.reason, job.end.reason_code) == ("cancelled by the user", ReasonCode.CANCELLED_BY_USER)
    assert not job.of("result")
    assert "Traceback" not in await worker.log_text(job)
    assert await worker.result(await worker.run({"wait": False})) == "not waiting"


async def test_a_main_that_ignores_the_exception_gets_sigterm(world: World) -> None:
    worker = await world.worker(IGNORING)
    job = await begun(worker)
    await worker.cancel(job)
    await worker.follow(job)
    assert await worker.values(job) == ["begun", "ignored"]
    assert job.end.status is JobStatus.CANCELLED
    assert "SIGTERM" in await worker.log_text(job)
    again = await begun(worker)
    await worker.cancel(again)
    await worker.follow(again)
    assert again.end.status is JobStatus.CANCELLED


async def test_a_main_in_native_code_that_holds_the_gil_is_ended_and_its_worker_is_heard_meanwhile(
    world: World,
) -> None:
    worker = await world.worker(IN_NATIVE_CODE)
    job = await begun(worker)
    before = len(world.beats)
    await until(lambda: len(world.beats) > before + 3)
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED


async def test_a_main_that_ignores_sigterm_is_killed(world: World) -> None:
    worker = await world.worker(DEAF_TO_SIGTERM)
    job = await begun(worker)
    await worker.cancel(job)
    await worker.follow(job)
    assert await worker.values(job) == ["begun", "SIGTERM"]
    assert job.end.status is JobStatus.CANCELLED
    assert "SIGKILL" in await worker.log_text(job)


async def test_a_job_that_runs_for_too_long_is_stopped_in_the_same_way(world: World) -> None:
    worker = await world.worker(HEEDING)
    job = await worker.run(max_execution_time=1)  # what it takes to import the program counts
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.TIMED_OUT)
    assert "max_execution_time of 1 s" in (job.end.reason or "")
    assert (await worker.values(job))[1][2] == "TimedOut"
    assert job.end.usage is not None
    assert job.end.usage.seconds > 0.2


async def test_an_import_that_takes_for_ever_can_be_cancelled_and_is_tried_again_by_the_next_job(world: World) -> None:
    folder = world.program(
        "import os, time\n"
        "from pathlib import Path\n"
        "print('importing', flush=True)\n"
        "while not (Path(__file__).parent / 'go').exists():\n"
        "    time.sleep(0.01)\n"
        "def main(backend, user_messenger):\n"
        "    return 'imported'\n"
    )
    worker = await world.worker(folder)
    job = await worker.start()
    await until_logged(worker, job, "importing")
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED
    (folder / "go").write_text("")
    assert await worker.result(await worker.run()) == "imported"


async def until_logged(worker: Worker, job: Job, text: str) -> None:
    async with asyncio.timeout(20):
        while True:
            if text in await worker.log_text(job):
                return
            await asyncio.sleep(0.01)


async def test_a_cancel_right_behind_the_start_is_heeded(world: World) -> None:
    worker = await world.worker(HEEDING)
    for _ in range(10):
        job = await worker.start()
        await worker.cancel(job)
        await worker.follow(job)
        assert job.end.status is JobStatus.CANCELLED
        assert "SIGTERM" not in await worker.log_text(job)


async def test_a_large_result_can_be_cancelled_in_the_middle(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger, size):\n    user_messenger.publish(1)\n    return b'x' * size\n",
        limits={"buffer": 1 << 20},
    )
    job = await worker.start({"size": 60 << 20})
    await worker.follow(job, lambda event: event.kind == "interim")
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED
    assert not job.of("result")
    assert await worker.result(await worker.run({"size": 1 << 20})) == b"x" * (1 << 20)


async def test_a_cancel_that_comes_before_main_keeps_it_from_running(world: World) -> None:
    worker = await world.worker(HEEDING)
    asked = asyncio.Event()

    class Never:
        """Inputs of which no chunk ever comes."""

        def __getitem__(self, number: int) -> bytes:
            asked.set()
            raise LookupError("not now")

    world.blobs["0" * 64] = Never()  # type: ignore[assignment]
    job = await worker.start(inputs=Fetchable(digest="0" * 64, size=10, chunks=1))
    await asked.wait()
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED
    assert not job.of("interim")
    assert await worker.result(await worker.run({"wait": False})) == "not waiting"


async def test_inputs_that_arrive_damaged_or_are_refused_fail_the_job_before_main(world: World) -> None:
    worker = await world.worker(HEEDING)
    for given in (b"", encode({"wait": False})):
        digest = f"{len(given):0>64}"
        if given:
            world.blobs[digest] = [given]
        job = await worker.run(inputs=Fetchable(digest=digest, size=len(given), chunks=1))
        assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.INTERNAL_ERROR)
        assert "inputs could not be had" in (job.end.reason or "")
        assert not job.of("interim")
    assert await worker.result(await worker.run({"wait": False})) == "not waiting"


async def test_a_job_that_is_done_already_does_not_stop_the_next_one(world: World) -> None:
    worker = await world.worker("def main(backend, user_messenger):\n    return sum(range(1000))\n")
    for _ in range(30):
        job = await worker.start()
        answer = await worker.cancel(job)
        await worker.follow(job)
        assert job.end.status in (JobStatus.CANCELLED, JobStatus.COMPLETED)
        assert answer.ok or job.end.status is JobStatus.COMPLETED
        if job.end.status is JobStatus.COMPLETED:
            assert await worker.result(job) == 499500
    final = await worker.run()
    assert final.end.status is JobStatus.COMPLETED


async def test_a_cancel_of_another_job_is_refused(world: World) -> None:
    worker = await world.worker(HEEDING)
    assert not (await worker.command(Cancel(job_id=new_id()))).ok
    job = await begun(worker)
    assert not (await worker.command(Cancel(job_id=new_id()))).ok
    await worker.cancel(job)
    await worker.follow(job)


async def test_leaving_by_sys_exit_fails_the_job_and_not_the_session(world: World) -> None:
    source = (
        "import sys\n"
        "def main(backend, user_messenger, leave):\n"
        "    if leave == 'exit': sys.exit(3)\n"
        "    if leave == 'interrupt': raise KeyboardInterrupt\n"
        "    return 'stayed'\n"
    )
    worker = await world.worker(source)
    job = await worker.run({"leave": "exit"})
    assert job.end.reason_code == ReasonCode.PROCESS_DIED
    assert "sys.exit(3)" in (job.end.reason or "")
    job = await worker.run({"leave": "interrupt"})
    assert job.end.reason_code == ReasonCode.PROGRAM_ERROR
    assert await worker.result(await worker.run({"leave": ""})) == "stayed"


async def test_memory_beyond_the_limit_is_told_as_such(world: World) -> None:
    worker = await world.worker(
        "def main(backend, user_messenger):\n    return len(bytearray(8 << 30))\n", limits={"memory": 4 << 30}
    )
    job = await worker.run()
    assert job.end.reason_code == ReasonCode.OUT_OF_MEMORY
    assert "MemoryError" in (job.end.reason or "")


# --- the worker's end


async def test_a_worker_that_is_told_to_drain_ends_when_its_job_has(world: World) -> None:
    worker = await world.worker(HEEDING)
    job = await begun(worker)
    assert (await worker.command(Drain())).ok
    assert (await worker.command(Drain())).ok
    await worker.beat(lambda beat: beat.draining)
    refused = await worker.command(Start(job_id=new_id(), max_execution_time=60), b"{}")
    assert not refused.ok
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED
    assert await world.zygote.exited(worker.id) == 0


async def test_an_idle_worker_that_is_told_to_drain_ends_at_once(world: World) -> None:
    worker = await world.worker(HEEDING)
    start = time.monotonic()
    await worker.command(Drain())
    assert await world.zygote.exited(worker.id) == 0
    assert time.monotonic() - start < 1


async def test_a_worker_that_hears_nothing_for_long_ends(world: World) -> None:
    worker = await world.worker(HEEDING, limits={"idle": 0.5})
    job = await begun(worker)
    await worker.beat(lambda beat: beat.job_id == job.id)
    seen = len(world.beats)
    await until(lambda: len(world.beats) > seen + 4)  # longer than that, but not idle
    await worker.cancel(job)
    await worker.follow(job)
    assert job.end.status is JobStatus.CANCELLED
    assert await world.zygote.exited(worker.id) == 0


async def test_a_worker_that_is_terminated_stops_its_job_and_leaves_its_end_to_the_control_plane(world: World) -> None:
    worker = await world.worker(HEEDING)
    job = await begun(worker)
    world.zygote.say(Kill(worker_id=worker.id, grace=10))
    assert await world.zygote.exited(worker.id) == 143
    stored = world.bus.job_events(world.instance, job.session_id, job.id, logs=False, follow=False)
    assert [event.kind async for event in stored] == ["status", "interim", "interim"]


async def test_a_worker_that_does_not_end_by_itself_is_killed_with_all_that_it_started(world: World) -> None:
    worker = await world.worker(IN_NATIVE_CODE, limits={"cancel_grace": 60})
    await begun(worker)
    start = time.monotonic()
    world.zygote.say(Kill(worker_id=worker.id, grace=0.3))
    assert await world.zygote.exited(worker.id) == -9
    assert time.monotonic() - start < 2


async def test_a_job_that_comes_to_its_end_while_its_worker_is_terminated_has_its_result(world: World) -> None:
    source = (
        "import time\n"
        "def main(backend, user_messenger):\n"
        "    try:\n"
        "        user_messenger.publish('begun')\n"
        "        time.sleep(60)\n"
        "    except Exception:\n"
        "        return 'at the last moment'\n"
    )
    worker = await world.worker(source)
    job = await begun(worker)
    world.zygote.say(Kill(worker_id=worker.id, grace=10))
    await worker.follow(job)
    assert job.end.status is JobStatus.COMPLETED
    assert await worker.result(job) == "at the last moment"
    assert await world.zygote.exited(worker.id) == 0
