"""Mitigation on a real runtime: Qiskit Runtime's own, in an environment that is made when it is first needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from neartime import RuntimeService, Session
from neartime.primitives import EstimatorV2, NoiseLearner, NoiseLearnerResult, SamplerV2
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


LEARNING = {"num_randomizations": 16, "layer_pair_depths": [0, 1, 4, 16]}
"""Less than the default, which two cores take half a minute for."""


@pytest.fixture(scope="module")
def learnt(session: Session, ghz: QuantumCircuit) -> NoiseLearnerResult:
    seen: list[Any] = []
    learner = NoiseLearner(session, {**LEARNING, "simulator": {"seed_simulator": 1}})
    result = learner.run([ghz], callback=lambda job_id, layer: seen.append(layer)).result(timeout=PATIENCE)
    assert isinstance(result, NoiseLearnerResult)
    assert [one["layer"] for one in seen] == list(range(len(result)))
    assert [one["result"].qubits for one in seen] == [layer.qubits for layer in result]
    return result


def test_a_noise_learner_finds_what_is_wrong_with_each_layer(learnt: NoiseLearnerResult, session: Session) -> None:
    assert len(learnt) == 2
    for layer in learnt:
        assert [step.operation.name for step in layer.circuit.data] == ["cx"]
        assert layer.error is not None
        assert np.all(layer.error.rates >= 0)
        # The device has errors of 0.1 % to a few percent for each gate of two qubits.
        assert 5e-4 < layer.error.rates.sum() < 0.05
    assert learnt.metadata == {"backend": session.backend(), "num_layers": 2}


PEC = {"pec_mitigation": True}
MANY = {"num_randomizations": 1500, "shots_per_randomization": 8}
"""The sign of a randomization is that of all its shots, so many with few shots each tell most."""


def test_pec_cancels_what_was_learnt_at_the_overhead_that_it_tells(
    session: Session, ghz: QuantumCircuit, learnt: NoiseLearnerResult
) -> None:
    observable = SparsePauliOp("XXX").apply_layout(ghz.layout)
    found = {}
    for name, resilience in {"off": {}, "pec": {**PEC, "layer_noise_model": learnt}}.items():
        options = {"resilience": resilience, "twirling": MANY, "simulator": {"seed_simulator": 1}}
        found[name] = EstimatorV2(session, options).run([(ghz, observable)]).result(timeout=PATIENCE)[0]
    told = found["pec"].metadata["resilience"]["pec"]
    total = sum(layer.error.rates.sum() for layer in learnt if layer.error is not None)
    assert told["gamma"] == pytest.approx(np.exp(2 * total))
    assert told["sampling_overhead"] == pytest.approx(told["gamma"] ** 2)
    assert told["noise_gain"] == pytest.approx(0, abs=1e-9)
    assert told["num_randomizations"] == np.ceil(1500 * told["sampling_overhead"])
    assert abs(found["off"].data.evs - 1) > 1.5 * abs(found["pec"].data.evs - 1)
    assert abs(found["pec"].data.evs - 1) < 5 * found["pec"].data.stds


def test_pec_keeps_to_its_overhead_and_leaves_noise_instead(
    session: Session, ghz: QuantumCircuit, learnt: NoiseLearnerResult
) -> None:
    resilience = {**PEC, "pec": {"max_overhead": 1.01}, "layer_noise_model": learnt}
    pub = (ghz, SparsePauliOp("XXX").apply_layout(ghz.layout))
    options = {"resilience": resilience, "twirling": {"num_randomizations": 100, "shots_per_randomization": 8}}
    told = EstimatorV2(session, options).run([pub]).result(timeout=PATIENCE)[0].metadata["resilience"]["pec"]
    assert told["sampling_overhead"] <= 1.01 + 1e-9
    assert told["num_randomizations"] <= 101
    assert 0.3 < told["noise_gain"] < 0.99


def test_an_estimator_learns_what_it_is_not_given_and_a_seed_repeats_all_of_it(
    session: Session, ghz: QuantumCircuit
) -> None:
    options = {
        "resilience": {**PEC, "layer_noise_learning": {**LEARNING, "max_layers_to_learn": 1}},
        "twirling": {"num_randomizations": 100, "shots_per_randomization": 8},
        "simulator": {"seed_simulator": 5},
    }
    pubs = [(ghz, SparsePauliOp("XXX").apply_layout(ghz.layout))] * 2
    first, again = (EstimatorV2(session, options).run(pubs).result(timeout=PATIENCE) for _ in range(2))
    assert [pub.data.evs for pub in first] == [pub.data.evs for pub in again]
    assert first[0].data.evs != first[1].data.evs
    model = first.metadata["layer_noise_model"]
    assert (len(model), model.metadata["num_layers"]) == (1, 2)


def test_noise_that_was_learnt_is_amplified_and_extrapolated(
    session: Session, ghz: QuantumCircuit, learnt: NoiseLearnerResult
) -> None:
    options = {
        "resilience_level": 2,
        "resilience": {"layer_noise_model": learnt, "zne": {"amplifier": "pea", "noise_factors": [1, 4, 8]}},
        "twirling": {"num_randomizations": 400, "shots_per_randomization": 16},
        "simulator": {"seed_simulator": 1},
    }
    pub = (ghz, SparsePauliOp("XXX").apply_layout(ghz.layout))
    data = EstimatorV2(session, options).run([pub]).result(timeout=PATIENCE)[0].data
    measured = data.evs_noise_factors
    assert measured[0] > measured[1] > measured[2]
    assert abs(data.evs - 1) < abs(measured[0] - 1)


def test_the_first_shape_has_its_levels(session: Session, ghz: QuantumCircuit, learnt: NoiseLearnerResult) -> None:
    observable = SparsePauliOp(["ZZI", "IZZ", "XXX"], [0.25, 0.25, 0.5]).apply_layout(ghz.layout)
    inputs = {"circuits": [ghz], "observables": [observable], "shots": 4000, "seed": 1}
    found = {}
    for level in (0, 3):
        resilience = {"layer_noise_model": learnt} if level else {}
        asked = {**inputs, "resilience_level": level, "resilience": resilience}
        result = session.run("estimator-v1", asked).result(timeout=PATIENCE)
        told = result["metadata"][0]
        found[level] = abs(result["values"][0] - 1), np.sqrt(told["variance"] / told["shots"])
    assert found[0][0] > found[3][0]
    assert found[3][0] < 4 * found[3][1]


def service(session: Session) -> RuntimeService:
    return session.service
