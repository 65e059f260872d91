"""Workers as processes of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from neartime.contract.launch import Launch
from neartime_server.errors import ExecutorError
from neartime_server.executors.protocol import Observed, Place, Synced


class ProcessExecutor:
    def __init__(self, home: Path) -> None:
        self._home = home

    async def start(self, launch: Launch, environment: Place) -> None:
        raise ExecutorError("it is being written")

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        raise ExecutorError("it is being written")

    async def observe(self) -> AsyncIterator[Observed]:
        yield Synced()

    async def prepare(self, environment: Place) -> None:
        raise ExecutorError("it is being written")

    async def forget(self, worker_id: str) -> None:
        pass

    async def close(self) -> None:
        pass
