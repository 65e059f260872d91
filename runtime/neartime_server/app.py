"""The composition root: makes every part of the server from the settings, starts them, ends them in reverse order."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import State

from neartime_server import api, preinstalled
from neartime_server.api import identity
from neartime_server.api.gate import Gate, TokenCache
from neartime_server.api.services import Services
from neartime_server.backends import Backends
from neartime_server.builder import Builder, LocalBuilder
from neartime_server.bus import Bus, Keys
from neartime_server.control import Control
from neartime_server.errors import BusError, ConfigurationError, ServerError
from neartime_server.executors import Executor, ProcessExecutor
from neartime_server.gateways import Gateways
from neartime_server.settings import FAULT_SUFFIX, SHUT_DOWN, Settings
from neartime_server.store import Store, instances, tokens
from neartime_server.store.tokens import Principal, Role

log = logging.getLogger(__name__)

BACKLOG = 512
GARBAGE = (20_000, 20, 100)
"""Thresholds of the garbage collector, for a process that makes many objects a second and few cycles."""
NATS_SECONDS = 60.0
"""How long a server that starts waits for NATS."""
SHUTDOWN_GRACE = 5
"""Seconds that requests under way, event streams among them, get to end when the server does. Workers go on."""


def create_app(settings: Settings) -> Gate:
    """The server as an ASGI application. Nothing is opened before its lifespan begins."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = await _start(settings, stack)
            yield

    app = api.create(lifespan)

    async def find(token: str) -> Principal | None:
        services: Services = app.state.services
        principal: Principal | None
        if identity.signed(token):
            token_id = identity.stands_for(services.keys, token)
            if token_id is None:
                return None
            principal = await services.store.read(lambda connection: tokens.find_by_id(connection, token_id))
        else:
            digest: str = services.keys.token_digest(token)
            principal = await services.store.read(lambda connection: tokens.find(connection, digest))
        return principal

    return Gate(app, authenticate=TokenCache(find), max_body_bytes=settings.max_body_bytes)


async def _start(settings: Settings, stack: AsyncExitStack) -> Services:
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = Keys.load(settings.secret_path, create=True)
    store = Store(settings.database_url)
    stack.callback(store.close)
    await asyncio.to_thread(store.migrate)
    if installed := await asyncio.to_thread(preinstalled.install, store):
        log.info("programs that every server has: %s", ", ".join(installed))
    backends = Backends.load(settings)
    stack.push_async_callback(backends.close)
    bus = Bus(settings, keys)
    await _reach(bus, settings)
    stack.push_async_callback(bus.close)
    executor, builder = await asyncio.to_thread(_workplace, settings, backends, keys)
    stack.push_async_callback(executor.close)
    stack.push_async_callback(builder.close)
    if settings.nats_url is None:
        await store.run(lambda connection: instances.ensure(connection, instances.LOCAL))
        await ensure_owner(settings, store, keys)
    gateways = Gateways(settings, backends, bus)
    stack.push_async_callback(gateways.close)
    control = Control(settings, store, bus, executor, builder, backends, keys, gateways)
    await control.start()
    stack.push_async_callback(control.close)
    services = Services(settings, keys, store, bus, builder, executor, backends, control)
    stack.push_async_callback(services.close)
    return services


async def _reach(bus: Bus, settings: Settings) -> None:
    """Connects to NATS. One of its own may be starting just now, as this server is; it is waited for.

    Raises:
        ConfigurationError: the embedded runtime has none.
        BusError: it can't be reached, or knows another operator.
    """
    deadline = time.monotonic() + NATS_SECONDS
    while True:
        try:
            return await bus.connect(settings.nats_url or embedded_nats(settings.home))
        except BusError as error:
            if settings.nats_url is None or time.monotonic() > deadline:
                raise
            log.info("waiting for NATS: %s", error)
        await asyncio.sleep(1)


def _workplace(settings: Settings, backends: Backends, keys: Keys) -> tuple[Executor, Builder]:
    """Where programs run, and who makes what they run in.

    Raises:
        ConfigurationError: there is no such executor or builder, or what it needs is not installed or does not answer.
    """
    if settings.executor == "process":
        return ProcessExecutor(settings.home), LocalBuilder(settings.home)
    if settings.executor not in ("docker", "kubernetes"):
        raise ConfigurationError(f"NEARTIME_EXECUTOR={settings.executor!r}: expected process, docker or kubernetes")
    try:
        from neartime_server import containers

        if settings.executor == "kubernetes":
            placements = {name: backends.get(name).placement for name in backends.names()}
            executor = containers.pods(settings, placements, keys.installation)
            return executor, containers.builder(settings, placements, keys.installation)
        return containers.executor(settings), containers.builder(settings)
    except ModuleNotFoundError as error:
        name = settings.executor
        remedy = f"in a clone of Neartime's repository, pip install '.[{name}]'"
        raise ConfigurationError(f"NEARTIME_EXECUTOR={name} needs the package {error.name!r}: {remedy}") from error


async def ensure_owner(settings: Settings, store: Store, keys: Keys) -> str:
    """The token of the embedded runtime's owner, in a file that only the owner can read. Returns it.

    One that was ended is replaced; one whose database is gone is recorded again.
    """
    file = settings.home / "token"
    token = file.read_text().strip() if file.exists() else ""
    instance_id = await store.run(lambda connection: instances.ensure(connection, instances.LOCAL))
    digest = keys.token_digest(token)
    principal = await store.read(lambda connection: tokens.find(connection, digest))
    if principal:
        return token
    if not token or await store.read(lambda connection: tokens.known(connection, digest)):
        token = tokens.new_token()
        digest = keys.token_digest(token)
    await store.run(lambda connection: tokens.create(connection, instance_id, "owner", Role.OPERATOR, digest))
    _write_private(file, token + "\n")
    return token


def embedded_nats(home: Path) -> str:
    """The URL of the NATS server that the embedded runtime keeps in its home.

    Raises:
        ConfigurationError: there is none.
    """
    try:
        return f"nats://127.0.0.1:{int((home / 'nats' / 'port').read_text())}"
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"no NATS server: {home} keeps none; start both with `neartime up`, or name one in NEARTIME_NATS_URL"
        ) from error


def serve(settings: Settings, ready_file: Path | None = None) -> None:
    """Run the server until SIGTERM or SIGINT: running jobs go on without it. `SHUT_DOWN` ends them, too.

    When it takes requests, `ready_file` (home/run/server.json) holds its URL, port and process id. When it can't start
    as it is configured, a file beside that (home/run/server.fault) holds why, for whoever waits for it.

    Raises:
        ConfigurationError: the address can't be listened on, or a part can't start as it is configured.
    """
    ready_file = ready_file or settings.home / "run" / "server.json"
    fault_file = ready_file.with_suffix(FAULT_SUFFIX)
    for file in (ready_file, fault_file):
        file.unlink(missing_ok=True)  # of a server before this one
    try:
        started = _serve(settings, ready_file)
    except ConfigurationError as error:
        fault_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_private(fault_file, f"{error}\n")
        raise
    if not started:
        raise ConfigurationError("the server did not start; its log says why")


def _serve(settings: Settings, ready_file: Path) -> bool:
    """Whether it took requests, until it was told to end."""
    listener = _listen(settings)
    port = listener.getsockname()[1]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = settings.public_url or f"http://{host}:{port}"
    gate = create_app(settings)
    config = uvicorn.Config(
        gate,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE,
    )
    server = _Server(config, gate.app.state, ready_file, url, port)
    with suppress(SystemExit):  # which is how it says that a part did not start
        server.run(sockets=[listener])
    if gate.fault is not None:
        raise gate.fault
    return server.started


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, state: State, ready_file: Path, url: str, port: int) -> None:
        super().__init__(config)
        self._state = state
        self._shutting_down: asyncio.Task[None] | None = None
        self._ready_file = ready_file
        self._url = url
        self._port = port

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            asyncio.get_running_loop().add_signal_handler(SHUT_DOWN, self._shut_down)
            gc.collect()
            gc.freeze()  # what is there now stays; a collection need not look at it again
            gc.set_threshold(*GARBAGE)
            self._ready_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            told = {"url": self._url, "port": self._port, "pid": os.getpid()}
            _write_private(self._ready_file, json.dumps(told) + "\n")
            log.info("listening on %s", self._url)

    def _shut_down(self) -> None:
        if self._shutting_down is None:
            self._shutting_down = asyncio.create_task(self._end_workers())

    async def _end_workers(self) -> None:
        """It takes requests meanwhile: whoever waits for a job learns what became of it."""
        try:
            await self._state.services.control.shut_down()
        except ServerError as error:
            log.warning("jobs could not be ended in good order: %s", error)
        finally:
            self.should_exit = True


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"can't listen on {settings.host}:{settings.port}: {error.strerror}; choose another port with "
            "--port or NEARTIME_PORT (0 takes a free one)"
        ) from error
    listener.set_inheritable(True)
    return listener


def _write_private(path: Path, text: str) -> None:
    """Replace a file at once, so that nobody reads half of it, for its owner alone."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with open(draft, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    draft.replace(path)
