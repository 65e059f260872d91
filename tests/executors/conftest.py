from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from clusters import Cluster, ClusterImages, cluster, cluster_images, namespace
from engine import authority, base, engine, registry, runner
from executors.harness import Containers, Kind, Lab, Pods, Processes, Watcher, watching

from neartime_server.executors import Executor

__all__ = ["authority", "base", "cluster", "cluster_images", "engine", "namespace", "registry", "runner"]


@pytest.fixture(
    params=[
        "process",
        pytest.param("docker", marks=pytest.mark.engine),
        pytest.param("kubernetes", marks=pytest.mark.cluster),
    ]
)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Every executor there is; the suite runs on each."""
    if request.param != "process":
        kind: Kind = request.getfixturevalue({"docker": "containers", "kubernetes": "pods"}[request.param])
        yield kind
        return
    kind = Processes(tmp_path / "home")
    yield kind
    kind.close()


@pytest.fixture
def containers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Containers]:
    engine, base, runner = (request.getfixturevalue(name) for name in ("engine", "base", "runner"))
    kind = Containers(tmp_path / "home", engine, base, runner)
    yield kind
    kind.close()


@pytest.fixture
def pods(
    cluster: Cluster, namespace: str, cluster_images: ClusterImages, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pods]:
    # Where a proxy is set, also by a test, the cluster is not behind it.
    monkeypatch.setenv("NO_PROXY", str(urlsplit(cluster.api.configuration.host).hostname))
    kind = Pods(cluster, namespace, cluster_images)
    yield kind
    kind.close()


@pytest.fixture
async def executor(kind: Kind) -> AsyncIterator[Executor]:
    executor = kind.executor()
    yield executor
    await executor.close()


@pytest.fixture
async def watcher(executor: Executor) -> AsyncIterator[Watcher]:
    async with watching(executor) as watcher:
        yield watcher


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path / "lab")
    await lab.open()
    yield lab
    await lab.close()
