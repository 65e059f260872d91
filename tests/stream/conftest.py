"""The bus of tests/bus, and who reads and stores there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bus.conftest import World, running, until, world
from stream.harness import Desk

from neartime_server.settings import Settings

__all__ = ["World", "until", "world"]


@pytest.fixture
async def desk(world: World) -> AsyncIterator[Desk]:
    async with Desk.opened(world) as desk:
        yield desk


@pytest.fixture
async def wide(tmp_path: Path) -> AsyncIterator[Desk]:
    """Streams with room for large values."""
    async with (
        running(Settings(home=tmp_path, jobs_stream_bytes=64 << 20, bulk_stream_bytes=256 << 20)) as world,
        Desk.opened(world) as desk,
    ):
        yield desk
