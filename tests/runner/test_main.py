"""`python -m neartime_runner`: a worker without a zygote, and descriptions of backends."""

from __future__ import annotations

import asyncio
import json
import platform
import socket
import subprocess
from pathlib import Path

import pytest
from runner.harness import PYTHON, Worker, World

from neartime.contract.launch import Drain
from neartime.contract.version import CONTRACT_VERSION

RUNNER = [PYTHON, "-m", "neartime_runner"]


async def test_a_worker_runs_without_a_zygote(world: World, tmp_path: Path) -> None:
    program = world.program("def main(backend, user_messenger):\n    return backend.name\n")
    file = tmp_path / "launch.json"
    for argument in ("-", str(file)):
        launch = world.launch(program)
        file.write_text(launch.model_dump_json())
        process = await asyncio.create_subprocess_exec(*RUNNER, "worker", argument, stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(file.read_bytes() if argument == "-" else b"")
        process.stdin.close()
        worker = Worker(world, launch, process.pid)
        await worker.beat(lambda beat: beat.ready)
        job = await worker.run()
        assert await worker.result(job) == "none"
        await worker.command(Drain())
        assert await process.wait() == 0


async def test_a_worker_of_another_contract_version_says_both_and_ends(world: World, tmp_path: Path) -> None:
    launch = world.launch("").model_copy(update={"contract_version": 999})
    file = tmp_path / "launch.json"
    file.write_text(launch.model_dump_json())
    run = await asyncio.to_thread(
        subprocess.run, [*RUNNER, "worker", str(file)], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 1
    assert "contract version 999" in run.stderr
    assert launch.control_key not in run.stderr


def test_a_zygote_that_no_server_comes_back_to_ends_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "zygote.sock"
    zygote = subprocess.Popen([*RUNNER, "zygote", "--socket", str(path), "--alone", "1"], stderr=subprocess.PIPE)
    assert zygote.stderr is not None
    assert b"ready" in zygote.stderr.readline()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(path))
        assert json.loads(server.makefile().readline())["type"] == "state"
        with pytest.raises(subprocess.TimeoutExpired):
            zygote.wait(2)
    assert zygote.wait(20) == 0
    assert not path.exists()


def test_backends_are_described_line_by_line() -> None:
    requests = [
        {"name": "aer", "factory": "qiskit_aer:AerSimulator"},
        {"name": "loud", "factory": "builtins:print"},
        {"name": "missing", "factory": "no_such_module:Backend"},
        {"name": "fake", "factory": "qiskit.providers.fake_provider:GenericBackendV2", "options": {"num_qubits": 5}},
    ]
    text = "".join(json.dumps(request) + "\n" for request in requests)
    run = subprocess.run([*RUNNER, "backends"], input=text, capture_output=True, text=True, timeout=60, check=True)
    aer, loud, missing, fake = (json.loads(line) for line in run.stdout.splitlines())
    assert aer["backend_name"] == "aer"
    assert aer["simulator"]
    assert "error" in loud
    assert "no_such_module" in missing["error"]
    assert fake["n_qubits"] == 5


def test_a_runner_says_its_contract_and_its_python_without_loading_what_programs_want() -> None:
    command = [PYTHON, "-X", "importtime", *RUNNER[1:], "version"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(run.stdout) == {"contract": CONTRACT_VERSION, "python": platform.python_version()}
    assert not {"qiskit", "numpy", "nats"} & {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}


def test_each_command_explains_itself() -> None:
    for arguments in ([], ["zygote"], ["worker"], ["backends"], ["version"]):
        run = subprocess.run([*RUNNER, *arguments, "--help"], capture_output=True, text=True, timeout=30, check=True)
        assert "usage: python -m neartime_runner" in run.stdout


def test_neither_a_server_package_nor_the_ibm_client_nor_a_http_client_is_loaded() -> None:
    code = (
        "import sys\n"
        "from neartime_runner import preload, zygote, worker, child, __main__\n"
        "preload.preload()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    run = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(run.stdout.split())
    assert {"qiskit", "numpy", "nats"} <= loaded
    assert not loaded & {"neartime_server", "fastapi", "sqlalchemy", "httpx", "qiskit_ibm_runtime", "typer", "rich"}


def test_the_runner_imports_without_qiskit_and_numpy() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('numpy', 'qiskit', 'qiskit_aer', 'scipy', 'cloudpickle')))\n"
        "from neartime_runner import zygote, worker, child, backend\n"
    )
    subprocess.run([PYTHON, "-c", code], timeout=60, check=True)
