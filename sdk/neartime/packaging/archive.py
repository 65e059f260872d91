"""The archive of a program: a zip whose bytes depend on its files alone; read without trust in who made it."""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from neartime.contract.problem import Fault
from neartime.contract.programs import MAX_ARCHIVE_SIZE
from neartime.errors import PackagingError

MAX_FILES: Final = 20_000
MAX_UNPACKED: Final = 1 << 30
"""Bytes of all files together: an archive can claim to hold a thousand times its own size."""
MAX_PATH: Final = 400
"""Bytes of a file's path."""
MAX_NAME: Final = 255
"""Bytes of one part of a path, as file systems have it."""
ROOT: Final = "data"
"""How the paths of its faults begin: the field of an upload that holds it."""
_ENTRY: Final = b"PK\x01\x02"
"""Begins an entry of a zip's directory."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_BLOCK: Final = 1 << 20
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError)
_FILE, _EXECUTABLE = stat.S_IFREG | 0o644, stat.S_IFREG | 0o755


def pack(files: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> bytes:
    """The zip of some files, by path; the same files give the same bytes.

    Raises:
        PackagingError: a path is unsafe, or there are more or larger files than are taken.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is made
            entry.external_attr = (_EXECUTABLE if path in executable else _FILE) << 16
            archive.writestr(entry, files[path])
    data = buffer.getvalue()
    if len(data) > MAX_ARCHIVE_SIZE:
        largest = sorted(files, key=lambda path: len(files[path]), reverse=True)[:3]
        raise PackagingError(
            f"The program's archive has {_mib(len(data))}, more than the {_mib(MAX_ARCHIVE_SIZE)} that are taken. "
            "Leave out what it does not need, in .neartimeignore; hand large data over as an input.",
            [Fault(path=path, message=f"has {_mib(len(files[path]))}") for path in largest],
        )
    return data


def read_files(archive: bytes) -> dict[str, str]:
    """The SHA-256 (hexadecimal) of each file in an archive, by path.

    Raises:
        PackagingError: it is no zip, is damaged, is too large once unpacked, or has unsafe paths; every fault is named.
    """
    found = {}
    with _opened(archive) as opened:
        for entry in _entries(opened):
            total = hashlib.sha256()
            for block in _blocks(opened, entry):
                total.update(block)
            found[entry.filename] = total.hexdigest()
    return found


def read_contents(archive: bytes) -> tuple[dict[str, bytes], frozenset[str]]:
    """The files of an archive, by path, and which of them are executable. Raises as `read_files` does."""
    with _opened(archive) as opened:
        entries = _entries(opened)
        executable = frozenset(entry.filename for entry in entries if entry.external_attr >> 16 & stat.S_IXUSR)
        return {entry.filename: b"".join(_blocks(opened, entry)) for entry in entries}, executable


def unpack(archive: bytes, path: Path) -> None:
    """Writes the files of an archive into a folder, which exists. Raises as `read_files` does; then nothing is written.

    A folder that holds links of someone else's making is not safe to unpack into.
    """
    read_files(archive)
    with _opened(archive) as opened:
        for entry in _entries(opened):
            target = path / entry.filename
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                file.writelines(_blocks(opened, entry))
            if entry.external_attr >> 16 & stat.S_IXUSR:
                target.chmod(target.stat().st_mode | 0o111)


def path_fault(path: str) -> str | None:
    """Why a path can't be one of a program's files; None where it can."""
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "its name is no text"
    parts = path.split("/")
    if len(encoded) > MAX_PATH or any(len(part.encode()) > MAX_NAME for part in parts):
        return f"its name is longer than {MAX_PATH} bytes, or a part of it than {MAX_NAME}"
    if path.startswith("/") or path[1:2] == ":":
        return "its path is absolute"
    if ".." in parts:
        return "its path leads out of the program"
    if (
        "" in parts
        or "." in parts
        or "\\" in path
        or any(ord(character) < 32 or character == "\x7f" for character in path)
    ):
        return "its path is not a plain one"
    return None


def _opened(archive: bytes) -> zipfile.ZipFile:
    if archive.count(_ENTRY) > 2 * MAX_FILES:  # compressed data may hold it too; `zipfile` would read a million first
        raise _refused([Fault(path=ROOT, message=f"has more than the {MAX_FILES} files that are taken")])
    try:
        return zipfile.ZipFile(io.BytesIO(archive))
    except _BROKEN as error:
        raise _refused([Fault(path=ROOT, message=f"is no zip archive: {error}")]) from error


def _entries(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive, once all of its entries are known to be safe."""
    entries = opened.infolist()
    if len(entries) > MAX_FILES:
        raise _refused(
            [Fault(path=ROOT, message=f"has {len(entries)} files, more than the {MAX_FILES} that are taken")]
        )
    if (total := sum(entry.file_size for entry in entries)) > MAX_UNPACKED:
        too_large = f"has {_mib(total)} once unpacked, more than the {_mib(MAX_UNPACKED)} that are taken"
        raise _refused([Fault(path=ROOT, message=too_large)])
    faults = [
        Fault(path=f"{ROOT}[{entry.filename[:100]!r}]", message=message)
        for entry in entries
        if (message := _entry_fault(entry))
    ]
    files = [entry for entry in entries if not entry.filename.endswith("/")]
    names = {entry.filename for entry in files}
    if len(names) < len(files):
        faults.append(Fault(path=ROOT, message="has a path twice"))
    folders = {name[:at] for name in names for at, character in enumerate(name) if character == "/"}
    faults += [Fault(path=f"{ROOT}[{name!r}]", message="is a file and a folder") for name in sorted(names & folders)]
    if faults:
        raise _refused(faults)
    return files


def _entry_fault(entry: zipfile.ZipInfo) -> str | None:
    if fault := path_fault(entry.filename.removesuffix("/")):
        return fault
    kind = stat.S_IFMT(entry.external_attr >> 16) if entry.create_system == 3 else 0
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, and only files are taken"
    if entry.flag_bits & 0x1:
        return "is encrypted"
    if entry.compress_type not in _METHODS:
        return "is compressed in a way that is not taken; use deflate, as zip does by default"
    return None


def _blocks(opened: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of a file; never more than the entry says, which `_entries` has looked at."""
    try:
        with opened.open(entry) as file:
            while block := file.read(_BLOCK):
                yield block
    except _BROKEN as error:
        raise _refused([Fault(path=f"{ROOT}[{entry.filename!r}]", message=f"is damaged: {error}")]) from error


def _refused(faults: list[Fault]) -> PackagingError:
    return PackagingError("The program's archive can't be used.", faults)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
