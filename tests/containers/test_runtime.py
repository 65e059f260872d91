"""The main job in containers: uploaded, made into an image in a registry, run, watched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neartime import RuntimeService, Session
from neartime_server.testing import Runtime

TEMPLATES = Path(__file__).parents[2] / "program-templates"
SIX = """
import os, six

def main(backend, user_messenger, count=3):
    for number in range(count):
        user_messenger.publish({"number": number})
    return {"six": six.__version__, "user": os.getuid(), "backend": backend.name}
"""


@pytest.mark.timeout(400)
def test_a_program_with_a_requirement_runs_in_a_container_and_its_interim_results_are_heard(
    service: RuntimeService,
) -> None:
    said: list[str] = []
    service.upload_program(SIX, name="six-in-a-box", requirements=["six==1.16.0"], log=said.append)
    assert said[1] == "resolving six==1.16.0 for Python 3.11"
    assert said[-1].endswith("is there")
    heard: list[Any] = []
    with Session(service, backend="aer") as session:
        job = session.run("six-in-a-box", {"count": 4}, callback=lambda _, value: heard.append(value["number"]))
        assert job.result(timeout=120) == {"six": "1.16.0", "user": 65532, "backend": "aer"}
        job.wait_for_final_state(10)
        assert session.run("six-in-a-box", {"count": 1}).result(timeout=60)["six"] == "1.16.0"
    assert heard == [0, 1, 2, 3]


@pytest.mark.timeout(400)
def test_the_vqe_template_runs_in_a_container(service: RuntimeService) -> None:
    service.upload_program(TEMPLATES / "vqe")
    heard: list[Any] = []
    job = service.run("vqe", {"maxiter": 5}, {"backend": "aer"}, callback=lambda _, value: heard.append(value))
    assert job.result(timeout=180) is not None
    assert heard


@pytest.mark.timeout(400)
def test_a_primitive_that_every_server_has_runs_in_a_container_that_is_made_when_it_is_needed(
    service: RuntimeService,
) -> None:
    from qiskit import QuantumCircuit

    from neartime.primitives import EstimatorV2

    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    job = EstimatorV2("aer", service=service).run([(circuit, ["ZZ", "XX"])], precision=0.0)
    assert job.result(timeout=240)[0].data.evs == pytest.approx([1.0, 1.0])
    assert service.program("estimator").is_preinstalled


def environment(runtime: Runtime) -> dict[str, str]:
    """In which commands find the runtime."""
    names = ("home", "executor", "docker_host", "registry", "base_image")
    settings = {f"NEARTIME_{name.upper()}": str(getattr(runtime.settings, name)) for name in names}
    return {**os.environ, **settings, "NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}


def prune(runtime: Runtime, *options: str) -> list[dict[str, Any]]:
    """What the command tells, of a runtime that is up."""
    command = [sys.executable, "-m", "neartime_server", "admin", "prune", "--idle", "0", "--json", *options]
    done = subprocess.run(command, env=environment(runtime), check=True, stdout=subprocess.PIPE, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


@pytest.mark.timeout(400)
def test_what_a_deleted_program_leaves_is_pruned_when_it_is_asked_for(
    service: RuntimeService, contained: Runtime
) -> None:
    code = "def main(backend, user_messenger):\n    return 'here'\n"
    service.upload_program(code, name="kept")
    service.upload_program(code, name="gone")
    assert service.run("gone", {}, {"backend": "aer"}).result(timeout=120) == "here"
    assert not [row for row in prune(contained) if "/gone@" in row["name"] or "/kept@" in row["name"]]
    service.delete_program("gone")
    told = prune(contained)
    assert [row["state"] for row in told if "/gone@" in row["name"]] == ["unneeded"] * 2  # in the registry, and pulled
    assert told == prune(contained)
    assert {row["state"] for row in prune(contained, "--delete")} == {"removed"}
    assert prune(contained) == []
    assert service.run("kept", {}, {"backend": "aer"}).result(timeout=120) == "here"
    service.upload_program(code, name="gone")
    assert service.run("gone", {}, {"backend": "aer"}).result(timeout=120) == "here"


def test_the_doctor_looks_at_what_containers_need(contained: Runtime) -> None:
    def said(**changes: str) -> dict[str, tuple[bool, str]]:
        command = [sys.executable, "-c", "from neartime.cli import main; main()", "doctor", "--json"]
        found = {**environment(contained), **changes}
        done = subprocess.run(command, env=found, stdout=subprocess.PIPE, text=True, timeout=100)
        return {row["name"]: (row["ok"], row["found"]) for row in json.loads(done.stdout)}

    rows = said()
    assert [rows[name][0] for name in ("Docker Engine", "registry", "base image")] == [True] * 3
    assert rows["base image"][1].endswith("Python 3.11")
    rows = said(NEARTIME_REGISTRY="127.0.0.1:9/lab", NEARTIME_DOCKER_HOST="unix:///nowhere.sock")
    assert [rows[name][0] for name in ("Docker Engine", "registry")] == [False] * 2
    assert "/nowhere.sock" in rows["Docker Engine"][1]
