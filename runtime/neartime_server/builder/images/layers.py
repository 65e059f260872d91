"""Layers as files, kept by what stands for their content. `archive` says what is in such a file."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from neartime_server.builder.images import archive
from neartime_server.builder.images.archive import Packed
from neartime_server.builder.prune import touch


@dataclass(frozen=True)
class Layer:
    what: str
    """`packages`, `runner`, `program` or `tools`."""
    digest: str
    """Of the file, `sha256:…`."""
    diff_id: str
    """Of the tar in it, `sha256:…`."""
    size: int
    """Bytes of the file."""
    file: Path


class Layers:
    """Those of a folder, kept by a name that stands for their content."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, what: str, name: str) -> Layer | None:
        note = self._folder / f"{what}-{name}.json"
        try:
            said = json.loads(note.read_text())
        except (OSError, ValueError):
            return None
        layer = Layer(what, said["digest"], said["diff_id"], said["size"], note.with_suffix(".tar.gz"))
        if not layer.file.exists():
            return None
        touch(note)
        return layer

    def pack(self, what: str, name: str, trees: Iterable[tuple[PurePosixPath, Path]]) -> Layer:
        """A layer of these folders, each at its place in the image. Returns the known one where there is one."""
        if (known := self.known(what, name)) is not None:
            return known
        with self.draft(what, name) as draft:
            return draft.keep(archive.write(draft.file, trees))

    def draft(self, what: str, name: str) -> Draft:
        """A layer that is being made; nothing of it stays, unless it is kept."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Draft(what, self._folder / f"{what}-{name}.json")


class Draft:
    """A context manager."""

    def __init__(self, what: str, note: Path) -> None:
        self._what, self._note = what, note
        self.file = note.with_name(f".draft-{secrets.token_hex(8)}")
        """Where its content goes."""
        self._said = self.file.with_name(f"{self.file.name}.json")

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)
        self._said.unlink(missing_ok=True)

    def keep(self, packed: Packed) -> Layer:
        """The note is written before anything gets its name: a disk may be full by now."""
        layer = Layer(self._what, packed.digest, packed.diff_id, packed.size, self._note.with_suffix(".tar.gz"))
        self._said.write_text(json.dumps(packed._asdict()))
        self.file.replace(layer.file)
        self._said.replace(self._note)
        return layer
