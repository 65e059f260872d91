"""A NATS server, a bus on it, two instances, and credentials of every kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from nats.aio.client import Client, RawCredentials
from nats.errors import Error as NatsError

from neartime.contract.ids import new_id
from neartime_server.bus import Bus, Keys, NatsServer
from neartime_server.settings import Settings


@dataclass
class World:
    """What a test holds."""

    settings: Settings
    keys: Keys
    server: NatsServer
    bus: Bus
    stack: AsyncExitStack
    instance: str = field(default_factory=new_id)
    other: str = field(default_factory=new_id)
    session: str = field(default_factory=new_id)
    job: str = field(default_factory=new_id)
    worker_id: str = field(default_factory=new_id)
    errors: list[str] = field(default_factory=list)
    """What NATS told the clients of `connect`."""

    async def connect(self, credential: str, inbox: str) -> Client:
        """A client that does not reconnect."""
        client = Client()

        async def note(error: Exception) -> None:
            self.errors.append(str(error))

        await client.connect(
            self.server.url, user_credentials=RawCredentials(credential), inbox_prefix=inbox.encode(),
            allow_reconnect=False, error_cb=note, connect_timeout=3,
        )  # fmt: skip
        self.stack.push_async_callback(client.close)
        return client

    async def worker(self, lifetime: float = 3600) -> tuple[Client, str]:
        """A connected worker, and the public key by which it is revoked."""
        access, user = self.bus.worker_credential(self.instance, self.worker_id, self.session, lifetime)
        return await self.connect(access.credential, access.inbox), user

    async def enters(self, credential: str | None, inbox: str) -> bool:
        """Whether NATS lets somebody in who holds this credential."""
        try:
            async with asyncio.timeout(3):
                if credential is None:
                    client = Client()
                    self.stack.push_async_callback(client.close)
                    await client.connect(self.server.url, allow_reconnect=False)
                else:
                    client = await self.connect(credential, inbox)
                await client.flush()
        except (NatsError, OSError, TimeoutError):
            return False
        return client.is_connected

    async def reader(self, instance: str | None = None, lifetime: float = 3600) -> tuple[Client, str]:
        """A connected client of the instance, and its inbox."""
        access = self.bus.reader_access(instance or self.instance, lifetime)
        return await self.connect(access.credential, access.inbox), access.inbox

    async def refused(self, words: str) -> None:
        """Returns once NATS has told some client of a violation that has these words."""
        await until(lambda: any(words in error for error in self.errors))


async def until(holds: Callable[[], bool]) -> None:
    """Returns once something holds that nothing here announces."""
    async with asyncio.timeout(5):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[World]:
    """A NATS server in the home that the settings name, and all that a test holds of it."""
    keys = Keys.load(settings.secret_path, create=True)
    server = NatsServer(settings.home / "nats", keys)
    await server.start()
    bus = Bus(settings, keys)
    await bus.connect(server.url)
    async with AsyncExitStack() as stack:
        made = World(settings, keys, server, bus, stack)
        for instance in (made.instance, made.other):
            await bus.add_instance(instance)
        yield made
    await bus.close()
    await server.stop()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(Settings(home=tmp_path, jobs_stream_bytes=8 << 20, bulk_stream_bytes=8 << 20)) as made:
        yield made
