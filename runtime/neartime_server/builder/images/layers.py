"""Layers as files: a gzipped tar each, the same bytes for the same content.

Entries are sorted and belong to root; times are 0. Byte code that goes into one is not checked against the sources'
times. Source of the format: OCI image specification 1.1, layer.md.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from neartime_server.builder.prune import touch

MEDIA_TYPE: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
LEVEL: Final = 1
"""Of compression: networks beside a registry are faster than a higher one."""


@dataclass(frozen=True)
class Layer:
    what: str
    """`packages`, `runner` or `program`."""
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
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        note = self._folder / f"{what}-{name}.json"
        draft = self._folder / f".draft-{secrets.token_hex(8)}"
        said = draft.with_name(f"{draft.name}.json")  # it is written first: a disk may be full by then
        try:
            with draft.open("xb") as raw:
                outer = _Counted(raw)
                with gzip.GzipFile("", "wb", LEVEL, outer, mtime=0) as packed:
                    inner = _Counted(packed)
                    _write(inner, trees)
            layer = Layer(what, outer.digest, inner.digest, outer.size, note.with_suffix(".tar.gz"))
            said.write_text(json.dumps({k: v for k, v in asdict(layer).items() if k not in ("what", "file")}))
            draft.replace(layer.file)
            said.replace(note)
        finally:
            draft.unlink(missing_ok=True)
            said.unlink(missing_ok=True)
        return layer


class _Counted:
    """A file that is written to, its size and digest."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def _write(file: _Counted, trees: Iterable[tuple[PurePosixPath, Path]]) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:  # type: ignore[call-overload]
        made: set[PurePosixPath] = set()
        for place, folder in trees:
            for parent in [*reversed(place.parents), place]:
                if parent not in made and len(parent.parts) > 1:
                    made.add(parent)
                    tar.addfile(_entry(parent, tarfile.DIRTYPE, 0o755))
            for path in _walk(folder):
                inside = place / path.relative_to(folder).as_posix()
                if path.is_dir():
                    tar.addfile(_entry(inside, tarfile.DIRTYPE, 0o755))
                    continue
                entry = _entry(inside, tarfile.REGTYPE, 0o755 if os.access(path, os.X_OK) else 0o644)
                entry.size = path.stat().st_size
                with path.open("rb") as content:
                    tar.addfile(entry, content)


def _walk(folder: Path) -> Iterator[Path]:
    """All that is in it, in one order; what links point to is taken as what it is."""
    for path in sorted(folder.iterdir(), key=lambda one: one.name):
        yield path
        if path.is_dir():
            yield from _walk(path)


def _entry(path: PurePosixPath, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(str(path).lstrip("/"))
    entry.type, entry.mode, entry.mtime = kind, mode, 0
    return entry
