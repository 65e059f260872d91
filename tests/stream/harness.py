"""Jobs whose events a test stores as it likes, who stores and reads them, and what was handed on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from bus.conftest import World
from nats.aio.client import Client

from neartime.contract import subjects
from neartime.contract.events import CONTROL, INDEX_HEADER, Envelope, LogRecord, Reference, StatusEvent, encode_log
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.contract.streams import StreamAccess
from neartime.stream import Event, EventStream, Line, Link
from neartime.stream.order import Order
from neartime_server.bus.accounts import own_access

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SESSION = new_id()


def status(status: JobStatus) -> bytes:
    return StatusEvent(status=status, time=NOW).model_dump_json(exclude_none=True).encode()


def line(text: str) -> bytes:
    return encode_log([LogRecord(time=NOW, stream="stdout", text=text)])


class Life:
    """The events of one job, numbered as its worker numbers them."""

    def __init__(self, job_id: str | None = None) -> None:
        self.job_id = job_id or new_id()
        self.worker = new_id()
        self.attempt = 1
        self.number = 0
        self.index = 0

    def say(self, kind: str, body: bytes = b"1", *, index: int = 0) -> Event:
        self.number += 1
        envelope = Envelope(self.worker, self.attempt, self.number, index)
        return Event(SESSION, self.job_id, kind, envelope, body, 0, 0.0)

    def interim(self, body: bytes = b"1") -> Event:
        self.index += 1
        return self.say("interim", body, index=self.index)

    def log(self, text: str = "hello") -> Event:
        return self.say("log", line(text))

    def again(self, index: int = 0) -> None:
        """Another worker begins anew, after `index` interim results."""
        self.worker, self.attempt, self.number, self.index = new_id(), self.attempt + 1, 0, index

    def whole(self, interims: int, end: JobStatus = JobStatus.COMPLETED) -> list[Event]:
        """All that a job says that runs to its end."""
        return [
            self.say("status", status(JobStatus.RUNNING)),
            *(self.interim() for _ in range(interims)),
            self.say("result"),
            self.say("status", status(end)),
        ]

    def control(self, said: JobStatus, attempt: int | None = None) -> Event:
        """What the control plane says of the job: that it has ended, or waits for its next attempt."""
        envelope = Envelope(CONTROL, attempt or self.attempt, 2 if said.final else 1)
        return Event(SESSION, self.job_id, "status", envelope, status(said), 0, 0.0)


def stored(events: Iterable[Event]) -> list[Event]:
    """The events as a stream holds them, in this order."""
    return [replace(event, sequence=number) for number, event in enumerate(events, 1)]


def said(events: Iterable[Event]) -> list[tuple[str, int, int]]:
    """What identifies events, however often they are stored: job, attempt and the source's own number."""
    return [(event.job_id, event.envelope.attempt, event.envelope.sequence) for event in events]


def read(arrivals: Iterable[Event], order: Order | None = None) -> list[Event]:
    """What is handed on while these are read."""
    order = order or Order()
    return [due for event in arrivals for due in order.push(event, 0.0)]


@dataclass
class Desk:
    """One instance seen by a client that reads, and by the operator, who may do anything in it."""

    world: World
    client: Line
    """With a credential that reads, and does no more."""
    operator: Link

    @classmethod
    @asynccontextmanager
    async def opened(cls, world: World) -> AsyncIterator[Desk]:
        operator = await Link.open(own_access(world.keys.account(world.instance), world.server.url), name="test")
        desk = cls(world, Line(lambda: desk.access(), name="test client"), operator)
        yield desk
        await desk.client.close()
        await operator.close()

    async def access(self, lifetime: float = 3600) -> StreamAccess:
        return self.world.bus.reader_access(self.world.instance, lifetime)

    @asynccontextmanager
    async def events(self, access: Callable[[], Awaitable[StreamAccess]] | None = None) -> AsyncIterator[EventStream]:
        """A client's reader; closed in the end."""
        stream = EventStream(access or self.access)
        try:
            yield stream
        finally:
            await stream.close()

    async def say(self, *events: Event) -> list[int]:
        """Stores events in this order; their sequences in the stream."""
        return [
            await self.world.bus.publish(
                self.world.instance, event.session_id, event.job_id, event.kind, event.envelope, event.body
            )
            for event in events
        ]

    async def fill(self, subject: str, bodies: Iterable[bytes]) -> None:
        """Stores messages without headers, in order; does not wait for each."""
        for body in bodies:
            await self.operator.client.publish(subject, body)
        await self.operator.client.flush(30)

    async def chunk(self, subject: str, index: int | None, body: bytes) -> int:
        """Stores one chunk of a large value; its sequence in the stream."""
        headers = {} if index is None else {INDEX_HEADER: str(index)}
        stored = await self.operator.client.jetstream().publish(subject, body, headers=headers)
        return int(stored.seq)

    async def holds(self, count: int, stream: str = subjects.JOBS) -> None:
        """Returns once so many messages are stored. What one connection sends may overtake what another one does."""
        async with asyncio.timeout(10):
            while True:
                if await self.world.bus.last_sequence(self.world.instance, stream) >= count:
                    return
                await asyncio.sleep(0.01)

    async def consumers(self, stream: str) -> list[dict[str, Any]]:
        """Who reads a stream now."""
        found: list[dict[str, Any]] = (await self.operator.api(f"CONSUMER.LIST.{stream}", {}))["consumers"] or []
        return found

    async def nobody_reads(self) -> None:
        """Returns once no consumer is left. Long before the broker would end one that nobody listens to."""
        async with asyncio.timeout(2):
            while True:
                if not await self.consumers(subjects.JOBS) and not await self.consumers(subjects.BULK):
                    return
                await asyncio.sleep(0.01)


def reference(life: Life, parts: list[bytes], sequences: list[int], name: str = "1-1") -> Reference:
    """Where these parts of a job's value lie."""
    value = b"".join(parts)
    return Reference(
        subject=subjects.blob(SESSION, life.job_id, name),
        first=min(sequences),
        last=max(sequences),
        chunks=len(parts),
        size=len(value),
        digest=hashlib.sha256(value).hexdigest(),
    )


async def raw(client: Client, subject: bytes, headers: bytes, body: bytes = b"1", reply: bytes = b"") -> None:
    """Publishes bytes as they are, whatever is wrong with them. Returns when the server has taken them."""
    line = b"HPUB %b %b %d %d" % (subject, reply, len(headers), len(headers) + len(body))
    await client._send_command(line + b"\r\n" + headers + body + b"\r\n")
    await client._flush_pending()
    await client.flush(5)
