"""HTTP to the server: kept connections, retries that repeat nothing, one tree of errors.

A request is tried again, for up to `PATIENCE` seconds, where the connection broke or the server is away (502, 503, 504)
and where trying again can do nothing twice: it reads, or it carries an idempotency key. A server that was never
reached is given up sooner: then it is more likely a wrong address than a restart.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from neartime.config import Account
from neartime.contract.events import SEQUENCE_HEADER
from neartime.contract.ids import new_id
from neartime.contract.problem import ErrorCode, Problem, Problems
from neartime.contract.version import CONTRACT_VERSION, SUPPORTED_VERSIONS, VERSION_HEADER
from neartime.errors import (
    Conflict,
    ConnectionFailed,
    IncompatibleVersion,
    InvalidRequest,
    LimitReached,
    NotFound,
    RequestFailed,
    ServerFailed,
    Unauthorized,
)

PATIENCE = 60.0
"""Seconds for which a server that was reached before may be away without anybody noticing."""
FIRST_PATIENCE = 2.0
"""The same for one that was never reached."""
LONG_SECONDS = 1800.0
"""How long an upload may take: the server makes the program's environment meanwhile."""
IDEMPOTENCY_HEADER = "Idempotency-Key"
_AWAY = (502, 503, 504)
LINES = "application/x-ndjson"
_REPEATABLE = ("GET", "HEAD", "PUT", "DELETE")
_REFUSALS: dict[int, type[RequestFailed]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    409: Conflict,
    429: LimitReached,
}

Body = bytes | Callable[[], AsyncIterator[bytes]] | None
T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Sink(Protocol[T_co]):
    """Takes a value chunk by chunk, and has it in the end."""

    def feed(self, chunk: bytes, /) -> None: ...
    def finish(self) -> T_co: ...


def segment(name: str) -> str:
    """A name or an id as one part of a path, whatever is in it: it must never lead to something else.

    Raises:
        NotFound: nothing can be called so.
    """
    if not name or set(name) <= {"."} or "/" in name or "\\" in name:
        raise NotFound(404, [Problem(code=ErrorCode.NOT_FOUND, message=f"there is nothing called {name!r} here")])
    return quote(name, safe="")


class Transport:
    """Requests to one server in the name of one account."""

    def __init__(
        self,
        account: Account,
        *,
        verify: bool | str | ssl.SSLContext = True,
        patience: float = PATIENCE,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`verify` is httpx's: False, a file of CA certificates or an SSL context. `http` replaces the network."""
        self.account = account
        self.seen = 0
        """The highest sequence of the event stream that this client has read; its reads reflect at least that."""
        self._patience = patience
        self._reached = False
        self._base = f"{account.url}/api/v1"
        self._headers = {"Authorization": f"Bearer {account.token}", VERSION_HEADER: str(CONTRACT_VERSION)}
        context = ssl.create_default_context(cafile=verify) if isinstance(verify, str) else verify
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=30.0)
        self._http = http
        self._client: httpx.AsyncClient | None = None
        if http is None and account.loopback:
            # No proxy, cookie or redirect stands between: httpx's client would add a third to each request.
            self._http = httpx.AsyncHTTPTransport(verify=context, limits=limits, trust_env=False)
        elif http is None:
            self._client = httpx.AsyncClient(verify=context, limits=limits)

    async def json(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
        long: bool = False,
    ) -> Any:
        """The JSON of the answer, None where it has none. Every POST and PATCH gets an idempotency key."""
        content = None if body is None else json.dumps(body).encode()
        answer = await self.request(method, path, content, query=query, key=key, long=long)
        try:
            return json.loads(answer) if answer else None
        except ValueError as error:
            raise self._no_server(answer) from error

    async def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        query: Mapping[str, Any] | None = None,
        key: str | None = None,
        long: bool = False,
    ) -> bytes:
        """The body of the answer.

        Raises:
            ConnectionFailed: the server can't be reached.
            RequestFailed: it refused, or failed; the subclass says how.
            IncompatibleVersion: it speaks another version of the contract.
        """
        key = key or (new_id() if method in ("POST", "PATCH") else None)

        async def attempt(number: int) -> bytes:
            async with self._send(method, path, body, query, key, long) as response:
                answer = await response.aread()
            if method == "DELETE" and number > 0 and response.status_code == 404:
                return b""  # the lost answer of the attempt before was the success
            self._check(response, answer)
            return answer

        return await self._persist(attempt, f"{method} {path}", method in _REPEATABLE or key is not None)

    async def told(self, method: str, path: str, body: Any, tell: Callable[[str], None]) -> Any:
        """The JSON of the answer to a request that takes long; `tell` hears its log meanwhile, line by line.

        Where the connection breaks, it is asked again under the same key, and the log begins anew.

        Raises:
            as `request`.
        """
        content, key = json.dumps(body).encode(), new_id()

        async def attempt(number: int) -> Any:
            async with self._send(method, path, content, None, key, True, accept=LINES) as response:
                if response.headers.get("content-type") != LINES:
                    answer = await response.aread()
                    self._check(response, answer)
                    return json.loads(answer)
                self._check(response, b"")
                async for line in response.aiter_lines():
                    said = json.loads(line)
                    if "log" in said:
                        tell(str(said["log"]))
                        continue
                    self._check_status(int(said["status"]), json.dumps(said["body"]).encode())
                    return said["body"]
            raise httpx.RemoteProtocolError("the answer ended before its end")

        return await self._persist(attempt, f"POST {path}", True)

    async def download(
        self, path: str, sink: Callable[[], Sink[T]], *, query: Mapping[str, Any] | None = None
    ) -> Sink[T] | None:
        """A sink that was fed the value at `path` as it came; None where the server has none (204).

        A broken connection starts again with a new sink. To finish it is the caller's: that may take its time.
        """

        async def attempt(number: int) -> Sink[T] | None:
            async with self._send("GET", path, None, query, None, False) as response:
                if response.status_code != 200:
                    self._check(response, await response.aread())
                    return None
                self._check(response, b"")
                fed = sink()
                async for chunk in response.aiter_bytes():
                    fed.feed(chunk)
            return fed

        return await self._persist(attempt, f"GET {path}", True)

    @asynccontextmanager
    async def _send(
        self,
        method: str,
        path: str,
        body: Body,
        query: Mapping[str, Any] | None,
        key: str | None,
        long: bool,
        accept: str | None = None,
    ) -> AsyncIterator[httpx.Response]:
        headers = dict(self._headers)
        if accept is not None:
            headers["Accept"] = accept
        if key is not None:
            headers[IDEMPOTENCY_HEADER] = key
        if self.seen:
            headers[SEQUENCE_HEADER] = str(self.seen)
        if body is not None:
            headers["Content-Type"] = "application/json"
        timeout = httpx.Timeout(LONG_SECONDS if long else 60.0, connect=5.0, pool=None)
        request = httpx.Request(
            method,
            f"{self._base}{path}",
            content=body() if callable(body) else body,
            params={name: value for name, value in query.items() if value is not None} if query else None,
            headers=headers,
            extensions={"timeout": timeout.as_dict()},
        )
        if self._client is not None:
            response = await self._client.send(request, stream=True)
        else:
            assert self._http is not None
            response = await self._http.handle_async_request(request)
        try:
            self._reached = True
            yield response
        finally:
            await response.aclose()

    async def _persist(self, attempt: Callable[[int], Awaitable[T]], what: str, repeatable: bool) -> T:
        """`attempt` until it answers, within patience."""
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        while True:
            trouble: Exception
            try:
                return await attempt(number)
            except httpx.TransportError as error:
                trouble = error
            except ServerFailed as error:
                if error.status not in _AWAY:
                    raise
                trouble = error
            except httpx.HTTPError as error:
                raise ConnectionFailed(f"{what} at {self.account.url} failed: {error}") from error
            patience = self._patience if self._reached else min(FIRST_PATIENCE, self._patience)
            pause = min(0.05 * 2**number, 2.0) * random.uniform(0.5, 1.0)
            if not repeatable or loop.time() - began + pause > patience:
                if isinstance(trouble, ServerFailed):
                    raise trouble
                raise ConnectionFailed(self._unreachable(trouble)) from trouble
            number += 1
            await asyncio.sleep(pause)

    def _unreachable(self, error: Exception) -> str:
        advice = (
            "is the runtime of this machine up? `neartime up` starts it"
            if self.account.loopback
            else "check the address, the network and the certificate"
        )
        return f"the server at {self.account.url} can't be reached ({error or type(error).__name__}); {advice}"

    def _no_server(self, answer: bytes) -> ConnectionFailed:
        return ConnectionFailed(f"what answers at {self.account.url} is no Neartime server: {answer[:80]!r}")

    def _check(self, response: httpx.Response, answer: bytes) -> None:
        """Raises what the response says, unless it says success."""
        theirs = response.headers.get(VERSION_HEADER)
        if theirs is not None and theirs not in map(str, SUPPORTED_VERSIONS):
            older = theirs.isdigit() and int(theirs) < CONTRACT_VERSION
            command = "'neartime[server]' there" if older else "neartime here"
            raise IncompatibleVersion(
                f"the server at {self.account.url} speaks contract version {theirs}, "
                f"this client speaks {CONTRACT_VERSION}: pip install --upgrade {command}"
            )
        self._check_status(response.status_code, answer)

    def _check_status(self, status: int, answer: bytes) -> None:
        if status < 400:
            return
        kind = _REFUSALS.get(status, ServerFailed if status >= 500 else InvalidRequest)
        try:
            said = Problems.model_validate_json(answer)
        except ValidationError:
            if status in _AWAY:  # a proxy's own answer while the server is away
                raise ServerFailed(status, [_plain(f"the server at {self.account.url} is away")]) from None
            if status >= 500:
                raise ServerFailed(status, [_plain(f"the server failed with HTTP status {status}")]) from None
            raise self._no_server(answer) from None
        if any(problem.code is ErrorCode.INCOMPATIBLE_VERSION for problem in said.errors):
            raise IncompatibleVersion("\n".join(problem.message for problem in said.errors))
        raise kind(status, said.errors, said.trace)

    async def close(self) -> None:
        for part in (self._client, self._http):
            if part is not None:
                await part.aclose()


def _plain(message: str) -> Problem:
    return Problem(code=ErrorCode.UNAVAILABLE, message=message)
