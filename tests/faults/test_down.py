"""`neartime down` in the middle of jobs, and a machine that is switched off: what the user sees, before and after."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neartime import RuntimeJob, RuntimeService
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime_server.embedded import processes
from neartime_server.embedded.processes import Process

PROGRAM = """
import time

def main(backend, user_messenger, until):
    import os
    user_messenger.publish("begun")
    while not os.path.exists(until):
        time.sleep(0.02)
    return "ended"
"""


BACKENDS = """
[[backends]]
name = "one"
factory = "qiskit_aer:AerSimulator"
parallelism = 1

[[backends]]
name = "other"
factory = "qiskit_aer:AerSimulator"
"""


class Home:
    """What `neartime up` and `neartime down` do, in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.until = folder / "go-on"
        (folder / "backends.toml").write_text(BACKENDS)
        settings = {"HOME": folder, "PORT": 0, "BACKENDS_FILE": folder / "backends.toml"}
        self._environment = {**os.environ, **{f"NEARTIME_{name}": str(value) for name, value in settings.items()}}

    def command(self, name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "neartime_server", name]
        answer = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=90, check=False)
        assert answer.returncode == 0, answer.stderr
        told: dict[str, Any] = json.loads(answer.stdout)
        return told

    def up(self) -> RuntimeService:
        url = self.command("up")["url"]
        return RuntimeService(url, (self.folder / "token").read_text().strip())

    def kill(self) -> None:
        """As if the machine were switched off."""
        up = json.loads((self.folder / "run" / "up.json").read_text())
        servers = [Process.of(up[name]) for name in ("watchdog_pid", "server_pid", "nats_pid")]
        all_ = [one for one in servers if one is not None] + processes.runners_of(self.folder)
        for one in all_:
            one.signal(signal.SIGKILL)
        assert not processes.wait(all_, 10)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    (tmp_path / "home").mkdir()
    home = Home(tmp_path / "home")
    yield home
    home.command("down")
    assert processes.runners_of(home.folder) == []


def started(service: RuntimeService, home: Home) -> tuple[RuntimeJob, RuntimeJob, RuntimeJob]:
    """A job that runs, one that runs and may be tried again, and one that waits."""
    service.upload_program(PROGRAM, name="waits")
    inputs = {"until": str(home.until)}
    once = service.run("waits", inputs, options={"backend": "one"})
    twice = service.run("waits", inputs, options={"backend": "other", "max_attempts": 2})
    for job in (once, twice):
        deadline = time.monotonic() + 60
        while not list(job.interim_results()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return once, twice, service.run("waits", inputs, options={"backend": "one"})


def test_down_ends_jobs_in_good_order_and_the_others_go_on_at_the_next_up(home: Home) -> None:
    with home.up() as service:
        ids = [job.job_id() for job in started(service, home)]
        began = time.monotonic()
        home.command("down")
        took = time.monotonic() - began
    assert took < 20
    time.sleep(2)
    home.until.touch()
    with home.up() as service:
        once, twice, waited = map(service.job, ids)
        assert once.status() is JobStatus.FAILED  # at once: it was written down before the servers ended
        view = once.details()
        assert view.ended is not None
        assert view.state.reason_code is ReasonCode.WORKER_LOST
        assert str(view.state.reason).startswith("the runtime was shut down")
        assert 0 < view.usage.seconds <= (view.ended - view.created).total_seconds()
        assert twice.result(timeout=60) == waited.result(timeout=60) == "ended"
        assert twice.details().attempt == 2


def test_what_ran_when_the_machine_was_switched_off_blocks_nothing_at_the_next_up(home: Home) -> None:
    with home.up() as service:
        ids = [job.job_id() for job in started(service, home)]
        time.sleep(1)
        home.kill()
    time.sleep(6)
    home.until.touch()
    with home.up() as service:
        began = time.monotonic()
        once, twice, waited = map(service.job, ids)
        once.wait_for_final_state(timeout=30)
        assert waited.result(timeout=60) == twice.result(timeout=60) == "ended"
        assert time.monotonic() - began < 12  # three heartbeats would be 15 s
        assert once.status() is JobStatus.FAILED
        view = once.details()
        assert "was ended while the job ran" in str(view.state.reason)
        assert 0 < view.usage.seconds < 6
