"""Every shipped template, uploaded and run on a real runtime; and a program of Qiskit Runtime's own custom ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomllib
from templates.expectations import disappointments

from neartime import RuntimeService, Session, codec
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
