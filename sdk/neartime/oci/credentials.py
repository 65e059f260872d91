"""Who one is at which registry, from the file that `docker login` writes.

Its format is that of Docker's `config.json` (docker/cli, `cli/config/configfile`), its helpers' protocol that of
docker/docker-credential-helpers.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neartime.errors import ConfigurationError
from neartime.oci.reference import DOCKER_HUB

_HUB_KEY = "https://index.docker.io/v1/"
"""What Docker calls Docker Hub in its file and to its helpers."""
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_SECONDS = 30.0
"""How long a helper may take: it may ask a keychain, and that its user."""
_TOKEN_USER = "<token>"
"""The user's name where a helper's secret is an identity token."""


@dataclass(frozen=True)
class Login:
    """A name and a password, or an identity token: a refresh token of OAuth 2. It shows no secret."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str | None:
        """The value of the header `Authorization`; None where there is no password (RFC 7617)."""
        if not self.username or not self.password:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials:
    """What is known of logins. It shows no secret, and runs no helper before it is asked."""

    def __init__(
        self,
        logins: Mapping[str, Login] | None = None,
        *,
        helpers: Mapping[str, str] | None = None,
        store: str = "",
        source: str = "arguments",
    ) -> None:
        """
        Args:
            logins: by registry: a host with its port, or a key of Docker's file.
            helpers: names of credential helpers, by registry.
            store: the helper for all other registries.
            source: where all this is from, in words.
        """
        self.source = source
        self._logins = {_host(name): login for name, login in (logins or {}).items()}
        self._helpers = {_host(name): helper for name, helper in (helpers or {}).items()}
        self._store = store

    @classmethod
    def read(cls, path: Path | None = None, environment: Mapping[str, str] | None = None) -> Credentials:
        """From a file, or a folder with a `config.json`; by default Docker's, in `DOCKER_CONFIG` or `~/.docker`.

        Where there is none, nobody is logged in.

        Raises:
            ConfigurationError: a file that was named is not there, or it is damaged.
        """
        variables = os.environ if environment is None else environment
        file = path or Path(variables.get("DOCKER_CONFIG") or "~/.docker").expanduser()
        if path is None or file.is_dir():
            file = file / "config.json"
        try:
            content = json.loads(file.read_text())
            logins = {name: _login(entry) for name, entry in (content.get("auths") or {}).items()}
            helpers = {str(name): str(helper) for name, helper in (content.get("credHelpers") or {}).items()}
            store = str(content.get("credsStore") or "")
        except FileNotFoundError:
            if path is not None:
                raise ConfigurationError(f"there is no {file}, which should hold a registry's credentials") from None
            return cls(source=str(file))
        except (OSError, ValueError, TypeError, AttributeError) as error:
            # The error may quote a secret, so it is neither shown nor kept.
            raise ConfigurationError(
                f"{file} can't be read as Docker's configuration ({type(error).__name__}): `docker login` writes one"
            ) from None
        return cls(
            {name: login for name, login in logins.items() if login is not None},
            helpers=helpers,
            store=store,
            source=str(file),
        )

    async def find(self, registry: str) -> Login | None:
        """The login for a registry, None where there is none.

        Raises:
            ConfigurationError: a helper is missing, or failed.
        """
        host = _host(registry)
        helper = self._helpers.get(host) or self._store
        found = await self._ask(helper, host) if helper else None
        return found or self._logins.get(host)

    async def _ask(self, helper: str, host: str) -> Login | None:
        program = f"docker-credential-{helper}"
        if not _HELPER.fullmatch(helper):
            raise ConfigurationError(f"{self.source} names a credential helper that can't be one: {helper!r}")
        try:
            process = await asyncio.create_subprocess_exec(
                program,
                "get",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise ConfigurationError(f"{program}, which {self.source} names, can't be run: {error.strerror}") from error
        try:
            key = _HUB_KEY if host == DOCKER_HUB else host
            output, _ = await asyncio.wait_for(process.communicate(key.encode()), _HELPER_SECONDS)
        except asyncio.TimeoutError:
            raise ConfigurationError(f"{program} did not answer within {_HELPER_SECONDS:.0f} seconds") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            if b"credentials not found" in output:
                return None
            raise ConfigurationError(f"{program} has no credentials for {host}: it ended with {process.returncode}")
        try:
            said = json.loads(output)
            user, secret = str(said["Username"]), str(said["Secret"])
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(f"{program} answered something that is no credential") from None
        return Login(identity_token=secret) if user == _TOKEN_USER else Login(user, secret)

    def __repr__(self) -> str:
        return f"Credentials(source={self.source!r}, registries={sorted({*self._logins, *self._helpers})!r})"


def _login(entry: Mapping[str, Any]) -> Login | None:
    """An entry of `auths`. It is empty where a helper has the secret."""
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if encoded := entry.get("auth"):
        user, _, password = base64.b64decode(encoded, validate=True).decode().rstrip("\0").partition(":")
    token = str(entry.get("identitytoken") or "")
    return Login(user, password, token) if token or user else None


def _host(key: str) -> str:
    """The registry of a key, which may be a URL: `https://index.docker.io/v1/` is Docker Hub's."""
    host = key.partition("://")[2] or key
    host = host.partition("/")[0].lower()
    return DOCKER_HUB if host in ("index.docker.io", "registry-1.docker.io") else host
