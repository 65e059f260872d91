"""`neartime up` and `down`, in a home of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Neartime = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def neartime(tmp_path: Path) -> Iterator[Neartime]:
    unset = ("NEARTIME_URL", "NEARTIME_TOKEN", "NEARTIME_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"NEARTIME_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from neartime.cli import main; main()", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)

    yield call
    call("down")


def test_another_port_is_not_taken_in_silence_where_it_is_up(neartime: Neartime) -> None:
    printed = neartime("up", "--port", "0", "--print-env")
    assert printed.returncode == 0, printed.stderr
    lines = printed.stdout.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["export NEARTIME_URL", "export NEARTIME_TOKEN"]
    url = lines[0].partition("=")[2]
    assert f"up: {url}" in printed.stderr, "that it was started is told beside what the shell reads"
    port = int(url.rpartition(":")[2])
    other = str(port - 1)
    again = neartime("up", "--port", other)
    assert again.returncode == 0
    assert f"already up: {url}" in again.stdout
    assert f"port {port}" in again.stdout
    assert f"neartime up --port {other}" in again.stdout
    assert "to move it" in neartime("up", "--port", other, "--print-env").stderr
    assert "to move it" not in neartime("up", "--port", str(port)).stdout
    assert neartime("up", "--print-env").stderr == ""
