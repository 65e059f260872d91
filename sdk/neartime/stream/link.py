"""One NATS connection: opened or refused within seconds, and from then on reconnecting for ever."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from nats.aio.client import RawCredentials
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError

from neartime.errors import StreamError
from neartime.stream.wire import WireClient

log = logging.getLogger("neartime.stream")

OPEN_SECONDS: Final = 5.0
"""How long opening a connection may take."""
RECONNECT_SECONDS: Final = 0.05
"""Between two tries to reach a server that went away. It is near, and everything waits for it."""
REQUEST_SECONDS: Final = 5.0
"""How long a call of the JetStream API may take."""
PING_SECONDS: Final = 5
"""Between two pings. A connection that died without a word, of a laptop that was moved, is given up at the third."""
PENDING_BYTES: Final = 16 << 20
"""Of what is published while the server is away."""

AWAY: Final = (NatsError, OSError, asyncio.TimeoutError)
"""What nats-py raises where the server is away, or does not answer."""


class Access(Protocol):
    """A way in: `contract.streams.StreamAccess` of a client, `contract.launch.NatsAccess` of a worker."""

    @property
    def url(self) -> str: ...
    @property
    def credential(self) -> str: ...
    @property
    def inbox(self) -> str: ...


class Refusal(StreamError):
    """JetStream refused a call."""

    def __init__(self, status: int, code: int, description: str) -> None:
        super().__init__(f"JetStream refused: {description} (code {code})")
        self.status = status
        """As in HTTP: 400 for a faulty request, 404 for something that is not there, 503 for not now."""
        self.code = code
        """JetStream's own."""


class Link:
    """A connection, its private inbox, and those who want to know when it was away. Made by `open`."""

    def __init__(self, inbox: str) -> None:
        self.client = WireClient()
        self.inbox = inbox
        self._listeners: set[Callable[[], None]] = set()
        self._fault: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, access: Access, *, name: str) -> Link:
        """Connects. `name` is shown by the server's own tools.

        Raises:
            StreamError: the server can't be reached or refuses the credential.
        """
        link = cls(access.inbox)
        connecting = asyncio.ensure_future(link._connect(access, name))
        opened = False
        try:
            # nats-py would try again for ever, whatever the server says.
            ends: set[asyncio.Future[Any]] = {connecting, link._fault}
            await asyncio.wait(ends, timeout=OPEN_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if connecting.done():
                connecting.result()
                opened = True
                return link
        except AWAY as error:
            raise StreamError(f"the event stream at {access.url} can't be reached: {error}") from error
        finally:
            if not opened:
                connecting.cancel()
                await asyncio.gather(connecting, return_exceptions=True)
                await link.close()
        cause = link._fault.result() if link._fault.done() else TimeoutError(f"no answer for {OPEN_SECONDS:g} s")
        raise StreamError(f"the event stream at {access.url} can't be reached: {cause or cause!r}") from cause

    async def _connect(self, access: Access, name: str) -> None:
        await self.client.connect(
            [self.client.through_door(url) for url in access.url.split(",")],
            name=name,
            user_credentials=RawCredentials(access.credential),
            inbox_prefix=access.inbox.encode(),
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # seconds, as asyncio.sleep takes them
            connect_timeout=2,
            ping_interval=PING_SECONDS,
            reconnected_cb=self._changed,
            closed_cb=self._changed,
            error_cb=self._trouble,
            pending_size=PENDING_BYTES,
        )

    async def _changed(self) -> None:
        for listener in list(self._listeners):
            listener()

    async def _trouble(self, error: Exception) -> None:
        if not self._fault.done():
            self._fault.set_result(error)
        log.debug("NATS: %s", error)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` whenever the connection is back, or closed for good; the answer takes it away."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    async def api(self, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One call of the JetStream API, `STREAM.INFO.JOBS` for example.

        Raises:
            Refusal: JetStream refused.
            NatsError: the server is away, or did not answer.
        """
        payload = json.dumps(body).encode() if body is not None else b""
        result: dict[str, Any] = json.loads(await self._ask(f"$JS.API.{call}", payload))
        if error := result.get("error"):
            raise Refusal(error.get("code", 500), error.get("err_code", 0), error.get("description", ""))
        return result

    async def _ask(self, subject: str, body: bytes) -> bytes:
        """Where the connection breaks, an answer that was on its way does not come: that is known before its time."""
        sent = self.client.is_connected
        broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unlisten = self.listen(lambda: None if broken.done() else broken.set_result(None))
        asking = asyncio.ensure_future(self.client.request(subject, body, timeout=REQUEST_SECONDS))
        try:
            ends: set[asyncio.Future[Any]] = {asking, broken}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and (sent or self.client.is_closed):
                raise ConnectionClosedError
            return bytes((await asking).data)
        finally:
            unlisten()
            asking.cancel()

    async def close(self) -> None:
        try:
            if self.client.is_connected or self.client.is_reconnecting:  # nats-py can't close what was never open
                with suppress(*AWAY):
                    await self.client.close()
        finally:
            self.client.abandon()


LinkSource = Callable[[], Awaitable[Link]]
"""Gives the connection to use now; waits where there is none."""


def lifetime(credential: str) -> float | None:
    """Seconds from a credential's issue to its end, by the clock of who issued it. None where it has no end."""
    token = credential.split("-----\n", 1)[-1].split("\n", 1)[0]
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return float(claims["exp"]) - float(claims["iat"]) if "exp" in claims else None
    except (IndexError, KeyError, ValueError, TypeError) as error:
        raise StreamError("what the server gave is no NATS credential") from error
