"""Something is killed in the middle of a job: what is said of it, and that nothing which was published is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from runner.harness import Worker, World, Zygote, until

from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Forget, Kill, Spawn

COUNTING = """
import os, time

def main(backend, user_messenger, count, pause=0.01):
    print("counting in", os.getpid(), flush=True)
    user_messenger.publish({"child": os.getpid(), "supervisor": int(os.environ["NEARTIME_SUPERVISOR_PID"])})
    for number in range(count):
        time.sleep(pause)
        user_messenger.publish(number)
    return count
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_a_killed_child_fails_its_job_with_the_signal_and_the_logs_tail(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 5)
    child = (await worker.values(job))[0]["child"]
    os.kill(child, signal.SIGKILL)
    await worker.follow(job)
    assert job.end.status is JobStatus.FAILED
    assert job.end.reason_code == ReasonCode.PROCESS_DIED
    assert "SIGKILL" in (job.end.reason or "")
    assert (job.end.reason or "").endswith(f"counting in {child}")
    values = (await worker.values(job))[1:]
    assert values == list(range(len(values)))
    assert job.end.usage is not None
    assert job.end.usage.seconds > 0


async def test_a_crash_in_native_code_shows_the_programs_frames_and_none_of_the_runners(world: World) -> None:
    worker = await world.worker("import ctypes\n\ndef main(backend, user_messenger):\n    ctypes.string_at(0)\n")
    job = await worker.run()
    assert job.end.reason_code == ReasonCode.PROCESS_DIED
    log = "\n".join(record.text for record in await worker.logs(job))
    for text in (log, job.end.reason or ""):
        assert '  File "program.py", line 4 in main' in text
        assert "neartime_runner" not in text
        assert "runpy" not in text
        assert "Extension modules" not in text


async def test_a_session_goes_on_in_a_new_child(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 2)
    os.kill((await worker.values(job))[0]["child"], signal.SIGKILL)
    await worker.follow(job)
    for _ in range(2):
        assert await worker.result(await worker.run({"count": 1})) == 1


async def test_an_idle_child_that_dies_is_replaced_before_the_next_job(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.run({"count": 1})
    for _ in range(5):
        os.kill((await worker.values(job))[0]["child"], signal.SIGKILL)
        job = await worker.run({"count": 1})
        if job.end.status is JobStatus.COMPLETED:  # else the job was given to it before that showed
            assert await worker.result(job) == 1
        else:
            assert job.end.reason_code == ReasonCode.PROCESS_DIED
            job = await worker.run({"count": 1})


async def test_a_program_that_dies_when_it_is_imported_fails_each_job_and_nothing_more(world: World) -> None:
    worker = await world.worker("import os\nos._exit(7)\n")
    for _ in range(3):
        job = await worker.run()
        assert job.end.reason_code == ReasonCode.PROCESS_DIED
        assert "exit code 7" in (job.end.reason or "")


async def test_a_program_that_closes_all_descriptors_fails_its_job(world: World) -> None:
    worker = await world.worker(
        "import os, time\ndef main(backend, user_messenger):\n    os.closerange(3, 100)\n    time.sleep(1)\n"
    )
    for _ in range(2):
        job = await worker.run()
        assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.PROCESS_DIED)


async def test_a_killed_supervisor_takes_its_child_along_and_the_zygote_says_so(world: World) -> None:
    source = COUNTING.replace(
        'print("counting', 'daemon = os.fork() or (os.setsid(), time.sleep(1000))\n    print("counting'
    ).replace('"child":', '"daemon": daemon, "child":')
    worker = await world.worker(source)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 3)
    first = (await worker.values(job))[0]
    assert first["supervisor"] == worker.pid
    worker.kill()
    assert await world.zygote.exited(worker.id) == -signal.SIGKILL
    await until(lambda: not alive(first["child"]) and not alive(first["daemon"]))


async def test_a_worker_whose_nursery_is_killed_ends(world: World) -> None:
    worker = await world.worker(
        "import os\ndef main(backend, user_messenger):\n    return [os.getpid(), os.getppid()]\n"
    )
    child, nursery = await worker.result(await worker.run())
    os.kill(nursery, signal.SIGKILL)
    assert await world.zygote.exited(worker.id) == 1
    await until(lambda: not alive(child))


async def test_a_job_whose_nursery_is_killed_ends_though_what_it_has_started_lives_on(world: World) -> None:
    source = COUNTING.replace(
        'print("counting', 'started = os.fork() or time.sleep(1000)\n    print("counting'
    ).replace('"child":', '"started": started, "nursery": os.getppid(), "child":')
    worker = await world.worker(source)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 3)
    first = (await worker.values(job))[0]
    os.kill(first["nursery"], signal.SIGKILL)
    await worker.follow(job)
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.PROCESS_DIED)
    assert (job.end.reason or "").endswith(f"counting in {first['child']}")
    assert await world.zygote.exited(worker.id) == 1
    await until(lambda: not alive(first["child"]) and not alive(first["started"]))


async def test_a_killed_nats_server_comes_back_and_nothing_is_lost_or_out_of_order(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 200, "pause": 0.01})
    await worker.follow(job, lambda event: event.envelope.index == 20)
    world.server.kill()
    await world.server.start()
    await worker.follow(job)
    assert (await worker.values(job))[1:] == list(range(200))
    assert await worker.result(job) == 200
    assert await worker.result(await worker.run({"count": 1})) == 1


async def test_a_tight_loop_over_a_killed_nats_server_loses_nothing(world: World) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 20_000, "pause": 0})
    await worker.follow(job, lambda event: event.envelope.index == 1000)
    for _ in range(2):
        world.server.kill()
        await world.server.start()
        await worker.follow(job, lambda event: event.envelope.index > 2000)
    await worker.follow(job)
    assert (await worker.values(job))[1:] == list(range(20_000))


async def test_a_large_value_over_a_killed_nats_server_arrives_whole(world: World) -> None:
    source = (
        "import numpy as np\n"
        "def main(backend, user_messenger):\n"
        "    for number in range(10):\n"
        "        user_messenger.publish(np.full(1_000_000, number))\n"
    )
    worker = await world.worker(source)
    job = await worker.start()
    await worker.follow(job, lambda event: event.envelope.index == 1)
    world.server.kill()
    await world.server.start()
    await worker.follow(job)
    for number, value in enumerate(await worker.values(job)):
        assert (value == number).all()
        assert len(value) == 1_000_000


async def test_a_worker_that_starts_while_nats_is_away_is_ready_when_it_is_back(world: World) -> None:
    launch = world.launch("def main(backend, user_messenger):\n    return 1\n")
    world.server.kill()
    world.zygote.say(Spawn(launch=launch))
    worker = Worker(world, launch, await world.zygote.spawned(launch.worker_id))
    world.workers.append(worker)
    await world.server.start()
    await worker.beat(lambda beat: beat.ready)
    assert await worker.result(await worker.run()) == 1


async def test_a_full_quota_fails_the_job_with_that_reason(world: World) -> None:
    source = (
        "import os\n"
        "def main(backend, user_messenger):\n"
        "    while True:\n"
        "        user_messenger.publish(os.urandom(16 << 20))\n"
    )
    worker = await world.worker(source)
    job = await worker.run()
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.QUOTA_EXCEEDED)
    assert await worker.value(job.of("interim")[0])


async def test_a_result_for_which_there_is_no_room_fails_the_job(world: World) -> None:
    worker = await world.worker("import os\ndef main(backend, user_messenger, size):\n    return os.urandom(size)\n")
    job = await worker.run({"size": 120 << 20})
    assert (job.end.status, job.end.reason_code) == (JobStatus.FAILED, ReasonCode.QUOTA_EXCEEDED)
    assert not job.of("result")
    assert await worker.result(await worker.run({"size": 10}))


# --- the zygote and its client


@pytest.fixture
async def zygote(own_zygote: Zygote) -> Zygote:
    return own_zygote


async def test_workers_and_exits_outlive_the_client_of_the_zygote(world: World, zygote: Zygote) -> None:
    one, two = await world.worker(COUNTING), await world.worker(COUNTING)
    job = await one.start({"count": 100})
    await zygote.disconnect()
    two.kill()
    await until(lambda: not Path(f"/proc/{two.pid}").exists())
    zygote.events.clear()
    await zygote.connect()
    assert [running.worker_id for running in zygote.state.running] == [one.id]
    assert [(exited.worker_id, exited.exit_code) for exited in zygote.state.exited] == [(two.id, -9)]
    zygote.say(Forget(worker_id=two.id))
    zygote.say(Spawn(launch=one.launch))  # repeated: it is there
    assert await zygote.spawned(one.id) == one.pid
    await zygote.disconnect()
    await zygote.connect()
    assert not zygote.state.exited
    await one.follow(job)
    assert await one.result(job) == 100
    world.workers.remove(two)


async def test_a_worker_that_is_killed_before_it_was_forked_is_an_exit_too(world: World, zygote: Zygote) -> None:
    launch = world.launch(COUNTING)
    zygote.say(Spawn(launch=launch))
    zygote.say(Kill(worker_id=launch.worker_id, grace=0.1))
    assert await zygote.exited(launch.worker_id) < 0


async def test_a_zygote_that_is_terminated_ends_its_workers_and_takes_its_socket_along(
    world: World, zygote: Zygote
) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 2)
    child = (await worker.values(job))[0]["child"]
    zygote.stop()
    assert zygote.process.returncode == 0
    assert not alive(worker.pid)
    assert not alive(child)
    assert not zygote.socket.exists()
    world.workers.clear()


async def test_a_killed_zygote_takes_its_workers_along_and_another_takes_its_place(
    world: World, zygote: Zygote
) -> None:
    worker = await world.worker(COUNTING)
    job = await worker.start({"count": 10_000})
    await worker.follow(job, lambda event: event.envelope.index == 2)
    child = (await worker.values(job))[0]["child"]
    zygote.process.kill()
    zygote.process.wait()
    await until(lambda: not alive(worker.pid) and not alive(child))
    world.workers.clear()
    assert zygote.socket.exists()
    zygote.start()
    await zygote.connect()
    assert not zygote.state.running
    assert (await world.worker(COUNTING)).pid


async def test_only_its_owner_can_reach_a_zygote_and_one_socket_has_one_zygote(zygote: Zygote) -> None:
    assert zygote.socket.stat().st_mode & 0o777 == 0o600
    assert zygote.socket.parent.stat().st_mode & 0o777 == 0o700
    other = Zygote(zygote.folder)
    other.start()
    assert other.process.wait() == 1
    assert "another zygote listens" in other.log.read_text()
    await zygote.disconnect()
    await zygote.connect()


async def test_a_client_that_speaks_nonsense_is_dropped_and_others_are_not(world: World, zygote: Zygote) -> None:
    import asyncio

    reader, writer = await asyncio.open_unix_connection(str(zygote.socket))
    await reader.readline()
    writer.write(b'{"type": "spawn", "launch": {"control_key": "a secret"}}\n')
    assert await reader.readline() == b""
    writer.close()
    worker = await world.worker(COUNTING)
    assert await worker.result(await worker.run({"count": 1})) == 1
    zygote.say(Kill(worker_id=worker.id))
    assert await zygote.exited(worker.id) == 0
    assert "a secret" not in zygote.log.read_text()
