"""A control plane over a real store and a real NATS server, with workers that are tasks of the test."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from control.harness import BACKENDS, Plane
from control.tiny import TinyExecutor
from databases import database_url, postgres, store

from neartime.contract.ids import new_id
from neartime.contract.programs import Manifest
from neartime_server.bus import Bus, Keys, NatsServer
from neartime_server.settings import Settings
from neartime_server.store import Store, blobs, instances, programs
from neartime_server.store.programs import Version

__all__ = ["database_url", "postgres", "store"]


def _archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("program.py", "def main(backend, user_messenger): ...\n")
    return file.getvalue()


ARCHIVE = _archive()


@pytest.fixture
async def plane(store: Store, tmp_path: Path) -> AsyncIterator[Plane]:
    """A control plane that acts, one instance, and two versions of a program."""
    home = tmp_path / "home"
    (tmp_path / "backends.toml").write_text(BACKENDS)
    settings = Settings(home=home, worker_heartbeat=0.3, backends_file=tmp_path / "backends.toml")
    keys = Keys.load(settings.secret_path, create=True)
    server = NatsServer(home / "nats", keys)
    await server.start()
    bus = Bus(settings, keys)
    await bus.connect(server.url)
    executor = TinyExecutor()
    plane = Plane(settings, store, bus, executor, keys, server)

    def prepare(connection: Any) -> tuple[str, list[Version]]:
        instance = instances.create(connection, "lab")
        made = []
        for text in ("one", "two"):
            archive = blobs.put(connection, ARCHIVE)
            manifest = Manifest(name="tiny", description=text, checkpoints=True)
            new = programs.NewVersion(manifest, f"sha256:{new_id():0>64}", archive, None, None)
            made.append(programs.save(connection, instance, new, False)[0].version)
        return instance, made

    plane.instance, plane.versions = await store.run(prepare)
    await plane.control.start()
    yield plane
    await plane.control.close()
    await executor.close()
    await bus.close()
    await server.stop()
