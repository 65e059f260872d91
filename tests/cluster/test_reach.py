"""What a worker can't reach: by its policy, as a tool says that nobody here wrote; and from inside, without it."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from clusters import Cluster
from executors.harness import Lab, Pods
from executors.test_manifests import pod as worker_pod

from neartime_server.executors import manifests

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neartime" / "cluster"


def cyclonus() -> str:
    """Built by `scripts/cluster build`."""
    found = sorted(CACHE.glob("*/cyclonus"))
    if not found:
        pytest.skip("no cyclonus: scripts/cluster build makes it")
    return str(found[-1])


def inside(namespace: str, **labels: str) -> dict[str, Any]:
    names = {"kubernetes.io/metadata.name": namespace}
    return {"Internal": {"Namespace": namespace, "NamespaceLabels": names, "PodLabels": labels}, "IP": "10.244.0.9"}


NATS = inside("nats", **{"app.kubernetes.io/name": "nats"})
TARGETS: dict[str, tuple[dict[str, Any], int, str]] = {
    "NATS": (NATS, 4222, "TCP"),
    "the cluster's DNS": (inside("kube-system", **{"k8s-app": "kube-dns"}), 53, "UDP"),
    "NATS' monitoring": (NATS, 8222, "TCP"),
    "the Kubernetes API": ({"IP": "10.96.0.1"}, 443, "TCP"),
    "the kubelet": ({"IP": "10.250.0.2"}, 10250, "TCP"),
    "the database": (inside("neartime", **{"app.kubernetes.io/name": "postgresql"}), 5432, "TCP"),
    "the server": (inside("neartime", **{"app.kubernetes.io/name": "neartime"}), 8787, "TCP"),
    "another worker": (inside("neartime-workers", **{"app.kubernetes.io/name": "neartime-worker"}), 8000, "TCP"),
    "the metadata address": ({"IP": "169.254.169.254"}, 80, "TCP"),
    "the internet": ({"IP": "198.51.100.1"}, 443, "TCP"),
}


@pytest.mark.parametrize("nats", ["nats/app.kubernetes.io/name=nats:4222"])
def test_the_policy_lets_a_worker_reach_nats_and_names_and_nobody_reach_it(tmp_path: Path, nats: str) -> None:
    policy = manifests.network_policy("cafe", nats)
    policy["metadata"]["namespace"] = "neartime-workers"
    labels = worker_pod()["metadata"]["labels"]
    worker = {
        "Internal": {
            "Namespace": "neartime-workers",
            "NamespaceLabels": {"kubernetes.io/metadata.name": "neartime-workers"},
            "PodLabels": labels,
        },
        "IP": "10.244.0.7",
    }
    traffic = [
        {"Source": worker, "Destination": to, "ResolvedPort": port, "ResolvedPortName": "", "Protocol": protocol}
        for to, port, protocol in TARGETS.values()
    ]
    traffic.append(
        {"Source": NATS, "Destination": worker, "ResolvedPort": 8000, "ResolvedPortName": "", "Protocol": "TCP"}
    )
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    (tmp_path / "traffic.json").write_text(json.dumps(traffic))
    command = [cyclonus(), "analyze", "--mode", "query-traffic", "--policy-path", str(tmp_path / "policy.json")]
    done = subprocess.run([*command, "--traffic-path", str(tmp_path / "traffic.json")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    verdicts = re.findall(r"IS ALLOWED\? \|\s*(TRUE|FALSE)", done.stdout)
    found = dict(zip([*TARGETS, "NATS to a worker"], verdicts, strict=True))
    assert [name for name, verdict in found.items() if verdict == "TRUE"] == ["NATS", "the cluster's DNS"]


TRIES = """
import json, os, socket, ssl, urllib.error, urllib.request

def main(backend, user_messenger, api, database):
    def asks(path):
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(f"{api}{path}", context=context, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError as error:
            return str(error)
    return {
        "pods": asks("/api/v1/namespaces/default/pods"),
        "secrets": asks("/api/v1/secrets"),
        "tokens": [place for place, _, files in os.walk("/var/run") if "token" in files],
        "files": sorted(os.listdir("/opt/neartime")),
    }
"""


async def test_a_worker_can_ask_the_kubernetes_api_nothing(lab: Lab, pods: Pods, cluster: Cluster) -> None:
    """Without a policy that is enforced: it has no token."""
    executor = pods.executor()
    worker = await lab.begin(executor, *pods.carry(lab.launch(TRIES)))
    found = await worker.run(api=cluster.api.configuration.host, database="")
    assert found["pods"] in (401, 403)
    assert found["secrets"] in (401, 403)
    assert found["tokens"] == []
    await executor.stop(worker.id)
    await executor.close()
