from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from runner.harness import World, Zygote


@pytest_asyncio.fixture
async def zygote(tmp_path: Path) -> AsyncIterator[Zygote]:
    zygote = Zygote(tmp_path)
    await zygote.start()
    yield zygote
    await zygote.stop()


@pytest_asyncio.fixture
async def world(tmp_path: Path, zygote: Zygote) -> AsyncIterator[World]:
    world = World(tmp_path)
    try:
        await world.open(zygote)
        yield world
    finally:
        await world.close()


@pytest.fixture
def log(zygote: Zygote) -> Path:
    return zygote.log
