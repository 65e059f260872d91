"""What a test of the control plane holds in its hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from control.tiny import TinyExecutor

from neartime.contract.jobs import JobRequest, JobStatus, JobView
from neartime.contract.sessions import SessionMode, SessionRequest, SessionState, SessionView
from neartime_server.backends import Backends
from neartime_server.builder import LocalBuilder
from neartime_server.bus import Bus, Keys, NatsServer
from neartime_server.control import Control
from neartime_server.gateways import Gateways
from neartime_server.settings import Settings
from neartime_server.store import Store, blobs, jobs, sessions
from neartime_server.store.programs import Version

BACKENDS = """
[[backends]]
name = "aer"
factory = "qiskit_aer:AerSimulator"
parallelism = 2

[[backends]]
name = "single"
factory = "qiskit_aer:AerSimulator"
"""


class Plane:
    """What a test holds: the parts, and the short words for them."""

    def __init__(
        self, settings: Settings, store: Store, bus: Bus, executor: TinyExecutor, keys: Keys, nats: NatsServer
    ) -> None:
        self.nats, self.url = nats, nats.url
        self.settings, self.store, self.bus, self.executor, self.keys = settings, store, bus, executor, keys
        self.instance = ""
        self.versions: list[Version] = []
        self.control = self.new_control()

    def new_control(self, bus: Bus | None = None) -> Control:
        """Another server on the same store and executor."""
        builder, backends = LocalBuilder(self.settings.home), Backends.load(self.settings)
        gateways = Gateways(self.settings, backends, bus or self.bus)
        return Control(
            self.settings, self.store, bus or self.bus, self.executor, builder, backends, self.keys, gateways
        )

    async def submit(self, script: dict[str, Any], **request: Any) -> str:
        params = json.dumps(script).encode()
        version = self.versions[request.pop("version", 0)]
        asked = JobRequest(program_id=version.program_id, **{"backend": None, **request})
        return (await self.control.submit(self.instance, asked, params, version)).id

    async def open(self, mode: SessionMode = SessionMode.BATCH, backend: str = "aer", **more: Any) -> str:
        request = SessionRequest(mode=mode, backend=backend, **more)
        return (await self.control.open_session(self.instance, request)).id

    async def job(self, job_id: str) -> JobView:
        view = await self.store.read(lambda connection: jobs.view(connection, self.instance, job_id))
        assert view is not None
        return (await self.control.line.placed([view]))[0]

    async def session(self, session_id: str) -> SessionView:
        view = await self.store.read(lambda connection: sessions.view(connection, self.instance, session_id))
        assert view is not None
        return view

    async def until(self, job_id: str, *statuses: JobStatus) -> JobView:
        """The job, once it has one of these statuses; any final one if none is named."""
        wanted = statuses or tuple(one for one in JobStatus if one.final)
        await wait_for(lambda: self._has(job_id, wanted))
        return await self.job(job_id)

    async def _has(self, job_id: str, wanted: tuple[JobStatus, ...]) -> bool:
        return (await self.job(job_id)).status in wanted

    async def until_closed(self, session_id: str) -> SessionView:
        await wait_for(lambda: self._closed(session_id))
        return await self.session(session_id)

    async def _closed(self, session_id: str) -> bool:
        return (await self.session(session_id)).state is SessionState.CLOSED

    async def result(self, job_id: str) -> Any:
        def read(connection: Any) -> bytes:
            row = jobs.find(connection, self.instance, job_id)
            assert row is not None
            return blobs.get(connection, row.result)

        return json.loads(await self.store.read(read))


async def wait_for(condition: Callable[[], Any], timeout: float = 30) -> None:
    """Until something holds that nothing here announces."""
    async with asyncio.timeout(timeout):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)
