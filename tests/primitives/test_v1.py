"""SamplerV1 and EstimatorV1 on a real runtime: Qiskit's first shapes over the programs that have them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator

import numpy as np
import pytest
from primitives.test_options import PAGE, names
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp

from neartime import Batch, InvalidInput, RuntimeService, Session
from neartime.primitives import EstimatorV1, EstimatorV1Result, SamplerV1, SamplerV1Result, V1Options
from neartime_server.testing import Runtime

PATIENCE = 280.0
"""Seconds; a program's environment may have to be made first."""
pytestmark = pytest.mark.timeout(400)


def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    return circuit


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        yield service


SEEDED = {"simulator": {"seed_simulator": 3}}


def test_the_first_sampler_gives_distributions_in_a_session_a_batch_and_on_a_backend(service: RuntimeService) -> None:
    measured = rotated().measure_all(inplace=False)
    with Session(service, backend="aer") as session:
        result = SamplerV1(session, SEEDED).run([measured, measured], [[0.0], [np.pi / 2]]).result(timeout=PATIENCE)
    assert isinstance(result, SamplerV1Result)
    assert result.quasi_dists[0] == {0: 1.0}
    assert result.quasi_dists[1].binary_probabilities(2) == pytest.approx({"00": 0.5, "11": 0.5}, abs=0.05)
    assert result.metadata == [{"shots": 4000}] * 2
    assert result.num_experiments == 2
    with Batch(service, backend="aer") as batch:
        modes = [SamplerV1(batch), SamplerV1("aer", service=service), SamplerV1(service.backend("aer"))]
        jobs = [sampler.run(measured, [np.pi], shots=70) for sampler in modes]
        for job in jobs:
            assert job.result(timeout=PATIENCE).quasi_dists == [{3: 1.0}]
            assert job.result().metadata == [{"shots": 70}]
        # Another process sees what the program returned, and reads it so.
        assert SamplerV1Result.of(service.job(jobs[0].job_id()).result()) == jobs[0].result()


def test_the_first_estimator_gives_values_and_their_variances(service: RuntimeService) -> None:
    observables = [SparsePauliOp(["ZZ", "XX"], [1.0, 0.5]), SparsePauliOp("IZ"), "IZ"]
    options = {**SEEDED, "execution": {"shots": 3000}, "environment": {"job_tags": ["first"]}}
    estimator = EstimatorV1("aer", options, service=service)
    job = estimator.run([rotated()] * 3, observables, [[0.4], [1.1], [0.0]])
    assert job.tags == ["first"]
    result = job.result(timeout=PATIENCE)
    assert isinstance(result, EstimatorV1Result)
    exact = [1 + 0.5 * np.sin(0.4), np.cos(1.1), 1.0]
    np.testing.assert_allclose(result.values, exact, atol=0.08)
    assert [one["shots"] for one in result.metadata] == [3000] * 3
    # Of one Pauli the variance is one less its value's square; how it is estimated is the program's affair.
    assert result.metadata[1]["variance"] == pytest.approx(1 - result.values[1] ** 2, rel=0.6)
    assert result.metadata[2]["variance"] == pytest.approx(0, abs=1e-9)
    bound = rotated().assign_parameters([0.0])
    assert EstimatorV1("aer", service=service).run(bound, SparsePauliOp("ZZ")).result(timeout=PATIENCE).values == [1.0]


def test_a_level_that_the_program_does_not_have_is_refused_by_it(service: RuntimeService) -> None:
    estimator = EstimatorV1("aer", {"resilience_level": 17}, service=service)
    with pytest.raises(InvalidInput, match=r"inputs\.resilience_level"):
        estimator.run(rotated(), "ZZ", [0.1])
    estimator.options.resilience_level = 0
    assert estimator.run(rotated(), "ZZ", [0.1]).result(timeout=PATIENCE).values == pytest.approx([1.0])


@pytest.mark.slow
def test_the_levels_of_the_first_shapes_mend_what_a_device_does(service: RuntimeService) -> None:
    with Session(service, backend="generic_5q") as session:
        told = session.run("transpile", {"circuits": [rotated()], "seed_transpiler": 1}).result(timeout=PATIENCE)
        circuit = told["circuits"][0]
        observable = SparsePauliOp("ZZ").apply_layout(circuit.layout)
        off = {}
        for level in (0, 1, 2):
            estimator = EstimatorV1(session, {**SEEDED, "resilience_level": level})
            if level == 2:
                estimator.options.resilience.noise_factors = (1, 3)
            result = estimator.run(circuit, observable, [0.3], shots=20_000).result(timeout=PATIENCE)
            off[level] = abs(result.values[0] - 1.0)
            assert result.metadata[0]["shots"] == 20_000
        assert len(result.metadata[0]["zne"]["values"]) >= 2
        assert off[1] < off[0] / 2
        assert off[2] < off[0]
        sampler = SamplerV1(session, {**SEEDED, "resilience_level": 1})
        mended = sampler.run(circuit.measure_all(inplace=False), [0.0], shots=20_000).result(timeout=PATIENCE)
        assert mended.quasi_dists[0][0] > 0.97
        with pytest.raises(InvalidInput, match=r"inputs\.resilience_level"):
            SamplerV1(session, {"resilience_level": 2}).run(circuit.measure_all(inplace=False), [0.0])


def test_lists_that_do_not_fit_are_refused_before_anything_is_sent(service: RuntimeService) -> None:
    estimator, sampler = EstimatorV1("aer", service=service), SamplerV1("aer", service=service)
    with pytest.raises(ValueError, match="observables: there are 1 for 2 circuits"):
        estimator.run([rotated()] * 2, "ZZ", [[0.1], [0.2]])
    with pytest.raises(ValueError, match="parameter_values: there are 2 lists for 1 circuits"):
        estimator.run(rotated(), "ZZ", [[0.1], [0.2]])
    with pytest.raises(ValueError, match=r"parameter_values\[0\]: there are 2, and the circuit has 1 parameters"):
        sampler.run(rotated().measure_all(inplace=False), [0.1, 0.2])
    with pytest.raises(ValueError, match=r"parameter_values\[0\]: there are 0"):
        sampler.run(rotated().measure_all(inplace=False))
    with pytest.raises(ValueError, match="circuits: there are none"):
        sampler.run([])
    with pytest.raises(InvalidInput, match=r"num_clbits|classical bits"):
        sampler.run(rotated(), [0.1])


def test_options_of_the_first_shapes_are_typed_and_refuse_what_they_have_not() -> None:
    with pytest.raises(InvalidInput, match="did you mean resilience_level"):
        EstimatorV1("aer", {"resilience_levle": 1})
    with pytest.raises(InvalidInput, match="transpile them before"):
        SamplerV1("aer", {"optimization_level": 3})
    with pytest.raises(InvalidInput, match="CubicExtrapolator"):
        EstimatorV1("aer", {"resilience": {"extrapolator": "cubic"}})
    assert V1Options.of({"resilience": {"noise_factors": (1, 3)}}).for_program() == {
        "shots": 4000,
        "resilience": {"noise_factors": (1, 3)},
    }
    with pytest.raises(InvalidInput, match="nor a list of LayerErrors"):
        V1Options.of({"resilience": {"layer_noise_model": {"ZZ": 0.1}}})
    with pytest.raises(InvalidInput, match=r"it is execution\.shots"):
        SamplerV1("aer", {"shots": 3})
    options = V1Options()
    options.execution.shots = 7
    assert V1Options().execution.shots == 4000
    assert pickle.loads(pickle.dumps(options)).execution.shots == 7


def test_every_option_is_documented_with_its_default_and_nothing_else() -> None:
    section = re.search(r"^## SamplerV1 and EstimatorV1\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.findall(r"^\| `([\w.]+)` \| `([^`]+)` \|", section[1], re.MULTILINE) == list(names(V1Options))
