"""Publishes into JetStream: pipelined, in order, and again until the broker has acknowledged.

A window of messages is on its way at a time, the rest waits; when the connection was away, all that had no
acknowledgement is sent again in its old order. The broker drops what it has already by the message's id, and readers
drop and reorder by the envelope, so that sending again never does harm.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from dataclasses import dataclass
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from neartime.errors import NeartimeError
from neartime.stream import Link

log = logging.getLogger(__name__)

WINDOW: Final = 512
"""Messages on their way at a time."""
WINDOW_BYTES: Final = 8 << 20
ANSWER_SECONDS: Final = 5.0
"""A message that has no acknowledgement for so long is sent again."""
RETRY_SECONDS: Final = 0.25
"""Until a message is sent again that nobody took, or that the broker could not store for now."""
OVERHEAD: Final = 512
"""Bytes that a waiting message is counted with beyond its body."""

_QUOTA: Final = ("maximum bytes exceeded", "maximum messages exceeded", "resource limits exceeded", "insufficient")


class Refused(NeartimeError):
    """The broker will not store a message."""

    def __init__(self, description: str) -> None:
        super().__init__(f"the broker does not store it: {description}")
        self.quota = any(words in description for words in _QUOTA)
        """Whether the instance's storage is full."""


@dataclass(slots=True, eq=False)
class _Parcel:
    token: str
    subject: str
    body: bytes
    headers: dict[str, str]
    stored: asyncio.Future[int]
    sent: float = 0.0
    """When it was last sent, loop time."""

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD


class Outbox:
    """`limit` is the number of bytes that may wait here before `send` does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._link: Link | None = None
        self._waiting: deque[_Parcel] = deque()
        self._on_the_way: dict[str, _Parcel] = {}
        self._bytes = 0
        self._bytes_on_the_way = 0
        self._count = 0
        self._pumping = False
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def full(self) -> bool:
        return self._bytes > self._limit

    async def attach(self, link: Link) -> None:
        """Uses this connection from now on.

        Raises:
            NatsError: it went away again.
        """
        await link.client.subscribe(
            f"{link.inbox}.stored.*", cb=self._answered, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        self._link = link
        await self.again()

    async def again(self) -> None:
        """The connection is back: what was on its way is sent again."""
        self._waiting.extendleft(reversed(self._on_the_way.values()))
        self._on_the_way.clear()
        self._bytes_on_the_way = 0
        await self._pump()

    async def send(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[int]:
        """Takes a message, at once unless too much waits already. The future gives its sequence in the stream.

        The future raises Refused where the broker will not store it; nobody has to look at it.
        """
        while self.full:
            self._room.clear()
            await self._room.wait()
        self._count += 1
        parcel = _Parcel(str(self._count), subject, body, headers, asyncio.get_running_loop().create_future())
        parcel.stored.add_done_callback(_look)
        self._bytes += parcel.size
        self._waiting.append(parcel)
        self._empty.clear()
        await self._pump()
        return parcel.stored

    async def empty(self) -> None:
        """Returns when all is stored, or refused."""
        await self._empty.wait()

    async def keep_trying(self) -> None:
        """Sends again what got no answer, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(ANSWER_SECONDS / 2)
            oldest = next(iter(self._on_the_way.values()), None)
            if oldest is not None and self._connected() and loop.time() - oldest.sent > ANSWER_SECONDS:
                log.info("the broker has not answered for %.0f s: sending again", ANSWER_SECONDS)
                await self.again()

    def _connected(self) -> bool:
        return self._link is not None and bool(self._link.client.is_connected)

    async def _pump(self) -> None:
        if self._pumping:
            return  # whoever is at it takes this one too, in its turn
        self._pumping = True
        now = asyncio.get_running_loop().time()
        try:
            while (
                self._waiting
                and self._link is not None
                and self._connected()
                and len(self._on_the_way) < WINDOW
                and self._bytes_on_the_way < WINDOW_BYTES
            ):
                parcel = self._waiting.popleft()
                self._on_the_way[parcel.token] = parcel
                self._bytes_on_the_way += parcel.size
                parcel.sent = now
                await self._link.client.publish(
                    parcel.subject,
                    parcel.body,
                    reply=f"{self._link.inbox}.stored.{parcel.token}",
                    headers=parcel.headers,
                )
        except (NatsError, OSError) as error:  # it stays on its way, and is sent again when the connection is back
            log.debug("publishing: %r", error)
        finally:
            self._pumping = False

    async def _answered(self, message: Msg) -> None:
        parcel = self._on_the_way.get(message.subject.rpartition(".")[2])
        if parcel is None:
            return  # it was sent twice, and answered twice
        error: str | None = None
        sequence = 0
        if message.headers and message.headers.get("Status") == "503":
            error = "no responders"
        else:
            try:
                answer = json.loads(message.data)
                if "error" in answer:
                    error = str(answer["error"].get("description", answer["error"]))
                else:
                    sequence = int(answer["seq"])
            except (ValueError, TypeError, KeyError, AttributeError) as fault:
                error = f"an answer that is none: {fault}"
        if error is None:
            self._settle(parcel)
            parcel.stored.set_result(sequence)
        elif (refused := Refused(error)).quota:
            self._settle(parcel)
            parcel.stored.set_exception(refused)
        else:
            log.info("the broker does not store for now: %s", error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._retry, parcel)
            return
        await self._pump()

    def _settle(self, parcel: _Parcel) -> None:
        del self._on_the_way[parcel.token]
        self._bytes_on_the_way -= parcel.size
        self._bytes -= parcel.size
        if not self.full:
            self._room.set()
        if not self._on_the_way and not self._waiting:
            self._empty.set()

    def _retry(self, parcel: _Parcel) -> None:
        """Makes it the oldest one without an answer, so that it and those after it are sent again."""
        if parcel.token in self._on_the_way:
            parcel.sent = 0.0
            self._again = asyncio.ensure_future(self.again())


def _look(stored: asyncio.Future[int]) -> None:
    if not stored.cancelled():
        stored.exception()  # so that asyncio does not complain of one that nobody waited for
