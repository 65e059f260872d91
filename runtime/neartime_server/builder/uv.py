"""`uv`, as a process: it finds interpreters, resolves requirements, makes environments. Nothing that it does runs code
of a package: source distributions are not built, neither to resolve nor to install."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.version import Version

from neartime_server import variables
from neartime_server.builder.remedies import solution_of
from neartime_server.errors import BuildFailed

STEP_SECONDS: Final = 1800.0
"""How long one step may take: a slow index and an environment of some gigabytes."""
UNSOLVED: Final = 1
"""The exit code that says that the requirements are at fault; another one is of an index that is away, or of a disk."""
INDEX: Final = "look whether the requirements are well written; else upload it again when the package index answers"
FIXED: Final = {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
"""Variables that each uv gets."""
TAIL: Final = 4000
"""Characters of the tool's output that an error carries."""


@dataclass(frozen=True)
class Interpreter:
    path: Path
    version: Version

    @property
    def minor(self) -> str:
        """`3.11`"""
        return f"{self.version.major}.{self.version.minor}"


def binary() -> str:
    """The uv that was installed beside this Python, else the one on PATH.

    Raises:
        BuildFailed: there is none.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if (found := shutil.which("uv", path=path)) is None:
        raise BuildFailed("there is no uv on the server's machine; install it with: pip install uv", "")
    return found


def this_python() -> Interpreter:
    """The server's own."""
    return Interpreter(Path(sys.executable), Version(".".join(map(str, sys.version_info[:3]))))


async def interpreters() -> list[Interpreter]:
    """The Pythons of this machine, in the order in which uv finds them. Nothing is downloaded."""
    output = await _output([binary(), "python", "list", "--only-installed", "--output-format", "json"])
    found = []
    for row in json.loads(output or "[]"):
        if row.get("path") and (row["implementation"], row["variant"]) == ("cpython", "default"):
            parts = row["version_parts"]
            version = Version(f"{parts['major']}.{parts['minor']}.{parts['patch']}")
            found.append(Interpreter(Path(row["path"]), version))
    return found


@dataclass(frozen=True)
class Target:
    """Another machine than this one, that packages are for."""

    minor: str
    """Of its Python, `3.11`."""
    platform: str
    """As uv names it, `x86_64-manylinux_2_28`."""

    @property
    def options(self) -> list[str]:
        return ["--python-version", self.minor, "--python-platform", self.platform]


async def resolve(
    interpreter: Interpreter, requirements: Sequence[str], log: Path, target: Target | None = None
) -> str:
    """The lock: every package that these requirements lead to, with one version and its hashes each.

    Raises:
        BuildFailed: they contradict each other, or there is no wheel for this machine, or the other one.
    """
    output = await _process(
        [
            *(binary(), "pip", "compile", "--no-build", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"),
            *("--python", str(interpreter.path), *(target.options if target else []), "-"),
        ],
        log,
        "the program's requirements can't be resolved",
        "".join(f"{one}\n" for one in requirements),
    )
    return f"# Python {target.minor if target else interpreter.minor}\n{output}"


async def make(interpreter: Interpreter, lock: str, folder: Path, log: Path) -> Path:
    """An environment with just what the lock says, byte-compiled, that can be moved. Returns its interpreter.

    Raises:
        BuildFailed: a package can't be had, or has no wheel for this machine.
    """
    what = "the program's environment can't be made"
    venv = [binary(), "venv", "--quiet", "--relocatable", "--no-project", "--python", str(interpreter.path)]
    await _process([*venv, str(folder)], log, what)
    file, python = folder / "requirements.lock", folder / "bin" / "python"
    file.write_text(lock)
    sync = [binary(), "pip", "sync", "--require-hashes", "--no-build", "--compile-bytecode", "--python", str(python)]
    await _process([*sync, str(file)], log, what)
    return python


async def install(interpreter: Interpreter, lock: str, folder: Path, target: Target, log: Path) -> None:
    """Puts just what the lock says into a folder, for another machine.

    Raises:
        BuildFailed: a package can't be had, or has no wheel for that machine.
    """
    file = folder.with_suffix(".lock")
    file.write_text(lock)
    command = [
        *(binary(), *installing(target), "--quiet"),
        *("--python", str(interpreter.path), "--target", str(folder), "--requirement", str(file)),
    ]
    await _process(command, log, "the program's packages can't be had")


def installing(target: Target) -> list[str]:
    """The command that installs just what a lock says, but for the lock, the folder, and the interpreter."""
    return ["pip", "install", "--require-hashes", "--no-build", "--no-deps", *target.options]


async def run_python(python: Path, arguments: Sequence[str], log: Path, what: str) -> None:
    """Run an environment's own Python.

    Raises:
        BuildFailed: it ends with an error.
    """
    await _process([str(python), *arguments], log, what)


async def _process(command: Sequence[str], log: Path, what: str, given: str = "") -> str:
    with log.open("ab") as errors:
        errors.write(f"$ {' '.join(command)}\n{given}".encode())
        errors.flush()
        since = errors.tell()
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
            env=_environment(), cwd=log.parent, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(given.encode()), STEP_SECONDS)
        except asyncio.TimeoutError as error:
            raise BuildFailed(f"{what}: it took longer than {STEP_SECONDS:g} s", _tail(log, since)) from error
        finally:
            if process.returncode is None:
                _kill(process.pid)
                await process.wait()
    if process.returncode != 0:
        tail = _tail(log, since) or output.decode(errors="replace")[-TAIL:]
        raise BuildFailed(what, tail, solution_of(tail, INDEX) if process.returncode != UNSOLVED else None)
    return output.decode()


async def _output(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=_environment(),
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode()


def _environment() -> dict[str, str]:
    return {**variables.of_tool(), **FIXED}


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _tail(log: Path, since: int) -> str:
    with log.open("rb") as file:
        file.seek(since)
        return file.read().decode(errors="replace").strip()[-TAIL:]
