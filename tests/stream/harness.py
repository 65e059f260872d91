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
from neartime.contract.launch import NatsAccess
from neartime.contract.streams import StreamAccess
from neartime.stream import Event, EventStream, Line, Link, follow
from neartime.stream.link import LinkSource
from neartime.stream.order import Order
from neartime_runner.events import JobEvents
from neartime_runner.outbox import Outbox
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

    async def read_by(self, count: int, stream: str) -> None:
        """Returns once a stream has so many readers."""
        async with asyncio.timeout(5):
            while True:
                if len(await self.consumers(stream)) == count:
                    return
                await asyncio.sleep(0.01)

    async def nobody_reads(self) -> None:
        """Returns once no consumer is left. Long before the broker would end one that nobody listens to."""
        async with asyncio.timeout(2):
            while True:
                if not await self.consumers(subjects.JOBS) and not await self.consumers(subjects.BULK):
                    return
                await asyncio.sleep(0.01)


class Worker:
    """A worker's own way of publishing: pipelined, and again where the connection was away."""

    def __init__(self, world: World) -> None:
        self._session_id = world.session
        self._outbox = Outbox(64 << 20)
        self._access, _ = world.bus.worker_credential(world.instance, world.worker_id, world.session, 3600)
        self.job_id = world.job
        self._events = JobEvents(self._outbox, world.worker_id, world.session, world.job, 1, 0)

    @classmethod
    @asynccontextmanager
    async def at_work(cls, world: World) -> AsyncIterator[Worker]:
        worker = cls(world)
        line = Line(worker._way_in, name="test worker", opened=worker._opened)
        await line.link()
        trying = asyncio.ensure_future(worker._outbox.keep_trying())
        try:
            yield worker
        finally:
            trying.cancel()
            await line.close()

    async def _way_in(self) -> NatsAccess:
        return self._access

    async def _opened(self, link: Link) -> None:
        await self._outbox.attach(link)
        link.listen(lambda: self._returned(link))

    def _returned(self, link: Link) -> None:
        if link.client.is_connected:
            self._again = asyncio.ensure_future(self._outbox.again())

    async def interims(self, count: int) -> None:
        for _ in range(count):
            await self._events.interim(b"%d" % self._events.interims, None)

    async def end(self) -> None:
        await self._events.status(JobStatus.COMPLETED)
        await self._outbox.empty()

    async def follow(self, source: LinkSource) -> list[Event]:
        """All that the job says."""
        return [event async for event in follow(source, session_id=self._session_id, job_id=self.job_id)]


class Wire:
    """What lies between a client and a NATS server, and can die without either of them being told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._alive: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.url = ""

    @classmethod
    @asynccontextmanager
    async def laid(cls, port: int) -> AsyncIterator[Wire]:
        wire = cls(port)
        server = await asyncio.start_server(wire._connect, "127.0.0.1", 0)
        wire.url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield wire
        finally:
            server.close()
            wire.die()
            for writer in wire._writers:
                writer.close()

    def die(self) -> None:
        """Whatever is sent on the connections that are there now does not arrive. New ones can be made."""
        for task in self._alive:
            task.cancel()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += [writer, server[1]]
        for source, target in ((reader, server[1]), (server[0], writer)):
            task = asyncio.ensure_future(self._carry(source, target))
            self._alive.add(task)
            task.add_done_callback(self._alive.discard)

    @staticmethod
    async def _carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.close()


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
