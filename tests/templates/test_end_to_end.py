"""Every shipped template, uploaded and run on a real runtime; and a program of Qiskit Runtime's own custom ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib
from templates.expectations import disappointments

from neartime import RuntimeService, Session, codec
from neartime.cli import templates
from neartime.primitives import EstimatorV2, SamplerV2
from neartime_server.testing import Runtime

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted(path for path in (ROOT / "program-templates").iterdir() if path.is_dir())
PATIENCE = 280.0
"""Seconds; making an environment takes up to a minute on a slow line."""
ERA = ROOT / "tests" / "programs" / "era"


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        yield service


@pytest.mark.timeout(400)
@pytest.mark.parametrize("folder", TEMPLATES, ids=lambda path: str(path.name))
def test_a_template_runs_in_a_session_and_does_what_is_expected_of_it(service: RuntimeService, folder: Path) -> None:
    service.upload_program(folder)
    inputs = codec.decode((folder / "inputs.example.json").read_bytes())
    interims: list[Any] = []
    with Session(service, backend="aer") as session:
        job = session.run(folder.name, inputs=inputs, callback=lambda job_id, interim: interims.append(interim))
        result = job.result(timeout=PATIENCE)
    assert disappointments(tomllib.loads((folder / "expect.toml").read_text()), interims, result) == []


@pytest.mark.timeout(400)
@pytest.mark.parametrize("folder", TEMPLATES, ids=lambda path: str(path.name))
def test_a_template_runs_on_a_noisy_device_too(service: RuntimeService, folder: Path) -> None:
    service.upload_program(folder)
    inputs = codec.decode((folder / "inputs.example.json").read_bytes())
    short = {"maxiter": 3} if "maxiter" in service.program(folder.name).parameters()["properties"] else {}
    assert service.run(folder.name, {**inputs, **short}, {"backend": "generic_5q"}).result(timeout=PATIENCE) is not None


def test_the_kernel_whose_worker_is_killed_goes_on_with_its_next_step(service: RuntimeService, tmp_path: Path) -> None:
    folder = templates.write("killed-kernel", "quantum-kernel", tmp_path / "killed-kernel")
    code = (folder / "program.py").read_text()
    told = "    print(__import__('os').environ['NEARTIME_SUPERVISOR_PID'], flush=True)\n"
    head = "def main(backend, user_messenger, inputs: Inputs) -> Result:\n"
    assert head in code
    (folder / "program.py").write_text(code.replace(head, head + told))
    service.upload_program(folder)
    steps: list[int] = []
    reached = threading.Event()

    def heard(job_id: str, interim: Any) -> None:
        steps.append(interim["iteration"])
        if len(steps) == 4:
            reached.set()

    inputs = {"samples": 8, "maxiter": 20, "shots": 2000}
    with Session(service, backend="generic_5q") as session:
        job = session.run("killed-kernel", inputs, callback=heard)
        assert reached.wait(60)
        os.kill(int(job.logs().split()[0]), signal.SIGKILL)
        result = job.result(timeout=110)
    assert steps == list(range(1, 21))
    assert len(result["losses"]) == 20
    assert len(set(job.logs().split())) == 2, "there was no second worker"


def test_primitives_of_the_sdk_run_ones_own_program_where_it_has_their_name(runtime: Runtime, tmp_path: Path) -> None:
    from qiskit import ClassicalRegister, QuantumCircuit, QuantumRegister

    circuit = QuantumCircuit(QuantumRegister(3), ClassicalRegister(2, "meas"), ClassicalRegister(1, "check"))
    circuit.h(0)
    circuit.cx(0, [1, 2])
    circuit.cx(1, 2)
    bare = circuit.copy()
    circuit.measure([0, 1, 2], [0, 1, 2])
    with runtime.service(runtime.new_instance("own-primitives")) as service:
        for name in ("sampler", "estimator"):
            service.upload_program(templates.write(name, f"my-{name}", tmp_path / name))
        # Neither is an ISA circuit, which the server's own would refuse.
        job = SamplerV2("generic_5q", {"default_shots": 1000}, service=service).run([(circuit,)])
        assert not service.program(job.program_id).is_preinstalled
        found = job.result(timeout=PATIENCE)[0]
        assert found.data.meas.num_shots == round(1000 * found.metadata["share_kept"]) < 1000
        assert not found.data.check.array.any()
        seen: list[Any] = []
        quiet = EstimatorV2("generic_5q", {"resilience_level": 0}, service=service)
        job = quiet.run([(bare, "IZZ")], precision=0.05, callback=lambda job_id, interim: seen.append(interim["batch"]))
        assert job.result(timeout=PATIENCE)[0].data.evs > 0.8
        assert seen == list(range(2, 2 + len(seen)))


def test_a_program_of_the_custom_program_era_runs_as_it_was_written(service: RuntimeService, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "trotter"), "zip", ERA)
    metadata = json.loads((ERA / "metadata.json").read_text())
    program_id = service.upload_program(archive, metadata=metadata)
    interims: list[Any] = []
    job = service.run(
        program_id,
        {"steps": 4, "shots": 512},
        {"backend": "aer"},
        callback=lambda job_id, interim: interims.append(interim),
    )
    result = job.result(timeout=110)
    assert [interim["step"] for interim in interims] == [1, 2, 3, 4]
    np.testing.assert_array_equal(result["magnetization"], [interim["magnetization"] for interim in interims])
    assert result["unused"] == {}
    assert len(result["couplings"]) == 3
    assert service.program(program_id).parameters() == metadata["spec"]["parameters"]
