"""Where the server is, and the token that opens it.

They are looked for in this order: what the caller says; the environment (`NEARTIME_URL`, `NEARTIME_TOKEN`); an account
saved by `neartime account save`; the embedded runtime that `neartime up` started.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from neartime.errors import ConfigurationError

URL_VARIABLE = "NEARTIME_URL"
TOKEN_VARIABLE = "NEARTIME_TOKEN"
DEFAULT_ACCOUNT = "default"

WHAT_TO_DO = (
    "Start the runtime of this machine with `neartime up`, save a server's account with `neartime account save`, "
    f"or set {URL_VARIABLE} and {TOKEN_VARIABLE}."
)


@dataclass(frozen=True)
class Account:
    """A server and a token of one of its instances."""

    url: str
    token: str = field(repr=False)
    source: str = "arguments"
    """Where it was found, in words."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigurationError(f"{self.url!r} is no URL of a server; it begins with http:// or https://")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def loopback(self) -> bool:
        """Whether the server is on this machine, where no proxy stands between."""
        host = urlsplit(self.url).hostname or ""
        return host in ("localhost", "::1") or host.startswith("127.")


def home(environment: Mapping[str, str] | None = None) -> Path:
    """The folder of the embedded runtime of this user."""
    source = os.environ if environment is None else environment
    data = source.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(source.get("NEARTIME_HOME") or f"{data}/neartime").expanduser()


def accounts_file(environment: Mapping[str, str] | None = None) -> Path:
    """The file of saved accounts, which its owner alone can read."""
    source = os.environ if environment is None else environment
    return Path(source.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "neartime" / "accounts.json"


def find(
    url: str | None = None,
    token: str | None = None,
    name: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Account:
    """The account to use; `name` asks for a saved one.

    Raises:
        ConfigurationError: none is found, or only half of one; the message says what to do.
    """
    source = os.environ if environment is None else environment
    if name is not None and url is None and token is None:
        accounts = _saved(source)
        if name not in accounts:
            names = ", ".join(sorted(accounts)) or "none"
            raise ConfigurationError(f"no account {name!r} is saved (saved: {names}). {WHAT_TO_DO}")
        return accounts[name]
    asked_url, asked_token = url or source.get(URL_VARIABLE), token or source.get(TOKEN_VARIABLE)
    if asked_url and asked_token:
        return Account(asked_url, asked_token, "arguments" if url or token else "environment")
    known = [*_saved(source).values(), *_embedded(source)]
    if asked_url:
        for account in known:
            if account.url == asked_url.rstrip("/"):
                return account
        raise ConfigurationError(f"there is no token for {asked_url}: set {TOKEN_VARIABLE}, or pass token=…")
    if asked_token:
        raise ConfigurationError(f"there is a token, and no server to go with it: set {URL_VARIABLE}, or pass url=…")
    if (kept := _saved(source).get(DEFAULT_ACCOUNT)) is not None:
        return kept
    for account in _embedded(source):
        return account
    if named := ", ".join(f"{one!r} ({account.url})" for one, account in sorted(_saved(source).items())):
        raise ConfigurationError(
            f"no saved account is called {DEFAULT_ACCOUNT!r}, and no runtime of this machine is up. Saved: {named}. "
            "Choose one with `neartime --account NAME …` or RuntimeService(instance=NAME), or save it again without a "
            "name."
        )
    raise ConfigurationError(f"no Neartime server is known here. {WHAT_TO_DO}")


def save(account: Account, name: str = DEFAULT_ACCOUNT, environment: Mapping[str, str] | None = None) -> Path:
    """Keeps the account under a name, in a file that only its owner can read."""
    path = accounts_file(environment)
    accounts = {
        other: {"url": one.url, "token": one.token}
        for other, one in _saved(os.environ if environment is None else environment).items()
    }
    accounts[name] = {"url": account.url, "token": account.token}
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(accounts, file, indent=2)
    new.replace(path)
    return path


def saved(environment: Mapping[str, str] | None = None) -> dict[str, Account]:
    """The saved accounts, by name."""
    return _saved(os.environ if environment is None else environment)


def _saved(environment: Mapping[str, str]) -> dict[str, Account]:
    path = accounts_file(environment)
    content = _read(path)
    try:
        return {
            name: Account(one["url"], one["token"], f"account {name!r} in {path}")
            for name, one in (json.loads(content) if content else {}).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"{path} is damaged ({error}); `neartime account save` writes a new one") from error


def _embedded(environment: Mapping[str, str]) -> list[Account]:
    folder = home(environment)
    content, token = _read(folder / "run" / "up.json"), _read(folder / "token")
    if not content or not token:
        return []
    try:
        up: dict[str, Any] = json.loads(content)
        return [Account(up["url"], token.strip(), f"the runtime of this machine in {folder}")]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigurationError(f"{folder / 'run' / 'up.json'} is damaged; run `neartime down` and `up`") from error


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error
