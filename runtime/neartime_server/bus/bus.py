"""The bus: what the rest of the server knows of NATS."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any, Final

from pydantic import BaseModel

from neartime.contract import subjects
from neartime.contract.events import Envelope
from neartime.contract.gateways import Lease, LeaseAsked
from neartime.contract.ids import new_id
from neartime.contract.launch import Answer, Beat, Fetch, NatsAccess
from neartime.contract.streams import StreamAccess
from neartime.errors import NeartimeError
from neartime.stream import Event, Quiet, chunks, order, read
from neartime.stream.event import parse
from neartime_server.bus import claims
from neartime_server.bus.accounts import REQUEST_SECONDS, Accounts
from neartime_server.bus.keys import KeyPair, Keys
from neartime_server.bus.platform import OnLease, Platform, gateway_access
from neartime_server.bus.tenant import OnBeat, OnFetch, Tenant, event_headers
from neartime_server.errors import BusError
from neartime_server.settings import Settings

ROOM: Final = 1.25
"""An account's quota, as a multiple of what its streams hold: a stream is full before the account, and `JOBS` never is
since `BULK` is."""
ANSWERS: Final = 1
"""How many messages a worker may send to who spoke to it: the answer to a command, and no more."""


class Bus:
    """One connection for the accounts, and one within each instance's account. Made by `connect`."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings, self._keys = settings, keys
        self._url = ""
        self._accounts: Accounts | None = None
        self._tenants: dict[str, asyncio.Task[Tenant]] = {}
        self._on_beat: OnBeat | None = None
        self._on_fetch: OnFetch | None = None
        self._on_lease: OnLease | None = None
        self._platform: Platform | None = None
        self.dropped = 0
        """Messages in event streams that were no valid events."""

    async def connect(self, url: str) -> None:
        """Raises BusError where NATS can't be reached, or does not know this operator."""
        self._url = url
        streams = self._settings.jobs_stream_bytes + self._settings.bulk_stream_bytes
        accounts = Accounts(self._keys, url, int(ROOM * streams * self._settings.stream_replicas))
        try:
            await accounts.open()
        except BaseException:
            await accounts.close()
            raise
        self._accounts = accounts
        self._platform = Platform(self._keys, url, self._lease)

    async def close(self) -> None:
        for opening in self._tenants.values():
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                await opening.result().close()
            else:
                opening.cancel()
        self._tenants.clear()
        if self._platform is not None:
            await self._platform.close()
        if self._accounts is not None:
            await self._accounts.close()

    @property
    def connected(self) -> bool:
        """Whether NATS is there."""
        return self._accounts is not None and self._accounts.connected

    # --- instances

    async def add_instance(self, instance_id: str) -> None:
        """The instance's account and its streams are there. Costs nothing from the second time on.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        await self._tenant(instance_id)

    async def remove_instance(self, instance_id: str) -> None:
        """The instance's streams and its account go, with all that is in them; nobody gets in any more.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        tenant = await self._tenant(instance_id)
        await tenant.delete_streams()
        del self._tenants[instance_id]
        await tenant.close()
        await self._opened().remove(instance_id)

    async def revoke(self, instance_id: str, void: Mapping[str, int]) -> None:
        """Makes exactly these credentials void: users' public keys, and the Unix time until which they were given.
        Whoever holds one is cut off when this returns.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        await self._opened().revoke(instance_id, void)

    def worker_credential(
        self, instance_id: str, worker_id: str, session_id: str, lifetime: float, gateway: str | None = None
    ) -> tuple[NatsAccess, str]:
        """A worker's way in, for `lifetime` seconds, and the public key by which it can be revoked. With the name of
        a backend behind a gateway, it may ask that."""
        user = KeyPair.new_user()
        publish, subscribe = subjects.worker_permissions(worker_id, session_id, gateway)
        account = self._keys.account(instance_id)
        expires = time.time() + lifetime
        credential = claims.credential(account, user, worker_id, publish, subscribe, expires, answers=ANSWERS)
        url = self._settings.nats_worker_url or self._url
        return NatsAccess(url=url, credential=credential, inbox=subjects.inbox(worker_id)), user.public

    def reader_access(self, instance_id: str, lifetime: float, token_id: str | None = None) -> StreamAccess:
        """A client's way in, for `lifetime` seconds: it reads the instance's events, and writes none. With the id of
        the bearer token that it is given out for, it can be revoked together with that."""
        name, user = new_id(), self._keys.reader(token_id) if token_id else KeyPair.new_user()
        publish, subscribe = subjects.reader_permissions(name)
        expires = time.time() + lifetime
        account = self._keys.account(instance_id)
        credential = claims.credential(account, user, f"client-{name}", publish, subscribe, expires)
        return StreamAccess(
            url=self._settings.nats_public_url or self._url,
            credential=credential,
            inbox=subjects.inbox(name),
            expires=datetime.fromtimestamp(expires, timezone.utc),
        )

    # --- events

    async def publish(
        self, instance_id: str, session_id: str, job_id: str, kind: str, envelope: Envelope, body: bytes
    ) -> int:
        """Stores an event; its sequence in the stream.

        Raises:
            BusError: it was not stored, or not acknowledged.
        """
        tenant = await self._tenant(instance_id)
        subject = subjects.event(session_id, job_id, kind)
        return await tenant.publish(subject, body, event_headers(envelope, job_id, kind))

    async def last_sequence(self, instance_id: str, stream: str) -> int:
        """Of the newest event that is stored.

        Raises:
            BusError: NATS does not answer.
        """
        return await (await self._tenant(instance_id)).last_sequence(stream)

    async def events(self, instance_id: str, stream: str, after: int = 0) -> AsyncGenerator[Event | int, None]:
        """All events of a stream past sequence `after`, as they are stored, for ever; in place of a message that is no
        event its sequence, so that whoever reads knows how far it is.

        Raises:
            BusError: NATS does not answer.
        """
        tenant = await self._tenant(instance_id)
        kinds = ["log"] if stream == subjects.BULK else subjects.JOB_KINDS
        async with aclosing(read(tenant.link, stream, order.filters(kinds, None, None), after)) as messages:
            async for item in messages:
                if isinstance(item, Quiet):
                    continue
                event = parse(item)
                if event is not None and event.valid:
                    yield event
                else:
                    self.dropped += 1
                    yield item.sequence

    async def job_events(
        self, instance_id: str, session_id: str, job_id: str, *, logs: bool, after: int = 0, follow: bool = True
    ) -> AsyncGenerator[Event, None]:
        """A job's events, or its log's, in the order of publishing, past stream sequence `after`; with `follow` until
        its final status, else until all that is stored now was read.

        Raises:
            StreamError: events are missing from the stream.
            BusError: NATS does not answer.
        """
        tenant = await self._tenant(instance_id)
        events = order.follow(
            tenant.link,
            session_id=session_id,
            job_id=job_id,
            after=after,
            logs=logs,
            end=not follow,
            drop=self._count_dropped,
        )
        async with aclosing(events):
            async for event in events:
                yield event

    async def value(self, instance_id: str, event: Event) -> AsyncGenerator[bytes, None]:
        """An event's value, chunk by chunk.

        Raises:
            StreamError: chunks are gone from the stream, or what came is not what was published.
            BusError: NATS does not answer.
        """
        tenant = await self._tenant(instance_id)
        async with aclosing(chunks(tenant.link, event)) as parts:
            async for part in parts:
                yield part

    async def nearly_full(self, instance_id: str) -> bool:
        """Whether the instance's logs and large values had better make room for new ones.

        Raises:
            BusError: NATS does not answer.
        """
        return await (await self._tenant(instance_id)).nearly_full()

    async def make_room(self, instance_id: str, needed: Collection[tuple[str, str]]) -> int:
        """Lets go of logs and large values of jobs that are none of these (session id, job id), as far as that is
        needed. How many messages went.

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        return await (await self._tenant(instance_id)).make_room(needed)

    def _count_dropped(self, count: int) -> None:
        self.dropped += count

    # --- workers

    async def command(self, instance_id: str, worker_id: str, command: BaseModel, body: bytes = b"") -> Answer:
        """Says it to a worker, and hears its answer.

        Raises:
            NoAnswer: it did not answer.
            BusError: NATS does not answer.
        """
        return await (await self._tenant(instance_id)).command(worker_id, command, body)

    def on_beat(self, hear: OnBeat) -> None:
        """`hear` (instance id, beat) is called with each heartbeat that its worker has signed."""
        self._on_beat = hear

    def on_fetch(self, answer: OnFetch) -> None:
        """`answer` (instance id, worker id, fetch) gives the chunk that a worker asks for; empty, where it may not."""
        self._on_fetch = answer

    async def _beat(self, instance_id: str, beat: Beat) -> None:
        if self._on_beat is not None:
            await self._on_beat(instance_id, beat)

    async def _fetch(self, instance_id: str, worker_id: str, fetch: Fetch) -> bytes:
        return await self._on_fetch(instance_id, worker_id, fetch) if self._on_fetch is not None else b""

    # --- gateways

    async def serve_gateways(self, lease: OnLease) -> None:
        """From now on gateways hear whether a worker may use their backend: `lease` (backend's token, question).

        Raises:
            BusError: NATS does not answer, or refuses.
        """
        self._on_lease = lease
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._gateways().open()
        except (TimeoutError, NeartimeError) as error:
            raise BusError(f"the account of gateways can't be reached: {error!r}") from error

    def gateway_access(self, backend: str, lifetime: float) -> NatsAccess:
        """A gateway's way in, for `lifetime` seconds."""
        return gateway_access(self._keys, backend, self._settings.nats_worker_url or self._url, lifetime)

    async def describe(self, backend: str) -> dict[str, Any]:
        """What the gateway of a backend says that this is.

        Raises:
            BusError: it can't say it, or there is none.
        """
        return await self._gateways().describe(backend)

    async def _lease(self, backend: str, question: LeaseAsked) -> Lease:
        if self._on_lease is None:
            return Lease(held=False, reason="this server takes no questions yet")
        return await self._on_lease(backend, question)

    def _gateways(self) -> Platform:
        if self._platform is None:
            raise BusError("the bus is not connected")
        return self._platform

    # --- connections

    def _opened(self) -> Accounts:
        if self._accounts is None:
            raise BusError("the bus is not connected")
        return self._accounts

    async def _tenant(self, instance_id: str) -> Tenant:
        opening = self._tenants.get(instance_id)
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            opening = self._tenants[instance_id] = asyncio.ensure_future(self._open(instance_id))
        return opening.result() if opening.done() else await asyncio.shield(opening)

    async def _open(self, instance_id: str) -> Tenant:
        await self._opened().ensure(instance_id)
        tenant = Tenant(self._settings, self._keys, self._url, instance_id, beat=self._beat, fetch=self._fetch)
        try:
            await tenant.open()
        except BaseException:
            self._opened().forget(instance_id)
            await tenant.close()
            raise
        return tenant
