"""What every request passes: its trace id, contract version, token and size; and the net under it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from neartime.contract.ids import new_id
from neartime.contract.problem import ErrorCode
from neartime.contract.version import CONTRACT_VERSION, VERSION_HEADER, incompatible
from neartime_server.api import problems
from neartime_server.errors import ConfigurationError, Refused
from neartime_server.store.tokens import Principal

log = logging.getLogger(__name__)

TRACE_HEADER: Final = "X-Request-Id"
OPEN_PATHS: Final = frozenset({"/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/identity/token"})
"""Told to anybody; the last asks for a token in its body."""
TOKEN_CACHE_SECONDS: Final = 3.0
"""How long a token may still be taken after it was ended."""
SMALL_BODY: Final = 1 << 20
"""Bytes that suffice for every body but a program's and a job's."""
_SCHEMES: Final = ("bearer", "apikey")
"""The second is what the client of Qiskit Runtime falls back on."""
_LARGE_BODIES: Final = ("/api/v1/programs", "/api/v1/jobs")

Authenticate = Callable[[str], Awaitable[Principal | None]]


class TokenCache:
    """Who tokens stand for, remembered for `TOKEN_CACHE_SECONDS`. Unknown tokens are asked for again each time."""

    def __init__(self, find: Authenticate) -> None:
        self._find = find
        self._known: dict[str, tuple[Principal, float]] = {}

    async def __call__(self, token: str) -> Principal | None:
        now = time.monotonic()
        known = self._known.get(token)
        if known and known[1] > now:
            return known[0]
        self._known = {key: value for key, value in self._known.items() if value[1] > now}
        principal = await self._find(token)
        if principal:
            self._known[token] = (principal, now + TOKEN_CACHE_SECONDS)
        return principal


class Gate:
    """An ASGI middleware, outermost: whatever happens inside, what leaves has the one shape."""

    def __init__(self, app: FastAPI, *, authenticate: Authenticate, max_body_bytes: int) -> None:
        self.app = app
        self._authenticate = authenticate
        self._max_body_bytes = max_body_bytes
        self.fault: ConfigurationError | None = None
        """Why the server can't start as it is configured."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, self._told(send))
            return
        trace = new_id()
        started = ended = False

        async def marked(message: Message) -> None:
            nonlocal started, ended
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers[TRACE_HEADER] = trace
                headers[VERSION_HEADER] = str(CONTRACT_VERSION)
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        state = scope.setdefault("state", {})
        state["trace"] = trace
        headers = Headers(scope=scope)
        try:
            _check_version(headers)
            if scope["path"] not in OPEN_PATHS:
                state["principal"] = await self._principal(headers)
            await self.app(scope, self._limited(scope["path"], headers, receive), marked)
        except Exception as error:
            if ended:  # the framework raises again what it has answered
                return
            if started:
                # Half a response can't become an error; the connection breaks instead, and the reader notices.
                log.error("%s: failed after its response had begun", trace, exc_info=error)
                raise
            answer = problems.response(problems.translate(error, trace), trace)
            if isinstance(error, Refused) and error.status in (401, 413):
                answer.headers["Connection"] = "close"  # the rest of the body is not read
            await answer(scope, receive, marked)

    def _told(self, send: Send) -> Send:
        """What an operator has to mend is said by whoever runs the server, in its own words: a traceback hides them."""

        async def told(message: Message) -> None:
            error = sys.exception()
            if message["type"] == "lifespan.startup.failed" and isinstance(error, ConfigurationError):
                self.fault, message = error, {"type": message["type"]}
            await send(message)

        return told

    async def _principal(self, headers: Headers) -> Principal:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() not in _SCHEMES or not token:
            raise Refused.of(
                401,
                ErrorCode.UNAUTHORIZED,
                "the request carries no token",
                solution="send Authorization: Bearer <token>; the SDK reads it from NEARTIME_TOKEN",
            )
        principal = await self._authenticate(token.strip())
        if principal is None:
            raise Refused.of(
                401,
                ErrorCode.UNAUTHORIZED,
                "the token is not known here, has expired or was ended",
                solution="ask the operator for a new one (neartime admin token create NAME --instance INSTANCE); "
                "an embedded runtime's own is printed by: neartime up --print-env",
            )
        return principal

    def _limited(self, path: str, headers: Headers, receive: Receive) -> Receive:
        limit = self._max_body_bytes if path.startswith(_LARGE_BODIES) else min(SMALL_BODY, self._max_body_bytes)
        seen = 0

        def check(size: int) -> None:
            if size > limit:
                raise Refused.of(
                    413, ErrorCode.TOO_LARGE, f"the body is larger than the {limit} bytes that are taken here"
                )

        length = headers.get("content-length", "")
        if length.isdecimal():
            check(int(length))

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                check(seen)
            return message

        return counted


def _check_version(headers: Headers) -> None:
    stated = headers.get(VERSION_HEADER)
    if stated is None:  # curl, a browser
        return
    try:
        theirs = int(stated)
    except ValueError:
        raise Refused.of(
            400, ErrorCode.INCOMPATIBLE_VERSION, f"{VERSION_HEADER}: {stated!r} is no number", path=VERSION_HEADER
        ) from None
    if reason := incompatible(theirs, "the client"):
        raise Refused.of(400, ErrorCode.INCOMPATIBLE_VERSION, reason, path=VERSION_HEADER)
