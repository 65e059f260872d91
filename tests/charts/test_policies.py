"""What the chart's NetworkPolicies forbid and allow, as a tool says that nobody here wrote."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.helm import Object, Objects, objects, tool

from neartime_server.executors.manifests import BUILDER

pytestmark = pytest.mark.cluster

INTERNET = {"IP": "198.51.100.1"}
METADATA = {"IP": "169.254.169.254"}


def inside(made: Objects, component: str) -> Object:
    """A pod of the chart's, with the labels that its template has."""
    for one in made.all:
        labels = one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {})
        if labels.get("app.kubernetes.io/component") == component:
            return pod("neartime", labels)
    raise AssertionError(component)


def pod(namespace: str, labels: Object) -> Object:
    names = {"kubernetes.io/metadata.name": namespace}
    return {"Internal": {"Namespace": namespace, "NamespaceLabels": names, "PodLabels": labels}, "IP": "10.244.0.9"}


def allowed(folder: Path, made: Objects, traffic: list[tuple[Object, Object, int]]) -> list[bool]:
    """Which of these (from, to, port over TCP) the policies let through."""
    policies = [one for one in made.all if one["kind"] == "NetworkPolicy"]
    place = folder / "policies"  # of a file, the tool reads the first document alone
    place.mkdir(exist_ok=True)
    for policy in policies:
        (place / f"{policy['metadata']['name']}.yaml").write_text(yaml.safe_dump(policy))
    asked: list[dict[str, Any]] = [
        {"Source": source, "Destination": to, "ResolvedPort": port, "ResolvedPortName": "", "Protocol": "TCP"}
        for source, to, port in traffic
    ]
    (folder / "traffic.json").write_text(json.dumps(asked))
    command = [tool("cyclonus"), "analyze", "--mode", "query-traffic", "--policy-path", str(place)]
    command += ["--traffic-path", str(folder / "traffic.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = [verdict == "TRUE" for verdict in re.findall(r"IS ALLOWED\? \|\s*(TRUE|FALSE)", done.stdout)]
    assert len(found) == len(traffic), done.stdout
    return found


@pytest.mark.parametrize(("values", "workers"), [("simple", "lab-neartime-workers"), ("production", "quantum-workers")])
def test_a_worker_reaches_nats_and_names_alone_and_nobody_reaches_it(values: str, workers: str, tmp_path: Path) -> None:
    made = objects(values)
    worker = pod(workers, {"app.kubernetes.io/name": "neartime-worker"})
    targets = {
        "NATS": (inside(made, "nats"), 4222),
        "names": (pod("kube-system", {"k8s-app": "kube-dns"}), 53),
        "NATS' peers": (inside(made, "nats"), 6222),
        "NATS' monitoring": (inside(made, "nats"), 8222),
        "the server": (inside(made, "server"), 8787),
        "another worker": (worker, 8000),
        "the Kubernetes API": ({"IP": "10.96.0.1"}, 443),
        "the metadata address": (METADATA, 80),
        "the internet": (INTERNET, 443),
        "a pod beside it that looks like NATS": (pod(workers, inside(made, "nats")["Internal"]["PodLabels"]), 4222),
    }
    if "lab-neartime-postgresql" in made.has("StatefulSet"):
        targets["the database"] = inside(made, "postgresql"), 5432
    verdicts = allowed(tmp_path, made, [(worker, to, port) for to, port in targets.values()])
    assert [name for name, open_ in zip(targets, verdicts, strict=True) if open_] == ["NATS", "names"]
    sources = [inside(made, "server"), inside(made, "nats"), INTERNET]
    assert allowed(tmp_path, made, [(source, worker, 8000) for source in sources]) == [False] * 3


@pytest.mark.parametrize(("values", "workers"), [("simple", "lab-neartime-workers"), ("production", "quantum-workers")])
def test_a_job_that_fetches_packages_reaches_the_index_and_names_alone(
    values: str, workers: str, tmp_path: Path
) -> None:
    made = objects(values)
    job = pod(workers, {"app.kubernetes.io/name": "neartime-packages", BUILDER: "cafe"})
    worker = pod(workers, {"app.kubernetes.io/name": "neartime-worker"})
    targets = {
        "an index on the internet": (INTERNET, 443),
        "names": (pod("kube-system", {"k8s-app": "kube-dns"}), 53),
        "the internet without TLS": (INTERNET, 80),
        "NATS": (inside(made, "nats"), 4222),
        "the server": (inside(made, "server"), 8787),
        "a worker": (worker, 8000),
        "the Kubernetes API": ({"IP": "10.96.0.1"}, 443),
        "a host of the lab's": ({"IP": "192.168.1.2"}, 443),
        "the metadata address": (METADATA, 443),
    }
    verdicts = allowed(tmp_path, made, [(job, to, port) for to, port in targets.values()])
    assert [name for name, open_ in zip(targets, verdicts, strict=True) if open_] == [
        "an index on the internet",
        "names",
    ]
    sources = [inside(made, "server"), worker, job, INTERNET]
    assert allowed(tmp_path, made, [(source, job, 8000) for source in sources]) == [False] * 4


def test_the_database_is_the_servers_and_its_migrations(tmp_path: Path) -> None:
    made = objects("simple")
    database = inside(made, "postgresql")
    sources = {
        "server": inside(made, "server"),
        "migrate": inside(made, "migrate"),
        "nats": inside(made, "nats"),
        "a stranger here": pod("neartime", {"app": "stranger"}),
        "a server of another namespace": pod("other", inside(made, "server")["Internal"]["PodLabels"]),
        "internet": INTERNET,
    }
    verdicts = allowed(tmp_path, made, [(source, database, 5432) for source in sources.values()])
    assert [name for name, open_ in zip(sources, verdicts, strict=True) if open_] == ["server", "migrate"]
    assert allowed(tmp_path, made, [(database, INTERNET, 443)]) == [False]


@pytest.mark.parametrize(("values", "outside"), [("simple", False), ("production", True)])
def test_nats_is_open_beyond_the_cluster_where_its_service_is(values: str, outside: bool, tmp_path: Path) -> None:
    made = objects(values)
    nats = inside(made, "nats")
    stranger = pod("other", {"app": "stranger"})
    traffic = [(inside(made, "server"), nats, 4222), (INTERNET, nats, 4222), (stranger, nats, 4222)]
    traffic += [(stranger, nats, 6222), (stranger, nats, 8222), (nats, nats, 6222), (nats, INTERNET, 443)]
    assert allowed(tmp_path, made, traffic) == [True, outside, outside, False, False, True, False]


def test_the_server_answers_everybody_on_its_port_and_reaches_what_it_needs(tmp_path: Path) -> None:
    made = objects("simple")
    server, ingress = inside(made, "server"), pod("ingress", {"app": "proxy"})
    traffic = [
        (ingress, server, 8787),
        (ingress, server, 22),
        (server, INTERNET, 443),
        (server, {"IP": "10.96.0.1"}, 443),
    ]
    assert allowed(tmp_path, made, traffic) == [True, False, True, True]
