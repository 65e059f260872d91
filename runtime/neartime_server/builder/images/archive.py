"""What is in a layer's file: a gzipped tar, the same bytes for the same content.

Entries are sorted and belong to root; times are 0. Byte code that goes into one is not checked against the sources'
times. It needs nothing but Python: `workbench` takes it along. Source of the format: OCI image specification 1.1,
layer.md.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple

LEVEL: Final = 1
"""Of compression: networks beside a registry are faster than a higher one."""


class Packed(NamedTuple):
    digest: str
    """Of the file, `sha256:…`."""
    diff_id: str
    """Of the tar in it, `sha256:…`."""
    size: int
    """Bytes of the file."""


def write(file: Path, trees: Iterable[tuple[PurePosixPath, Path]]) -> Packed:
    """A new file of these folders, each at its place in the image."""
    with file.open("xb") as raw:
        outer = _Counted(raw)
        with gzip.GzipFile("", "wb", LEVEL, outer, mtime=0) as packed:
            inner = _Counted(packed)
            _write(inner, trees)
    return Packed(outer.digest, inner.digest, outer.size)


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
