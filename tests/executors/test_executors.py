"""What holds of every executor: it starts workers, stops them, and says what it sees."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from executors.harness import Kind, Lab, Watcher, Worker, until, watching

from neartime.contract.ids import new_id
from neartime.contract.jobs import ReasonCode
from neartime_server.errors import ExecutorError
from neartime_server.executors import Executor, Exited, Running, Synced

SAY = """
import os, time

def main(backend, user_messenger, wait=0):
    user_messenger.publish(int(os.environ["NEARTIME_SUPERVISOR_PID"]))
    time.sleep(wait)
    return int(os.environ["NEARTIME_SUPERVISOR_PID"])
"""
START = """
import subprocess, time

def main(backend, user_messenger, wait):
    user_messenger.publish(subprocess.Popen(["sleep", "300"]).pid)
    time.sleep(wait)
"""


async def start(lab: Lab, executor: Executor, kind: Kind, program: str = SAY) -> Worker:
    return await lab.begin(executor, *kind.carry(lab.launch(program)))


async def said_pid(worker: Worker, kind: Kind, wait: float = 60) -> int:
    """The pid that a job says, which goes on for `wait` seconds: of the supervisor, or of what it has started."""
    said = int(await worker.said(await worker.begin(wait=wait), "interim"))
    return kind.pid(worker.id, said)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- starting


async def test_a_worker_that_was_started_is_seen_and_runs_jobs(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    assert await worker.run() > 0
    assert watcher.said == [Synced(), Running(worker.id)]


async def test_starting_a_worker_again_starts_no_second_one(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    pid = await worker.run()
    await executor.start(worker.launch, kind.environment)
    await executor.prepare(kind.environment)
    assert await worker.run() == pid
    assert watcher.said == [Synced(), Running(worker.id)]


async def test_many_workers_start_at_once(lab: Lab, executor: Executor, kind: Kind, watcher: Watcher) -> None:
    workers = await asyncio.gather(*(start(lab, executor, kind) for _ in range(6)))
    assert watcher.running == {worker.id for worker in workers}
    assert len(set(await asyncio.gather(*(worker.run() for worker in workers)))) == 6


async def test_where_no_worker_can_be_started_the_reason_is_told(lab: Lab, executor: Executor, kind: Kind) -> None:
    launch, _ = kind.carry(lab.launch(SAY))
    with pytest.raises(ExecutorError, match=kind.words):
        await executor.start(launch, kind.broken)
    with pytest.raises(ExecutorError, match=kind.words):
        await executor.prepare(kind.broken)
    await start(lab, executor, kind)


async def test_programs_find_no_secret_of_the_server_in_their_environment(
    lab: Lab, executor: Executor, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NEARTIME_TOKEN", "NEARTIME_DATABASE", "AWS_SECRET_ACCESS_KEY", "QISKIT_IBM_TOKEN"):
        monkeypatch.setenv(name, "tell-nobody")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:tell-nobody@proxy:8080")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    worker = await start(
        lab, executor, kind, "import os\n\ndef main(backend, user_messenger):\n    return dict(os.environ)\n"
    )
    found = await worker.run()
    assert "tell-nobody" not in str(found)
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert found["PATH"]


# --- the end of a worker


async def test_a_worker_that_ends_in_good_order_has_no_reason(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    await worker.drain()
    assert await watcher.exit(worker.id) == Exited(worker.id, 0, None, None)


async def test_a_worker_that_is_killed_from_outside_is_lost_and_the_signal_named(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    os.kill(await said_pid(worker, kind), signal.SIGKILL)
    exited = await watcher.exit(worker.id)
    assert (exited.exit_code, exited.reason_code) == (-signal.SIGKILL, ReasonCode.WORKER_LOST)
    assert "SIGKILL" in str(exited.reason)


async def test_a_worker_that_is_stopped_ends_with_all_that_its_program_started(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind, START)
    started = await said_pid(worker, kind)
    assert alive(started)
    await executor.stop(worker.id, grace=1.0)
    assert (await watcher.exit(worker.id)).reason_code is None
    await until(lambda: not alive(started), 5)


async def test_a_worker_that_does_not_listen_is_killed_when_its_grace_is_over(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    os.kill(await said_pid(worker, kind), signal.SIGSTOP)
    await executor.stop(worker.id, grace=0.3)
    exited = await watcher.exit(worker.id)
    assert (exited.exit_code, exited.reason_code) == (-signal.SIGKILL, None)


async def test_stopping_what_does_not_run_says_that_it_has_ended(executor: Executor, watcher: Watcher) -> None:
    worker_id = new_id()
    await executor.stop(worker_id)
    exited = await watcher.exit(worker_id)
    assert (exited.exit_code, exited.reason_code) == (None, None)


async def test_a_start_that_is_given_up_leaves_nothing_behind(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    for pause in (0.0, 0.001, 0.01, 0.05):
        launch, place = kind.carry(lab.launch(SAY))
        starting = asyncio.create_task(executor.start(launch, place))
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await executor.stop(launch.worker_id, grace=1.0)
        assert (await watcher.exit(launch.worker_id)).reason_code is None
        with pytest.raises(ExecutorError):
            await executor.start(launch, kind.environment)
    async with watching(executor) as later:
        assert later.running == set()


# --- one server after another


async def test_an_end_is_told_to_whoever_observes_later_until_it_is_forgotten(
    lab: Lab, executor: Executor, kind: Kind, watcher: Watcher
) -> None:
    worker = await start(lab, executor, kind)
    os.kill(await said_pid(worker, kind), signal.SIGKILL)
    exited = await watcher.exit(worker.id)
    async with watching(executor) as later:
        assert later.said == [exited, Synced()]
    await executor.forget(worker.id)
    async with watching(executor) as later:
        assert later.said == [Synced()]


async def test_workers_outlive_their_server_and_the_next_one_finds_what_runs_and_what_has_ended(
    lab: Lab, kind: Kind
) -> None:
    first = kind.executor()
    running, ended = await start(lab, first, kind), await start(lab, first, kind)
    pid = await said_pid(ended, kind)
    await first.close()
    os.kill(pid, signal.SIGKILL)
    assert await running.run()
    second = kind.executor()
    async with watching(second) as watcher:
        exited = await watcher.exit(ended.id)
        assert (exited.exit_code, exited.reason_code) == (-signal.SIGKILL, ReasonCode.WORKER_LOST)
        assert watcher.running - {ended.id} == {running.id}
        await second.forget(ended.id)
        await second.stop(running.id)
        assert (await watcher.exit(running.id)).reason_code is None
    await second.close()


async def test_a_server_that_has_only_just_begun_can_stop_a_worker(lab: Lab, kind: Kind) -> None:
    first = kind.executor()
    worker = await start(lab, first, kind)
    await first.close()
    second = kind.executor()
    await second.stop(worker.id)
    async with watching(second) as watcher:
        (exited,) = watcher.exits(worker.id)
        assert exited.reason == "it was stopped" or exited.exit_code == 0
    await second.close()


async def test_an_end_that_was_forgotten_is_not_told_to_the_next_server(lab: Lab, kind: Kind) -> None:
    first = kind.executor()
    worker = await start(lab, first, kind)
    await first.stop(worker.id)
    await first.forget(worker.id)
    await first.close()
    second = kind.executor()
    async with watching(second) as watcher:
        assert watcher.said == [Synced()]
    await second.close()
