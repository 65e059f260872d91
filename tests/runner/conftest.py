"""Workers over a real NATS server, forked by a real zygote."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from runner.harness import World, Zygote


@pytest.fixture(scope="session")
def shared_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    zygote.start()
    yield zygote
    zygote.stop()


@pytest.fixture
async def zygote(shared_zygote: Zygote) -> AsyncIterator[Zygote]:
    """One that all tests share; they connect each by itself."""
    await shared_zygote.connect()
    yield shared_zygote
    await shared_zygote.disconnect()


@pytest.fixture
async def own_zygote(tmp_path: Path) -> AsyncIterator[Zygote]:
    """One that a test may end."""
    zygote = Zygote(tmp_path)
    zygote.start()
    await zygote.connect()
    yield zygote
    await zygote.disconnect()
    zygote.stop()


@pytest.fixture
async def world(tmp_path: Path, zygote: Zygote) -> AsyncIterator[World]:
    world = World(tmp_path, zygote)
    try:
        await world.open()
        yield world
    finally:
        await world.close()
