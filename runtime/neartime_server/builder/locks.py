"""What requirements lead to: asked of the index, and kept for when it is away."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from neartime_server.builder import uv
from neartime_server.builder.once import Once
from neartime_server.builder.uv import Interpreter, Target
from neartime_server.errors import BuildFailed

log = logging.getLogger(__name__)

RESOLVED_SECONDS: Final = 60.0
"""How long it stands what requirements lead to, before the index is asked again."""


class Locks:
    """Those of a folder; logs of the resolver go to another one."""

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder, self._logs = folder, logs
        self._resolved: dict[str, tuple[str, float]] = {}
        self._once = Once()

    async def resolve(
        self, interpreter: Interpreter, requirements: Sequence[str], own: Sequence[str], target: Target | None = None
    ) -> str:
        """The lock of a program's requirements and of the runner's own.

        Raises:
            BuildFailed: they contradict each other, or there is no wheel for them; with the resolver's own words.
        """
        where = [target.minor, target.platform] if target else [interpreter.minor]
        key = hashlib.sha256("\n".join([*where, *requirements, "", *own]).encode()).hexdigest()
        lock, at = self._resolved.get(key, ("", 0.0))
        if lock and time.monotonic() - at < RESOLVED_SECONDS:
            return lock
        resolved = await self._once(key, lambda: self._ask(key, interpreter, [*requirements, *own], target))
        self._resolved = {
            one: held for one, held in self._resolved.items() if time.monotonic() - held[1] < RESOLVED_SECONDS
        }
        self._resolved[key] = (resolved, time.monotonic())
        return resolved

    async def close(self) -> None:
        await self._once.close()

    async def _ask(self, key: str, interpreter: Interpreter, requirements: list[str], target: Target | None) -> str:
        known = self._folder / key
        self._logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            lock = await uv.resolve(interpreter, requirements, self._logs / f"resolve-{key[:12]}.log", target)
        except BuildFailed as error:
            if not known.is_file():
                raise
            log.warning("%s; what they led to before is taken: %s", error, error.log)
            return known.read_text()
        known.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = known.with_name(f".draft-{secrets.token_hex(4)}")
        try:
            draft.write_text(lock)
            draft.replace(known)
        finally:
            draft.unlink(missing_ok=True)
        return lock
