from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from engine import authority, base, engine, registry, runner
from executors.harness import Containers, Kind, Lab, Processes, Watcher, watching

from neartime_server.executors import Executor

__all__ = ["authority", "base", "engine", "registry", "runner"]


@pytest.fixture(params=["process", pytest.param("docker", marks=pytest.mark.engine)])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Every executor there is; the suite runs on each."""
    if request.param == "docker":
        kind: Kind = request.getfixturevalue("containers")
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
