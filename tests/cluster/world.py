"""A runtime on this machine whose workers are pods of a cluster, of images in its registry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from clusters import Cluster, ClusterImages
from executors.harness import Door
from images import wheels
from indexes import PrivateIndex

from neartime_server.bus.server import free_port
from neartime_server.testing import Runtime

BACKENDS = """
[[backends]]
name = "aer"
factory = "qiskit_aer:AerSimulator"
parallelism = 8
[backends.placement]
promised = 0.05
"""


@contextmanager
def packages(cluster: Cluster) -> Iterator[PrivateIndex]:
    """An index on this machine, for pods reach nothing beyond it: what the lock has, and packages of the tests' own."""
    with tempfile.TemporaryDirectory() as folder, PrivateIndex(Path(folder) / "packages", cluster.machine) as index:
        for wheel in wheels().iterdir():
            (index.folder / wheel.name).symlink_to(wheel)
        index.wheel("lab_tool", "1.0", source="TOOL = 41\n")
        index.wheel("lab_broken", "1.0")
        index.faults["lab_broken"] = 404
        index.source("lab_source", "1.0", "raise SystemExit('its code ran')")
        yield index


@contextmanager
def in_pods(
    cluster: Cluster, namespace: str, images: ClusterImages, index: PrivateIndex | None = None, **settings: object
) -> Iterator[Runtime]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        index = index or stack.enter_context(packages(cluster))
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("UV_DEFAULT_INDEX", index.url)
        home, port = Path(folder) / "home", free_port()
        (home / "nats").mkdir(parents=True)
        (home / "nats" / "port").write_text(f"{port}\n")
        backends = home / "backends.toml"
        backends.write_text(BACKENDS)
        door = Door(cluster.machine, port)
        stack.callback(door.close)
        reached = f"{cluster.machine}:{door.port}"
        given = {
            "executor": "kubernetes",
            "kubeconfig": cluster.kubeconfig,
            "kubernetes_namespace": namespace,
            "kubernetes_nats": reached,
            "nats_worker_url": f"nats://{reached}",
            "registry": f"{cluster.registry}/runtime",
            "registry_insecure": cluster.registry,
            "base_image": images.base,
            "backends_file": backends,
            "worker_heartbeat": 1.0,
        }
        yield stack.enter_context(Runtime(home, **{**given, **settings}))
