"""The API server as a process of its own: `python -m neartime_server serve` in a home."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from neartime_server.errors import ConfigurationError
from neartime_server.settings import FAULT_SUFFIX, SHUT_DOWN

START_SECONDS = 60.0
STOP_SECONDS = 15.0
SHUT_DOWN_SECONDS = 2 * STOP_SECONDS
"""How long the server has to end all workers, with their jobs, and then itself."""
_LOG_TAIL = 4000


def log_tail(path: Path, since: int = 0) -> str:
    """The end of a log, from byte `since` on."""
    try:
        text = path.read_bytes()
    except OSError:
        return ""
    return text[since:][-_LOG_TAIL:].decode(errors="replace").strip()


class ApiServer:
    """In a session of its own, so that it outlives whoever started it, until `stop`."""

    def __init__(self, home: Path, port: int, log: Path, environment: Mapping[str, str] | None = None) -> None:
        """`port` 0 takes a free one, and keeps it. `environment` is added to that of this process."""
        self.home = home
        self.port = port
        self.log = log
        self.url = ""
        self._environment = {**os.environ, **(environment or {}), "NEARTIME_HOME": str(home)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start it and wait until it takes requests.

        Raises:
            ConfigurationError: it can't, as it is configured, and says why; or it does not come up: with the end of its
                log.
        """
        ready = self.home / "run" / "server.json"
        fault = ready.with_suffix(FAULT_SUFFIX)
        ready.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in (ready, fault):
            file.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as output:
            since = output.tell()
            self._process = self._spawn(output)
        deadline = time.monotonic() + START_SECONDS
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.stop()
                if fault.exists():
                    raise ConfigurationError(fault.read_text().strip())
                raise ConfigurationError(f"the API server did not start:\n{log_tail(self.log, since)}")
            await asyncio.sleep(0.01)
        told = json.loads(ready.read_text())
        self.url, self.port = told["url"], told["port"]

    def _spawn(self, output: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "neartime_server", "serve", "--port", str(self.port)],
            env=self._environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self._end(signal.SIGKILL)

    async def stop(self, *, workers: bool = False) -> None:
        """Ends it: with SIGKILL where it does not end by itself. Running jobs go on, unless workers are to end, too."""
        if workers:
            await asyncio.to_thread(self._end, SHUT_DOWN, SHUT_DOWN_SECONDS)
        else:
            await asyncio.to_thread(self._end, signal.SIGTERM)

    def _end(self, number: signal.Signals, seconds: float = STOP_SECONDS) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
