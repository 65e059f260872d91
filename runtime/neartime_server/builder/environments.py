"""Environments of programs: a venv for each set of resolved requirements, made once and kept by its content."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.specifiers import SpecifierSet

from neartime.contract.programs import Manifest
from neartime_server.builder import needs, uv
from neartime_server.builder.locks import Locks
from neartime_server.builder.once import Once
from neartime_server.builder.protocol import Tell, tell_nobody
from neartime_server.builder.prune import touch
from neartime_server.builder.uv import Interpreter
from neartime_server.errors import BuildFailed

log = logging.getLogger(__name__)

_PYTHON_OF_LOCK: Final = re.compile(r"^# Python (\d+\.\d+)$", re.MULTILINE)
_DRAFT: Final = ".draft-"


@dataclass(frozen=True)
class Environment:
    """What a program runs in. It never changes."""

    digest: str | None
    """`sha256:…` of Python's minor version and the lock; None for the server's own."""
    lock: str | None
    """Every package with its version and hashes, as `uv pip compile` writes it."""
    python: Path
    """Its interpreter."""


class Environments:
    """Those of a home, in `environments/<digest>`: of programs, or of gateways, which need less of Neartime's own."""

    def __init__(self, home: Path, *, gateways: bool = False) -> None:
        self._gateways = gateways
        self._folder = home / "environments"
        self._logs = home / "logs"
        self._own = Environment(None, None, Path(sys.executable))
        self._here = uv.this_python()
        self._made: dict[str, Environment] = {}
        self._locks = Locks(self._folder / "resolved", self._logs / "builds")
        self._once = Once()

    async def ensure(self, manifest: Manifest, lock: str | None = None, tell: Tell = tell_nobody) -> Environment:
        """The environment of a program version; it is made where it is not there yet.

        `lock` is what its requirements were resolved to when it was uploaded: then they are not resolved again.

        Raises:
            BuildFailed: it can't be made; with the tool's own last lines.
            Refused: 422, it asks for what no environment can have here.
        """
        requirements, pythons = needs.wanted(manifest), needs.pythons(manifest)
        if not requirements and pythons.contains(str(self._here.version), prereleases=True):
            return self._own
        if lock is not None and (kept := await self._kept(lock)) is not None:
            touch(kept.python.parent.parent)
            return kept
        interpreter = await self._interpreter(manifest, pythons, lock)
        if lock is None or not needs.serves(lock, interpreter.minor, gateway=self._gateways):
            tell(f"resolving {', '.join(requirements) or 'the runner'} for Python {interpreter.minor}")
            lock = await self._locks.resolve(
                interpreter, requirements, needs.own(interpreter.minor, gateway=self._gateways)
            )
        needs.check_lock(lock)
        digest = _digest(lock)
        if (made := self._known(digest)) is None:
            tell(f"making the environment {digest[:19]} of {len(needs.pinned(lock))} packages")
            made = await self._once(digest, lambda: self._make(digest, interpreter, lock))
            self._made[digest] = made
        touch(made.python.parent.parent)
        return made

    async def close(self) -> None:
        """End what is being made; nothing of it stays."""
        await self._locks.close()
        await self._once.close()

    def _known(self, digest: str) -> Environment | None:
        made = self._made.get(digest)
        return made if made is not None and made.python.exists() else None

    async def _kept(self, lock: str) -> Environment | None:
        """The environment of a lock, where it is there and has what the runner requires today."""
        digest, resolved_for = _digest(lock), _PYTHON_OF_LOCK.search(lock)
        if (made := self._known(digest)) is not None:
            return made
        kept = Environment(digest, lock, self._place(digest) / "bin" / "python")
        if (
            resolved_for is None
            or not kept.python.exists()
            or not needs.serves(lock, resolved_for[1], gateway=self._gateways)
        ):
            return None
        await asyncio.to_thread(needs.link, _site(self._place(digest)))
        self._made[digest] = kept
        return kept

    # --- which Python

    async def _interpreter(self, manifest: Manifest, pythons: SpecifierSet, lock: str | None) -> Interpreter:
        """One that the program can run on; if possible of the minor version that its lock is for."""
        resolved_for = _PYTHON_OF_LOCK.search(lock or "")
        minor = resolved_for[1] if resolved_for else self._here.minor
        if pythons.contains(str(self._here.version), prereleases=True) and minor == self._here.minor:
            return self._here
        there_are = [self._here, *await self._once("pythons", uv.interpreters)]
        fitting = [
            one
            for one in there_are
            if pythons.contains(str(one.version), prereleases=True) and one.version >= needs.PYTHON_FLOOR
        ]
        if not fitting:
            raise needs.no_python(manifest, list(dict.fromkeys(str(one.version) for one in there_are)))
        return next((one for one in fitting if one.minor == minor), fitting[0])

    # --- making one

    async def _make(self, digest: str, interpreter: Interpreter, lock: str) -> Environment:
        folder = self._place(digest)
        environment = Environment(digest, lock, folder / "bin" / "python")
        if not environment.python.exists():  # nor where the Python that it was made of is gone
            await self._build(folder, digest, interpreter, lock)
        await asyncio.to_thread(needs.link, _site(folder))
        return environment

    async def _build(self, folder: Path, digest: str, interpreter: Interpreter, lock: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await asyncio.to_thread(self._clear_drafts)
        draft = self._folder / f"{_DRAFT}{os.getpid()}-{secrets.token_hex(4)}"
        build_log = self._log(f"build-{folder.name[:12]}")
        began = time.monotonic()
        try:
            python = await uv.make(interpreter, lock, draft, build_log)
            site = _site(draft)
            await asyncio.to_thread(needs.link, site)
            compiling = ["-m", "compileall", "-q", *(str(site / name) for name in needs.PACKAGES)]
            try:  # the server's own folder may be another user's
                await uv.run_python(python, compiling, build_log, "the runner can't be byte-compiled")
            except BuildFailed as error:
                log.info("%s: %s", error, error.log)
            check = ["-c", f"import neartime_runner{'.gateway' if self._gateways else ''}, neartime.contract.launch"]
            await uv.run_python(python, check, build_log, "the runner can't be imported in the program's environment")
            await asyncio.to_thread(_move, draft, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, draft, ignore_errors=True)
        log.info("environment %s was made in %.1f s", digest, time.monotonic() - began)

    def _place(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")

    def _log(self, name: str) -> Path:
        folder = self._logs / "builds"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / f"{name}.log"

    def _clear_drafts(self) -> None:
        """Drafts of servers that were killed while they built."""
        for draft in self._folder.glob(f"{_DRAFT}*"):
            pid = draft.name.removeprefix(_DRAFT).partition("-")[0]
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(draft, ignore_errors=True)


def _digest(lock: str) -> str:
    """The lock begins with Python's minor version."""
    return f"sha256:{hashlib.sha256(lock.encode()).hexdigest()}"


def _site(folder: Path) -> Path:
    """The environment's site-packages."""
    return next(folder.glob("lib/python3.*/site-packages"))


def _move(draft: Path, folder: Path) -> None:
    if folder.exists() and not (folder / "bin" / "python").exists():
        shutil.rmtree(folder)
    try:
        draft.rename(folder)
    except OSError:
        if not folder.is_dir():  # another server was first, and made the same
            raise


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
