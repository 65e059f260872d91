"""What holds of the kubernetes executor alone: what a pod may do, and how a cluster's ways to fail are told."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from clusters import STATE
from clusters import until as until_now
from executors.harness import Lab, Pods, Where, until, watching
from executors.test_docker import GREEDY, MAIN, WAIT
from kubernetes import client

from neartime.contract.backends import Placement
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Launch
from neartime.oci import Registry
from neartime_server.builder.images.layers import Layers
from neartime_server.builder.images.recipe import Base
from neartime_server.builder.images.registry import RegistryMaker
from neartime_server.errors import ExecutorError
from neartime_server.executors import Exited, Running, Synced, manifests
from neartime_server.executors.cluster import Cluster
from neartime_server.executors.kubernetes import END_MARGIN

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def asking(pods: Pods, launch: Launch, **resources: Any) -> tuple[Launch, Any]:
    carried, place = pods.carry(launch)
    manifest = carried.manifest | {"resources": carried.manifest["resources"] | resources}
    return carried.model_copy(update={"manifest": manifest}), place


def left(pods: Pods) -> list[str]:
    """Names of all pods of the namespace."""
    return [pod.metadata.name for pod in pods.cluster.core.list_namespaced_pod(pods.namespace).items]


async def test_the_api_server_admits_a_worker_at_the_level_restricted_and_nothing_of_its_launch_is_in_it(
    lab: Lab, pods: Pods
) -> None:
    executor = pods.executor()
    launch, place = pods.carry(lab.launch(MAIN))
    worker = await lab.begin(executor, launch, place)
    assert await worker.run() == 42
    found = str(pods.cluster.pod(pods.namespace, manifests.pod_name(worker.id)))
    assert launch.control_key not in found
    assert launch.nats.credential.split("\n")[1][:40] not in found
    assert pods.cluster.core.list_namespaced_secret(pods.namespace).items == []
    await executor.stop(worker.id)
    await executor.close()
    assert left(pods) == []


ROOM = """
import os, socket

def main(backend, user_messenger, address):
    status = dict(line.rstrip().split(":", 1) for line in open("/proc/self/status"))
    def writes(path):
        try:
            open(path, "w").close()
        except OSError:
            return False
        return True
    try:
        with socket.create_connection(tuple(address), 5) as end:
            reached = True
    except OSError:
        reached = False
    return {
        "user": os.getuid(),
        "rights": [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")],
        "writable": [path for path in ("/x", "/opt/neartime/program/x", "/tmp/x") if writes(path)],
        "token": os.path.exists("/var/run/secrets/kubernetes.io"),
        "services": [name for name in os.environ if "SERVICE" in name and not name.startswith("KUBERNETES_")],
        "credential": [name for name, value in os.environ.items() if "BEGIN" in value or "nats" in value.lower()],
        "reached": reached,
    }
"""


async def test_a_program_has_no_right_no_token_and_no_place_to_write_to(lab: Lab, pods: Pods) -> None:
    executor = pods.executor()
    worker = await lab.begin(executor, *pods.carry(lab.launch(ROOM)))
    found = await worker.run(address=["198.51.100.1", 80] if pods.cluster.own else ["127.0.0.1", 9])
    assert found == {
        "user": 65532,
        "rights": [0, 0, 0, 1],
        "writable": ["/tmp/x"],
        "token": False,
        "services": [],
        "credential": [],
        "reached": False,
    }
    await executor.stop(worker.id)
    await executor.close()


SEES = """
import os

def main(backend, user_messenger):
    return [os.environ.get("LAB"), open("/calibration/t1").read(), os.path.isdir("/tmp")]
"""


async def test_a_placements_patch_gives_programs_a_variable_and_a_folder(lab: Lab, pods: Pods) -> None:
    pods.cluster.core.create_namespaced_config_map(
        pods.namespace, {"metadata": {"name": "calibration"}, "data": {"t1": "80"}}
    )
    container = {
        "name": "worker",
        "env": [{"name": "LAB", "value": "cold"}],
        "volumeMounts": [{"name": "calibration", "mountPath": "/calibration", "readOnly": True}],
    }
    spec = {"containers": [container], "volumes": [{"name": "calibration", "configMap": {"name": "calibration"}}]}
    executor = pods.executor(placements={"none": Placement(promised=0.05, patch={"spec": spec})})
    worker = await lab.begin(executor, *pods.carry(lab.launch(SEES)))
    assert await worker.run() == ["cold", "80", True]
    await executor.stop(worker.id)
    await executor.close()


# --- what a cluster can't do


async def refused(lab: Lab, pods: Pods, launch: Launch, place: Any, **options: Any) -> str:
    """Why a worker can't be started; nothing of it is left."""
    executor = pods.executor(**options)
    with pytest.raises(ExecutorError) as failed:
        await executor.start(launch, place)
    await until(lambda: left(pods) == [], 30)
    await executor.close()
    return str(failed.value)


async def test_an_image_that_is_not_there_is_told_at_once(lab: Lab, pods: Pods) -> None:
    launch, _ = pods.carry(lab.launch(MAIN))
    place = Where(None, pods.PYTHON, f"{pods.cluster.registry}/no/such@sha256:{'ab' * 32}")
    said = await refused(lab, pods, launch, place)
    assert said.startswith("its image can't be pulled: ")
    assert "not found" in said


async def test_what_no_node_has_is_told_by_its_name_when_the_wait_is_over(lab: Lab, pods: Pods) -> None:
    launch, place = pods.carry(lab.launch(MAIN))
    placements = {"none": Placement(resources={"lab.example/qpu": "1"})}
    said = await refused(lab, pods, launch, place, placements=placements, pending=8.0)
    assert said.startswith("its pod did not run within 8 s: the cluster has no place for it: ")
    assert "Insufficient lab.example/qpu" in said
    placements = {"none": Placement(node_selector={"lab": "none"})}
    said = await refused(lab, pods, launch, place, placements=placements, pending=8.0)
    assert "didn't match Pod's node affinity/selector" in said


@pytest.fixture
async def slow(pods: Pods, tmp_path: Path) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Makes of an image one that the node has not seen, and pulls for some eight seconds."""
    if not pods.cluster.own:
        pytest.skip("this machine has no say in where the nodes pull from")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "noise").write_bytes(secrets.token_bytes(8 << 20))
    layer = Layers(tmp_path / "layers").pack("tools", "slow", [(PurePosixPath("/opt/slow"), tree)])
    maker = RegistryMaker(Registry(insecure=[pods.cluster.registry]), f"{pods.cluster.registry}/neartime")
    with Slow(pods.cluster.machine, pods.cluster.registry_url, layer.digest) as registry:
        trusted = STATE / "certs.d" / registry.host
        trusted.mkdir(parents=True)
        (trusted / "hosts.toml").write_text(f'[host."http://{registry.host}"]\n')

        async def make(image: str) -> str:
            made = await maker.extend(Base(image, str(pods.PYTHON), "3.11"), layer, lambda line: None)
            return made.replace(pods.cluster.registry, registry.host)

        try:
            yield make
        finally:
            shutil.rmtree(trusted)
            await maker.close()


class Slow:
    """In front of a registry: one blob comes drop by drop. A context manager."""

    def __init__(self, address: str, registry: str, blob: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                head = {"Accept": self.headers.get("Accept", "*/*")}
                with httpx.stream(self.command, registry + self.path, headers=head, trust_env=False) as answer:
                    self.send_response(answer.status_code)
                    for name in ("Content-Type", "Content-Length", "Docker-Content-Digest"):
                        if name in answer.headers:
                            self.send_header(name, answer.headers[name])
                    self.end_headers()
                    for piece in answer.iter_raw(128 << 10) if self.command == "GET" else ():
                        self.wfile.write(piece)
                        if blob in self.path:
                            time.sleep(0.125)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((address, 0), Handler)
        self._server.daemon_threads = True
        self.host = f"{address}:{self._server.server_port}"

    def __enter__(self) -> Slow:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


async def test_a_pull_that_takes_longer_than_a_pod_may_wait_is_no_reason_to_give_up(
    lab: Lab, pods: Pods, slow: Callable[[str], Awaitable[str]]
) -> None:
    executor = pods.executor(pending=2.0)
    launch, place = pods.carry(lab.launch(MAIN))
    assert place.image is not None
    begun = time.monotonic()
    worker = await lab.begin(executor, launch, Where(None, pods.PYTHON, await slow(place.image)))
    assert time.monotonic() - begun > 6, "it was there already"
    assert await worker.run() == 42
    await executor.stop(worker.id)
    await executor.close()


def free_cores(pods: Pods) -> float:
    """Of all nodes, less what pods request that run there."""

    def cores(text: str) -> float:
        return float(text.removesuffix("m")) / (1000 if text.endswith("m") else 1)

    there = sum(cores(node.status.allocatable["cpu"]) for node in pods.cluster.core.list_node().items)
    for pod in pods.cluster.core.list_pod_for_all_namespaces().items:
        if pod.status.phase in ("Pending", "Running"):
            requests = [(one.resources.requests or {}).get("cpu", "0") for one in pod.spec.containers]
            there -= sum(map(cores, requests))
    return there


async def test_a_pod_that_waits_for_room_runs_when_there_is_some(lab: Lab, pods: Pods) -> None:
    cores = free_cores(pods)
    executor = pods.executor(placements={"none": Placement(promised=1.0)}, pending=4.0)
    first = await lab.begin(executor, *asking(pods, lab.launch(MAIN), cpu=cores - 0.5))
    waits = asyncio.create_task(lab.begin(executor, *asking(pods, lab.launch(MAIN), cpu=1)))
    await asyncio.sleep(6)
    assert not waits.done()
    await executor.stop(first.id)
    second = await waits
    assert await second.run() == 42
    await executor.stop(second.id)
    await executor.close()


async def test_a_quota_that_is_used_up_is_told_in_its_own_words(lab: Lab, pods: Pods) -> None:
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    pods.cluster.core.create_namespaced_resource_quota(pods.namespace, quota)
    read = pods.cluster.core.read_namespaced_resource_quota
    await asyncio.to_thread(until_now, lambda: read("small", pods.namespace).status.used)
    launch, place = pods.carry(lab.launch(MAIN))
    said = await refused(lab, pods, launch, place)
    assert said.startswith("the cluster refuses its pod: ")
    assert "exceeded quota: small" in said


async def test_a_program_that_uses_too_much_memory_is_told_so_and_the_next_job_runs(lab: Lab, pods: Pods) -> None:
    executor = pods.executor()
    worker = await lab.begin(executor, *pods.carry(lab.launch(GREEDY)))
    _, status = await worker.end(await worker.begin(megabytes=2000))
    assert (status.status, status.reason_code) == (JobStatus.FAILED, ReasonCode.OUT_OF_MEMORY)
    assert await worker.run(megabytes=1) == 1 << 20
    await executor.stop(worker.id)
    await executor.close()


async def test_kubernetes_ends_a_worker_that_lives_too_long(lab: Lab, pods: Pods) -> None:
    executor = pods.executor(longest=12.0)
    async with watching(executor) as watcher:
        worker = await lab.begin(executor, *pods.carry(lab.launch(WAIT)))
        exited = await watcher.exit(worker.id)
        assert exited.reason_code is ReasonCode.WORKER_LOST
        assert "for 12 s, which is as long as a worker may" in str(exited.reason)
    await executor.close()


async def test_a_pod_that_somebody_deletes_is_lost_and_one_that_is_evicted_says_so(lab: Lab, pods: Pods) -> None:
    executor = pods.executor()
    async with watching(executor) as watcher:
        deleted = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
        evicted = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
        pods.cluster.core.delete_namespaced_pod(manifests.pod_name(deleted.id), pods.namespace)
        name = manifests.pod_name(evicted.id)
        eviction = {"metadata": {"name": name, "namespace": pods.namespace}}
        pods.cluster.core.create_namespaced_pod_eviction(name, pods.namespace, eviction)
        exited = await watcher.exit(deleted.id)
        assert (exited.reason_code, exited.reason) == (ReasonCode.WORKER_LOST, "its pod was deleted from outside")
        exited = await watcher.exit(evicted.id)
        assert exited.reason_code is ReasonCode.WORKER_LOST
        assert "its node is being drained" in str(exited.reason)
    await executor.close()


# --- the API server


async def test_workers_go_on_while_the_api_server_can_not_be_reached(lab: Lab, pods: Pods, tmp_path: Any) -> None:
    executor = pods.executor()
    worker = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
    nowhere = tmp_path / "config"
    text = pods.cluster.kubeconfig.read_text()
    server = pods.cluster.api.configuration.host
    nowhere.write_text(text.replace(server, "https://127.0.0.1:9"))
    away = pods.executor()
    away._cluster = Cluster(pods.namespace, nowhere)
    with pytest.raises(ExecutorError, match="can't be reached"):
        await away.start(*pods.carry(lab.launch(MAIN)))
    await away.close()
    assert await worker.run() == 42
    async with watching(executor) as watcher:
        assert watcher.said == [Running(worker.id), Synced()]
    await executor.stop(worker.id)
    await executor.close()


async def test_an_executor_neither_sees_nor_touches_the_pods_of_another_installation(lab: Lab, pods: Pods) -> None:
    executor = pods.executor()
    worker = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
    pods.installation = "another"
    other = pods.executor()
    async with watching(other) as watcher:
        await other.stop(worker.id)
        assert await watcher.exit(worker.id)
        await other.forget(worker.id)
        assert watcher.said == [Synced(), Exited(worker.id, None, None, "it was not running")]
    await other.close()
    assert await worker.run() == 42
    await executor.stop(worker.id)
    await executor.close()


async def test_workers_are_kept_to_nats_by_a_policy_where_the_operator_says_where_that_is(lab: Lab, pods: Pods) -> None:
    executor = pods.executor(nats=f"{pods.cluster.machine}:4222")
    worker = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
    name = f"neartime-workers-{pods.installation}"
    found = client.NetworkingV1Api(pods.cluster.api).read_namespaced_network_policy(name, pods.namespace)
    assert found.spec.policy_types == ["Ingress", "Egress"]
    assert found.spec.egress[0].to[0].ip_block.cidr == f"{pods.cluster.machine}/32"
    await executor.stop(worker.id)
    await executor.close()
    again = pods.executor(nats=f"{pods.cluster.machine}:4223")
    worker = await lab.begin(again, *pods.carry(lab.launch(MAIN)))
    found = client.NetworkingV1Api(pods.cluster.api).read_namespaced_network_policy(name, pods.namespace)
    assert found.spec.egress[0].ports[0].port == 4223
    await again.stop(worker.id)
    await again.close()


async def test_an_image_is_checked_by_one_pod_and_nothing_of_it_is_left(lab: Lab, pods: Pods) -> None:
    executor = pods.executor()
    await asyncio.gather(*(executor.prepare(pods.environment) for _ in range(3)))
    assert left(pods) == []
    with pytest.raises(ExecutorError, match="does not carry a runner that works"):
        await executor.prepare(pods.broken)
    assert left(pods) == []
    await executor.close()


async def test_an_api_server_that_is_away_and_back_costs_no_worker_and_no_start(
    lab: Lab, pods: Pods, tmp_path: Path
) -> None:
    """Behind a relay that goes and comes."""
    server = urlsplit(pods.cluster.api.configuration.host)
    relay = Relay(server.hostname or "", server.port or 443)
    settings = yaml.safe_load(pods.cluster.kubeconfig.read_text())
    for one in settings["clusters"]:
        one["cluster"] |= {"server": relay.url, "tls-server-name": server.hostname}
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(yaml.safe_dump(settings))
    executor = pods.executor(kubeconfig=kubeconfig)
    async with watching(executor) as watcher:
        worker = await lab.begin(executor, *pods.carry(lab.launch(MAIN)))
        relay.cut()
        launch, place = pods.carry(lab.launch(MAIN))
        starting = asyncio.create_task(lab.begin(executor, launch, place))
        assert await worker.run() == 42
        await asyncio.sleep(3)
        relay.mend()
        second = await starting
        assert await second.run() == 42
        assert watcher.running == {worker.id, second.id}
        pods.cluster.core.delete_namespaced_pod(manifests.pod_name(worker.id), pods.namespace)
        assert (await watcher.exit(worker.id)).reason_code is ReasonCode.WORKER_LOST
        relay.cut()
        with pytest.raises(ExecutorError, match="can't be reached"):
            await executor.stop(second.id)
        relay.mend()
    await executor.stop(second.id)
    await executor.close()
    relay.close()


class Relay:
    """A port of loopback that leads to another server, or for a time nowhere."""

    def __init__(self, host: str, port: int) -> None:
        self._to, self._ends = (host, port), set[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._port = int(self._server.getsockname()[1])
        self.url = f"https://127.0.0.1:{self._port}"
        self._away = False
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        self._away = True
        for end in list(self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._away = False

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                theirs = self._server.accept()[0]
                if self._away:
                    theirs.close()
                    continue
                ours = socket.create_connection(self._to)
                self._ends |= {theirs, ours}
                for ends in ((theirs, ours), (ours, theirs)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            self._ends.discard(end)
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


# --- pods that nobody looks after


async def test_a_pod_that_a_dead_server_has_made_and_not_started_is_removed_without_a_word(
    lab: Lab, pods: Pods
) -> None:
    launch, place = pods.carry(lab.launch(MAIN))
    nowhere = Placement(node_selector={"lab": "none"})
    made = manifests.pod(launch, place, installation=pods.installation, longest=60, placement=nowhere)
    strange = manifests.pod(
        launch.model_copy(update={"worker_id": new_id()}), place, installation="another", longest=60, placement=nowhere
    )
    for one in (made, strange):
        pods.cluster.core.create_namespaced_pod(pods.namespace, one)
    executor = pods.executor()
    async with watching(executor) as watcher:
        await until(lambda: left(pods) == [strange["metadata"]["name"]], 40)
        assert watcher.said == [Synced()]
    await executor.close()


@pytest.fixture
def lost_node(pods: Pods) -> Iterator[str]:
    """The name of a node that there is no machine for."""
    if not pods.cluster.own:
        pytest.skip("nodes of a cluster are made up in the tests' own alone")
    name, nothing = f"lost-{pods.installation}", {"cpu": "0", "memory": "0", "pods": "0"}
    status = {"capacity": nothing, "allocatable": nothing}
    pods.cluster.core.create_node({"metadata": {"name": name}, "spec": {"unschedulable": True}, "status": status})
    yield name
    pods.cluster.core.delete_node(name)


async def test_a_pod_whose_node_does_not_listen_any_more_is_lost_when_its_grace_is_over(
    lab: Lab, pods: Pods, lost_node: str
) -> None:
    launch, place = pods.carry(lab.launch(MAIN))
    made = manifests.pod(launch, place, installation=pods.installation, longest=600, placement=Placement())
    made["spec"] |= {"nodeName": lost_node, "terminationGracePeriodSeconds": 1}
    name, core = made["metadata"]["name"], pods.cluster.core
    core.create_namespaced_pod(pods.namespace, made)
    runs = {"name": "worker", "image": "any", "imageID": "", "ready": True, "restartCount": 0, "state": {"running": {}}}
    core.patch_namespaced_pod_status(
        name, pods.namespace, {"status": {"phase": "Running", "containerStatuses": [runs]}}
    )
    executor = pods.executor()
    async with watching(executor) as watcher:
        assert watcher.said == [Running(launch.worker_id), Synced()]
        begun = time.monotonic()
        core.delete_namespaced_pod(name, pods.namespace)
        await until(lambda: watcher.exits(launch.worker_id), 90)
        assert time.monotonic() - begun > END_MARGIN
        (exited,) = watcher.exits(launch.worker_id)
        assert exited == Exited(launch.worker_id, None, ReasonCode.WORKER_LOST, "its pod was deleted from outside")
        await until(lambda: left(pods) == [], 10)
    await executor.close()


@pytest.fixture
def no_runtime(pods: Pods) -> Iterator[str]:
    """The name of a RuntimeClass that no node can carry out."""
    name, api = f"none-{pods.installation}", client.NodeV1Api(pods.cluster.api)
    api.create_runtime_class({"metadata": {"name": name}, "handler": "nosuch"})
    yield name
    api.delete_runtime_class(name)


async def test_a_pod_that_can_not_be_set_up_is_told_in_the_words_of_its_event(
    lab: Lab, pods: Pods, no_runtime: str
) -> None:
    launch, place = pods.carry(lab.launch(MAIN))
    placements = {"none": Placement(runtime_class=no_runtime)}
    said = await refused(lab, pods, launch, place, placements=placements, pending=8.0)
    assert said.startswith("its pod did not run within 8 s: Failed to create pod sandbox")
    assert "nosuch" in said


async def test_a_pod_that_got_its_room_and_can_not_be_set_up_waits_no_longer(
    lab: Lab, pods: Pods, no_runtime: str
) -> None:
    cores = free_cores(pods)
    executor = pods.executor(placements={"none": Placement()})
    first = await lab.begin(executor, *asking(pods, lab.launch(MAIN), cpu=cores - 0.5))
    odd = pods.executor(placements={"none": Placement(runtime_class=no_runtime)}, pending=4.0)
    starting = asyncio.create_task(odd.start(*asking(pods, lab.launch(MAIN), cpu=1)))
    await asyncio.sleep(6)
    assert not starting.done()  # it waits for room
    await executor.stop(first.id)
    with pytest.raises(ExecutorError, match="Failed to create pod sandbox"):
        await asyncio.wait_for(starting, 30)
    await odd.close()
    await executor.close()
