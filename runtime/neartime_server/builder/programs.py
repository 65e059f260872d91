"""A program version's files, laid out for workers: by content, once, and never changed."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from neartime.packaging.archive import MAX_FILES, MAX_UNPACKED
from neartime_server.builder.prune import touch
from neartime_server.errors import BuildFailed

_FAULTS: Final = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError),
    *(FileExistsError, NotADirectoryError, IsADirectoryError),  # a path is there twice, or is a file and a folder
)


def place_of(home: Path, digest: str) -> Path:
    """Where the files of the version of that digest are, or would be."""
    return home / "programs" / digest.removeprefix("sha256:")


def materialize(home: Path, digest: str, archive: bytes) -> Path:
    """The folder that holds a version's files, `home/programs/<digest>`; made where it is not there yet.

    Its files can only be read. Its folders can be written, so that a home can be deleted by ordinary means.

    Raises:
        BuildFailed: the archive is none, or has paths that lead elsewhere.
    """
    folder = place_of(home, digest)
    if folder.is_dir():
        touch(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder.with_name(f".draft-{secrets.token_hex(8)}")
    draft.mkdir()
    try:
        _unpack(archive, draft)
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # another one was first, and theirs is the same
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _unpack(archive: bytes, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = opened.infolist()
            _check(entries)
            left = MAX_UNPACKED
            for entry in entries:
                target = folder / entry.filename
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, target.open("xb") as file:
                    while block := source.read(min(1 << 20, left + 1)):
                        left -= len(block)
                        if left < 0:  # whatever the archive claims
                            raise BuildFailed(f"the program has more than {MAX_UNPACKED >> 20} MiB of files", "")
                        file.write(block)
                    os.fchmod(file.fileno(), 0o444)
    except _FAULTS as error:
        raise BuildFailed(f"the program's archive can't be unpacked: {error}", "") from error


def _check(entries: list[zipfile.ZipInfo]) -> None:
    """The archive was checked when it was uploaded; whoever unpacks one looks all the same."""
    if len(entries) > MAX_FILES:
        raise BuildFailed(f"the program has more than {MAX_FILES} files", "")
    for entry in entries:
        path = PurePosixPath(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        if not plain or path.is_absolute() or ".." in path.parts or "\\" in entry.filename or "\0" in entry.filename:
            raise BuildFailed(f"the program's archive has {entry.filename!r}, which can't be unpacked safely", "")
    if sum(entry.file_size for entry in entries) > MAX_UNPACKED:
        raise BuildFailed(f"the program has more than {MAX_UNPACKED >> 20} MiB of files", "")
