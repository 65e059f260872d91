"""Where zygotes are reached: one socket per environment and build of Neartime, its name made of both.

A server that starts looks at the names: a zygote of its own build it uses on, one of another build it only drains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from neartime.contract.version import CONTRACT_VERSION
from neartime_server.errors import ExecutorError
from neartime_server.executors.protocol import Place

SUFFIX: Final = ".sock"
LONGEST: Final = 103 if sys.platform == "darwin" else 107
"""Bytes that the path of a Unix socket can have. Source: unix(7), `sun_path`, less its closing zero."""
_PLACE, _BUILD = 10, 8
"""Hexadecimal digits of the two halves of a name."""
_NAME: Final = _PLACE + 1 + _BUILD + len(SUFFIX) + len(".new")
"""Bytes of a name; the zygote binds its socket under another one first."""


def folder(home: Path) -> Path:
    """The folder of a home's sockets, for its owner alone; made if need be.

    It is in the home, unless the paths would be too long there: then in the folder for temporary files.

    Raises:
        ExecutorError: it can't be had, or is somebody else's.
    """
    found = _folder(home)
    try:
        found.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = found.stat(follow_symlinks=False)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or found.is_symlink():
            raise ExecutorError(f"the folder {found} for sockets is not this user's alone")
    except OSError as error:
        raise ExecutorError(f"there can be no folder {found} for sockets: {error.strerror}") from error
    if len(os.fsencode(found)) + 1 + _NAME > LONGEST:
        raise ExecutorError(f"the folder {found} has too long a path for sockets; set TMPDIR to a shorter one")
    return found


def door(home: Path, to: str) -> Path:
    """The socket of the door to these NATS servers. It is alone in a folder, which containers see."""
    return folder(home) / f"door-{hashlib.sha256(to.encode()).hexdigest()[:_BUILD]}" / f"nats{SUFFIX}"


def _folder(home: Path) -> Path:
    found = home.resolve() / "run" / "zygotes"
    if len(os.fsencode(found)) + 1 + _NAME > LONGEST:
        named = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
        found = Path(tempfile.gettempdir()).resolve() / f"neartime-{named}"
    return found


def remove_folder(home: Path) -> None:
    """Take away a home's folder of sockets where it is among temporary files. None of its zygotes may run any more."""
    found = _folder(home)
    if not found.is_relative_to(home.resolve()):
        shutil.rmtree(found, ignore_errors=True)


def name(place: Place) -> str:
    """The name of the zygote for this environment and this server's build."""
    return f"{_place(place)}-{build()}"


def of_this_build(zygote: str) -> bool:
    return zygote.endswith(f"-{build()}")


def of_own_place(zygote: str) -> bool:
    """Whether it is the one of the server's own environment, and of its build."""
    return zygote == f"{_own_place()}-{build()}"


def _place(place: Place) -> str:
    if place.digest is None:
        return _own_place()
    return place.digest.removeprefix("sha256:")[:_PLACE]


@cache
def _own_place() -> str:
    """The server's own environment: its Python, and every distribution in it with its version."""
    found = hashlib.sha256(f"{sys.executable}\n{sys.version}\n".encode())
    for entry in sorted({path for path in sys.path if "-packages" in path}):
        for one in sorted(Path(entry).glob("*.dist-info")):
            found.update(f"{one.name}\n".encode())
    return found.hexdigest()[:_PLACE]


@cache
def build() -> str:
    """What this server's Neartime is: a zygote has imported its runner once and for all."""
    found = hashlib.sha256(f"{CONTRACT_VERSION}\n".encode())
    for package in ("neartime", "neartime_runner"):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            for file in sorted(Path(location).rglob("*.py")):
                status = file.stat()
                found.update(f"{file.relative_to(location)} {status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()[:_BUILD]


def mark(home: Path) -> str:
    """What stands for a home where others have theirs, too: 16 hexadecimal digits."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
