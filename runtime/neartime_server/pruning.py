"""`neartime admin prune`: what was made for program versions and is of none any more. Nothing is removed before it was
asked for.

Versions that count are those of programs that are there, and of jobs and workers that have not ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

from neartime.errors import NeartimeError
from neartime_server.builder.prune import Needed, Unneeded, in_home
from neartime_server.errors import AdminError, ServerError
from neartime_server.settings import Settings
from neartime_server.store import Store, programs

IDLE = 3600.0
"""Seconds for which things are left that were used, or made: somebody may be about to need them."""


def prune(settings: Settings, store: Store, *, remove: bool, idle: float = IDLE, as_json: bool = False) -> int:
    """Tells what nobody needs, and removes it where that is wanted. Returns an exit status: 1 where something stayed.

    Raises:
        AdminError: registry or engine can't be asked. Nothing was removed then.
    """
    versions = store.transact(programs.needed)
    needed = Needed(
        names=frozenset(store.transact(programs.names)),
        digests=frozenset(one.digest for one in versions),
        environments=frozenset(one.environment for one in versions if one.environment),
        locks=frozenset(one.lock for one in versions if one.lock),
        images=frozenset(one.image for one in versions if one.image),
    )
    return asyncio.run(_prune(settings, needed, remove=remove, idle=idle, as_json=as_json))


async def _prune(settings: Settings, needed: Needed, *, remove: bool, idle: float, as_json: bool) -> int:
    rows, failed = [], 0
    async with _found(settings, needed, idle) as found:
        for one in found:
            state = "unneeded"
            if remove:
                try:
                    await one.remove()
                    state = "removed"
                except (NeartimeError, ServerError, OSError) as error:
                    state, failed = f"failed: {error}", failed + 1
            rows.append({"kind": one.kind, "name": one.name, "bytes": one.size, "state": state})
            if not as_json:
                told = f"  {state}" if remove else ""
                print(f"{one.kind:<14} {_size(one.size):>10}  {one.name}{told}", flush=True)
    total = sum(one.size for one in found)
    if as_json:
        print(json.dumps(rows))
    elif not found:
        print("Everything is of a program version, or was used within the hour." if idle else "Everything is needed.")
    elif remove:
        print(f"{len(found) - failed} of {len(found)} removed, {_size(total)} in all.", end="")
        print(" A registry frees layers when its own collector runs." if settings.registry else "")
    else:
        print(f"{len(found)} of no program version, {_size(total)} in all. Nothing was removed: --delete does that.")
    return 1 if failed else 0


@contextlib.asynccontextmanager
async def _found(settings: Settings, needed: Needed, idle: float) -> AsyncIterator[list[Unneeded]]:
    """What nobody needs, while it can be removed."""
    async with contextlib.AsyncExitStack() as stack:
        found = await asyncio.to_thread(in_home, settings.home, needed, idle)
        if settings.executor != "process":
            try:
                from neartime_server import containers
            except ModuleNotFoundError as error:
                raise AdminError(f"images can't be looked at without the package {error.name!r}") from error
            try:
                found += await containers.unneeded(settings, stack, needed, idle)
            except (NeartimeError, ServerError) as error:
                raise AdminError(f"nothing was removed: {error}") from error
        yield found


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
