"""Leave to do something at one registry: passwords, and tokens that are asked for, kept and asked for again.

RFC 7235 for challenges; for tokens the distribution project's specifications ("Token Authentication Specification", and
"OAuth2 Token Authentication" for identity tokens).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

from neartime.errors import RegistryError, RegistryRefused, RegistryUnreachable
from neartime.oci.credentials import Credentials

_TOKEN_SECONDS = 60.0
"""How long a token is valid that does not say it (token specification, "expires_in")."""
_MARGIN_SECONDS = 10.0
"""A token that ends so soon is not used: the request has to arrive, and clocks differ."""
_CLIENT = "neartime"
_PART = re.compile(r'([\w-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,]+)|([\w-]+)')

Fetch = Callable[[str, str, Mapping[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""Method, URL, headers and body to status and body."""


@dataclass(frozen=True)
class Challenge:
    """What a registry wants to see: `basic` or `bearer`, and its parameters."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def choose(cls, header: str) -> Challenge | None:
        """Of the challenges of a header `WWW-Authenticate`, the one to answer: a token before a password."""
        challenges: list[tuple[str, dict[str, str]]] = []
        for name, value, scheme in _PART.findall(header):
            if scheme:
                challenges.append((scheme.lower(), {}))
            elif challenges:
                plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
                challenges[-1][1][name.lower()] = plain
        known = {scheme: cls(scheme, parameters) for scheme, parameters in reversed(challenges)}
        return known.get("bearer") or known.get("basic")


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    ends: float
    """In seconds of the monotonic clock."""


def repository_scope(repository: str, *actions: str) -> str:
    """What a token is to allow (token specification, "Token Scope")."""
    return f"repository:{repository}:{','.join(actions)}"


CATALOG_SCOPE = "registry:catalog:*"


class Access:
    """To one registry, for one user."""

    def __init__(self, registry: str, credentials: Credentials, fetch: Fetch, *, plain: bool) -> None:
        """`plain` says that the registry speaks HTTP without TLS: then its token server may as well."""
        self._registry = registry
        self._credentials = credentials
        self._fetch = fetch
        self._plain = plain
        self._lock = asyncio.Lock()
        self._challenge: Challenge | None = None
        self._more: dict[frozenset[str], str] = {}
        self._tokens: dict[frozenset[str], _Token] = {}

    async def header(self, scopes: frozenset[str]) -> str | None:
        """`Authorization` for a request; None before the registry has asked for it.

        Raises:
            RegistryRefused: the token server gives no token.
        """
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            login = await self._credentials.find(self._registry)
            return login.basic if login else None
        async with self._lock:  # one question for a token, however many requests wait for it
            token = self._tokens.get(scopes)
            if token is None or token.ends < time.monotonic():
                wanted = [*sorted(scopes), *self._more.get(scopes, "").split()]
                token = self._tokens[scopes] = await self._ask(self._challenge, list(dict.fromkeys(wanted)))
        return f"Bearer {token.value}"

    async def again(self, challenge: str, scopes: frozenset[str], used: str | None) -> bool:
        """After a 401: whether `header` has something else to offer than what was `used`."""
        found = Challenge.choose(challenge)
        if found is None:
            return False
        self._challenge = found
        if found.scheme == "bearer":
            self._more[scopes] = found.parameters.get("scope", "")
            if (token := self._tokens.get(scopes)) is not None and used == f"Bearer {token.value}":
                del self._tokens[scopes]
            return True
        return await self.header(scopes) not in (None, used)

    async def advice(self) -> str:
        """What to do about a refusal."""
        login = await self._credentials.find(self._registry)
        if login is None:
            return (
                f"{self._credentials.source} has no credentials for {self._registry}: "
                f"log in with `docker login {self._registry}`"
            )
        who = f"user {login.username!r}" if login.username else "the identity token"
        return (
            f"asked as {who} of {self._credentials.source}: check that user's rights, "
            f"or log in again with `docker login {self._registry}`"
        )

    async def _ask(self, challenge: Challenge, scopes: Iterable[str]) -> _Token:
        realm = challenge.parameters.get("realm", "")
        if not realm.startswith(("https://", "http://") if self._plain else "https://"):
            raise RegistryError(
                f"{self._registry} wants tokens from {realm[:200]!r}, and no password is sent to such an address"
            )
        where = realm.partition("?")[0]
        login = await self._credentials.find(self._registry)
        service = challenge.parameters.get("service")
        if login is not None and login.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "client_id": _CLIENT,
                "scope": " ".join(scopes),
                **({"service": service} if service else {}),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, body = await self._fetch("POST", realm, headers, urlencode(form).encode())
        else:
            query = [*([("service", service)] if service else []), *(("scope", scope) for scope in scopes)]
            basic = login.basic if login else None
            url = realm + ("&" if "?" in realm else "?") + urlencode(query)
            status, body = await self._fetch("GET", url, {"Authorization": basic} if basic else {}, b"")
        if status in (400, 401, 403):
            raise RegistryRefused(
                f"the token server {where} of {self._registry} gives no token ({status}); {await self.advice()}"
            )
        try:
            said = json.loads(body) if status == 200 else None
            value = str(said["token"] if said.get("token") else said["access_token"]) if said else ""
            seconds = float(said.get("expires_in") or _TOKEN_SECONDS) if said else 0.0
        except (ValueError, KeyError, TypeError, AttributeError):
            value = ""
        if not value or not value.isascii() or not value.isprintable():
            raise RegistryUnreachable(
                f"the token server {where} of {self._registry} answers with {status} and no token; try again later"
            )
        return _Token(value, time.monotonic() + seconds - min(_MARGIN_SECONDS, seconds / 2))
