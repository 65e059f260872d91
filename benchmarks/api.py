"""Submissions that the API accepts in a second."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.jobs import PROGRAMS
from benchmarks.measure import Row, row
from neartime import Session
from neartime_server.testing import Runtime

REQUESTS = 400
CLIENTS = 8


async def _rate(url: str, body: dict[str, Any], headers: dict[str, str]) -> float:
    """POSTs a second, from several connections at once."""
    async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=60) as client:
        (await client.post(url, json=body)).raise_for_status()

        async def some() -> None:
            for _ in range(REQUESTS // CLIENTS):
                (await client.post(url, json=body)).raise_for_status()

        start = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(CLIENTS)))
        return REQUESTS / (time.perf_counter() - start)


def _bare(body: dict[str, Any]) -> float:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        script = str(Path(__file__).with_name("bare_api.py"))
        server = subprocess.Popen([sys.executable, script, str(port), f"{folder}/bare.db"])
        try:
            url = f"http://127.0.0.1:{port}/rows"
            for _ in range(200):
                try:
                    httpx.post(url, json=body, trust_env=False).raise_for_status()
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            return asyncio.run(_rate(url, body, {}))
        finally:
            server.terminate()
            server.wait()


def submissions(runtime: Runtime) -> list[Row]:
    """Into the queue of a session that waits for its backend, so that accepting is all that is measured."""
    samples = []
    floors = []
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "trivial.py", name="trivial")
        with Session(service, backend="generic_5q") as holder:
            holder.run("trivial").result(timeout=60)
            waiting = Session(service, backend="generic_5q")
            body = {"program_id": "trivial", "params": {"number": 1}, "session_id": waiting.session_id}
            headers = {"Authorization": f"Bearer {runtime.token}"}
            for _ in range(3):
                samples.append(asyncio.run(_rate(f"{runtime.url}/api/v1/jobs", body, headers)))
                floors.append(_bare(body))
            waiting.cancel()
    return [row("submissions a second", samples, "/s", "bare FastAPI + one row", floors)]
