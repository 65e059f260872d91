"""`up` and `down`: what `neartime up` and `neartime down` call."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from neartime_server.bus.server import free_port
from neartime_server.embedded import processes
from neartime_server.embedded.server import SHUT_DOWN_SECONDS, STOP_SECONDS, log_tail
from neartime_server.embedded.watchdog import (
    RUNNER_GRACE,
    Up,
    Watchdog,
    end_servers,
    lock,
    prepare_home,
    read_up,
)
from neartime_server.errors import ConfigurationError, ExecutorError
from neartime_server.settings import Settings

_READY = "ready"
MISCONFIGURED = 2
"""Exit status of `python -m neartime_server` where settings have to be mended."""


def up(port: int | None = None, *, foreground: bool = False, ready_fd: int | None = None) -> dict[str, Any]:
    """Bring the runtime up; returns once it answers, or in the foreground once it has ended.

    `port` None is the settings' one, or a free one where that is taken. `ready_fd` is how the background's watchdog
    tells whoever waits for it that it is up.

    Raises:
        ConfigurationError: it does not come up; the message says why.
    """
    settings = Settings.read()
    prepare_home(settings.home)
    if foreground:
        _watch(_with_port(settings, port), ready_fd)
        return {}
    with _changing(settings.home):
        already = _living(settings.home)
        told = already or _start(settings, port)
    return {
        "url": told.url,
        "home": str(settings.home),
        "logs": str(settings.home / "logs"),
        "token_file": str(settings.home / "token"),
        "already": already is not None,
        "executor": settings.executor,
        "version": told.version,
    }


def down() -> dict[str, Any]:
    """End all that runs in the home: API server, workers, NATS server, watchdog. Returns what was ended."""
    settings = Settings.read()
    home = settings.home
    if not home.exists():
        return {"home": str(home), "ended": []}
    prepare_home(home)
    ended = []
    with _changing(home):
        found = read_up(home)
        workers = len(processes.runners_of(home))
        watchdog = found.process(found.watchdog_pid) if found else None
        if watchdog is not None and watchdog.signal(signal.SIGTERM):
            servers = ["API server", *(["NATS server"] if found and found.nats_pid else [])]
            if processes.wait([watchdog], SHUT_DOWN_SECONDS + STOP_SECONDS + 2 * RUNNER_GRACE):
                watchdog.signal(signal.SIGKILL)
                processes.wait([watchdog], STOP_SECONDS)
                end_servers(home)
            ended += ["watchdog", *servers]
        else:
            ended += end_servers(home, workers=True)
        processes.end_runners(home, RUNNER_GRACE)
        workers += _end_containers(settings)
    if workers:
        ended.append(f"{workers} process{'es' if workers > 1 else ''} of workers")
    return {"home": str(home), "ended": ended}


def _end_containers(settings: Settings) -> int:
    """Ends workers in containers that no server was there to end. Returns how many there were."""
    if settings.executor != "docker":
        return 0
    from neartime_server.executors.docker import end_all

    try:
        return end_all(settings.home, RUNNER_GRACE, url=settings.docker_host)
    except ExecutorError as error:
        raise ConfigurationError(str(error)) from error


@contextmanager
def _changing(home: Path) -> Iterator[None]:
    """While the home is brought up or down: who comes second waits."""
    held = lock(home, "change")
    try:
        yield
    finally:
        held.close()


def _living(home: Path) -> Up | None:
    """The runtime that is up, if one is."""
    try:
        lock(home, "watchdog", wait=False).close()
        return None
    except BlockingIOError:
        pass
    deadline = time.monotonic() + STOP_SECONDS
    while (found := read_up(home)) is None:  # one in the foreground, that is still coming up
        if time.monotonic() > deadline:
            raise ConfigurationError(f"{home} is in use by a runtime that does not come up; `neartime down` ends it")
        time.sleep(0.05)
    return found


def _start(settings: Settings, port: int | None) -> Up:
    log = settings.home / "logs" / "watchdog.log"
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "neartime_server", "up", "--foreground", "--ready-fd", str(writer)]
    if port is not None:
        command += ["--port", str(port)]
    with log.open("ab") as output:
        since = output.tell()
        process = subprocess.Popen(
            command,
            env={**os.environ, "NEARTIME_HOME": str(settings.home)},
            cwd=settings.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()  # until the watchdog is ready, or has ended
    found = read_up(settings.home)
    if said != _READY or found is None:
        if process.wait(STOP_SECONDS) == MISCONFIGURED and (why := log_tail(log, since)):
            raise ConfigurationError(why)  # which is all that it has said
        raise ConfigurationError(f"the runtime did not come up; its log, {log}, ends with:\n{log_tail(log, since)}")
    return found


def _watch(settings: Settings, ready_fd: int | None) -> None:
    def ready(told: Up) -> None:
        if ready_fd is None:
            print(json.dumps({"url": told.url, "home": str(settings.home)}), flush=True)
            return
        os.write(ready_fd, _READY.encode())
        os.close(ready_fd)

    if ready_fd is not None:
        os.set_inheritable(ready_fd, False)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_run(settings, ready))


async def _run(settings: Settings, ready: Callable[[Up], None]) -> None:
    await Watchdog(settings).run(ready)


def _with_port(settings: Settings, port: int | None) -> Settings:
    """The settings with a port that is free; one that was asked for is taken as it is.

    Raises:
        ConfigurationError: somebody else listens on the port that was asked for.
    """
    asked = port if port is not None else settings.port
    if _free(settings.host, asked):
        return dataclasses.replace(settings, port=asked)
    if port is not None:
        raise ConfigurationError(f"port {port} is taken; choose another with --port, or 0 for a free one")
    return dataclasses.replace(settings, port=free_port())


def _free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError:
        return False
    return True
