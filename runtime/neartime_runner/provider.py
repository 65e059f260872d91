"""A provider's backend inside its gateway: built with its credential, run, cancelled, described. All of it may block.

The credential is in this process alone. What goes out of it (results, errors, descriptions) is looked
through for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, overload

from neartime import codec
from neartime.contract.backends import BackendSpec, Gateway
from neartime_runner import backend as backends
from neartime_runner.backend import BackendFailed

HIDDEN: Final = "•••"
"""What stands in place of a credential that a provider has put into its words."""
SHORTEST_SECRET: Final = 6
"""Characters from which on a credential is looked for in what goes out: a shorter one is in many words."""
_Stamp = tuple[tuple[int, int, int], ...]


class Provider:
    """One backend, built when it is first asked for, and again when a file with a credential has changed.

    The first one to ask is the main thread: Aer crashes in one thread if another one loaded it and has ended (tried
    with 0.18), and other native code may.
    """

    def __init__(self, spec: BackendSpec, gateway: Gateway) -> None:
        self._spec, self._gateway = spec, gateway
        self._environment = dict(os.environ)
        """As it was given to this process."""
        self._lock = threading.RLock()
        self._backend: Any = None
        self._stamp: _Stamp | None = None
        self._secrets: dict[str, None] = {}
        """Every credential that this process has had, in order."""
        self._described: tuple[float, bytes, bytes] | None = None
        self._calibration: tuple[str, str] | None = None
        """Digest of the properties that were seen last, and since when they are so."""

    def run(self, body: bytes, begun: Callable[[Any], None]) -> bytes:
        """Runs what a worker has encoded; returns the encoded result. `begun` gets the provider's job.

        Raises:
            BackendFailed: the backend can't be built.
            DecodeError: it is not what a worker encodes.
            Exception: whatever the provider raises.
        """
        asked = codec.decode(body)
        job = self.backend().run(asked["circuits"], **asked["options"])
        begun(job)
        return self.clean(codec.encode(job.result()))

    def backend(self) -> Any:
        """The backend, with the credential as it is now.

        Raises:
            BackendFailed: it can't be built.
        """
        with self._lock:
            stamp = self._stamped()
            if self._backend is None or stamp != self._stamp:
                arguments = {name: self._read(one) for name, one in self._gateway.credentials.items()}
                for name, one in self._gateway.variables.items():
                    os.environ[name] = self._read(one)
                self._backend = backends.build(self._spec, arguments)
                self._stamp, self._described = stamp, None
            return self._backend

    def describe(self) -> tuple[bytes, bytes]:
        """The configuration as the REST API tells it, and what a worker needs of the backend; both encoded.

        Raises:
            BackendFailed: the backend can't be built, or not be described.
        """
        with self._lock:
            backend = self.backend()
            if self._described is None or time.monotonic() - self._described[0] > self._gateway.refresh:
                if self._described is not None and callable(refresh := getattr(backend, "refresh", None)):
                    refresh()
                try:
                    told = self._configuration(backend), codec.encode(_for_worker(backend))
                except Exception as error:  # the provider's code
                    message = f"the backend {self._spec.name!r} can't be described: {type(error).__name__}: {error}"
                    raise BackendFailed(message) from error
                self._described = (time.monotonic(), self.clean(told[0]), self.clean(told[1]))
            return self._described[1:]

    def words(self, error: BaseException) -> str:
        """What a provider's error says, without the credential."""
        text = str(error).strip()
        kind = type(error).__name__
        return self.clean(f"{kind}: {text}" if text else kind)

    @overload
    def clean(self, said: str) -> str: ...
    @overload
    def clean(self, said: bytes) -> bytes: ...
    def clean(self, said: str | bytes) -> str | bytes:
        """Text or bytes without any credential."""
        for secret in self._secrets:
            if isinstance(said, bytes):
                said = said.replace(json.dumps(secret)[1:-1].encode(), HIDDEN.encode())
            else:
                said = said.replace(secret, HIDDEN)
        return said

    def _configuration(self, backend: Any) -> bytes:
        told = backends.describe(self._spec, backend)
        # Properties are as old as the day on which they were seen to differ, unless the provider says how old they are.
        digest = hashlib.sha256(json.dumps(told["properties"], sort_keys=True, default=str).encode()).hexdigest()
        if self._calibration is None or self._calibration[0] != digest:
            self._calibration = (digest, told["described"])
        told["described"] = _dated(backend) or self._calibration[1]
        return json.dumps(told | {"local": False}, default=str).encode()

    def _stamped(self) -> _Stamp:
        """What changes when a file with a credential does."""
        secrets = (*self._gateway.credentials.values(), *self._gateway.variables.values())
        files = [place for kind, _, place in (one.partition(":") for one in secrets) if kind == "file"]
        try:
            found = [Path(file).stat() for file in files]
        except OSError as error:
            raise BackendFailed(f"a credential of the backend {self._spec.name!r} is not there: {error}") from error
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in found)

    def _read(self, secret: str) -> str:
        kind, _, place = secret.partition(":")
        try:
            value = Path(place).read_text().strip() if kind == "file" else self._environment[place]
        except (OSError, UnicodeDecodeError) as error:
            raise BackendFailed(f"a credential of the backend {self._spec.name!r} can't be read: {error}") from error
        except KeyError as error:
            message = f"a credential of the backend {self._spec.name!r} is not there: no variable {place}"
            raise BackendFailed(message) from error
        if len(value) >= SHORTEST_SECRET:
            self._secrets[value] = None
        return value


def cancel(job: Any) -> None:
    """Cancels at the provider, where that can."""
    with suppress(Exception):  # it may have ended, or have no way to
        job.cancel()


def _for_worker(backend: Any) -> dict[str, Any]:
    from neartime_runner.targets import to_plain

    return {
        "qpy_version": codec.readable_qpy_version(),
        "backend_version": str(getattr(backend, "backend_version", None) or "1.0"),
        "description": getattr(backend, "description", None) or "",
        "max_circuits": getattr(backend, "max_circuits", None),
        "options": _options(backend),
        "target": to_plain(backend.target),
    }


def _options(backend: Any) -> dict[str, Any]:
    """The options' values that have a wire form; others are None, and stay what they are at the provider."""
    found = dict(getattr(backend.options, "__dict__", None) or vars(backend.options).get("_fields", {}))
    return {str(name): value if _has_form(value) else None for name, value in found.items()}


def _has_form(value: Any) -> bool:
    try:
        codec.encode(value)
    except Exception:  # of any provider's class
        return False
    return True


def _dated(backend: Any) -> str | None:
    """When the provider says that the backend was calibrated, where it says it as Qiskit Runtime's backends do."""
    try:
        date = backend.properties().last_update_date
    except Exception:  # most have no such method, and it is anybody's code
        return None
    return date.isoformat() if hasattr(date, "isoformat") else None
