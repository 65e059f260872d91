"""A real Kubernetes for tests: the one that `scripts/test-cluster` starts, or any that a kubeconfig names.

NEARTIME_TEST_KUBECONFIG is the path of that file; NEARTIME_TEST_REGISTRY is a registry that the nodes pull from and
this machine pushes to, `host:port` over HTTP or `https://host`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest
from images import base_image, runner_image
from kubernetes import client, config

STATE = Path("/var/lib/neartime-cluster")
"""Where `scripts/cluster` keeps the one that it starts."""

_T = TypeVar("_T")

RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container's security context that the level `restricted` of Pod Security admits."""


@dataclass(frozen=True)
class Cluster:
    kubeconfig: Path
    api: client.ApiClient
    registry: str
    """What the name of an image begins with, on the nodes and here."""
    registry_url: str

    @cached_property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    @cached_property
    def machine(self) -> str:
        """This machine's address, as pods see it: the one that it has towards the API server."""
        server = urlsplit(self.api.configuration.host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # connecting it sends nothing
            probe.connect((server.hostname, server.port or 443))
            return str(probe.getsockname()[0])

    @property
    def own(self) -> bool:
        """Whether `scripts/cluster` has started it: its pods can't leave this machine."""
        return self.kubeconfig.resolve() == STATE / "admin.conf"

    def run(self, namespace: str, image: str, command: Sequence[str], name: str = "pod", **container: Any) -> str:
        """Creates a pod of one container that is never started again; returns its name.

        Args:
            container: further fields of it, as the API has them.
        """
        self.core.create_namespaced_pod(namespace, pod(name, image, command, **container))
        return name

    def pod(self, namespace: str, name: str = "pod") -> client.V1Pod:
        return self.core.read_namespaced_pod(name, namespace)

    def log(self, namespace: str, name: str = "pod") -> str:
        return str(self.core.read_namespaced_pod_log(name, namespace))

    def ended(self, namespace: str, name: str = "pod", seconds: float = 90) -> client.V1ContainerStateTerminated:
        """Waits for the end of a pod's container; returns how it ended."""

        def terminated() -> client.V1ContainerStateTerminated | None:
            statuses = self.pod(namespace, name).status.container_statuses
            return statuses[0].state.terminated if statuses else None

        try:
            return until(terminated, seconds)
        except TimeoutError:
            raise TimeoutError(f"pod {name} did not end:\n{self.told(namespace, name)}") from None

    def running(self, namespace: str, name: str = "pod", seconds: float = 90) -> None:
        """Waits until a pod runs."""
        try:
            until(lambda: self.pod(namespace, name).status.phase != "Pending", seconds)
        except TimeoutError:
            raise TimeoutError(f"pod {name} did not start:\n{self.told(namespace, name)}") from None

    def told(self, namespace: str, name: str) -> str:
        """A pod's status, and the events about it."""
        events = self.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}").items
        return "\n".join([str(self.pod(namespace, name).status), *(f"{e.reason}: {e.message}" for e in events)])


@dataclass(frozen=True)
class ClusterImages:
    """References by digest, into the cluster's registry."""

    base: str
    runner: str


def pod(
    name: str, image: str, command: Sequence[str], labels: Mapping[str, str] | None = None, **container: Any
) -> dict[str, Any]:
    """A pod that the level `restricted` admits."""
    limits = {"cpu": "1", "memory": "512Mi"}
    return {
        "metadata": {"name": name, "labels": {"app": name, **(labels or {})}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": list(command),
                    "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": limits},
                    "securityContext": RESTRICTED,
                    **container,
                }
            ],
        },
    }


def until(condition: Callable[[], _T], seconds: float = 60) -> _T:
    """Waits for something true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)
    return found


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The Kubernetes that the suite was given."""
    if not os.environ.get("NEARTIME_TEST_KUBECONFIG") or not os.environ.get("NEARTIME_TEST_REGISTRY"):
        pytest.skip("no Kubernetes to be tested with: scripts/test-cluster starts one")
    with given_cluster() as found:
        yield found


@contextlib.contextmanager
def given_cluster() -> Iterator[Cluster]:
    """The one that the environment names."""
    named, registry = os.environ["NEARTIME_TEST_KUBECONFIG"], os.environ["NEARTIME_TEST_REGISTRY"]
    url = registry if "://" in registry else f"http://{registry}"
    with config.new_client_from_config(named) as api:
        yield Cluster(Path(named), api, urlsplit(url).netloc, url.rstrip("/"))


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh one, whose pods have to meet the level `restricted` of Pod Security. It goes with all that is in it."""
    with fresh_namespace(cluster) as name:
        yield name


@contextlib.contextmanager
def fresh_namespace(cluster: Cluster, prefix: str = "test") -> Iterator[str]:
    name = f"{prefix}-{secrets.token_hex(4)}"
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    cluster.core.create_namespace({"metadata": {"name": name, "labels": labels}})
    try:
        # A pod that comes before it is refused.
        until(lambda: cluster.core.list_namespaced_service_account(name).items)
        yield name
    finally:
        cluster.core.delete_namespace(name)


@pytest.fixture(scope="session")
def cluster_images(cluster: Cluster) -> ClusterImages:
    return pushed_images(cluster)


def pushed_images(cluster: Cluster) -> ClusterImages:
    """The images of `images.py`, in the cluster's registry."""

    def pushed(name: str) -> str:
        image = {"base": base_image, "runner": runner_image}[name]()
        return f"{cluster.registry}/neartime/{name}@{image.push(cluster.registry_url, f'neartime/{name}', 'test')}"

    return ClusterImages(pushed("base"), pushed("runner"))
