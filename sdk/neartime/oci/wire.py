"""Requests to registries: which scheme, which login, again after which trouble, and what an answer means.

A request is tried again, for up to `PATIENCE` seconds, where the connection broke or the registry is busy or failing
(429, 5xx). A registry that was never reached is given up sooner: then it is more likely a wrong address.

httpx's transports are used without its client, which logs each URL: an upload's or a storage's may be as good as a
password.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx

from neartime.errors import (
    ConfigurationError,
    DamagedContent,
    NotInRegistry,
    RegistryError,
    RegistryRefused,
    RegistryUnreachable,
)
from neartime.oci.access import Access
from neartime.oci.credentials import Credentials
from neartime.oci.reference import DOCKER_HUB

PATIENCE = 30.0
"""Seconds for which a registry that was reached before may be away."""
FIRST_PATIENCE = 2.0
"""The same for one that was never reached."""
ANSWER_BYTES = 16 * 2**20
"""The longest answer that is read whole. Registries take manifests of at least 4 MiB (distribution specification)."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0, pool=None)
"""Seconds without a byte."""
_LONG_TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=300.0, pool=None)
"""The same where something ends: a registry may move a large blob to its storage before it answers."""
_REDIRECTS = 5
_BUSY = (408, 429)
_HUB_HOST = "registry-1.docker.io"
"""Where Docker Hub's API is."""

T = TypeVar("T")


class Trouble(Exception):
    """Something that may pass. `after` is how many seconds the registry asked to wait."""

    def __init__(self, message: str, after: float = 0.0) -> None:
        self.after = after
        super().__init__(message)


@dataclass(frozen=True)
class Ask:
    """A request, and how to speak of it."""

    method: str
    registry: str
    url: str = field(repr=False)
    """A path, or what the registry gave as `Location`."""
    doing: str
    """What for, to be read after "can't"."""
    scopes: frozenset[str] = frozenset()
    expected: Collection[int] = (200,)
    """Statuses that are no error."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    """Where it came from."""


@dataclass(frozen=True)
class _Host:
    base: httpx.URL
    access: Access


class Wire:
    """To any number of registries, with one set of credentials."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        ca: Path | None = None,
        insecure: Collection[str] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._credentials = credentials
        self._ca = ca
        self._insecure = frozenset(insecure)
        self._patience = patience
        self._hosts: dict[str, _Host] = {}
        self._reached: set[str] = set()
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}
        self._context: ssl.SSLContext | None = None

    async def send(self, ask: Ask) -> Answer:
        """The answer, read whole, however often it takes. Only for what may be asked twice.

        Raises:
            RegistryError: what the registry says, or that it can't be reached, by the subclasses.
        """
        return await self.persist(ask, lambda: self.once(ask))

    async def once(self, ask: Ask) -> Answer:
        """The same, in one attempt.

        Raises:
            Trouble: it may be tried again.
        """
        async with self.open(ask) as response:
            return Answer(response.status_code, response.headers, await _read(response, ask), str(response.url))

    async def persist(self, ask: Ask, attempt: Callable[[], Awaitable[T]]) -> T:
        """`attempt` until it meets no trouble, within patience."""
        began, number = time.monotonic(), 0
        while True:
            try:
                return await attempt()
            except Trouble as trouble:
                await self.wait(ask, trouble, number, began)
            number += 1

    async def wait(self, ask: Ask, trouble: Trouble, number: int, began: float) -> None:
        """Waits before the attempt after the attempt `number`, which counts from 0.

        Args:
            began: when the first of them did, in seconds of the monotonic clock.

        Raises:
            RegistryUnreachable: it would take longer than patience lasts.
        """
        pause = max(min(0.1 * 2**number, 5.0) * random.uniform(0.5, 1.0), trouble.after)
        patience = self._patience if ask.registry in self._reached else min(FIRST_PATIENCE, self._patience)
        if time.monotonic() - began + pause > patience:
            raise self.unreachable(ask, trouble) from trouble
        await asyncio.sleep(pause)

    def unreachable(self, ask: Ask, trouble: Trouble) -> RegistryUnreachable:
        return RegistryUnreachable(
            f"can't {ask.doing}: {trouble}; check the address {ask.registry}, the network, and the registry itself"
        )

    @asynccontextmanager
    async def open(self, ask: Ask) -> AsyncIterator[httpx.Response]:
        """The answer to one attempt, before its body is read; its status is an expected one.

        Raises:
            Trouble: it may be tried again; also from the body, while it is read.
            RegistryError: the answer is another, or the registry must not be talked to.
        """
        try:
            host = await self._host(ask)
            response = await self._authorized(ask, host)
            try:
                if response.status_code not in ask.expected:
                    raise await self._error(ask, host, response)
                yield response
            finally:
                await response.aclose()
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._translated(ask, error) from error

    async def _authorized(self, ask: Ask, host: _Host) -> httpx.Response:
        url = self.locate(host.base, ask.url)
        own = _origin(url) == _origin(host.base)  # a login goes to the registry, and to nobody whom it names
        authorization = await host.access.header(ask.scopes) if own else None
        response = await self._follow(ask, url, authorization)
        if response.status_code != 401 or not own:
            return response
        challenge = response.headers.get("WWW-Authenticate", "")
        try:
            again = await host.access.again(challenge, ask.scopes, authorization)
            if not again:
                return response
            authorization = await host.access.header(ask.scopes)
        except BaseException:
            await response.aclose()
            raise
        await response.aclose()
        return await self._follow(ask, url, authorization)

    async def _follow(self, ask: Ask, url: httpx.URL, authorization: str | None) -> httpx.Response:
        """Registries send readers of blobs to their storage."""
        first = url
        for _ in range(_REDIRECTS):
            headers = dict(ask.headers)
            if authorization is not None and _origin(url) == _origin(first):
                headers["Authorization"] = authorization
            timeout = _LONG_TIMEOUT if ask.method == "PUT" else _TIMEOUT
            response = await self._exchange(ask.method, url, headers, ask.content, timeout)
            target = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or not target or ask.method not in ("GET", "HEAD"):
                self._reached.add(ask.registry)
                return response
            await response.aclose()
            url = url.join(target)
            if first.scheme == "https" and url.scheme != "https":
                raise RegistryError(f"can't {ask.doing}: {ask.registry} leads from HTTPS to an address without it")
        raise RegistryError(f"can't {ask.doing}: {ask.registry} leads from one address to the next without end")

    async def _exchange(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes, timeout: httpx.Timeout = _TIMEOUT
    ) -> httpx.Response:
        request = httpx.Request(
            method,
            url,
            headers={"User-Agent": "neartime", "Accept-Encoding": "identity", **headers},
            content=content,
            extensions={"timeout": timeout.as_dict()},
        )
        response = await self._transport(url).handle_async_request(request)
        response.request = request
        return response

    async def _fetch(self, method: str, url: str, headers: Mapping[str, str], content: bytes) -> tuple[int, bytes]:
        """A token server's answer.

        Raises:
            Trouble: it may be tried again.
        """
        response = await self._exchange(method, httpx.URL(url), headers, content)
        try:
            if response.status_code in _BUSY or response.status_code >= 500:
                raise Trouble(f"its token server answers with {response.status_code}", _after(response))
            pieces = b""
            async for piece in response.aiter_raw():
                pieces += piece
                if len(pieces) > ANSWER_BYTES:
                    return response.status_code, b""
            return response.status_code, pieces
        finally:
            await response.aclose()

    # --- where a registry is

    async def _host(self, ask: Ask) -> _Host:
        if (known := self._hosts.get(ask.registry)) is not None:
            return known
        address = _HUB_HOST if ask.registry == DOCKER_HUB else ask.registry
        plain = ask.registry in self._insecure
        if not plain and _is_loopback(httpx.URL(f"https://{address}").host):
            plain = await self._is_plain(address)
        base = httpx.URL(f"{'http' if plain else 'https'}://{address}")
        access = Access(ask.registry, self._credentials, self._fetch, plain=plain)
        return self._hosts.setdefault(ask.registry, _Host(base, access))

    async def _is_plain(self, address: str) -> bool:
        """Whether a registry of this machine speaks HTTP. It is asked without a login.

        A server with TLS does not answer that, or says that it wants HTTPS: 400, or a redirect.
        """
        try:
            response = await self._exchange("GET", httpx.URL(f"http://{address}/v2/"), {}, b"", httpx.Timeout(10.0))
        except (httpx.ReadError, httpx.RemoteProtocolError, httpx.ReadTimeout):
            return False
        await response.aclose()
        return response.status_code != 400 and not response.headers.get("Location", "").startswith("https://")

    def locate(self, base: httpx.URL, url: str) -> httpx.URL:
        """An address that a registry gave, which may be relative. One behind a proxy may not know that it has TLS."""
        located = base.join(url)
        if base.scheme == "https" and located.scheme == "http" and located.host == base.host:
            located = located.copy_with(scheme="https", port=base.port)
        return located

    def _transport(self, url: httpx.URL) -> httpx.AsyncHTTPTransport:
        proxy = None
        if not _is_loopback(url.host) and not proxy_bypass(url.host):
            proxies = getproxies()
            proxy = proxies.get(url.scheme) or proxies.get("all")
        if (transport := self._transports.get(proxy)) is None:
            try:
                transport = httpx.AsyncHTTPTransport(
                    verify=self._trust(),
                    limits=httpx.Limits(max_connections=32, max_keepalive_connections=8, keepalive_expiry=15.0),
                    trust_env=False,
                    proxy=proxy,
                )
            except (ValueError, ImportError) as error:
                raise ConfigurationError(f"the proxy of the environment can't be used for {url.scheme}") from error
            self._transports[proxy] = transport
        return transport

    def _trust(self) -> ssl.SSLContext:
        """The machine's authorities, certifi's, and the one that was given: images come from public registries, too."""
        if self._context is None:
            context = httpx.create_ssl_context()
            context.load_default_certs()
            if self._ca is not None:
                try:
                    context.load_verify_locations(self._ca)
                except OSError as error:  # also what is no certificate
                    raise ConfigurationError(
                        f"{self._ca}, given as `ca`, is no file of a certificate authority in PEM: {error}"
                    ) from error
            self._context = context
        return self._context

    # --- what went wrong

    def _translated(self, ask: Ask, error: Exception) -> Exception:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, ssl.SSLCertVerificationError):
            given = f"it isn't signed by the one in {self._ca}" if self._ca else "no authority known here signed it"
            return RegistryUnreachable(
                f"can't {ask.doing}: the certificate of {ask.registry} is not trusted "
                f"({cause.verify_message}; {given}). Give the file of its certificate authority, in PEM, as `ca`"
            )
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return RegistryUnreachable(
                f"can't {ask.doing}: {ask.registry} does not speak TLS as it should ({cause.reason}). "
                "Where it has none, and the network is yours, name it in `insecure`"
            )
        if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)):
            return RegistryError(f"can't {ask.doing}: {ask.registry} gave an address that can't be asked")
        return Trouble(f"there is no connection to the registry ({str(error) or type(error).__name__})")

    async def _error(self, ask: Ask, host: _Host, response: httpx.Response) -> Exception:
        status = response.status_code
        words = _said(status, b"" if ask.method == "HEAD" else await _read(response, ask))
        if "BLOB_UNKNOWN" in words and status == 400:  # distribution 2 says DIGEST_INVALID, too
            return NotInRegistry(f"can't {ask.doing}: a blob that it names is not there ({words}); push that first")
        if "DIGEST_INVALID" in words:
            return DamagedContent(f"can't {ask.doing}: the content does not have the digest that it goes by ({words})")
        if status in _BUSY or status >= 500:
            return Trouble(f"the registry answers with {words}", _after(response))
        if status in (401, 403):
            return RegistryRefused(
                f"can't {ask.doing}: the registry refuses it ({words}); {await host.access.advice()}"
            )
        if status == 404:
            return NotInRegistry(
                f"can't {ask.doing}: the registry has no such thing ({words}); check the name, or push it first"
            )
        if status == 405:
            return RegistryRefused(
                f"can't {ask.doing}: the registry lets nobody do this ({words}); its operator has to allow it"
            )
        return RegistryError(f"can't {ask.doing}: the registry answers with {words}")

    async def close(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()
        self._transports.clear()


async def _read(response: httpx.Response, ask: Ask) -> bytes:
    pieces = []
    size = 0
    async for piece in response.aiter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_BYTES:
            raise DamagedContent(
                f"can't {ask.doing}: the answer has more than {ANSWER_BYTES} bytes, so it is no manifest"
            )
    return b"".join(pieces)


def said(answer: Answer) -> str:
    """Its status and the registry's words."""
    return _said(answer.status, answer.body)


def _said(status: int, body: bytes) -> str:
    """Status and the registry's errors (distribution specification, "Error Codes")."""
    try:
        errors = [f"{error['code']}: {error.get('message') or ''}".rstrip(": ") for error in json.loads(body)["errors"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        errors = []
    return f"{status}{' ' if errors else ''}{'; '.join(errors)[:500]}"


def _after(response: httpx.Response) -> float:
    """Seconds of `Retry-After` (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
