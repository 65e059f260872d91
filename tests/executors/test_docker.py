"""What holds of the docker executor alone: what a container may do, and what is left when something goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import Engine
from executors.harness import Containers, Lab, Where, Worker, until, watching

from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Launch
from neartime_server.embedded import processes
from neartime_server.errors import ExecutorError
from neartime_server.executors import Exited, Running, Synced, addresses
from neartime_server.executors.docker import DockerExecutor, end_all
from neartime_server.executors.reasons import of_container

pytestmark = pytest.mark.engine

MAIN = "def main(backend, user_messenger):\n    return 42\n"
WAIT = """
import time

def main(backend, user_messenger, wait=0):
    user_messenger.publish(1)
    time.sleep(wait)
    return 42
"""
ROOM = """
import os, resource, socket

def reaches(family, address):
    with socket.socket(family) as end:
        end.settimeout(2)
        try:
            end.connect(address)
        except OSError:
            return False
    return True

def writes(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True

def reads(path):
    try:
        with open(path, "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""

def fills(path):
    held = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while held < 2 << 30:
                held += file.write(bytes(1 << 20))
    except OSError:
        pass
    os.unlink(path)
    return held

def main(backend, user_messenger, addresses):
    status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
    return {
        "reached": [address for address in addresses if reaches(socket.AF_INET, tuple(address))],
        "links": sorted(os.listdir("/sys/class/net")),
        "writable": [path for path in ("/x", "/opt/neartime/program/x", "/run/neartime/x", "/tmp/x") if writes(path)],
        "user": [os.getuid(), os.getgid(), os.getgroups()],
        "rights": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")],
        "memory of the supervisor": reads("/proc/1/environ") + reads("/proc/1/maps"),
        "environment": dict(os.environ),
        "command": reads("/proc/1/cmdline"),
        "door": os.listdir("/run/neartime"),
        "filled": fills("/tmp/full"),
    }
"""
GREEDY = """
def main(backend, user_messenger, megabytes):
    return len(bytearray(megabytes << 20))
"""
FORKS = """
import os, time

def main(backend, user_messenger):
    count = 0
    while True:
        try:
            if os.fork() == 0:
                time.sleep(300)
                os._exit(0)
        except OSError as error:
            raise RuntimeError(f"no more after {count}: {error}") from None
        count += 1
"""


def within(launch: Launch, **resources: Any) -> Launch:
    return launch.model_copy(update={"manifest": launch.manifest | {"resources": resources}})


async def begin(lab: Lab, executor: DockerExecutor, kind: Containers, program: str, **resources: Any) -> Worker:
    launch, place = kind.carry(lab.launch(program))
    return await lab.begin(executor, within(launch, **resources), place)


def doors(home: Path) -> list[processes.Process]:
    return [one for one in processes.runners_of(home) if b"door" in Path(f"/proc/{one.pid}/cmdline").read_bytes()]


# --- what a program finds around it


async def test_a_program_reaches_nothing_writes_nowhere_has_no_right_and_finds_no_secret(
    lab: Lab, containers: Containers
) -> None:
    executor = containers.executor()
    neighbour = containers.engine.client.containers.run(
        containers.environment.image or "", ["python", "-m", "http.server", "8000"], detach=True
    )
    loopback, bridge = socket.create_server(("127.0.0.1", 0)), socket.create_server((containers.engine.gateway, 0))
    try:
        neighbour.reload()
        address = neighbour.attrs["NetworkSettings"]["IPAddress"]
        nats = int(lab.server.url.rpartition(":")[2])
        addresses = [
            loopback.getsockname(),
            bridge.getsockname(),
            (address, 8000),
            ("127.0.0.1", nats),
            ("1.1.1.1", 53),
        ]
        worker = await begin(lab, executor, containers, ROOM, memory="1Gi")
        inspected = json.dumps(containers.container(worker.id).attrs)
        found = await worker.run(addresses=[list(one) for one in addresses])
    finally:
        neighbour.remove(force=True)
        loopback.close()
        bridge.close()
    assert found["reached"] == []
    assert found["links"] == ["lo"]
    assert found["writable"] == ["/tmp/x"]
    assert found["user"] == [65532, 65532, [65532]]
    assert found["rights"] == [0, 0, 0, 1, 2]
    assert found["memory of the supervisor"] == ""
    assert found["door"] == ["nats.sock"]
    assert found["filled"] <= 512 << 20
    for secret in (worker.launch.nats.credential, worker.launch.control_key):
        for word in [secret, *(line for line in secret.splitlines() if len(line) > 40)]:
            assert word not in inspected
            assert word not in str(found)
    assert containers.container(worker.id).logs() == b""
    await executor.close()


async def test_a_container_has_the_cores_and_the_memory_of_its_manifest(lab: Lab, containers: Containers) -> None:
    executor = containers.executor()
    worker = await begin(lab, executor, containers, MAIN, cpu=0.5, memory="640Mi")
    held = containers.container(worker.id).attrs["HostConfig"]
    assert (held["NanoCpus"], held["Memory"], held["MemorySwap"]) == (500_000_000, 640 << 20, 640 << 20)
    assert held["RestartPolicy"]["Name"] == "no"
    assert held["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "1", "max-size": "1m"}}
    await executor.close()
    other = containers.executor()
    launch, place = containers.carry(lab.launch(MAIN))
    with pytest.raises(ExecutorError, match="CPUs"):
        await other.start(within(launch, cpu=250), place)
    assert [one.name for one in containers.containers()] == [f"neartime-{worker.id}"]
    await other.close()


async def test_a_program_that_uses_too_much_memory_is_ended_and_told_so_and_the_next_job_runs(
    lab: Lab, containers: Containers
) -> None:
    executor = containers.executor()
    async with watching(executor) as watcher:
        worker = await begin(lab, executor, containers, GREEDY, memory="512Mi")
        _, status = await worker.end(await worker.begin(megabytes=2000))
        assert (status.status, status.reason_code) == (JobStatus.FAILED, ReasonCode.OUT_OF_MEMORY)
        assert await worker.run(megabytes=1) == 1 << 20
        assert watcher.exits(worker.id) == []
    await executor.close()


async def test_a_worker_that_is_itself_killed_for_memory_is_told_so(lab: Lab, containers: Containers) -> None:
    executor = containers.executor()
    async with watching(executor) as watcher:
        launch, place = containers.carry(lab.launch(MAIN))
        await executor.start(within(launch, memory="24Mi"), place)
        exited = await watcher.exit(launch.worker_id)
        assert (exited.exit_code, exited.reason_code) == (-signal.SIGKILL, ReasonCode.OUT_OF_MEMORY)
    await executor.close()


async def test_a_program_that_forks_without_end_is_held_and_told_so(lab: Lab, containers: Containers) -> None:
    executor = containers.executor()
    worker = await begin(lab, executor, containers, FORKS)
    _, status = await worker.end(await worker.begin())
    assert status.status is JobStatus.FAILED
    assert "Resource temporarily unavailable" in str(status.reason)
    await executor.stop(worker.id, grace=2.0)
    assert not containers.container(worker.id).attrs["State"]["Running"]
    await executor.close()


async def test_in_a_network_of_the_operators_workers_reach_nats_by_its_own_url(
    lab: Lab, containers: Containers
) -> None:
    network = containers.engine.client.networks.create("restricted", driver="bridge", internal=True)
    network.reload()
    gateway = network.attrs["IPAM"]["Config"][0]["Gateway"]
    port = int(lab.server.url.rpartition(":")[2])
    relay = await asyncio.start_server(lambda *ends: relayed(*ends, port), gateway, 0)
    try:
        executor = containers.executor(network="restricted")
        launch, place = containers.carry(lab.launch(MAIN))
        url = "nats://{}:{}".format(*relay.sockets[0].getsockname())
        access = launch.nats.model_copy(update={"url": url})
        worker = await lab.begin(executor, launch.model_copy(update={"nats": access}), place)
        assert await worker.run() == 42
        assert doors(containers.home) == []
        await executor.stop(worker.id)
        await executor.forget(worker.id)
        await executor.close()
    finally:
        relay.close()
        network.remove()


async def relayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
        target.close()

    others, other = await asyncio.open_connection("127.0.0.1", port)
    await asyncio.gather(pump(reader, other), pump(others, writer))


# --- images


async def test_an_image_that_is_gone_is_pulled_again_and_one_that_nobody_has_is_told(
    lab: Lab, containers: Containers
) -> None:
    executor, client = containers.executor(), containers.engine.client
    launch, place = containers.carry(lab.launch(MAIN))
    await executor.prepare(place)
    client.images.remove(place.image or "", force=True)
    with pytest.raises(ExecutorError, match="is not there and can't be pulled"):
        await executor.start(launch, place)
    pinned = client.images.get(containers.environment.image or "").attrs["RepoDigests"][0]
    with pytest.raises(ExecutorError, match="is not there and can't be pulled"):
        await executor.prepare(Where(None, Containers.PYTHON, pinned.partition("@")[0] + "@sha256:" + "0" * 64))
    client.images.remove(containers.environment.image or "", force=True)
    await executor.prepare(Where(None, Containers.PYTHON, pinned))
    client.images.get(pinned).tag(*(containers.environment.image or "").rsplit(":", 1))
    assert containers.containers() == []
    await executor.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('{\"contract\": 99}')", "contract version 99"),
        ("import sys; sys.exit(\"usage: neartime_runner: invalid choice: 'version'\")", "contract version 0"),
        ("print('hello')", "does not carry a runner that works"),
        ("import nothing_such", "nothing_such"),
    ],
)
async def test_an_image_whose_runner_this_server_can_not_speak_to_is_refused(
    containers: Containers, tmp_path: Path, code: str, words: str
) -> None:
    package = tmp_path / "other" / "neartime_runner"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(code)
    made = containers.engine.client.containers.create(containers.environment.image or "")
    made.put_archive("/opt/neartime", containers.packed(package.parent, "other"))
    changes = ["ENV PYTHONPATH=/opt/neartime/other"]
    place = Where(None, Containers.PYTHON, str(made.commit("odd", new_id(), changes=changes).id))
    made.remove()
    executor = containers.executor()
    with pytest.raises(ExecutorError, match=words):
        await executor.prepare(place)
    assert containers.containers() == []
    await executor.close()


async def test_an_image_is_checked_once_and_the_next_server_knows(containers: Containers) -> None:
    since = time.time()
    for _ in range(2):
        executor = containers.executor()
        await asyncio.gather(*(executor.prepare(containers.environment) for _ in range(3)))
        await executor.prepare(containers.environment)
        await executor.close()
    wanted = {"type": "container", "event": "create", "label": f"neartime.home={containers.mark}"}
    made = containers.engine.client.events(decode=True, since=since, until=time.time() + 0.1, filters=wanted)
    assert len(list(made)) == 1


async def test_what_follows_the_engine_ends_with_who_observes(containers: Containers) -> None:
    def followers() -> int:
        return sum(thread.name == "docker events" for thread in threading.enumerate())

    before, executor = followers(), containers.executor()
    for _ in range(3):
        async with watching(executor):
            assert followers() == before + 1
        await until(lambda: followers() == before, 5)
    await executor.close()


# --- whose containers they are


async def test_an_executor_neither_sees_nor_touches_the_containers_of_another_home(
    lab: Lab, containers: Containers, tmp_path: Path
) -> None:
    other = Containers(tmp_path / "other", containers.engine, "", "")
    executor, stranger = containers.executor(), other.executor()
    worker = await begin(lab, executor, containers, MAIN)
    async with watching(stranger) as watcher:
        await stranger.stop(worker.id)
        await stranger.forget(worker.id)
        assert watcher.said == [Synced(), Exited(worker.id, None, None, "it was not running")]
    assert await worker.run() == 42
    await executor.close()
    await stranger.close()
    other.close()


async def test_all_workers_of_a_home_are_ended_at_once_and_the_next_server_is_told(
    lab: Lab, containers: Containers, tmp_path: Path
) -> None:
    executor = containers.executor()
    worker = await begin(lab, executor, containers, WAIT)
    await worker.begin(wait=60)
    await executor.close()
    assert await asyncio.to_thread(end_all, tmp_path / "other", 5.0, url=containers.engine.url) == 0
    assert await asyncio.to_thread(end_all, containers.home, 5.0, url=containers.engine.url) == 1
    second = containers.executor()
    async with watching(second) as watcher:
        assert watcher.running == set()
        assert watcher.exits(worker.id) == [
            Exited(worker.id, 143, ReasonCode.WORKER_LOST, "its worker ended by SIGTERM")
        ]
    await second.close()
    with pytest.raises(ExecutorError, match="could not be ended"):
        end_all(tmp_path, 1.0, url=f"unix://{tmp_path}/none.sock")


# --- the door


async def test_a_door_that_dies_is_opened_again_and_what_runs_goes_on(lab: Lab, containers: Containers) -> None:
    executor = containers.executor()
    async with watching(executor):
        worker = await begin(lab, executor, containers, WAIT)
        job_id = await worker.begin(wait=6)
        assert await worker.said(job_id, "interim") == 1
        (door,) = doors(containers.home)
        os.kill(door.pid, signal.SIGKILL)
        value, status = await worker.end(job_id)
        assert (value, status.status) == (42, JobStatus.COMPLETED)
        (again,) = doors(containers.home)
        assert again != door
    await executor.close()


async def test_the_door_outlives_the_server_and_is_opened_again_where_it_ended(
    lab: Lab, containers: Containers
) -> None:
    executor = containers.executor()
    worker = await begin(lab, executor, containers, MAIN)
    await executor.close()
    assert await worker.run() == 42
    processes.end(doors(containers.home), 2.0)
    assert doors(containers.home) == []
    second = containers.executor()
    async with watching(second):
        heard = len(lab.beats)
        await until(lambda: len(lab.beats) > heard)  # it has been opened again
        assert await worker.run() == 42
    await second.close()


# --- an engine that is away


@pytest.fixture
def mortal(request: pytest.FixtureRequest, tmp_path: Path, runner: str) -> Iterator[Containers]:
    with Engine(options=getattr(request, "param", ())) as engine:
        engine.client.images.pull(runner)
        kind = Containers(tmp_path / "mortal", engine, "", runner)
        yield kind
        kind.close()


async def test_where_there_is_no_engine_that_is_told(lab: Lab, tmp_path: Path) -> None:
    executor = DockerExecutor(tmp_path, url=f"unix://{tmp_path}/none.sock")
    with pytest.raises(ExecutorError, match="can't be reached"):
        await executor.start(lab.launch(MAIN), Where(None, Containers.PYTHON, "any"))
    with pytest.raises(ExecutorError, match="can't be reached"):
        await anext(executor.observe())
    with pytest.raises(ExecutorError, match="can't be reached"):
        await executor.stop(new_id())
    await executor.forget(new_id())
    await executor.close()


@pytest.mark.slow
@pytest.mark.parametrize("mortal", [["--live-restore"]], indirect=True)
async def test_workers_go_on_while_an_engine_with_live_restore_is_away(lab: Lab, mortal: Containers) -> None:
    executor = mortal.executor()
    worker = await begin(lab, executor, mortal, WAIT)
    observing = asyncio.create_task(drained(executor))
    await asyncio.sleep(0.5)
    mortal.engine.kill()
    with pytest.raises(ExecutorError):
        await asyncio.wait_for(observing, 10)
    with pytest.raises(ExecutorError):
        await executor.stop(worker.id)
    assert await worker.run() == 42
    mortal.engine.start()
    async with watching(executor) as watcher:
        assert watcher.said == [Running(worker.id), Synced()]
        await executor.stop(worker.id)
        assert (await watcher.exit(worker.id)).reason_code is None
    await executor.close()


@pytest.mark.slow
async def test_a_worker_that_ended_in_a_job_since_its_engine_did_is_told_lost_when_that_is_back(
    lab: Lab, mortal: Containers
) -> None:
    executor = mortal.executor()
    worker = await begin(lab, executor, mortal, WAIT)
    await worker.begin(wait=60)
    mortal.engine.kill()
    mortal.engine.start()
    async with watching(executor) as watcher:
        exited = await watcher.exit(worker.id)
        assert exited.reason_code is ReasonCode.WORKER_LOST
        again = await begin(lab, executor, mortal, MAIN)
        assert await again.run() == 42
    await executor.close()


async def drained(executor: DockerExecutor) -> None:
    async for _ in executor.observe():
        pass


# --- reasons


def test_an_engines_exit_codes_are_told_apart_from_signals() -> None:
    assert [of_container(code) for code in (0, 1, 137, 139, 143, 255)] == [0, 1, -9, -11, 143, 255]


# --- where sockets are


def test_the_path_of_a_door_is_short_enough(tmp_path: Path) -> None:
    for length in range(1, 120, 7):
        found = addresses.door(tmp_path / ("x" * length), "127.0.0.1:4222")
        assert len(os.fsencode(f"{found}.new")) <= addresses.LONGEST
        if found.parents[2] == Path(tempfile.gettempdir()):
            found.parents[1].rmdir()
