"""Layers of packages that are made elsewhere: in a pod, of the base image that they are for.

The server unpacks nothing, and no code of a package is near it. What it gets is the layer's file, whose digest it
checks.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Protocol

from neartime_server import variables
from neartime_server.builder import uv
from neartime_server.builder.images import archive, workbench
from neartime_server.builder.images.archive import Packed
from neartime_server.builder.images.layers import Layer, Layers
from neartime_server.builder.images.recipe import PACKAGES, TOOLS, WRITABLE, Base
from neartime_server.builder.protocol import Tell
from neartime_server.builder.uv import Target
from neartime_server.errors import BuildFailed

COMPILING: Final = ("-q", "-j", "2", "--invalidation-mode", "unchecked-hash")
"""Each process of it takes memory, and a pod sees all of its node's cores."""


class Bench(Protocol):
    """Where a program of an image runs, and makes one file."""

    async def __call__(
        self, image: str, command: Sequence[str], order: Mapping[str, Any], file: Path, tell: Tell
    ) -> dict[str, Any]:
        """Gives `workbench` an order, hands on what it says, and fetches its file. Returns what it says of that.

        Raises:
            BuildFailed: it could not be run, or could not make the file; with the reason.
        """

    async def close(self) -> None:
        """End what is under way; nothing of it stays."""


class Extender(Protocol):
    """Makes an image of a base and one layer."""

    async def extend(self, base: Base, layer: Layer, tell: Tell) -> str:
        """Its reference by its digest, on the registry.

        Raises:
            BuildFailed: the registry does not take it.
        """


class Remote:
    def __init__(self, bench: Bench, extender: Extender, layers: Layers) -> None:
        self._bench, self._extender, self._layers = bench, extender, layers

    async def packages(self, base: Base, lock: str, name: str, target: Target, tell: Tell) -> Layer:
        """The layer of a lock.

        Raises:
            BuildFailed: it can't be made, with the end of what was said.
        """
        image = await self._extender.extend(base, await self._tools(), tell)
        order = _order(lock, target)
        with self._layers.draft("packages", name) as draft:
            command = [base.python, "-E", "-s", str(TOOLS / "workbench.py"), WRITABLE]
            said = await self._bench(image, command, order, draft.file, tell)
            packed = Packed(**said)
            found = await asyncio.to_thread(_digest, draft.file)
            if found != packed.digest:
                raise BuildFailed("the packages' layer arrived broken", "", "upload it again")
            return draft.keep(packed)

    async def close(self) -> None:
        await self._bench.close()

    async def _tools(self) -> Layer:
        return await asyncio.to_thread(self._tools_now)

    def _tools_now(self) -> Layer:
        if (known := self._layers.known("tools", self._name)) is not None:
            return known
        with self._layers.draft("tools", self._name) as draft:
            folder = draft.file.with_name(f"{draft.file.name}.tools")
            folder.mkdir()
            try:
                for file in self._files:
                    shutil.copy(file, folder)
                return draft.keep(archive.write(draft.file, [(TOOLS, folder)]))
            finally:
                shutil.rmtree(folder)

    @cached_property
    def _files(self) -> list[Path]:
        return [Path(uv.binary()), Path(workbench.__file__), Path(archive.__file__)]

    @cached_property
    def _name(self) -> str:
        return hashlib.sha256(" ".join(map(_digest, self._files)).encode()).hexdigest()


def _order(lock: str, target: Target) -> dict[str, Any]:
    """What `workbench` takes."""
    environment = variables.of_indexes()
    certificates = os.environ.get("SSL_CERT_FILE")
    return {
        "lock": lock,
        "install": uv.installing(target),
        "compile": list(COMPILING),
        "place": str(PACKAGES),
        "environment": {**environment, **uv.FIXED},
        "certificates": Path(certificates).read_text() if certificates else None,
        "secrets": variables.secrets_of(environment),
    }


def _digest(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            found.update(piece)
    return f"sha256:{found.hexdigest()}"
