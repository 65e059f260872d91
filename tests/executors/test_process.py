"""What holds of the process executor alone: its zygotes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from executors.harness import OWN, Lab, Processes, Where, Worker, until, watching

from neartime.contract.jobs import ReasonCode
from neartime.contract.launch import Spawn
from neartime_server.errors import ExecutorError
from neartime_server.executors import ProcessExecutor, Synced, addresses
from neartime_server.executors.reasons import of_exit
from neartime_server.executors.zygote import Connection

MAIN = "def main(backend, user_messenger):\n    return 42\n"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    kind = Processes(tmp_path / "home")
    yield kind.home
    kind.close()


def place(number: int) -> Where:
    """The server's own environment, under another name."""
    return Where(f"sha256:{number}{'0' * 63}", Path(sys.executable))


def sockets(home: Path) -> list[str]:
    return sorted(one.stem for one in addresses.folder(home).glob("*.sock"))


async def zygote(home: Path, name: str) -> tuple[int, list[int]]:
    """The pids of a zygote and of its workers."""
    connection = await Connection.open(addresses.folder(home) / f"{name}.sock")
    connection.close()
    assert connection.pid is not None
    return connection.pid, [one.pid for one in connection.state.running]


# --- a zygote that dies


async def test_a_killed_zygote_takes_its_workers_along_and_the_next_start_has_a_new_one(lab: Lab, home: Path) -> None:
    executor = ProcessExecutor(home)
    async with watching(executor) as watcher:
        workers = [await lab.start(executor, OWN, MAIN) for _ in range(2)]
        pid, supervisors = await zygote(home, addresses.name(OWN))
        os.kill(pid, signal.SIGKILL)
        for worker in workers:
            exited = await watcher.exit(worker.id)
            assert exited.reason_code is ReasonCode.WORKER_LOST
            assert "zygote" in str(exited.reason)
            assert "SIGKILL" in str(exited.reason)
        for supervisor in supervisors:
            await until(lambda supervisor=supervisor: not Path(f"/proc/{supervisor}").exists())
        worker = await lab.start(executor, OWN, MAIN)
        assert await worker.run() == 42
    await executor.close()


async def test_a_zygote_that_died_while_no_server_ran_is_replaced(lab: Lab, home: Path) -> None:
    first = ProcessExecutor(home)
    await first.prepare(OWN)
    await first.close()
    pid, _ = await zygote(home, addresses.name(OWN))
    os.kill(pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitpid, pid, 0)
    second = ProcessExecutor(home)
    async with watching(second):
        assert sockets(home) == []
        worker = await lab.start(second, OWN, MAIN)
        assert await worker.run() == 42
    await second.close()


async def test_a_zygote_that_is_silent_does_not_keep_the_server_from_others(lab: Lab, home: Path) -> None:
    executor = ProcessExecutor(home)
    await executor.prepare(place(1))
    pid, _ = await zygote(home, addresses.name(place(1)))
    os.kill(pid, signal.SIGSTOP)
    try:
        worker = await asyncio.wait_for(lab.start(executor, OWN, MAIN), 9)
        assert await worker.run() == 42
    finally:
        os.kill(pid, signal.SIGCONT)
        await executor.close()


async def test_what_a_silent_zygote_may_run_is_not_said_to_be_all(lab: Lab, home: Path) -> None:
    first = ProcessExecutor(home)
    await lab.start(first, OWN, MAIN)
    pid, _ = await zygote(home, addresses.name(OWN))
    await first.close()
    second = ProcessExecutor(home)
    os.kill(pid, signal.SIGSTOP)
    try:
        async with aclosing(second.observe()) as seen:
            assert await anext(seen) == Synced(complete=False)
    finally:
        os.kill(pid, signal.SIGCONT)
        await second.close()


# --- one zygote an environment


async def test_a_prepared_zygote_starts_a_worker_in_milliseconds(lab: Lab, home: Path) -> None:
    executor = ProcessExecutor(home)
    await executor.prepare(OWN)
    took = []
    for _ in range(5):
        launch = lab.launch(MAIN)
        began = time.perf_counter()
        await executor.start(launch, OWN)
        took.append(time.perf_counter() - began)
    assert sorted(took)[2] < 0.1
    await executor.close()


async def test_several_servers_share_one_zygote_and_hear_of_each_others_workers(lab: Lab, home: Path) -> None:
    first, second = ProcessExecutor(home), ProcessExecutor(home)
    await asyncio.gather(first.prepare(OWN), second.prepare(OWN))
    assert sockets(home) == [addresses.name(OWN)]
    async with watching(second) as watcher:
        worker = await lab.start(first, OWN, MAIN)
        await until(lambda: worker.id in watcher.running)
        await second.stop(worker.id)
        assert (await watcher.exit(worker.id)).reason_code is None
    await first.close()
    await second.close()


async def test_each_environment_has_a_zygote_of_its_own_and_few_of_them_wait_for_nothing(lab: Lab, home: Path) -> None:
    executor = ProcessExecutor(home, tidy=0.2)
    await executor.prepare(OWN)
    worker = await lab.start(executor, place(0), MAIN)
    for number in (1, 2, 3, 4, 5):
        await executor.prepare(place(number))
    kept = {addresses.name(one) for one in (OWN, place(0), place(3), place(4), place(5))}
    await until(lambda: set(sockets(home)) == kept)
    await asyncio.sleep(0.5)
    assert set(sockets(home)) == kept
    assert await worker.run() == 42
    await executor.close()


async def test_a_zygote_that_is_idle_for_long_is_ended_but_for_the_servers_own(home: Path) -> None:
    executor = ProcessExecutor(home, idle=0.5, tidy=0.1)
    await executor.prepare(OWN)
    await executor.prepare(place(1))
    await until(lambda: sockets(home) == [addresses.name(OWN)])
    await asyncio.sleep(0.5)
    assert sockets(home) == [addresses.name(OWN)]
    await executor.prepare(place(1))  # it comes again
    await executor.close()


async def test_a_zygote_of_another_build_keeps_its_workers_gets_no_more_and_then_ends(lab: Lab, home: Path) -> None:
    name = addresses.name(OWN).replace(addresses.build(), "0" * len(addresses.build()))
    path = addresses.folder(home) / f"{name}.sock"
    command = [sys.executable, "-m", "neartime_runner", "zygote", "--socket", str(path), "--home", str(home)]
    old = await asyncio.create_subprocess_exec(*command)
    await until(path.exists)
    connection = await Connection.open(path)
    worker = Worker(lab, lab.launch(MAIN))
    await connection.send(Spawn(launch=worker.launch))
    await worker.ready()
    connection.close()
    executor = ProcessExecutor(home, tidy=0.2)
    async with watching(executor) as watcher:
        assert watcher.running == {worker.id}
        newer = await lab.start(executor, OWN, MAIN)
        assert sockets(home) == sorted([name, addresses.name(OWN)])
        assert await worker.run() == 42
        await executor.stop(worker.id)
        await executor.forget(worker.id)
        await until(lambda: sockets(home) == [addresses.name(OWN)])
        assert await newer.run() == 42
    await executor.close()
    assert await old.wait() == 0


# --- where the sockets are


async def test_in_a_home_with_a_long_path_the_sockets_are_elsewhere_and_nobody_elses(lab: Lab, tmp_path: Path) -> None:
    kind = Processes(tmp_path / ("a-long-name-" * 8))
    executor = kind.executor()
    worker = await lab.start(executor, OWN, MAIN)
    assert await worker.run() == 42
    folder = addresses.folder(kind.home)
    assert not folder.is_relative_to(kind.home)
    assert folder.stat().st_mode & 0o777 == 0o700
    await executor.close()
    folder.chmod(0o755)
    with pytest.raises(ExecutorError, match="not this user's alone"):
        addresses.folder(kind.home)
    folder.chmod(0o700)
    kind.close()


def test_every_path_of_a_socket_is_short_enough(tmp_path: Path) -> None:
    for length in range(1, 120, 7):
        folder = addresses.folder(tmp_path / ("x" * length))
        longest = folder / f"{addresses.name(place(1))}.sock.new"
        assert len(os.fsencode(longest)) <= addresses.LONGEST
        if folder.parent == Path(tempfile.gettempdir()):
            folder.rmdir()


# --- reasons


def test_reasons_name_the_signal_the_exit_code_and_want_of_memory() -> None:
    def told(code: int, *, stopped: bool = False, out_of_memory: bool = False) -> tuple[ReasonCode | None, str | None]:
        exited = of_exit("w", code, stopped=stopped, out_of_memory=out_of_memory)
        return exited.reason_code, exited.reason

    assert told(0) == (None, None)
    assert told(3) == (ReasonCode.WORKER_LOST, "its worker ended with exit code 3")
    assert told(143) == (ReasonCode.WORKER_LOST, "its worker ended by SIGTERM")
    assert told(255) == (ReasonCode.WORKER_LOST, "its worker ended with exit code 255")
    assert told(-9) == (ReasonCode.WORKER_LOST, "its worker was killed by SIGKILL")
    assert told(-11) == (ReasonCode.WORKER_LOST, "its worker was killed by SIGSEGV")
    assert told(-9, out_of_memory=True)[0] is ReasonCode.OUT_OF_MEMORY
    assert told(-15, stopped=True) == (None, "it was stopped")
