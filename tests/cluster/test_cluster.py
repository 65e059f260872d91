"""What other suites rely on in the tests' Kubernetes."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from clusters import Cluster, ClusterImages, pod, until
from kubernetes import client
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

pytestmark = pytest.mark.cluster


def python(program: str) -> list[str]:
    return ["python3", "-c", program]


def test_its_nodes_are_ready(cluster: Cluster) -> None:
    nodes = cluster.core.list_node().items
    assert nodes
    for node in nodes:
        assert {c.type: c.status for c in node.status.conditions}["Ready"] == "True"


def test_a_restricted_pod_of_the_runner_imports_qiskit(
    cluster: Cluster, namespace: str, cluster_images: ClusterImages
) -> None:
    program = "import os, qiskit, qiskit_aer, neartime_runner; print(qiskit.__version__, os.getuid())"
    cluster.run(namespace, cluster_images.runner, ["python", "-c", program])
    assert cluster.ended(namespace).exit_code == 0, cluster.log(namespace)
    assert cluster.log(namespace).split()[1] == "65532"


def test_a_pod_that_asks_for_more_is_refused(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    with pytest.raises(ApiException) as refused:
        cluster.run(namespace, cluster_images.base, ["id"], securityContext={"privileged": True})
    assert refused.value.status == 403
    assert "PodSecurity" in refused.value.body


def test_an_image_that_is_not_there_is_said_so(cluster: Cluster, namespace: str) -> None:
    cluster.run(namespace, f"{cluster.registry}/no/such:image", ["id"])

    def reason() -> str | None:
        statuses = cluster.pod(namespace).status.container_statuses
        return statuses[0].state.waiting.reason if statuses and statuses[0].state.waiting else None

    until(lambda: reason() in ("ErrImagePull", "ImagePullBackOff"))


def test_who_takes_too_much_memory_is_ended(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    limits = {"requests": {"memory": "32Mi"}, "limits": {"memory": "64Mi"}}
    cluster.run(namespace, cluster_images.base, python("b'x' * 500_000_000"), resources=limits)
    ended = cluster.ended(namespace)
    assert (ended.reason, ended.exit_code) == ("OOMKilled", 137)


def test_pods_find_each_other_by_a_service(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    cluster.run(namespace, cluster_images.base, ["python3", "-m", "http.server", "8000", "-d", "/tmp"], name="server")
    ports = [{"port": 80, "targetPort": 8000}]
    service = {"metadata": {"name": "front"}, "spec": {"selector": {"app": "server"}, "ports": ports}}
    cluster.core.create_namespaced_service(namespace, service)
    program = f"""
import time, urllib.request
for _ in range(300):
    try:
        print(urllib.request.urlopen("http://front.{namespace}.svc.cluster.local", timeout=5).status)
        break
    except OSError:
        time.sleep(0.1)
"""
    cluster.run(namespace, cluster_images.base, python(program), name="asker")
    cluster.ended(namespace, "asker")
    assert cluster.log(namespace, "asker").strip() == "200"


def test_a_pod_reaches_a_server_of_this_machine(
    cluster: Cluster, namespace: str, cluster_images: ClusterImages
) -> None:
    with socket.create_server((cluster.machine, 0)) as server:
        server.settimeout(60)
        address = (cluster.machine, server.getsockname()[1])
        program = f"import socket; print(socket.create_connection({address}, 10).recv(100).decode())"
        cluster.run(namespace, cluster_images.base, python(program))
        with server.accept()[0] as connection:
            connection.sendall(b"welcome")
    cluster.ended(namespace)
    assert cluster.log(namespace).strip() == "welcome"


def test_a_pod_can_not_leave_this_machine(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    """The node has no route that leads away, so this sends nothing. No packet may go out of somebody else's cluster."""
    if not cluster.own:
        pytest.skip("this machine has not started that cluster")
    program = """
import socket
for address in ("198.51.100.1", "203.0.113.1", "169.254.169.254"):
    try:
        socket.create_connection((address, 80), 20)
        print("reached", address)
    except OSError as error:
        print(error.errno)
"""
    cluster.run(namespace, cluster_images.base, python(program))
    cluster.ended(namespace)
    assert cluster.log(namespace).split() == [str(errno.ENETUNREACH)] * 3


def test_who_attaches_is_heard_and_hears(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    program = "for line in iter(input, 'end'): print('heard', line, flush=True)"
    cluster.run(namespace, cluster_images.base, python(program), stdin=True, stdinOnce=True)
    cluster.running(namespace)
    attached = stream(
        client.CoreV1Api(cluster.api).connect_get_namespaced_pod_attach,
        "pod", namespace, stdin=True, stdout=True, stderr=True, _preload_content=False,
    )  # fmt: skip
    try:
        attached.write_stdin("one\n")
        until(lambda: "heard one" in cluster.log(namespace))  # who attaches just then may not hear it
        attached.write_stdin("two\n")
        assert "heard two" in (attached.readline_stdout(timeout=20), attached.readline_stdout(timeout=20))
        attached.write_stdin("end\n")
    finally:
        attached.close()
    assert cluster.ended(namespace).exit_code == 0
    assert cluster.log(namespace).split() == ["heard", "one", "heard", "two"]


def test_a_pod_is_ready_when_its_probe_says_so(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    def ready() -> bool:
        conditions = cluster.pod(namespace).status.conditions or []
        return any(c.type == "Ready" and c.status == "True" for c in conditions)

    program = "import pathlib, time; time.sleep(3); pathlib.Path('/tmp/ready').touch(); time.sleep(600)"
    probe = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1}
    cluster.run(namespace, cluster_images.base, python(program), readinessProbe=probe)
    cluster.running(namespace)
    assert not ready()
    until(ready, 30)


def test_a_pod_says_its_first_word_soon(cluster: Cluster, namespace: str, cluster_images: ClusterImages) -> None:
    def seconds(name: str) -> float:
        begun = time.time()
        cluster.core.create_namespaced_pod(
            namespace, pod(name, cluster_images.base, python("import time; print(time.time())"))
        )
        cluster.ended(namespace, name)
        return float(cluster.log(namespace, name)) - begun

    seconds("first")  # the image may not be on the node yet
    figures = sorted(seconds(f"pod-{number}") for number in range(5))
    print(f"from a pod to its first word: {figures[2]:.2f} s, the slowest {figures[-1]:.2f} s")
    assert figures[2] < 10
