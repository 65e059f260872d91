"""Reads one stream's messages in order, without a gap, over broken connections.

A reader is an ephemeral push consumer with a random name that delivers into the credential's own inbox. It notices a
missed message by the consumer's own count, silence by missed heartbeats, and a reconnection at once; in each case it
goes on with a new consumer after the last message that it saw. nats-py's ordered consumer does the same after five
seconds, under a fixed name.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from neartime.stream.link import AWAY, Link, LinkSource, Refusal

log = logging.getLogger("neartime.stream")

HEARTBEAT: Final = 1.0
"""Seconds between the broker's heartbeats to an idle reader."""
MISSED_HEARTBEATS: Final = 3
"""So many in a row, and the reader begins anew."""
INACTIVE: Final = 5.0
"""Seconds after which the broker forgets a consumer that nobody listens to."""
PAUSES: Final = (0.02, 1.0)
"""Seconds between two tries to make a consumer: at first, and at most."""

_DATA, _FLOW = "$JS.ACK.", "$JS.FC."
_INVALID: Final = 10052
"""JetStream's code for a filter that is no subject; its status is 500."""


class Stored(NamedTuple):
    """A message as the stream holds it."""

    message: Msg
    sequence: int
    """In the stream."""
    time: float
    """When the broker stored it, Unix seconds."""
    pending: int
    """How many more there were for this reader when it was sent."""


class Quiet(NamedTuple):
    """There is no message just now, and the broker is there."""

    pending: int
    """How many messages are on their way."""
    fresh: bool
    """Whether the reader has just begun, or begun anew."""


async def read(
    source: LinkSource, stream: str, filters: Sequence[str], after: int = 0
) -> AsyncGenerator[Stored | Quiet, None]:
    """The stream's messages on subjects that match a filter, past sequence `after`, in order, for ever.

    Between them comes `Quiet`: first of all, after each interruption, and at the heartbeats of an idle stream.
    A stream that ends before the sequence past which it is read was lost and made anew, or its last messages were lost:
    it is read from its first one, since its numbers mean other messages now.

    Raises:
        Refusal: JetStream finds a fault in the request itself.
        StreamError: `source` is closed.
    """
    last, pause = after, PAUSES[0]
    while True:
        consumer = _Consumer(await source(), stream)
        try:
            pending = await consumer.open(filters, last)
            pause = PAUSES[0]
            if last > 0 and not pending and await consumer.ends_before(last):
                log.warning("the stream %s ends before message %d, which it had: it is read anew", stream, last)
                last = 0
                continue
            yield Quiet(pending, fresh=True)
            while (item := await consumer.next()) is not None:
                if isinstance(item, Stored):
                    last = item.sequence
                yield item
        except Refusal as error:
            if error.status == 400 or error.code == _INVALID:
                raise
            log.debug("reading %s: %s", stream, error)
        except AWAY as error:
            log.debug("reading %s: %r", stream, error)
        else:
            continue
        finally:
            await consumer.close()
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSES[1])


class _Consumer:
    """One consumer, from its making to the first interruption."""

    def __init__(self, link: Link, stream: str) -> None:
        self._link, self._stream = link, stream
        self._name = secrets.token_hex(10)
        self._queue: asyncio.Queue[Msg | None] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._unlisten = link.listen(self._interrupt)
        self._count = 0
        """Of messages, by which the broker numbers them, too."""
        self._heard = True
        self._missed = 0
        self._watch: asyncio.TimerHandle | None = None

    async def open(self, filters: Sequence[str], after: int) -> int:
        """Makes it; how many messages are waiting."""
        subject = f"{self._link.inbox}.{self._name}"
        # What waits in the queue is bounded by the broker's flow control, which is answered when its turn comes.
        self._subscription = await self._link.client.subscribe(
            subject, cb=self._hear, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        config = consumer_config(self._name, subject, filters, after)
        request = {"stream_name": self._stream, "config": config, "action": "create"}
        made = await self._link.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", request)
        self._watch_over()
        return int(made["num_pending"])

    async def ends_before(self, sequence: int) -> bool:
        return int((await self._link.api(f"STREAM.INFO.{self._stream}"))["state"]["last_seq"]) < sequence

    async def next(self) -> Stored | Quiet | None:
        """What comes next; None where the consumer is broken."""
        while (message := await self._queue.get()) is not None:
            reply = message.reply
            # The reply subject is the broker's own word; headers can be a publisher's.
            if reply.startswith(_DATA):
                tokens = reply.split(".")
                at = 5 if len(tokens) == 9 else 7  # with the domain and the account's hash in it
                self._count += 1
                if int(tokens[at + 1]) != self._count:
                    return None
                return Stored(message, int(tokens[at]), int(tokens[at + 2]) / 1e9, int(tokens[at + 3]))
            if reply.startswith(_FLOW):
                await self._link.client.publish(reply)
                continue
            headers = message.headers or {}
            if int(headers.get("Nats-Last-Consumer", self._count)) > self._count:
                return None
            if stalled := headers.get("Nats-Consumer-Stalled"):
                await self._link.client.publish(stalled)
                continue
            return Quiet(0, fresh=False)
        return None

    async def close(self) -> None:
        self._unlisten()
        if self._watch is not None:
            self._watch.cancel()
        if self._subscription is None or self._link.client.is_closed:
            return
        with suppress(*AWAY):
            await self._subscription.unsubscribe()
            await self._link.client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._name}")

    async def _hear(self, message: Msg) -> None:
        self._heard = True
        self._queue.put_nowait(message)

    def _interrupt(self) -> None:
        self._queue.put_nowait(None)

    def _watch_over(self) -> None:
        """Counts silent intervals, not seconds: a loop that was blocked finds its messages waiting for it."""
        self._missed = 0 if self._heard else self._missed + 1
        self._heard = False
        if self._missed >= MISSED_HEARTBEATS:
            self._interrupt()
        else:
            self._watch = asyncio.get_running_loop().call_later(HEARTBEAT, self._watch_over)


def consumer_config(name: str, subject: str, filters: Sequence[str], after: int) -> dict[str, Any]:
    """What JetStream is asked for; durations in nanoseconds."""
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": subject,
        "filter_subjects": list(filters),
        "deliver_policy": "by_start_sequence" if after > 0 else "all",
        "ack_policy": "none",
        "replay_policy": "instant",
        "idle_heartbeat": int(HEARTBEAT * 1e9),
        "flow_control": True,
        "inactive_threshold": int(INACTIVE * 1e9),
        "mem_storage": True,
        "num_replicas": 1,
        "max_deliver": 1,
    }
    if after > 0:
        config["opt_start_seq"] = after + 1
    return config
