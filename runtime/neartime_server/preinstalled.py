"""The programs that every server has, as public programs of an instance of their own, which has no token.

They are saved at the server's start, by content: one that is there already is left alone, one that has changed becomes
a new version. What they run in is made when a worker first needs it, so that a start waits for nothing.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import Connection

import neartime_primitives
from neartime import packaging
from neartime.packaging import Package
from neartime_server.store import Store, blobs, instances, programs


def install(store: Store) -> list[str]:
    """Saves those that are not there; returns their names."""
    packages = packaged()
    installed: list[str] = store.transact(lambda connection: _save(connection, packages))
    return installed


def packaged() -> list[Package]:
    """The programs of this Neartime."""
    with tempfile.TemporaryDirectory(prefix="neartime-") as folder:
        return [
            packaging.package(neartime_primitives.assemble(name, Path(folder))) for name in neartime_primitives.names()
        ]


def _save(connection: Connection, packages: list[Package]) -> list[str]:
    owner = instances.ensure(connection, instances.PREINSTALLED)
    saved = []
    for package in packages:
        there = programs.find(connection, owner, package.manifest.name)
        if there and there.instance_id == owner and there.version.digest == package.digest and there.is_public:
            continue
        archive = blobs.put(connection, package.archive)
        new = programs.NewVersion(package.manifest, package.digest, archive, environment=None, lock=None)
        programs.save(connection, owner, new, is_public=True)
        saved.append(package.manifest.name)
    return saved
