"""What builders have made and nobody needs any more: it is found, told, and taken away when an operator says so.

Whatever is taken away by mistake is made again: a version keeps its files and its lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from neartime_server.builder import needs

_DRAFTS: Final = (".draft-", ".making-")
"""What names of things begin with that are being made."""


@dataclass(frozen=True)
class Needed:
    """What program versions refer to that can still be run."""

    names: frozenset[str] = frozenset()
    """Of all programs that there ever were: those that images have."""
    digests: frozenset[str] = frozenset()
    """Of versions, `sha256:…`."""
    environments: frozenset[str] = frozenset()
    """Digests, `sha256:…`."""
    locks: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    """References by digest, or ids of an engine's."""


@dataclass(frozen=True)
class Unneeded:
    """One thing that nobody needs."""

    kind: str
    """`image` (of a registry), `engine's image`, `environment`, `program`, `layer` or `draft`."""
    name: str
    size: int
    """Bytes that are free when it is gone; of what images share, once."""
    remove: Callable[[], Awaitable[None]] = field(repr=False, compare=False)
    """Raises NeartimeError or ServerError where it can't be removed."""


def touch(path: Path) -> None:
    """Note that something was used: `in_home` leaves it for a while."""
    try:
        os.utime(path)
    except OSError:
        pass  # another user's, or gone: then it is made again


def in_home(home: Path, needed: Needed, idle: float) -> list[Unneeded]:
    """Environments, unpacked programs and layers that are of no version and were not used for `idle` seconds."""
    digests = {digest.removeprefix("sha256:") for digest in needed.digests}
    environments = {digest.removeprefix("sha256:") for digest in needed.environments}
    packages = {hashlib.sha256(lock.encode()).hexdigest() for lock in needed.locks}
    layers = {f"program-{digest}" for digest in digests} | {f"packages-{name}" for name in packages}
    runners = {f"runner-{needs.runner_layer(minor)}" for minor in needs.MINORS}
    before = time.time() - idle
    found = []
    for folder, kind, kept in (
        (home / "environments", "environment", environments | {"resolved"}),
        (home / "programs", "program", digests),
        (home / "layers", "layer", layers | runners | {"resolved"}),
    ):
        for stem, paths in _things(folder):
            if stem in kept or max((path.lstat().st_mtime for path in paths), default=before) > before:
                continue
            draft = stem.startswith(_DRAFTS)
            name = str((folder / stem).relative_to(home))
            found.append(Unneeded("draft" if draft else kind, name, sum(map(_size, paths)), partial(_remove, paths)))
    return found


def _things(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """What lies in a folder, by name without what it ends with: a layer is two files."""
    things: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            name = path.name if path.name.startswith(_DRAFTS) else path.name.partition(".")[0]
            things.setdefault(name, []).append(path)
    yield from things.items()


async def _remove(paths: list[Path]) -> None:
    await asyncio.to_thread(_remove_now, paths)


def _remove_now(paths: list[Path]) -> None:
    """Under another name first: half of a thing is never taken for the whole of it."""
    for path in reversed(paths):  # of a layer the note before the file
        draft = path.with_name(f".draft-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.rename(draft)
        except FileNotFoundError:
            continue
        if draft.is_dir():
            shutil.rmtree(draft)
        else:
            draft.unlink()


def _size(path: Path) -> int:
    """Bytes on disk that nothing else shares: packages are links to the cache of uv."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - thousands of them
            total += stat.st_size if stat.st_nlink == 1 else 0
    return total
