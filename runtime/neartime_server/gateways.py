"""The gateways that this server starts: each in an environment of its own, watched, and started again when it ends.

A gateway outlives its server, as workers do: jobs run on it. It holds a lock beside its launch document, by which the
next server finds it; one whose configuration, or whose code, is another one by then is ended and started anew.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neartime.contract.backends import BackendConfig, Gateway
from neartime.contract.gateways import GatewayLaunch
from neartime.contract.launch import NatsAccess
from neartime.contract.programs import Manifest
from neartime_server import variables
from neartime_server.backends import Backends
from neartime_server.builder import needs
from neartime_server.builder.environments import Environments
from neartime_server.builder.prune import touch
from neartime_server.bus import Bus
from neartime_server.errors import BuildFailed, BusError, ExecutorError, NoAnswer, ServerError
from neartime_server.settings import Settings

log = logging.getLogger(__name__)

PAUSES: Final = (0.2, 30.0)
"""Seconds before a gateway that ended is started again: at first, and at most; doubled each time that it ends young."""
STEADY_SECONDS: Final = 60.0
"""What lived for so long did not end young."""
CREDENTIAL_SECONDS: Final = 86400.0
"""How long a gateway's way into NATS lives. It reads its launch document again before that ends."""
RENEW_SECONDS: Final = 21600.0
"""Between two launch documents: so each has at least three quarters of a day left."""
START_SECONDS: Final = 20.0
"""How long who wants to know what a backend is waits for its gateway; to make an environment takes longer."""
LOOK_SECONDS: Final = 0.2
"""Between two looks whether a gateway lives."""
USED_SECONDS: Final = 300.0
"""Between two notes that a gateway's environment is in use, so that `neartime admin prune` leaves it."""
END_SECONDS: Final = 5.0
"""How long a gateway has to end before it is killed."""
_TAIL: Final = 2000


@dataclass
class _Kept:
    """What is known of one backend's gateway."""

    config: BackendConfig
    process: subprocess.Popen[bytes] | None = None
    fault: str | None = None
    """Why there is none."""


class Gateways:
    """`run` keeps them, while this server acts."""

    def __init__(self, settings: Settings, backends: Backends, bus: Bus) -> None:
        self._settings, self._bus = settings, bus
        self._folder = settings.home.resolve() / "run" / "gateways"
        self._logs = settings.home / "logs"
        self._environments = Environments(settings.home, gateways=True)
        self._kept = {config.name: _Kept(config) for config in backends.gateways() if _managed(config)}
        backends.ask_gateways(self.describe)

    async def describe(self, name: str, wait: bool) -> dict[str, Any]:
        """What a backend is, as its gateway says; with `wait`, one that is just being started is waited for.

        Raises:
            ServerError: it can't be described; the message says why.
        """
        kept, deadline = self._kept.get(name), time.monotonic() + (START_SECONDS if wait else 0.0)
        while True:
            try:
                return await self._bus.describe(name)
            except NoAnswer as error:
                if kept is None:
                    raise BusError(f"{error}; the operator starts it") from error
                if kept.fault is not None or time.monotonic() > deadline:
                    raise BusError(f"{error}: {kept.fault or 'it is being started'}") from error
            await asyncio.sleep(LOOK_SECONDS)

    async def run(self) -> None:
        """Keeps every gateway alive, until it is cancelled: they go on then. Those of backends that are not offered any
        more are ended."""
        for lock in self._folder.glob("*.lock"):
            if lock.name.removesuffix(".lock") not in self._kept and _holder(lock) is not None:
                log.info("the gateway %s is of no backend any more: it is ended", lock.name.removesuffix(".lock"))
                await _end(lock)
        await asyncio.gather(*(self._keep(kept) for kept in self._kept.values()))

    async def end(self) -> None:
        """End them: another server keeps its own."""
        await asyncio.gather(*(self._end(kept) for kept in self._kept.values()))

    async def close(self) -> None:
        await self._environments.close()

    # --- one of them

    async def _keep(self, kept: _Kept) -> None:
        name, pause = kept.config.name, PAUSES[0]
        while True:
            began = time.monotonic()
            try:
                python = await self._python(kept.config)
                await self._take_over(kept.config, python)
                kept.fault = None
                kept.fault = await self._live(kept, python)
                log.warning("the gateway of %r ended: %s", name, kept.fault)
            except (ServerError, OSError) as error:
                kept.fault = f"{error}: {error.log}" if isinstance(error, BuildFailed) and error.log else str(error)
                log.error("there is no gateway of %r: %s", name, kept.fault)
            except Exception as error:  # the others go on
                kept.fault = repr(error)
                log.exception("keeping the gateway of %r", name)
            pause = PAUSES[0] if time.monotonic() - began > STEADY_SECONDS else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, PAUSES[1])

    async def _python(self, config: BackendConfig) -> Path:
        """The interpreter of its environment; that is made where it is not there yet.

        Raises:
            BuildFailed: it can't be made.
            Refused: it asks for what no environment can have here.
        """
        gateway = _of(config)
        if gateway.interpreter is not None:
            return Path(gateway.interpreter)
        if not gateway.requirements and gateway.python is None:
            return Path(sys.executable)
        manifest = Manifest(name="gateway", requirements=gateway.requirements, python=gateway.python)
        return (await self._environments.ensure(manifest)).python

    async def _take_over(self, config: BackendConfig, python: Path) -> None:
        """A gateway of a server before this one goes on if it is the same, and is ended if it is not."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = self._lock(config.name)
        if _holder(lock) is not None and self._made(config.name) != _digest(config, python):
            log.info("the gateway of %r is another one than is wanted: it is ended", config.name)
            await _end(lock)

    async def _live(self, kept: _Kept, python: Path) -> str:
        """Starts it, unless it runs, and returns when it has ended: why."""
        config, lock = kept.config, self._lock(kept.config.name)
        file, logged = self._folder / f"{config.name}.json", self._logs / f"gateway-{config.name}.log"
        renewed = self._renew(config, file)
        since, used = logged.stat().st_size if logged.exists() else 0, renewed
        if _holder(lock) is None:
            _write(self._folder / f"{config.name}.digest", _digest(config, python))
            kept.process = await asyncio.to_thread(self._start, config, python, file, lock, logged)
            log.info("the gateway of %r has pid %d", config.name, kept.process.pid)
        else:
            log.info("the gateway of %r runs already", config.name)
        while (kept.process.poll() is None) if kept.process is not None else (_holder(lock) is not None):
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            if now - renewed > RENEW_SECONDS:
                renewed = self._renew(config, file)
            if now - used > USED_SECONDS and _of(config).requirements:
                used = now
                touch(python.parent.parent)
        code = kept.process.returncode if kept.process is not None else None
        kept.process = None
        how = "it ended" if code is None else f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return f"{how}; the end of its log: {_tail(logged, since)}"

    def _renew(self, config: BackendConfig, file: Path) -> float:
        _write(file, launch_of(config, self._bus.gateway_access(config.name, CREDENTIAL_SECONDS)).model_dump_json())
        return time.monotonic()

    def _start(
        self, config: BackendConfig, python: Path, file: Path, lock: Path, logged: Path
    ) -> subprocess.Popen[bytes]:
        """In a session of its own, so that it outlives the server."""
        gateway = _of(config)
        environment = variables.of_worker(own=python == Path(sys.executable))
        secrets_of = (*gateway.credentials.values(), *gateway.variables.values())
        wanted = {place for kind, _, place in (one.partition(":") for one in secrets_of) if kind == "variable"}
        environment |= {name: value for name, value in os.environ.items() if name in wanted}
        command = [str(python), "-m", "neartime_runner", "gateway", str(file), "--lock", str(lock)]
        try:
            with logged.open("ab") as output:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
        except OSError as error:
            raise ExecutorError(f"{python} can't be started: {error.strerror}") from error

    async def _end(self, kept: _Kept) -> None:
        await _end(self._lock(kept.config.name))
        if kept.process is not None:
            await asyncio.to_thread(kept.process.wait)

    def _lock(self, name: str) -> Path:
        return self._folder / f"{name}.lock"

    def _made(self, name: str) -> str | None:
        """Of what the gateway that runs was made."""
        try:
            return (self._folder / f"{name}.digest").read_text()
        except OSError:
            return None


def launch_of(config: BackendConfig, access: NatsAccess) -> GatewayLaunch:
    """What a backend's gateway is told."""
    return GatewayLaunch(backend=config.spec(), parallelism=config.parallelism, gateway=_of(config), nats=access)


def _managed(config: BackendConfig) -> bool:
    return _of(config).started_by == "server"


def _of(config: BackendConfig) -> Gateway:
    assert config.gateway is not None
    return config.gateway


def _digest(config: BackendConfig, python: Path) -> str:
    """Of all that decides what a gateway is: configuration, environment, Neartime's own code."""
    text = f"{config.model_dump_json()}\n{python}\n{needs.runner_digest()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _holder(lock: Path) -> int | None:
    """The process that holds a lock; 0 where it does not say."""
    try:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdecimal() else 0
    except OSError:
        return None
    return None


async def _end(lock: Path) -> None:
    """SIGTERM to who holds a lock, SIGKILL where that does not help; returns when it is free."""
    began = time.monotonic()
    number = signal.SIGTERM
    while (pid := _holder(lock)) is not None:
        if time.monotonic() - began > END_SECONDS:
            number = signal.SIGKILL
        if pid:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        await asyncio.sleep(LOOK_SECONDS)


def _write(file: Path, text: str) -> None:
    """At once, for its owner alone."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with open(draft, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as opened:
        opened.write(text)
    draft.replace(file)


def _tail(log: Path, since: int) -> str:
    try:
        with log.open("rb") as file:
            file.seek(since)
            return file.read().decode(errors="replace").strip()[-_TAIL:] or "it said nothing"
    except OSError:
        return "it said nothing"
