from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from executors.harness import Kind, Lab, Processes, Watcher, watching

from neartime_server.executors import Executor


@pytest.fixture(params=["process"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    """Every executor there is; the suite runs on each."""
    kinds = {"process": Processes}
    kind = kinds[request.param](tmp_path / "home")
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
