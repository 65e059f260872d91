"""An API server as a process of its own, with a real NATS server beside it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

from neartime_server.admin import Admin
from neartime_server.bus import Keys, NatsServer
from neartime_server.embedded import processes
from neartime_server.settings import Settings
from neartime_server.store.tokens import Role


class Server:
    """`python -m neartime_server serve` in a home of its own."""

    def __init__(self, home: Path, database: str | None) -> None:
        self.settings = Settings(home=home, database=database, port=0)
        self.home = home
        self.environment = {**os.environ, "NEARTIME_HOME": str(home), "NEARTIME_PORT": "0"}
        if database:
            self.environment["NEARTIME_DATABASE"] = database
        self.nats = NatsServer(home / "nats", Keys.load(self.settings.secret_path, create=True))
        asyncio.run(self.nats.start())
        try:
            self.start()
        except BaseException:
            asyncio.run(self.nats.stop())
            raise
        self.admin = Admin(self.settings)

    def start(self) -> None:
        ready = self.home / "run" / "server.json"
        ready.unlink(missing_ok=True)
        with (self.home / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "neartime_server", "serve"]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.home / "server.log").read_text())
            time.sleep(0.02)
        self.url = json.loads(ready.read_text())["url"]
        self.token = (self.home / "token").read_text().strip()

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token or self.token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, trust_env=False, timeout=60)

    def instance(self) -> str:
        """A token of a new instance."""
        name = f"tenant-{secrets.token_hex(6)}"
        self.admin.create_instance(name)
        return self.admin.create_token(name, "somebody", Role.USER)

    def stop(self) -> None:
        self.admin.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        processes.end_runners(self.home, 2)
        asyncio.run(self.nats.stop())
