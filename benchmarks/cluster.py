"""From a job to the first line of its main() in a pod, and from job to job, on the tests' Kubernetes."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, repeat, row
from neartime import RuntimeService, Session
from neartime_server.testing import Runtime

TESTS = Path(__file__).parents[1] / "tests"
KUBECONFIG = Path("/var/lib/neartime-cluster/admin.conf")
"""Of the cluster that `scripts/cluster up` starts."""
COLD, WARM = 7, 40
PAUSE = 1.0
"""Seconds before each sample, in which the pod before has gone."""
REST = 4.0
"""The same, in which a pod that has just begun to wait has imported what it will."""
IMPORT = "import time, qiskit, qiskit_aer; print(time.time())"
PROGRAM = "import time\n\ndef main(backend, user_messenger):\n    user_messenger.publish(time.time())\n    return 1\n"
AER = {"backend": "aer"}


def cluster(here: Runtime) -> list[Row]:
    """A lone job beside a bare pod of the same image; jobs of one session beside those of the `process` executor."""
    if not os.environ.get("NEARTIME_TEST_KUBECONFIG") and not KUBECONFIG.exists():
        print("cluster: left out, there is none (scripts/cluster up)", file=sys.stderr)
        return []
    os.environ.setdefault("NEARTIME_TEST_KUBECONFIG", str(KUBECONFIG))
    os.environ.setdefault("NEARTIME_TEST_REGISTRY", "10.250.0.1:5000")
    sys.path.insert(0, str(TESTS))
    from cluster.world import in_pods
    from clusters import fresh_namespace, given_cluster, pushed_images, until

    with ExitStack() as stack:
        found = stack.enter_context(given_cluster())
        images, services = pushed_images(found), []
        for name, spares in (("bench", 0), ("pool", 1)):
            namespace = stack.enter_context(fresh_namespace(found, name))
            runtime = stack.enter_context(in_pods(found, namespace, images, kubernetes_spares=spares))
            services.append(stack.enter_context(runtime.service()))
        said: list[str] = []
        for service in services:
            service.upload_program(PROGRAM, name="first", log=said.append)
            _first_line(service)  # the image is on the node now
        image = next(word for line in said for word in line.split() if "/first@" in word)
        cold, pooled, bare = [], [], []
        for number in range(COLD):  # in turn: the machine is others', too
            cold += repeat(1, partial(_first_line, services[0]), "a job by itself")
            bare += repeat(1, partial(_bare, found, namespace, image, f"bare-{number}"), "a bare pod")
            until(lambda: _waits(found, namespace), 60)
            pooled += repeat(1, partial(_first_line, services[1], REST), "a job in a pod that has waited")
        warm = _session(services[0])
        with here.service() as service:
            service.upload_program(PROGRAM, name="first")
            floor = _session(service)
    of = "pod python -c 'import qiskit, qiskit_aer'"
    return [
        row("first line of main() in a pod", cold, "ms", of, bare, ratio=1.25),
        row("the same in a pod that has waited", pooled, "ms", of, bare, ratio=0.2),
        row("a job in a warm session in a pod", warm, "ms", "the same, executor process", floor, ratio=1.5),
    ]


def _waits(found: Any, namespace: str) -> bool:
    spares = found.core.list_namespaced_pod(namespace, label_selector="neartime.io/spare").items
    return any(pod.status.phase == "Running" for pod in spares)


def _first_line(service: RuntimeService, pause: float = PAUSE) -> float:
    time.sleep(pause)
    began = time.time()
    heard: list[float] = []
    service.run("first", {}, AER, callback=lambda _, value: heard.append(value)).result(timeout=120)
    return (heard[0] - began) * 1e3


def _bare(found: Any, namespace: str, image: str, name: str) -> float:
    time.sleep(PAUSE)
    began = time.time()
    limits = {"cpu": "1", "memory": "2Gi"}
    resources = {"requests": {"cpu": "50m", "memory": "2Gi"}, "limits": limits}
    found.run(namespace, image, ["/usr/bin/python3", "-c", IMPORT], name=name, resources=resources)
    found.ended(namespace, name)
    return (float(found.log(namespace, name)) - began) * 1e3


def _session(service: RuntimeService) -> list[float]:
    with Session(service, backend="aer") as session:
        for _ in range(5):
            _round_trip(session)
        return repeat(WARM, partial(_round_trip, session), "jobs of a session")


def _round_trip(session: Session) -> float:
    began = time.perf_counter()
    session.run("first").result(timeout=60)
    return (time.perf_counter() - began) * 1e3
