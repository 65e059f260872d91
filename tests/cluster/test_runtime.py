"""The main job in a cluster: uploaded, made into an image in a registry, run in a pod, watched."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster.world import in_pods
from clusters import Cluster, ClusterImages, fresh_namespace, until

from neartime import RuntimeService, Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import JobFailed
from neartime_server.testing import Runtime

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SESSIONS = 50
TEMPLATES = Path(__file__).parents[2] / "program-templates"
COUNT = """
import time

def main(backend, user_messenger, count=100, pause=0.05):
    for number in range(count):
        user_messenger.publish(number)
        time.sleep(pause)
    return count
"""
OBLIGING = """
import time

def main(backend, user_messenger):
    user_messenger.publish("begun")
    while True:
        time.sleep(0.1)
"""
STUBBORN = """
import signal, time

def main(backend, user_messenger):
    user_messenger.publish("begun")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(0.1)
        except BaseException:
            pass
"""
TOOL = "import lab_tool\n\ndef main(backend, user_messenger):\n    return lab_tool.TOOL\n"
READS = """
from pathlib import Path

def main(backend, user_messenger):
    here = Path(__file__).parent
    return [str(here), int((here / "number.txt").read_text())]
"""
RESUMES = """
import time

def main(backend, user_messenger, count=60, pause=0.1):
    begun = user_messenger.restore() or 0
    for number in range(begun, count):
        user_messenger.publish(number)
        user_messenger.checkpoint(number + 1)
        time.sleep(pause)
    return begun
"""


@pytest.fixture(scope="module")
def namespace(cluster: Cluster) -> Iterator[str]:
    with fresh_namespace(cluster, "workers") as name:
        yield name


@pytest.fixture(scope="module")
def in_cluster(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> Iterator[Runtime]:
    with in_pods(cluster, namespace, cluster_images) as runtime:
        yield runtime


@pytest.fixture
def service(in_cluster: Runtime) -> Iterator[RuntimeService]:
    with in_cluster.service() as service:
        yield service


def workers(cluster: Cluster, namespace: str) -> list[str]:
    found = cluster.core.list_namespaced_pod(namespace, label_selector="neartime.io/worker").items
    return [pod.metadata.name for pod in found if not pod.metadata.deletion_timestamp]


def test_the_vqe_template_runs_in_a_session_of_pods_and_its_energies_are_heard(
    service: RuntimeService, cluster: Cluster, namespace: str
) -> None:
    said: list[str] = []
    service.upload_program(TEMPLATES / "vqe", log=said.append)
    assert said[-1].endswith("is there")
    heard: list[Any] = []
    with Session(service, backend="aer") as session:
        job = session.run("vqe", {"maxiter": 5}, callback=lambda _, value: heard.append(value))
        assert job.result(timeout=180) is not None
        job.wait_for_final_state(10)
        again = session.run("vqe", {"maxiter": 2})
        assert again.result(timeout=60) is not None
        assert len(workers(cluster, namespace)) == 1  # the second job found the first one's
    assert len(heard) > 2
    until(lambda: workers(cluster, namespace) == [], 60)


def test_the_first_job_of_a_session_runs_in_a_pod_that_has_waited_for_it(
    cluster: Cluster, cluster_images: ClusterImages, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(READS)
    (tmp_path / "number.txt").write_text("42")
    options = {"backend": "aer"}
    with (
        fresh_namespace(cluster, "pool") as namespace,
        in_pods(cluster, namespace, cluster_images, kubernetes_spares=1) as runtime,
        runtime.service() as service,
    ):

        def waiting() -> list[str]:
            spares = cluster.core.list_namespaced_pod(namespace, label_selector="neartime.io/spare").items
            return [pod.metadata.name for pod in spares if pod.status.phase == "Running"]

        service.upload_program(tmp_path, name="reads")
        service.upload_program(TOOL, name="tool", requirements=["lab-tool"])
        (first,) = until(waiting, 90)
        with Session(service, backend="aer") as session:
            place, number = session.run("reads").result(timeout=60)
            assert (place.split("/")[1], number) == ("tmp", 42)
            assert session.run("reads").result(timeout=60) == [place, 42]
            assert workers(cluster, namespace) == [first]
        (second,) = until(waiting, 90)
        assert second != first  # whoever comes next finds nothing of the session before
        assert service.run("tool", {}, options).result(timeout=180) == 41
        assert waiting() == [second]
        until(lambda: workers(cluster, namespace) == [], 60)
        assert service.run("reads", {}, options).result(timeout=60)[1] == 42


def test_a_server_that_dies_in_the_middle_of_a_job_costs_no_message(
    service: RuntimeService, in_cluster: Runtime
) -> None:
    service.upload_program(COUNT, name="count")
    heard: list[int] = []
    half = threading.Event()

    def hear(_: str, value: int) -> None:
        heard.append(value)
        if len(heard) == 30:
            half.set()

    job = service.run("count", {}, {"backend": "aer"}, callback=hear)
    assert half.wait(120)
    in_cluster.kill_server()
    in_cluster.start_server()
    assert job.result(timeout=120) == 100
    job.wait_for_final_state(10)
    assert heard == list(range(100))


def test_a_nats_server_that_dies_in_the_middle_of_a_job_costs_no_message(
    service: RuntimeService, in_cluster: Runtime
) -> None:
    service.upload_program(COUNT, name="count")
    heard: list[int] = []
    half = threading.Event()

    def hear(_: str, value: int) -> None:
        heard.append(value)
        if len(heard) == 30:
            half.set()

    job = service.run("count", {}, {"backend": "aer"}, callback=hear)
    assert half.wait(120)
    in_cluster.kill_nats()
    in_cluster.start_nats()
    assert job.result(timeout=120) == 100
    job.wait_for_final_state(10)
    assert heard == list(range(100))


def test_a_job_whose_pod_is_deleted_fails_with_that_reason(
    service: RuntimeService, cluster: Cluster, namespace: str
) -> None:
    service.upload_program(COUNT, name="count")
    begun = threading.Event()
    job = service.run("count", {"pause": 5}, {"backend": "aer"}, callback=lambda *_: begun.set())
    assert begun.wait(120)
    for name in workers(cluster, namespace):
        cluster.core.delete_namespaced_pod(name, namespace, grace_period_seconds=1)
    with pytest.raises(JobFailed) as failed:
        job.result(timeout=120)
    assert failed.value.reason_code is ReasonCode.WORKER_LOST


def test_a_job_that_does_not_heed_that_its_pod_is_deleted_is_told_the_same(
    service: RuntimeService, cluster: Cluster, namespace: str
) -> None:
    service.upload_program(STUBBORN, name="stays")
    begun = threading.Event()
    job = service.run("stays", {}, {"backend": "aer"}, callback=lambda *_: begun.set())
    assert begun.wait(120)
    for name in workers(cluster, namespace):
        cluster.core.delete_namespaced_pod(name, namespace)
    with pytest.raises(JobFailed, match="its pod was deleted from outside"):
        job.result(timeout=120)


@pytest.mark.parametrize("source", [OBLIGING, STUBBORN], ids=["obliging", "stubborn"])
def test_a_job_whose_node_is_drained_says_so_in_the_clusters_words(
    service: RuntimeService, cluster: Cluster, namespace: str, source: str
) -> None:
    service.upload_program(source, name="stays")
    begun = threading.Event()
    job = service.run("stays", {}, {"backend": "aer"}, callback=lambda *_: begun.set())
    assert begun.wait(120)
    evict(cluster, namespace)
    with pytest.raises(JobFailed, match="its node is being drained") as failed:
        job.result(timeout=120)
    assert failed.value.reason_code is ReasonCode.WORKER_LOST
    assert "told to end" not in str(failed.value)


def evict(cluster: Cluster, namespace: str) -> None:
    """As `kubectl drain` does."""
    for name in workers(cluster, namespace):
        eviction = {"metadata": {"name": name, "namespace": namespace}}
        cluster.core.create_namespaced_pod_eviction(name, namespace, eviction)


def test_a_job_with_checkpoints_goes_on_elsewhere_when_its_pod_is_evicted(
    service: RuntimeService, cluster: Cluster, namespace: str
) -> None:
    service.upload_program(RESUMES, name="resumes", checkpoints=True)
    heard: list[int] = []
    half = threading.Event()

    def hear(_: str, value: int) -> None:
        heard.append(value)
        if len(heard) == 20:
            half.set()

    job = service.run("resumes", {}, {"backend": "aer"}, callback=hear)
    assert half.wait(120)
    evict(cluster, namespace)
    assert job.result(timeout=120) >= 15
    job.wait_for_final_state(10)
    assert heard == list(range(60))


def test_a_program_that_asks_for_what_no_node_has_fails_with_the_schedulers_words(
    cluster: Cluster, namespace: str, cluster_images: ClusterImages, tmp_path: Path, in_cluster: Runtime
) -> None:
    settings = {**in_cluster._environment, "NEARTIME_KUBERNETES_PENDING": "8"}
    given = {name.removeprefix("NEARTIME_").lower(): value for name, value in settings.items()}
    home = tmp_path / "other"
    (home / "nats").mkdir(parents=True)
    with Runtime(home, **given) as runtime, runtime.service() as service:
        service.upload_program(COUNT, name="large", resources={"memory": "900Gi"})
        job = service.run("large", {}, {"backend": "aer"})
        with pytest.raises(JobFailed, match="Insufficient memory") as failed:
            job.result(timeout=120)
        assert failed.value.reason_code is ReasonCode.START_FAILED


def test_fifty_sessions_at_once_all_complete_and_cost_the_api_server_few_requests(
    service: RuntimeService, cluster: Cluster, namespace: str
) -> None:
    service.upload_program(COUNT, name="small", resources={"cpu": 1, "memory": "160Mi"})
    service.run("small", {"count": 1}, {"backend": "aer"}).result(timeout=120)  # its image is on the node now
    before = requests(cluster)
    with ThreadPoolExecutor(50) as threads:
        results = list(threads.map(partial(one_session, service), range(SESSIONS)))
    assert results == [3] * SESSIONS
    each = (requests(cluster) - before) / SESSIONS
    print(f"{each:.1f} requests about pods for each of {SESSIONS} sessions, kubelet's included")
    assert each < 40
    until(lambda: workers(cluster, namespace) == [], 120)


def one_session(service: RuntimeService, _: int) -> Any:
    with Session(service, backend="aer") as session:
        return session.run("small", {"count": 3, "pause": 0.01}).result(timeout=280)


def requests(cluster: Cluster) -> float:
    """What the API server has answered about pods so far, by its own metrics."""
    answer = cluster.api.rest_client.pool_manager.request("GET", f"{cluster.api.configuration.host}/metrics")
    lines = [line for line in answer.data.decode().splitlines() if line.startswith("apiserver_request_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines if 'resource="pods"' in line)
