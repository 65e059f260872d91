"""Mitigation on a real runtime: Qiskit Runtime's own, in an environment that is made when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from neartime import RuntimeService, Session
from neartime.primitives import EstimatorV2, SamplerV2
from neartime_server.testing import Runtime

PATIENCE = 280.0
"""Seconds; making the environment takes up to a minute on a slow line."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def session(runtime: Runtime) -> Iterator[Session]:
    with runtime.service() as service, Session(service, backend="generic_5q") as session:
        yield session


@pytest.fixture(scope="module")
def ghz(session: Session) -> QuantumCircuit:
    circuit = QuantumCircuit(3)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.cx(1, 2)
    found: QuantumCircuit = session.run("transpile", {"circuits": [circuit]}).result(timeout=100)["circuits"][0]
    return found


def test_each_level_comes_nearer_to_the_truth(session: Session, ghz: QuantumCircuit) -> None:
    observables = [SparsePauliOp(term).apply_layout(ghz.layout) for term in ("ZZI", "IZZ", "XXX")]
    off = []
    for level in (0, 1, 2):
        job = EstimatorV2(session, {"resilience_level": level}).run([(ghz, observables)] * 3, precision=0.005)
        found = job.result(timeout=PATIENCE)
        assert all(one.data.stds.shape == (3,) for one in found)
        off.append(float(np.mean([np.abs(one.data.evs - 1.0) for one in found])))
    assert off[0] > 1.3 * off[1]
    assert off[0] > 1.3 * off[2]


def test_mitigation_is_the_default_on_a_device_with_noise(session: Session, ghz: QuantumCircuit) -> None:
    job = EstimatorV2(session).run([(ghz, SparsePauliOp("ZZI").apply_layout(ghz.layout))])
    assert service(session).program(job.program_id).name == "estimator-mitigated"
    assert abs(job.result(timeout=PATIENCE)[0].data.evs - 1.0) < 0.05


def test_the_environment_is_kept_with_the_version_once_it_is_made(session: Session, ghz: QuantumCircuit) -> None:
    EstimatorV2(session).run([(ghz, SparsePauliOp("ZZI").apply_layout(ghz.layout))]).result(timeout=PATIENCE)
    assert service(session).program("estimator-mitigated").versions()[0].environment is not None


def test_a_sampler_twirls_and_decouples(session: Session, ghz: QuantumCircuit) -> None:
    measured = ghz.measure_all(inplace=False)
    options = {
        "default_shots": 2000,
        "twirling": {"enable_gates": True, "enable_measure": True, "num_randomizations": 8},
        "dynamical_decoupling": {"enable": True, "sequence_type": "XY4"},
    }
    job = SamplerV2(session, options).run([(measured,)])
    assert service(session).program(job.program_id).name == "sampler-mitigated"
    bits = job.result(timeout=PATIENCE)[0].data.meas
    assert bits.num_shots >= 2000
    placed = [ghz.layout.final_index_layout()[qubit] for qubit in range(3)]
    counts = bits.slice_bits(placed).get_counts()
    assert counts["000"] + counts["111"] > 0.8 * bits.num_shots


def service(session: Session) -> RuntimeService:
    return session.service
