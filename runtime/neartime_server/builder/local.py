"""The builder of the `process` executor: an environment and a folder on this machine, for each version."""

from __future__ import annotations

import asyncio
from pathlib import Path

from neartime.contract.programs import Manifest
from neartime_server.builder.environments import Environments
from neartime_server.builder.programs import materialize, place_of
from neartime_server.builder.protocol import Built, Source, Tell, tell_nobody
from neartime_server.builder.prune import touch
from neartime_server.builder.remedies import solution_of
from neartime_server.errors import BuildFailed


class LocalBuilder:
    """Keeps what it makes in a home."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._environments = Environments(home)

    async def build(self, source: Source, tell: Tell = tell_nobody) -> Built:
        try:
            return await self._build(source, tell)
        except OSError as error:
            message = f"the environment or the program's files can't be written: {error}"
            raise BuildFailed(message, "", solution_of(error)) from error

    async def _build(self, source: Source, tell: Tell) -> Built:
        made = await self._environments.ensure(source.manifest, source.lock, tell)
        folder = place_of(self._home, source.digest)
        if folder.is_dir():
            touch(folder)
        else:
            await asyncio.to_thread(materialize, self._home, source.digest, await source.archive())
        return Built(made.digest, made.lock, made.python, str(folder))

    async def ready(self) -> Built:
        own = await self._environments.ensure(Manifest(name="own"))
        return Built(own.digest, own.lock, own.python, "")

    async def close(self) -> None:
        await self._environments.close()
