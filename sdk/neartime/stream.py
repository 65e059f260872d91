"""Reads event streams: in order, each event once, over broken connections and expired credentials.

A reader is an ephemeral push consumer with a random name that delivers into the credential's own inbox. It notices a
missed message by the consumer's own count, silence by missed heartbeats, and a reconnection at once; in each case it
goes on with a new consumer after the last stream sequence that it saw. (nats-py's ordered consumer does the same after
five seconds, under a fixed name, and can't be held by a permission.)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nats
from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from neartime.contract import subjects
from neartime.contract.events import (
    CONTROL,
    INDEX_HEADER,
    Envelope,
    InvalidEnvelope,
    Sequencer,
    StatusEvent,
)
from neartime.contract.streams import StreamAccess
from neartime.errors import StreamError

log = logging.getLogger("neartime.stream")

HEARTBEAT = 1.0
"""Seconds between the broker's heartbeats to an idle reader; three that are missed make a new consumer."""
GAP_SECONDS = 10.0
"""How long a reader waits for an event that is missing while later ones are there."""
RENEW_MARGIN = 60.0
"""Seconds before a credential's end at which a fresh connection takes over (at most a third of its life)."""
REQUEST_SECONDS = 5.0


class Link:
    """One NATS connection, and those who want to know when it was away."""

    def __init__(self) -> None:
        self.client = Client()
        self.inbox = ""
        self._listeners: set[Callable[[], None]] = set()

    @classmethod
    async def open(cls, url: str, credential: str, inbox: str, name: str = "neartime") -> Link:
        """Connects, and from then on reconnects for ever.

        Raises:
            StreamError: the server can't be reached or refuses the credential.
        """
        link = cls()
        link.inbox = inbox
        try:
            await link.client.connect(
                url,
                name=name,
                user_credentials=RawCredentials(credential),
                inbox_prefix=inbox.encode(),
                allow_reconnect=True,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.05,
                connect_timeout=2,
                ping_interval=20,
                reconnected_cb=link._back,
                closed_cb=link._back,
                error_cb=link._trouble,
                pending_size=16 << 20,
            )
        except (NatsError, OSError, asyncio.TimeoutError) as error:
            await link.close()
            raise StreamError(f"the event stream at {url} can't be reached: {error or type(error).__name__}") from error
        return link

    async def _back(self) -> None:
        for listener in list(self._listeners):
            listener()

    async def _trouble(self, error: Exception) -> None:
        log.debug("NATS: %s", error)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` whenever the connection is back, or closed for good; the answer takes it away."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def request(self, subject: str, body: dict[str, Any]) -> dict[str, Any]:
        """One call of the JetStream API."""
        answer = await self.client.request(subject, json.dumps(body).encode(), timeout=REQUEST_SECONDS)
        result: dict[str, Any] = json.loads(answer.data)
        if error := result.get("error"):
            raise StreamError(f"JetStream refused: {error.get('description')} (code {error.get('err_code')})")
        return result

    async def close(self) -> None:
        try:
            await self.client.close()
        except (NatsError, OSError):
            pass
        await self._back()


LinkSource = Callable[[], Awaitable[Link]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A message as the stream holds it."""

    message: Msg
    sequence: int
    """In the stream, from 1."""
    time: float
    """When the broker stored it, Unix seconds."""


async def read(source: LinkSource, stream: str, filters: Sequence[str], after: int = 0) -> AsyncIterator[Stored | None]:
    """The stream's messages past sequence `after`, in order, for ever; None at each heartbeat of an idle stream.

    `source` gives the link to use; it is asked again whenever a new consumer is made.
    """
    loop = asyncio.get_running_loop()
    last, pause = after, 0.02
    while True:
        link = await source()
        queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        heard = loop.time()

        async def hear(message: Msg, queue: asyncio.Queue[Msg | None] = queue) -> None:
            nonlocal heard
            heard = loop.time()
            queue.put_nowait(message)

        def watch(queue: asyncio.Queue[Msg | None] = queue) -> None:
            nonlocal watchdog
            if loop.time() - heard > 3 * HEARTBEAT:
                queue.put_nowait(None)
            else:
                watchdog = loop.call_later(HEARTBEAT, watch)

        watchdog = loop.call_later(HEARTBEAT, watch)
        unlisten = link.listen(lambda queue=queue: queue.put_nowait(None))  # type: ignore[misc]
        name = secrets.token_hex(10)
        subscription = None
        try:
            subscription = await link.client.subscribe(
                f"{link.inbox}.{name}", cb=hear, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
            await link.request(
                f"$JS.API.CONSUMER.CREATE.{stream}.{name}", _consumer(stream, name, link.inbox, filters, last)
            )
            expected, pause = 1, 0.02
            while (message := await queue.get()) is not None:
                if message.headers and "Status" in message.headers:
                    if message.reply:  # flow control: go on once all before it was taken
                        await link.client.publish(message.reply)
                        continue
                    consumer = message.headers.get("Nats-Last-Consumer")
                    if consumer is not None and int(consumer) >= expected:
                        break
                    if stalled := message.headers.get("Nats-Consumer-Stalled"):
                        await link.client.publish(stalled)
                    yield None
                    continue
                tokens = message.reply.split(".")
                if len(tokens) < 9 or tokens[:2] != ["$JS", "ACK"]:
                    continue
                sequence, count, stamp = int(tokens[-4]), int(tokens[-3]), int(tokens[-2])
                if count != expected:
                    break
                expected += 1
                last = sequence
                yield Stored(message, sequence, stamp / 1e9)
        except (NatsError, StreamError, OSError, asyncio.TimeoutError) as error:
            log.debug("reading %s: %r", stream, error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        finally:
            watchdog.cancel()
            unlisten()
            if subscription is not None and not link.client.is_closed:
                try:
                    await subscription.unsubscribe()
                except (NatsError, OSError):
                    pass


def _consumer(stream: str, name: str, inbox: str, filters: Sequence[str], after: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": f"{inbox}.{name}",
        "filter_subjects": list(filters),
        "deliver_policy": "by_start_sequence" if after else "all",
        "ack_policy": "none",
        "replay_policy": "instant",
        "idle_heartbeat": int(HEARTBEAT * 1e9),
        "flow_control": True,
        "inactive_threshold": int(5e9),
        "mem_storage": True,
        "num_replicas": 1,
        "max_deliver": 1,
    }
    if after:
        config["opt_start_seq"] = after + 1
    return {"stream_name": stream, "config": config, "action": "create"}


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job."""

    session_id: str
    job_id: str
    kind: str
    envelope: Envelope
    body: bytes
    sequence: int
    """In the stream."""
    time: float
    """When the broker stored it, Unix seconds."""

    def status(self) -> StatusEvent:
        """Raises ValueError where the body is no status."""
        return StatusEvent.model_validate_json(self.body)


def parse(stored: Stored) -> Event | None:
    """The event in a message, and None for what has no valid subject or envelope, or is a forged acknowledgement."""
    if (names := subjects.parse_event(stored.message.subject)) is None:
        return None
    try:
        envelope = Envelope.parse(stored.message.headers)
    except InvalidEnvelope:
        return None
    event = Event(*names, envelope, stored.message.data, stored.sequence, stored.time)
    if names[2] == "status":
        try:
            event.status()
        except ValueError:
            return None
    return event


async def chunks(source: LinkSource, event: Event) -> AsyncIterator[bytes]:
    """The event's value: its body, or the chunks of what it refers to, in order.

    Raises:
        StreamError: chunks are gone from the stream, or what came is not what was published.
    """
    reference = event.envelope.reference
    if reference is None:
        yield event.body
        return
    if not reference.subject.startswith(f"job.{event.session_id}.{event.job_id}.blob."):
        raise StreamError(f"job {event.job_id} refers to a value of another job: {reference.subject}")
    digest, size, due = hashlib.sha256(), 0, 0
    early: dict[int, bytes] = {}
    async for stored in read(source, subjects.BULK, [reference.subject], reference.first - 1):
        if stored is None or stored.sequence > reference.last:
            raise StreamError(f"a large value of job {event.job_id} is no longer in its stream (chunk {due})")
        try:
            index = int((stored.message.headers or {}).get(INDEX_HEADER, ""))
        except ValueError:
            continue
        if index >= due:
            early[index] = stored.message.data
        while (chunk := early.pop(due, None)) is not None:
            due += 1
            size += len(chunk)
            digest.update(chunk)
            yield chunk
        if due >= reference.chunks:
            break
    if size != reference.size or digest.hexdigest() != reference.digest:
        raise StreamError(f"a large value of job {event.job_id} arrived damaged: {size} of {reference.size} bytes")


class EventStream:
    """A client's reader: one connection for all its jobs, renewed before its credential ends."""

    def __init__(self, access: Callable[[], Awaitable[StreamAccess]]) -> None:
        self._access = access
        self._current: Link | None = None
        self._renew_at = 0.0
        self._opening = asyncio.Lock()
        self._renewal: asyncio.Task[None] | None = None
        self._closed = False
        self.dropped = 0
        """Messages without a valid envelope."""

    async def link(self) -> Link:
        """The connection; opened, or opened afresh, where it must be. Waits for as long as the server is away."""
        pause = 0.05
        async with self._opening:
            while not self._closed:
                if self._current is not None and not self._current.client.is_closed:
                    return self._current
                try:
                    await self._open()
                except StreamError as error:
                    log.debug("%s", error)
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 2.0)
        raise StreamError("the event stream is closed")

    async def _open(self) -> None:
        access = await self._access()
        old, self._current = self._current, await Link.open(access.url, access.credential, access.inbox)
        lifetime = access.expires.timestamp() - time.time()
        if self._renewal is None or self._renewal.done() or self._renewal is not asyncio.current_task():
            if self._renewal is not None:
                self._renewal.cancel()
            self._renewal = asyncio.create_task(self._renew(max(lifetime - min(RENEW_MARGIN, lifetime / 3), 0.1)))
        if old is not None:
            await old.close()

    async def _renew(self, delay: float) -> None:
        """Opens a fresh connection when it is time; readers move over, since closing the old one nudges them."""
        while not self._closed:
            await asyncio.sleep(delay)
            async with self._opening:
                try:
                    access = await self._access()
                    fresh = await Link.open(access.url, access.credential, access.inbox)
                except Exception as error:  # the server may be away; the old connection lives on meanwhile
                    log.debug("renewing the stream's credential: %r", error)
                    delay = 1.0
                    continue
                old, self._current = self._current, fresh
                lifetime = access.expires.timestamp() - time.time()
                delay = max(lifetime - min(RENEW_MARGIN, lifetime / 3), 0.1)
            if old is not None:
                await old.close()

    async def events(
        self, *, session_id: str | None = None, job_id: str | None = None, after: int = 0, logs: bool = False
    ) -> AsyncIterator[Event]:
        """A job's or a session's events past stream sequence `after`, in the order of publishing, each once.

        With a job id it ends after the job's final status. `logs` reads the log events instead, and never ends.

        Raises:
            StreamError: events are missing, and have not come for `GAP_SECONDS`.
        """
        kinds = ("log",) if logs else subjects.JOB_KINDS
        stream = subjects.BULK if logs else subjects.JOBS
        filters = [subjects.event(session_id or "*", job_id or "*", kind) for kind in kinds]
        if job_id is None and not logs:
            filters = [f"job.{session_id or '*'}.*.{kind}" for kind in kinds]
        orders: dict[str, Sequencer[Event]] = {}
        waiting: dict[str, float] = {}
        async for stored in read(self.link, stream, filters, after):
            if stored is None:
                _check_gaps(orders, waiting)
                continue
            event = parse(stored)
            if event is None:
                self.dropped += 1
                continue
            order = orders.setdefault(event.job_id, Sequencer())
            for due in order.push(event.envelope, event):
                yield due
                if due.kind == "status" and due.status().status.final:
                    if job_id is not None:
                        return
                    orders.pop(event.job_id, None)
                    waiting.pop(event.job_id, None)

    def value(self, event: Event) -> AsyncIterator[bytes]:
        """The event's value, chunk by chunk."""
        return chunks(self.link, event)

    async def close(self) -> None:
        self._closed = True
        if self._renewal is not None:
            self._renewal.cancel()
        if self._current is not None:
            await self._current.close()


def _check_gaps(orders: dict[str, Sequencer[Event]], waiting: dict[str, float]) -> None:
    now = time.monotonic()
    for job_id, order in orders.items():
        if not order.gap:
            waiting.pop(job_id, None)
        elif now - waiting.setdefault(job_id, now) > GAP_SECONDS:
            raise StreamError(f"events of job {job_id} are missing from its stream after number {order.last}")


__all__ = ["CONTROL", "Event", "EventStream", "Link", "Stored", "chunks", "parse", "read"]
