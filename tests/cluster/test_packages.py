"""Layers of packages that Jobs make: what they may, how they fail, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.world import in_pods, packages
from clusters import Cluster, ClusterImages, fresh_namespace, until
from indexes import PrivateIndex
from kubernetes import client

from neartime import RuntimeService
from neartime.contract.backends import Placement
from neartime.errors import NeartimeError
from neartime.oci import Credentials, Registry
from neartime_server.builder.images.layers import Layer, Layers
from neartime_server.builder.images.recipe import Base
from neartime_server.builder.images.registry import RegistryMaker
from neartime_server.builder.images.remote import Remote
from neartime_server.builder.uv import Target
from neartime_server.errors import BuildFailed
from neartime_server.executors import manifests
from neartime_server.executors.cluster import Cluster as Api
from neartime_server.executors.jobs import Jobs
from neartime_server.executors.manifests import BUILDER, Bounds
from neartime_server.testing import Runtime

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

TOOL = "import lab_tool\n\ndef main(backend, user_messenger):\n    return lab_tool.TOOL\n"


def jobs_of(cluster: Cluster, namespace: str) -> list[str]:
    found = client.BatchV1Api(cluster.api).list_namespaced_job(namespace).items
    return [job.metadata.name for job in found if not job.metadata.deletion_timestamp]


def pods_of(cluster: Cluster, namespace: str) -> list[Any]:
    return list(cluster.core.list_namespaced_pod(namespace, label_selector=BUILDER).items)


# --- an upload


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with fresh_namespace(cluster, "packages") as name:
        yield name


@pytest.fixture(scope="module")
def index(cluster: Cluster) -> Iterator[PrivateIndex]:
    with packages(cluster) as index:
        yield index


@pytest.fixture(scope="module")
def runtime(cluster: Cluster, namespace: str, cluster_images: ClusterImages, index: PrivateIndex) -> Iterator[Runtime]:
    with in_pods(cluster, namespace, cluster_images, index) as runtime:
        yield runtime


@pytest.fixture
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        yield service


class Watched:
    """All that the cluster says of Jobs and their pods meanwhile. A context manager."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace, self._ended = cluster, namespace, threading.Event()
        self.said: set[str] = set()
        self.pods: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for pod in pods_of(self._cluster, self._namespace):
                self.pods[pod.metadata.name] = pod
                self.said.add(str(pod))
            self.said |= set(map(str, client.BatchV1Api(self._cluster.api).list_namespaced_job(self._namespace).items))
            self.said |= set(map(str, self._cluster.core.list_namespaced_event(self._namespace).items))
            self.said |= set(map(str, self._cluster.core.list_namespaced_secret(self._namespace).items))

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def test_an_upload_has_its_packages_fetched_by_a_job_that_keeps_to_itself_what_is_secret(
    service: RuntimeService, runtime: Runtime, index: PrivateIndex, cluster: Cluster, namespace: str
) -> None:
    said: list[str] = []
    begun = time.monotonic()
    with Watched(cluster, namespace) as watched:
        service.upload_program(TOOL, name="tool", requirements=["lab-tool"], log=said.append)
    print(f"uploaded in {time.monotonic() - begun:.1f} s")
    assert " + lab-tool==1.0" in said, "what uv says is in the upload's log"
    [pod] = watched.pods.values()
    assert pod.spec.automount_service_account_token is False
    assert pod.spec.containers[0].image.startswith(f"{cluster.registry}/runtime/environments@sha256:")
    assert jobs_of(cluster, namespace) == []
    assert service.run("tool", {}, {"backend": "aer"}).result(timeout=120) == 41
    [layer] = (runtime.home / "layers").glob("packages-*.tar.gz")
    places: dict[str, bytes] = {
        "the cluster": "".join(watched.said).encode(),
        "the upload's log": "\n".join(said).encode(),
        "the server's log": runtime.server_log.encode(),
        "the version": str(service.program("tool")).encode(),
        "the layer": gzip.decompress(layer.read_bytes()),
    }
    assert [where for where, text in places.items() if any(word in text for word in index.secrets)] == []


def test_what_an_index_does_not_give_is_the_uploads_error_and_its_password_is_not_in_it(
    service: RuntimeService, index: PrivateIndex, cluster: Cluster, namespace: str
) -> None:
    with pytest.raises(NeartimeError) as failed:
        service.upload_program(TOOL, name="broken", requirements=["lab-broken"])
    assert "can't be" in str(failed.value)
    assert "lab-broken" in str(failed.value).replace("_", "-")
    assert index.password not in str(failed.value)
    assert jobs_of(cluster, namespace) == []


def test_a_source_distribution_is_not_built(service: RuntimeService) -> None:
    with pytest.raises(NeartimeError) as failed:
        service.upload_program(TOOL, name="source", requirements=["lab-source"])
    assert "its code ran" not in str(failed.value)


# --- a Job alone


class Lab:
    """Has layers of small locks made in a namespace."""

    def __init__(self, cluster: Cluster, namespace: str, images: ClusterImages, folder: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        self._images, self._folder = images, folder
        self.said: list[str] = []

    async def make(
        self, lock: str, *, bounds: Bounds | None = None, pending: float = 60.0, placement: Placement | None = None
    ) -> Layer:
        insecure = [] if self.cluster.registry_url.startswith("https") else [self.cluster.registry]
        registry = Registry(Credentials.read(None), insecure=insecure)
        maker = RegistryMaker(registry, f"{self.cluster.registry}/runtime")
        api = Api(self.namespace, self.cluster.kubeconfig)
        jobs = Jobs(api, "cafe", placement or Placement(), bounds=bounds or Bounds(), pending=pending)
        remote = Remote(jobs, maker, Layers(self._folder / "layers"))
        try:
            pinned, config = await maker.base(self._images.base)
            base = Base.of(pinned, config, complete=False)
            target = Target(base.minor, f"{platform.machine()}-manylinux_2_28")
            return await remote.packages(base, lock, "lock", target, self.said.append)
        finally:
            await remote.close()
            await maker.close()

    async def fails(self, lock: str, **options: Any) -> BuildFailed:
        """Why it can't be made; nothing of it is left."""
        with pytest.raises(BuildFailed) as failed:
            await self.make(lock, **options)
        assert jobs_of(self.cluster, self.namespace) == []
        assert [path.name for path in (self._folder / "layers").iterdir() if "packages" in path.name] == []
        return failed.value


@pytest.fixture
def lab(cluster: Cluster, namespace: str, cluster_images: ClusterImages, tmp_path: Path) -> Lab:
    return Lab(cluster, namespace, cluster_images, tmp_path)


@pytest.fixture
def lock(index: PrivateIndex, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of one small package, which the index gives."""
    monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
    wheel = index.folder / "lab_tool-1.0-py3-none-any.whl"
    return f"lab-tool==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


@pytest.fixture
def silent(cluster: Cluster, lock: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index that takes connections, and says nothing."""
    with socket.create_server((cluster.machine, 0)) as server:
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://{cluster.machine}:{server.getsockname()[1]}/simple")
        yield


async def test_a_layer_is_the_same_each_time_it_is_made(lab: Lab, lock: str) -> None:
    begun = time.monotonic()
    first = await lab.make(lock)
    print(f"a layer of one small package: {time.monotonic() - begun:.1f} s")
    first.file.unlink()
    assert await lab.make(lock) == first


async def test_a_package_whose_content_is_not_the_locks_is_refused(lab: Lab, lock: str) -> None:
    failed = await lab.fails(lock[:-3] + "00\n" if not lock.endswith("00\n") else lock[:-3] + "11\n")
    assert str(failed) == "the program's packages can't be had"
    assert "Hash mismatch" in failed.log


async def test_a_job_that_takes_too_much_memory_says_so(lab: Lab, lock: str) -> None:
    failed = await lab.fails(lock, bounds=Bounds(memory="24Mi"))
    assert str(failed) == "fetching the program's packages took more than 24Mi of memory"
    assert "NEARTIME_PACKAGES_MEMORY" in str(failed.solution)


@pytest.mark.usefixtures("silent")
async def test_a_job_that_takes_too_long_says_so(lab: Lab, lock: str) -> None:
    failed = await lab.fails(lock, bounds=Bounds(seconds=8.0))
    assert str(failed) == "the program's packages can't be fetched: it took longer than 8 s"


async def test_a_job_that_no_node_has_a_place_for_says_so_in_the_clusters_words(lab: Lab, lock: str) -> None:
    failed = await lab.fails(lock, pending=3.0, placement=Placement(node_selector={"lab": "none"}))
    assert "did not run within 3 s: the cluster has no place for it" in str(failed)
    assert "didn't match Pod's node affinity/selector" in str(failed)


async def test_a_quota_that_is_used_up_is_told_in_its_own_words(
    lab: Lab, lock: str, cluster: Cluster, namespace: str
) -> None:
    core = cluster.core
    core.create_namespaced_resource_quota(namespace, {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}})
    try:
        await asyncio.to_thread(until, lambda: core.read_namespaced_resource_quota("small", namespace).status.used)
        failed = await lab.fails(lock, pending=8.0)
        assert "exceeded quota: small" in str(failed)
    finally:
        core.delete_namespaced_resource_quota("small", namespace)


@pytest.mark.usefixtures("silent")
async def test_who_gives_up_leaves_no_job(lab: Lab, lock: str) -> None:
    making = asyncio.create_task(lab.make(lock))
    await asyncio.to_thread(until, lambda: [pod for pod in pods_of(lab.cluster, lab.namespace) if running(pod)])
    making.cancel()
    await asyncio.wait({making})
    assert making.cancelled()
    assert jobs_of(lab.cluster, lab.namespace) == []


def running(pod: Any) -> bool:
    return bool(pod.status.phase == "Running" and not pod.metadata.deletion_timestamp)


# --- a server that is gone


@pytest.mark.usefixtures("silent")
async def test_a_server_that_is_killed_leaves_a_job_for_less_than_a_minute_and_nothing_else_goes(
    lab: Lab, lock: str, cluster: Cluster, namespace: str, cluster_images: ClusterImages, tmp_path: Path
) -> None:
    cluster.run(namespace, cluster_images.base, ["sleep", "600"], "somebody-elses")
    script = tmp_path / "server.py"
    script.write_text(
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from clusters import given_cluster, ClusterImages\n"
        "from cluster.test_packages import Lab\n"
        "namespace, base, folder, lock = sys.argv[1:]\n"
        "with given_cluster() as cluster:\n"
        "    lab = Lab(cluster, namespace, ClusterImages(base, ''), Path(folder))\n"
        "    asyncio.run(lab.make(lock))\n"
    )
    command = [sys.executable, str(script), namespace, cluster_images.base, str(tmp_path / "its"), lock]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    server = await asyncio.create_subprocess_exec(*command, env=environment)
    try:
        await asyncio.to_thread(until, lambda: [pod for pod in pods_of(cluster, namespace) if running(pod)])
        await asyncio.sleep(2)  # it has its order
    finally:
        server.kill()
        await server.wait()
    begun = time.monotonic()
    await asyncio.to_thread(until, lambda: not jobs_of(cluster, namespace), 60)
    print(f"its Job was gone {time.monotonic() - begun:.0f} s later")
    assert cluster.pod(namespace, "somebody-elses").status.phase in ("Pending", "Running")
    cluster.core.delete_namespaced_pod("somebody-elses", namespace, grace_period_seconds=0)


async def test_a_job_of_a_server_that_is_gone_which_never_ran_is_removed_by_the_next_one(
    lab: Lab, lock: str, cluster: Cluster, namespace: str
) -> None:
    names = {"old": "cafe", "others": "another"}
    for name, installation in names.items():
        made = manifests.job(
            name, "x", ["x"],
            installation=installation, bounds=Bounds(), placement=Placement(node_selector={"lab": "none"}),
        )  # fmt: skip
        client.BatchV1Api(cluster.api).create_namespaced_job(namespace, made)
    try:
        await asyncio.sleep(4)
        await lab.make(lock)
        assert set(jobs_of(cluster, namespace)) >= set(names), "a server may still wait for it"
        with pytest.raises(BuildFailed):
            await lab.make(lock, pending=-58.0)
        assert not {"old"} & set(jobs_of(cluster, namespace))
        assert "others" in jobs_of(cluster, namespace)
    finally:
        client.BatchV1Api(cluster.api).delete_namespaced_job("others", namespace, propagation_policy="Background")
