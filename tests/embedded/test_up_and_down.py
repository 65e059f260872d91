"""The embedded runtime as `neartime up` and `neartime down` start and end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from neartime import RuntimeService
from neartime_server.executors import addresses

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Too long a path for sockets in it."""
    return tmp_path / ("long" * 25)


@pytest.fixture
def call(home: Path) -> Iterator[Command]:
    """Runs a command of the server's package for that home; whatever it started is ended."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NEARTIME_HOME": str(home), **settings}
        command = [sys.executable, "-m", "neartime_server", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    yield run
    run("down")


def test_a_runtime_that_went_down_leaves_nothing_among_temporary_files_and_its_log_begins_with_itself(
    home: Path, call: Command
) -> None:
    told = json.loads(call("up", "--port", "0").stdout)
    sockets = addresses.folder(home)
    assert not sockets.is_relative_to(home)
    with RuntimeService(told["url"], (home / "token").read_text().strip()) as service:
        service.upload_program("def main(backend, user_messenger):\n    return 1\n", name="one")
        assert service.run("one").result(timeout=60) == 1
    assert list(sockets.glob("*.sock"))
    assert "API server" in json.loads(call("down").stdout)["ended"]
    assert not sockets.exists()
    assert "alembic" not in (home / "logs" / "server.log").read_text()


def test_a_bad_backends_file_is_answered_with_its_faults_alone(home: Path, tmp_path: Path, call: Command) -> None:
    file = tmp_path / "backends.toml"
    file.write_text('[[backends]]\nname = "a"\nfactry = "x:y"\n[[backend]]\nname = "b"\n')
    faults = [
        f"{file}: backend: is not known here; is it misspelt?",
        f"{file}: backends[0].factory: is missing",
        f"{file}: backends[0].factry: is not known here; is it misspelt?",
    ]
    for mode in ([], ["--foreground"]):
        answer = call("up", "--port", "0", *mode, NEARTIME_BACKENDS_FILE=str(file))
        assert (answer.returncode, answer.stdout) == (2, "")
        assert answer.stderr.splitlines() == faults
    assert "Traceback" not in (home / "logs" / "server.log").read_text()
    assert call("up", "--port", "0").returncode == 0
