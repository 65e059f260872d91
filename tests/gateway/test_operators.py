"""A gateway that the operator starts, beside the machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gateway.lab import MACHINE, MEASURES, Lab, lab, until

from neartime.contract.gateways import GatewayLaunch


def admin(machine: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "NEARTIME_HOME": str(machine.runtime.home),
        "NEARTIME_BACKENDS_FILE": str(machine.folder / "backends.toml"),
    }
    command = [sys.executable, "-m", "neartime_server", "admin", "gateway", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def started(file: Path, log: Path, key: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(MACHINE), "MACHINE_KEY": key}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "neartime_runner", "gateway", str(file)],
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Lab]:
    def entries(made: Lab) -> str:
        return f"""
[[backends]]
name = "far.away"
factory = "lab_machine:Machine"
options = {{ folder = "{made.folder}" }}
[backends.gateway]
started_by = "operator"
credentials = {{ key = "variable:MACHINE_KEY" }}
"""

    with lab(tmp_path, entries) as made:
        made.service.upload_program(MEASURES, name="measures")
        yield made


def test_one_that_the_operator_starts_serves_and_ends_and_is_one_alone(machine: Lab, tmp_path: Path) -> None:
    told = admin(machine, "far.away", "--days", "1")
    assert told.returncode == 0, told.stderr
    file, log = tmp_path / "far.json", tmp_path / "far.log"
    file.write_text(told.stdout)
    assert machine.key not in told.stdout
    assert GatewayLaunch.model_validate_json(told.stdout).backend.options == {"folder": str(machine.folder)}
    status = machine.service.backend("far.away").status()
    assert (status.state, "the operator starts it" in status.message) == (False, True)
    with started(file, log, machine.key) as process:
        until(lambda: machine.service.backend("far.away").operational)
        found = machine.service.run("measures", {}, {"backend": "far.away"}).result(timeout=60)
        assert found == [{"00": 50, "11": 50}]
        with started(file, log, machine.key) as second:
            assert second.wait(30) == 4
            assert "another gateway serves the backend 'far.away'" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not until(lambda: [one for one in machine.service.backends() if not one.operational])[0].operational


def test_a_document_for_a_backend_that_is_not_behind_a_gateway_is_refused(machine: Lab) -> None:
    told = admin(machine, "nowhere")
    assert told.returncode == 1
    assert "there is no backend 'nowhere' behind a gateway" in told.stderr
