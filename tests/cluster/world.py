"""A runtime on this machine whose workers are pods of a cluster, of images in its registry."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clusters import Cluster, ClusterImages
from executors.harness import Door

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
def in_pods(cluster: Cluster, namespace: str, images: ClusterImages, **settings: Any) -> Iterator[Runtime]:
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        (home / "nats").mkdir()
        (home / "nats" / "port").write_text(f"{port}\n")
        backends = home / "backends.toml"
        backends.write_text(BACKENDS)
        door = Door(cluster.machine, port)
        reached = f"{cluster.machine}:{door.port}"
        try:
            with Runtime(
                home,
                executor="kubernetes",
                kubeconfig=cluster.kubeconfig,
                kubernetes_namespace=namespace,
                kubernetes_nats=reached,
                nats_worker_url=f"nats://{reached}",
                registry=f"{cluster.registry}/runtime",
                registry_insecure=cluster.registry,
                base_image=images.base,
                backends_file=backends,
                worker_heartbeat=1.0,
                **settings,
            ) as runtime:
                yield runtime
        finally:
            door.close()
