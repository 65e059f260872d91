"""The files of a program: of a folder, a single file, a zip or source text."""

from __future__ import annotations

import keyword
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from neartime.contract.ibm import slug
from neartime.contract.problem import Fault
from neartime.errors import PackagingError
from neartime.packaging.archive import MAX_FILES, MAX_UNPACKED, path_fault, read_contents

MODULE: Final = "program.py"
"""The module of source text; of other programs, where main() is looked for first."""
TAKEN: Final = frozenset(
    {"neartime", "neartime_runner", "qiskit", "qiskit_aer", "numpy", "scipy", "pydantic", "nats", "cloudpickle"}
)
"""Modules that are loaded before a program's own, so that a file of such a name would not be."""
IGNORE_FILE: Final = ".neartimeignore"
IGNORED: Final = (
    *("__pycache__", "*.pyc", "*.pyo", "*.egg-info", ".ipynb_checkpoints"),
    *(".git", ".hg", ".svn", ".gitignore", ".gitattributes"),
    *(".venv", "venv", "node_modules", ".tox", ".nox", ".env", ".neartime"),
    *(".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", ".coverage"),
    *(".idea", ".vscode", ".DS_Store", "Thumbs.db", "*.swp", "*~"),
)
"""Names of files and folders, anywhere in a program, that are no part of it."""


@dataclass(frozen=True)
class Files:
    """The files of a program, and what it would be called after where they lie."""

    contents: dict[str, bytes]
    name: str | None
    executable: frozenset[str] = field(default_factory=frozenset)


def read(path: Path) -> Files:
    """The files of a folder, a .py file or a zip.

    Raises:
        PackagingError: there is no such thing, or it can't be read; every fault is named.
    """
    try:
        if path.is_dir():
            return _of_folder(path)
        content = path.read_bytes()
    except OSError as error:
        raise PackagingError(f"{path} can't be read: {error.strerror or error}") from error
    if content.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _of_zip(content, path)
    return of_source(content, slug(path.stem), _module(path))


def of_source(source: bytes, name: str | None = None, module: str = MODULE) -> Files:
    """The files of a program that is one module."""
    try:
        source.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PackagingError(
            f"This is neither Python source, which is UTF-8 text, nor a zip archive: {error}"
        ) from error
    return Files({module: source}, name)


def _module(path: Path) -> str:
    """What a single file is called in the archive: as its author knows it from tracebacks, if that can be imported."""
    stem = path.stem
    taken = not stem.isidentifier() or keyword.iskeyword(stem) or stem in sys.stdlib_module_names or stem in TAKEN
    return MODULE if taken or path.suffix != ".py" else path.name


def _of_zip(content: bytes, path: Path) -> Files:
    """A zip's files; where all lie in one folder, as when a folder was zipped, those of that folder."""
    contents, executable = read_contents(content)
    ignored = (*IGNORED, "__MACOSX")
    contents = {name: data for name, data in contents.items() if not _is_ignored(name, ignored)}
    tops = {name.partition("/")[0] for name in contents}
    if len(tops) == 1 and all("/" in name for name in contents):
        cut = len(next(iter(tops))) + 1
        contents = {name[cut:]: data for name, data in contents.items()}
        executable = frozenset(name[cut:] for name in executable)
    if (own := contents.get(IGNORE_FILE)) is not None:
        patterns = _patterns(own.decode("utf-8", "replace"))
        contents = {name: data for name, data in contents.items() if not _is_ignored(name, patterns)}
    return Files(contents, slug(path.stem), executable & contents.keys())


def _of_folder(folder: Path) -> Files:
    ignore = folder / IGNORE_FILE
    patterns: tuple[str, ...] = IGNORED
    if ignore.is_file():
        patterns += _patterns(ignore.read_text("utf-8", "replace"))
    contents: dict[str, bytes] = {}
    executable, faults, size = set(), [], 0
    for path, name in _walk(folder, "", patterns):
        if len(contents) >= MAX_FILES:
            raise PackagingError(f"{folder} has more than {MAX_FILES} files; name what is no part in {IGNORE_FILE}")
        if message := _file_fault(path, name):
            faults.append(Fault(path=name, message=message))
            continue
        size += path.stat().st_size
        if size > MAX_UNPACKED:
            raise PackagingError(
                f"{folder} has more than {MAX_UNPACKED >> 20} MiB of files; name what is no part in {IGNORE_FILE}, and "
                "hand large data over as an input"
            )
        contents[name] = path.read_bytes()
        if path.stat().st_mode & stat.S_IXUSR:
            executable.add(name)
    if faults:
        raise PackagingError(f"{folder} has what a program can't have.", faults)
    return Files(contents, slug(folder.resolve().name), frozenset(executable))


def _walk(folder: Path, prefix: str, patterns: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        name = f"{prefix}{entry.name}"
        if _is_ignored(name, patterns, whole=False):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{name}/", patterns)
        else:
            yield Path(entry.path), name


def _file_fault(path: Path, name: str) -> str | None:
    if path.is_symlink():
        return f"is a link; put the file itself in its place, or name it in {IGNORE_FILE}"
    if not path.is_file():
        return f"is no ordinary file; name it in {IGNORE_FILE}"
    return path_fault(name)


def _patterns(text: str) -> tuple[str, ...]:
    """The lines of an ignore file: a name, or a path from the top, with `*`, `?` and `[…]`; `#` begins a remark."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line.strip("/") for line in lines if line and not line.startswith("#"))


def _is_ignored(path: str, patterns: tuple[str, ...], *, whole: bool = True) -> bool:
    """Whether a path is left out; `whole`, also since a folder above it is."""
    parts = path.split("/")
    beginnings = ["/".join(parts[: length + 1]) for length in range(len(parts))] if whole else [path]
    return any(
        fnmatchcase(one if "/" in pattern else one.rpartition("/")[2], pattern)
        for one in beginnings
        for pattern in patterns
    )
