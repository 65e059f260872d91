"""What a builder is: it makes what a program version runs in, once, from the version's content alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from neartime.contract.programs import Manifest

Tell = Callable[[str], None]
"""Takes a line of a build's log."""


def tell_nobody(line: str) -> None:
    """For builds that nobody follows."""


@dataclass(frozen=True)
class Source:
    """A program version as a builder takes it."""

    manifest: Manifest
    digest: str
    """Of manifest and files, `sha256:…`."""
    archive: Callable[[], Awaitable[bytes]]
    """Gives the zip of its files."""
    lock: str | None = None
    """What its requirements were resolved to when it was uploaded; they are not resolved again then."""
    image: str | None = None
    """The image that was made of it then, by its digest."""


@dataclass(frozen=True)
class Built:
    """What a version runs in, as executors take it. It never changes."""

    digest: str | None
    """Of the environment, `sha256:…` of Python's minor version and the lock; None for the server's own."""
    lock: str | None
    """Every package with its version and hashes, as `uv pip compile` writes it; None for the server's own."""
    python: Path
    """The interpreter."""
    path: str
    """The folder with the version's files, as the worker sees it."""
    image: str | None = None
    """The image that has all of it, `registry/repository@sha256:…`; None where a version runs on this machine."""


class Builder(Protocol):
    async def build(self, source: Source, tell: Tell = tell_nobody) -> Built:
        """Make what the version runs in, unless it is there. `tell` hears what is being done, line by line.

        Raises:
            BuildFailed: it can't be made; with the tool's own last lines.
            Refused: 422, it asks for what can't be had here.
        """

    async def ready(self) -> Built | None:
        """What programs without requirements run in, so that an executor can have it ready; None where there is
        nothing to be made ready ahead.

        Raises:
            BuildFailed: it can't be made.
        """

    async def close(self) -> None:
        """End what is being made; nothing of it stays."""
