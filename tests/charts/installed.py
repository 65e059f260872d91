"""The chart on the cluster: its images in the cluster's registry, its data on the node's disk, its doors open."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from charts.helm import CHART, Object, helm, tool
from charts.index import WheelIndex
from clusters import Cluster, fresh_namespace, until
from images import base_image, nats_image, postgresql_image, server_image, wheels
from kubernetes import client
from registries import Authority

from neartime import RuntimeService

NAME = "lab-neartime"
_OF_BEFORE = {"name": "NEARTIME_PACKAGES", "value": "server"}
"""A server of now, under a chart that lets it make no Jobs."""
NODE_PORTS = range(30000, 32768)


def pushed(cluster: Cluster) -> Object:
    """Values that name the images."""

    def image(name: str, made: Any) -> Object:
        digest = made.push(cluster.registry_url, f"neartime/{name}", "test")
        return {"repository": f"{cluster.registry}/neartime/{name}", "digest": digest}

    base = image("base", base_image())
    return {
        "image": image("server", server_image()),
        "nats": {"image": image("nats", nats_image())},
        "postgresql": {"image": image("postgresql", postgresql_image())},
        "registry": {
            "prefix": f"{cluster.registry}/charts",
            "insecure": [] if cluster.registry_url.startswith("https") else [cluster.registry],
            "baseImage": f"{base['repository']}@{base['digest']}",
        },
    }


@dataclass
class Installed:
    """A release."""

    cluster: Cluster
    namespace: str
    folder: Path
    values: Object
    release: str = "lab"
    ports: dict[str, int] = field(default_factory=dict)
    chart: Path = CHART
    """What it is installed by; upgrades are to the chart as it is."""

    # --- helm

    def helm(self, *arguments: object, seconds: float = 240) -> str:
        done = helm("--namespace", self.namespace, *arguments, kubeconfig=self.cluster.kubeconfig, seconds=seconds)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.told()}"
        return done.stdout

    def install(self) -> str:
        return self.helm("install", self.release, self.chart, "--values", self._file(), "--wait", "--timeout", "200s")

    def upgrade(self, **changes: Any) -> str:
        _merge(self.values, changes)
        return self.helm("upgrade", self.release, CHART, "--values", self._file(), "--wait", "--timeout", "200s")

    def refuses(self, *arguments: str) -> str:
        """What is said of an upgrade that is refused."""
        command = ["--namespace", self.namespace, "upgrade", self.release, CHART, "--values", self._file(), *arguments]
        done = helm(*command, kubeconfig=self.cluster.kubeconfig)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def _file(self) -> Path:
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(self.values))
        return file

    # --- kubectl

    def kubectl(self, *arguments: str, given: str | None = None, seconds: float = 120) -> str:
        command = [
            tool("kubectl"),
            "--kubeconfig",
            str(self.cluster.kubeconfig),
            "--namespace",
            self.namespace,
            *arguments,
        ]
        done = subprocess.run(command, capture_output=True, text=True, input=given, timeout=seconds, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pods(self, component: str) -> list[client.V1Pod]:
        selector = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component={component}"
        return list(self.cluster.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def workers(self) -> list[str]:
        found = self.cluster.core.list_namespaced_pod(self.workers_namespace, label_selector="neartime.io/worker").items
        return [pod.metadata.name for pod in found if not pod.metadata.deletion_timestamp]

    @property
    def workers_namespace(self) -> str:
        return str(self.values["workers"]["namespace"]["name"])

    def delete(self, component: str) -> None:
        """Its pods; returns when others are ready in their places."""
        before = {pod.metadata.uid for pod in self.pods(component)}
        for pod in self.pods(component):
            self.cluster.core.delete_namespaced_pod(pod.metadata.name, self.namespace)
        until(lambda: {pod.metadata.uid for pod in self.pods(component) if ready(pod)} - before, 120)

    def told(self) -> str:
        """What stands in its way: pods and events."""
        events = self.cluster.core.list_namespaced_event(self.namespace).items
        lines = [f"{e.involved_object.kind} {e.involved_object.name}: {e.reason}: {e.message}" for e in events]
        return "\n".join([self.kubectl("get", "pods", "--output", "wide"), *lines[-20:], self.log()])

    def log(self) -> str:
        try:
            return self.kubectl("logs", f"deploy/{NAME}", "--all-containers", "--tail", "20")
        except AssertionError as error:
            return str(error)

    # --- how it is reached from outside

    @property
    def url(self) -> str:
        return f"http://{self.node}:{self.ports['http']}"

    @cached_property
    def node(self) -> str:
        """A node's address."""
        addresses = _node(self.cluster).status.addresses
        return str(next(one.address for one in addresses if one.type == "InternalIP"))

    def token(self, user: str = "ada", role: str = "user") -> str:
        """As NOTES says."""
        command = ["neartime", "admin", "token", "create", user, "--instance", "main", "--role", role]
        return self.kubectl("exec", f"deploy/{NAME}", "--container", "server", "--", *command).strip()

    def service(self) -> RuntimeService:
        return RuntimeService(self.url, self.token())


def _node(cluster: Cluster) -> client.V1Node:
    """One that is there: other tests make some that are not."""
    for node in cluster.core.list_node().items:
        if any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or []):
            return node
    raise AssertionError("no node is ready")


def ready(pod: client.V1Pod) -> bool:
    return not pod.metadata.deletion_timestamp and any(
        one.type == "Ready" and one.status == "True" for one in pod.status.conditions or []
    )


@contextlib.contextmanager
def installed(
    cluster: Cluster,
    folder: Path,
    nats: int = 1,
    chart: Path = CHART,
    authority: Authority | None = None,
    operator: Object | None = None,
    prepare: Callable[[Installed], None] | None = None,
    **changes: Any,
) -> Iterator[Installed]:
    """An installation with doors, in a namespace of its own; it goes with all that is in it.

    Args:
        nats: how many servers.
        chart: another version of it.
        authority: signs a certificate for NATS' door.
        operator: the data of a Secret that was the operator's before.
        prepare: makes what the values name, before anything is installed.
    """
    with (
        fresh_namespace(cluster, "chart") as namespace,
        _disks(cluster, namespace, nats) as storage,
        WheelIndex(cluster.machine, wheels()) as index,
    ):
        ports = _free_ports(cluster, 2)
        made = Installed(cluster, namespace, folder, pushed(cluster), chart=chart)
        made.ports = {"http": ports[0], "nats": ports[1]}
        small = {"requests": {"cpu": "50m", "memory": "64Mi"}}  # several installations share a small node
        defaults: Object = {
            "server": {
                "service": {"type": "NodePort", "nodePort": ports[0]},
                "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
                "extraEnv": [
                    {"name": "UV_DEFAULT_INDEX", "value": index.url},
                    *([] if chart == CHART else [_OF_BEFORE]),
                ],
            },
            "nats": {
                "replicas": nats,
                "publicUrl": f"nats://{made.node}:{ports[1]}",
                "service": {"type": "NodePort", "nodePort": ports[1]},
                "storage": {"size": "1Gi", **storage},
                "resources": small,
            },
            "postgresql": {"storage": {"size": "1Gi", **storage}, "resources": small},
            "workers": {"namespace": {"name": f"{namespace}-workers"}},
            "backends": [
                {
                    "name": "aer",
                    "factory": "qiskit_aer:AerSimulator",
                    "parallelism": 4,
                    "placement": {"promised": 0.05},
                }
            ],
            "settings": {"worker_heartbeat": 1},
        }
        _merge(made.values, defaults)
        _merge(made.values, changes)
        if authority is not None:
            certificate, key = (file.read_text() for file in authority.issue(made.node))
            secret = {"metadata": {"name": "door"}, "type": "kubernetes.io/tls"}
            secret["stringData"] = {"tls.crt": certificate, "tls.key": key}
            cluster.core.create_namespaced_secret(namespace, secret)
            door = {"publicUrl": f"tls://{made.node}:{ports[1]}", "tls": {"existingSecret": "door"}}
            _merge(made.values, {"nats": door})
        if operator is not None:
            cluster.core.create_namespaced_secret(namespace, {"metadata": {"name": "operator"}, "data": operator})
            _merge(made.values, {"operatorSecret": {"existingSecret": "operator"}})
        if prepare is not None:
            prepare(made)
        try:
            made.install()
            yield made
        finally:
            helm("--namespace", namespace, "uninstall", made.release, kubeconfig=cluster.kubeconfig)
            with contextlib.suppress(client.ApiException):
                cluster.core.delete_namespace(made.workers_namespace)


def _merge(values: Object, changes: Object) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def _free_ports(cluster: Cluster, count: int) -> list[int]:
    services = cluster.core.list_service_for_all_namespaces().items
    taken = {port.node_port for one in services for port in one.spec.ports or []}
    return secrets.SystemRandom().sample([port for port in NODE_PORTS if port not in taken], count)


# --- disks, where the cluster has nobody who makes them


@contextlib.contextmanager
def _disks(cluster: Cluster, namespace: str, nats: int) -> Iterator[Object]:
    """What `storage` has to say: the cluster's own class, or one of disks on the node that go with the test."""
    if client.StorageV1Api(cluster.api).list_storage_class().items:
        yield {}
        return
    node = _node(cluster)
    folder = f"/var/lib/neartime-test/{namespace}"
    claims = ["data-lab-neartime-postgresql-0", *(f"data-lab-neartime-nats-{number}" for number in range(nats))]
    with _root_pod(cluster, folder) as shell:
        shell("mkdir", "-p", *(f"/disks/{claim}" for claim in claims))
        try:
            for claim in claims:
                cluster.core.create_persistent_volume(_volume(namespace, claim, folder, node.metadata.name))
            yield {"className": namespace}
        finally:
            for claim in claims:
                cluster.core.delete_persistent_volume(f"{namespace}-{claim}")
            shell("sh", "-c", "rm -rf /disks/*")


def _volume(namespace: str, claim: str, folder: str, node: str) -> Object:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "metadata": {"name": f"{namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": namespace,
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "local": {"path": f"{folder}/{claim}"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    }


@contextlib.contextmanager
def _root_pod(cluster: Cluster, folder: str) -> Iterator[Any]:
    """Runs commands on the node, with a folder of it at /disks."""
    name = f"neartime-test-{secrets.token_hex(4)}"
    image = f"{cluster.registry}/neartime/base"
    digest = base_image().push(cluster.registry_url, "neartime/base", "test")
    pod = {
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "main",
                    "image": f"{image}@{digest}",
                    "command": ["sleep", "7200"],
                    "volumeMounts": [{"name": "disks", "mountPath": "/disks"}],
                }
            ],
            "volumes": [{"name": "disks", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}],
        },
    }
    cluster.core.create_namespaced_pod("default", pod)

    def shell(*command: str) -> None:
        done = subprocess.run(
            [tool("kubectl"), "--kubeconfig", str(cluster.kubeconfig), "-n", "default", "exec", name, "--", *command],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    try:
        cluster.running("default", name)
        yield shell
    finally:
        cluster.core.delete_namespaced_pod(name, "default", grace_period_seconds=0)
