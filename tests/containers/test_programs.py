"""The programs of the server and the templates in containers, those with requirements, too."""

from __future__ import annotations

import base64
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from neartime import RuntimeService, Session, codec
from neartime.primitives import EstimatorV1, EstimatorV2, SamplerV2

TEMPLATES = Path(__file__).parents[2] / "program-templates"
PATIENCE = 400.0
"""Seconds; an image with qiskit-ibm-runtime takes most of a minute, on a busy machine more."""
pytestmark = pytest.mark.timeout(500)


def ghz(session: Session) -> QuantumCircuit:
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    told = session.run("transpile", {"circuits": [circuit], "seed_transpiler": 1}).result(timeout=PATIENCE)
    isa: QuantumCircuit = told["circuits"][0]
    return isa


def test_mitigated_programs_run_in_containers_of_an_image_that_is_made_when_it_is_needed(
    service: RuntimeService,
) -> None:
    with Session(service, backend="generic_5q") as session:
        circuit = ghz(session)
        observable = SparsePauliOp("ZZI").apply_layout(circuit.layout)
        estimator = EstimatorV2(session, {"resilience_level": 2})
        job = estimator.run([(circuit, observable)], precision=0.02)
        assert abs(job.result(timeout=PATIENCE)[0].data.evs - 1.0) < 0.15
        assert service.program(job.program_id).name == "estimator-mitigated"
        options = {"default_shots": 500, "twirling": {"enable_gates": True, "num_randomizations": 4}}
        job = SamplerV2(session, options).run([(circuit.measure_all(inplace=False),)])
        assert job.result(timeout=PATIENCE)[0].data.meas.num_shots >= 500
        assert service.program(job.program_id).name == "sampler-mitigated"
        values = EstimatorV1(session).run(circuit, observable).result(timeout=PATIENCE).values
        assert abs(values[0] - 1.0) < 0.3


def bits(tensor: dict[str, Any]) -> Any:
    """An array of bits from the form that it has in the results of a quantum program."""
    packed = np.frombuffer(zlib.decompress(base64.b64decode(tensor["data"])), dtype=np.uint8)
    return np.unpackbits(packed, bitorder="little")[: math.prod(tensor["shape"])].reshape(tensor["shape"])


def test_a_quantum_program_runs_in_a_container(service: RuntimeService) -> None:
    """As `qiskit-ibm-runtime` 0.51 writes it: a pair of qubits at the angles 0 and π, and, drawn four
    times by a samplex which twirls it, at π."""
    inputs = json.loads(Path(__file__).with_name("quantum_program.json").read_text())
    told = service.run("executor", inputs, {"backend": "generic_5q"}).result(timeout=PATIENCE)
    plain, twirled = (one["results"] for one in told["data"])
    zero, one = bits(plain["meas"])[..., :2].mean(axis=(1, 2))
    assert zero < 0.2
    assert one > 0.8
    flipped = bits(twirled["meas"]) ^ bits(twirled["measurement_flips.meas"])
    assert flipped[..., :2].mean() > 0.8


@pytest.mark.parametrize("name", ["my-estimator", "my-sampler", "quantum-kernel", "vqd", "zne-sweep"])
def test_a_template_runs_in_a_container(service: RuntimeService, name: str) -> None:
    service.upload_program(TEMPLATES / name)
    inputs = codec.decode((TEMPLATES / name / "inputs.example.json").read_bytes())
    heard: list[Any] = []
    short = {"maxiter": 3} if "maxiter" in inputs else {}
    job = service.run(name, {**inputs, **short}, {"backend": "aer"}, callback=lambda _, value: heard.append(value))
    assert job.result(timeout=PATIENCE) is not None
    assert heard
