"""The tests' engine is a real one: containers have the limits that they are given, and reach what they may."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from docker.errors import APIError, ContainerError
from docker.models.containers import Container
from docker.models.networks import Network
from engine import Engine
from registries import Registry

pytestmark = pytest.mark.engine

LOCKED = {
    "network_mode": "none",
    "read_only": True,
    "tmpfs": {"/tmp": "size=64m"},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
}
"""What a worker's container is to have."""


def output(engine: Engine, image: str, program: str, **settings: Any) -> str:
    return str(engine.client.containers.run(image, ["python", "-c", program], remove=True, **settings).decode())


@pytest.fixture
def network(engine: Engine) -> Iterator[Callable[..., Network]]:
    """Makes a network, which is removed after the test."""
    made: list[Network] = []

    def make(name: str, **settings: Any) -> Network:
        made.append(engine.client.networks.create(name, driver="bridge", **settings))
        made[-1].reload()
        return made[-1]

    yield make
    for network in made:
        network.remove()


Detached = Callable[..., Container]


@pytest.fixture
def detached(engine: Engine, network: object) -> Iterator[Detached]:
    """Starts a container, which is removed after the test, before the networks are."""
    made: list[Container] = []

    def start(image: str, program: str, **settings: Any) -> Container:
        made.append(engine.client.containers.run(image, ["python", "-c", program], detach=True, **settings))
        return made[-1]

    yield start
    for container in made:
        container.remove(force=True)


def test_the_runner_image_has_qiskit_and_the_runner_for_a_user_without_rights(engine: Engine, runner: str) -> None:
    program = """
import json, os, sys
import qiskit, qiskit_aer, neartime_runner.worker
circuit = qiskit.QuantumCircuit(2)
circuit.h(0); circuit.cx(0, 1); circuit.measure_all()
counts = qiskit_aer.AerSimulator(seed_simulator=1).run(circuit, shots=100).result().get_counts()
print(json.dumps({"user": os.getuid(), "counts": counts, "python": sys.version_info[:2]}))
"""
    seen = json.loads(output(engine, runner, program, **LOCKED))
    assert sum(seen.pop("counts").values()) == 100
    assert seen == {"user": 65532, "python": [3, 11]}


def test_no_import_in_a_container_compiles_anything(engine: Engine, runner: str) -> None:
    """Byte code that is there but out of date costs as much as none."""
    program = "import asyncio, decimal, qiskit, qiskit_aer, neartime_runner.worker"
    told = engine.client.containers.run(runner, ["python", "-v", "-c", program], stderr=True, remove=True, **LOCKED)
    lines = told.decode(errors="replace").splitlines()
    source = [line for line in lines if line.startswith("# code object from /") and line.endswith(".py")]
    assert source == []
    assert any(line.startswith("# code object from '/usr/lib/python") for line in lines)


def test_a_container_has_no_rights_and_writes_to_its_temporary_folder_alone(engine: Engine, runner: str) -> None:
    program = """
import json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writes(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
kept = ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
print(json.dumps({
    "status": [int(status[name], 16) for name in kept],
    "writable": [path for path in ("/x", "/opt/neartime/x", "/tmp/x") if writes(path)],
}))
"""
    assert json.loads(output(engine, runner, program, **LOCKED)) == {"status": [0, 0, 0, 1, 2], "writable": ["/tmp/x"]}


def test_too_much_memory_is_told_from_other_ends(detached: Detached, runner: str) -> None:
    greedy = detached(runner, "held = bytearray(512 << 20)", mem_limit="64m", memswap_limit="64m", **LOCKED)
    assert greedy.wait(timeout=60)["StatusCode"] == 137
    greedy.reload()
    assert greedy.attrs["State"]["OOMKilled"] is True
    other = detached(runner, "import os; os.kill(os.getpid(), 9)", init=True, mem_limit="64m", **LOCKED)
    assert other.wait(timeout=60)["StatusCode"] == 137
    other.reload()
    assert other.attrs["State"]["OOMKilled"] is False


def test_a_program_that_forks_without_end_stops_at_its_limit(engine: Engine, runner: str) -> None:
    program = """
import os, time
made = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    print(made)
"""
    assert output(engine, runner, program, pids_limit=20, **LOCKED).strip() == "19"


def test_a_container_gets_the_share_of_a_processor_that_it_was_given(engine: Engine, runner: str) -> None:
    program = """
import time
begun, used = time.monotonic(), time.process_time()
while time.monotonic() < begun + 2:
    pass
print((time.process_time() - used) / 2)
"""
    assert float(output(engine, runner, program, nano_cpus=int(0.25e9), **LOCKED)) < 0.45


def test_a_container_is_protected_from_the_lack_of_memory_only_where_the_engine_may_do_it(
    engine: Engine, runner: str
) -> None:
    output(engine, runner, "", oom_score_adj=500, **LOCKED)
    if may_protect():
        output(engine, runner, "", oom_score_adj=-500, **LOCKED)
    else:
        with pytest.raises(APIError, match="can't get final child's PID from pipe"):
            output(engine, runner, "", oom_score_adj=-500, **LOCKED)


def may_protect() -> bool:
    """Whether this process has CAP_SYS_RESOURCE, the capability 24."""
    status = Path("/proc/self/status").read_text()
    [effective] = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(effective, 16) >> 24 & 1)


REACH = """
import socket, sys
def reaches(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
    except OSError:
        return False
    return True
print([reaches(address) for address in {addresses}])
"""


def reached(engine: Engine, image: str, network: str, *addresses: str) -> list[bool]:
    shown = output(engine, image, REACH.replace("{addresses}", repr(addresses)), network=network)
    found: list[bool] = json.loads(shown.lower())
    return found


def listening(container: Container, network: str) -> str:
    """The address of a container that serves HTTP on port 8000, once it does."""
    deadline = time.monotonic() + 30
    while True:
        container.reload()
        address = container.attrs["NetworkSettings"]["Networks"][network]["IPAddress"]
        try:
            # The machine is on each of its networks.
            socket.create_connection((address, 8000), 1).close()
        except OSError:
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.1)
        else:
            return f"{address}:8000"


def test_an_inner_network_reaches_its_gateway_alone(
    engine: Engine, runner: str, network: Callable[..., Network], detached: Detached
) -> None:
    serve = "import http.server as h; h.ThreadingHTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
    inner = network("inner", internal=True, options={"com.docker.network.bridge.enable_icc": "false"})
    network("outer")
    gateway = inner.attrs["IPAM"]["Config"][0]["Gateway"]
    neighbour = listening(detached(runner, serve, network="inner"), "inner")
    stranger = listening(detached(runner, serve, network="outer"), "outer")
    with socket.create_server((gateway, 0)) as server:
        door = f"{gateway}:{server.getsockname()[1]}"
        assert reached(engine, runner, "inner", door, neighbour, stranger) == [True, False, False]
    # Where nothing is closed, there is something to be reached.
    assert reached(engine, runner, "outer", stranger) == [True]


def test_an_engine_that_was_killed_comes_back_with_its_images(registry: Registry, base: str) -> None:
    with Engine() as engine:
        engine.client.images.pull(base)
        container = engine.client.containers.run(base, ["sleep", "600"], detach=True, init=True)
        engine.kill()
        assert engine.footprint.cgroups()  # what ran in it still does
        engine.start()
        container = engine.client.containers.get(container.id)
        assert container.status == "exited"
        assert output(engine, base, "print(1)") == "1\n"


def test_an_engine_without_space_says_so(registry: Registry, base: str) -> None:
    with Engine(disk="40m") as engine:
        name, _, tag = base.rpartition(":")
        said = list(engine.client.api.pull(name, tag, stream=True, decode=True))
    assert "no space left on device" in said[-1]["error"]


def test_what_a_container_ends_with_is_told(engine: Engine, base: str) -> None:
    with pytest.raises(ContainerError) as ended:
        output(engine, base, "import sys; print('said', file=sys.stderr); sys.exit(3)", stderr=True)
    assert ended.value.exit_status == 3
    assert "said" in str(ended.value)


def test_the_images_are_in_the_registry_and_differ_in_their_layers(registry: Registry, base: str, runner: str) -> None:
    def layers(reference: str) -> list[str]:
        name, _, tag = reference.removeprefix(f"{registry.host}/").partition(":")
        kind = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
        answer = httpx.get(f"{registry.url}/v2/{name}/manifests/{tag}", headers=kind, trust_env=False)
        return [layer["digest"] for layer in answer.raise_for_status().json()["layers"]]

    assert len(layers(base)) == 1
    assert len(layers(runner)) == 3
    assert layers(runner)[:1] == layers(base)


def test_what_an_image_says_of_its_python_is_so(engine: Engine, base: str, runner: str) -> None:
    for image in (base, runner):
        labels = engine.client.images.get(image).labels
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        said = engine.client.containers.run(image, [labels["neartime.python"], "-c", program], remove=True, **LOCKED)
        assert said.decode().strip() == labels["neartime.python-version"]
    command = [labels["neartime.python"], "-c", "import neartime.contract.version as v; print(v.CONTRACT_VERSION)"]
    spoken = engine.client.containers.run(runner, command, remove=True, **LOCKED)
    assert spoken.decode().strip() == labels["neartime.contract"]
