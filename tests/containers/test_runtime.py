"""The main job in containers: uploaded, made into an image in a registry, run, watched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import Engine
from registries import Registry as Hub

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


@pytest.fixture(scope="module")
def contained(engine: Engine, registry: Hub, base: str) -> Iterator[Runtime]:
    """A runtime whose workers are containers, of images in a registry."""
    with Runtime(
        executor="docker", docker_host=engine.url, registry=f"{registry.host}/runtime", base_image=base
    ) as runtime:
        yield runtime


@pytest.fixture
def service(contained: Runtime) -> Iterator[RuntimeService]:
    with contained.service() as service:
        yield service


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
