"""The platform's account: what gateways ask the server, and the server them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from neartime.contract import subjects
from neartime.contract.gateways import DescribeAsked, Described, Lease, LeaseAsked, pack, unpack
from neartime.contract.ids import new_id
from neartime.contract.launch import NatsAccess
from neartime.errors import NeartimeError
from neartime.stream import Line, Link
from neartime.stream.link import AWAY
from neartime_server.bus import claims
from neartime_server.bus.accounts import own_access
from neartime_server.bus.keys import KeyPair, Keys
from neartime_server.errors import BusError, NoAnswer

log = logging.getLogger(__name__)

DESCRIBE_SECONDS: Final = 60.0
"""How long a gateway may take to say what its backend is: a provider may have to ask the machine."""
GATEWAY_ANSWERS: Final = 1
"""Messages that a gateway may send to who asked it."""

OnLease = Callable[[str, LeaseAsked], Awaitable[Lease]]


def gateway_access(keys: Keys, backend: str, url: str, lifetime: float) -> NatsAccess:
    """The way in of a backend's gateway, for `lifetime` seconds."""
    name, user, expires = f"gateway-{new_id()}", KeyPair.new_user(), time.time() + lifetime
    publish, subscribe = subjects.gateway_permissions(name, backend)
    seconds = int(2 * DESCRIBE_SECONDS)
    text = claims.credential(
        keys.platform, user, name, publish, subscribe, expires, answers=GATEWAY_ANSWERS, answer_seconds=seconds
    )
    return NatsAccess(url=url, credential=text, inbox=subjects.inbox(name))


class Platform:
    """`lease` (backend's token, question) says whether a worker may use a backend now."""

    def __init__(self, keys: Keys, url: str, lease: OnLease) -> None:
        self._keys, self._url, self._lease = keys, url, lease
        self._tasks: set[asyncio.Task[None]] = set()
        self._line = Line(self._access, name="neartime platform", opened=self._opened)

    async def _access(self) -> NatsAccess:
        return own_access(self._keys.platform, self._url)

    async def _opened(self, link: Link) -> None:
        await link.client.subscribe(subjects.lease("*"), queue="control", cb=self._hear)
        await link.client.flush()

    async def open(self) -> None:
        """Connects, and begins to listen.

        Raises:
            NeartimeError: NATS does not let it in.
        """
        await self._line.link()

    async def close(self) -> None:
        await self._line.close()
        for task in self._tasks:
            task.cancel()

    async def describe(self, backend: str) -> dict[str, Any]:
        """What the gateway of a backend says that this is, as the REST API tells it.

        Raises:
            NoAnswer: there is no gateway, or it does not answer.
            BusError: it can't describe its backend; the message is its own.
        """
        header, body = await self._ask(backend, DescribeAsked())
        parts = [body]
        while header.fault is None and len(parts) < header.parts:
            more, body = await self._ask(backend, DescribeAsked(part=len(parts), digest=header.digest))
            if more.fault is not None:
                raise NoAnswer(more.fault)
            parts.append(body)
        if header.fault is not None:
            raise BusError(header.fault)
        try:
            told: dict[str, Any] = json.loads(b"".join(parts))
        except ValueError as error:
            raise NoAnswer(f"the gateway of {backend!r} said what is no JSON: {error}") from error
        return told

    async def _ask(self, backend: str, question: DescribeAsked) -> tuple[Described, bytes]:
        try:
            async with asyncio.timeout(DESCRIBE_SECONDS):
                link = await self._line.link()
                request = link.client.request(subjects.describe(backend), pack(question), timeout=DESCRIBE_SECONDS)
                return unpack(Described, (await request).data)
        except NoRespondersError as error:
            raise NoAnswer(f"the gateway of the backend {backend!r} is not there") from error
        except (*AWAY, NeartimeError, ValueError) as error:
            raise NoAnswer(f"the gateway of the backend {backend!r} does not answer: {error!r}") from error

    async def _hear(self, message: Msg) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Msg) -> None:
        try:
            question, _ = unpack(LeaseAsked, message.data)
            answer = await self._lease(message.subject.partition(".")[2], question)
            await message.respond(pack(answer))
        except Exception as error:  # the gateway asks again
            log.warning("whether a gateway's backend is leased could not be had: %r", error)
