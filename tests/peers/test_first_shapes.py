"""Estimator in its first shape: lists in, values and variances out, at each of its levels.

It mitigates with a package that is here alone.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import PauliList, SparsePauliOp, Statevector
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, PauliLindbladError

import neartime_primitives
from neartime.codec import decode, encode

AER = AerSimulator()


@pytest.fixture(scope="module")
def estimator(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    sys.path.insert(0, str(neartime_primitives.assemble("estimator-v1", tmp_path_factory.mktemp("programs"))))
    try:
        sys.modules.pop("program", None)
        import program  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return program


def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    return circuit


def test_it_gives_values_and_variances(estimator: ModuleType) -> None:
    observables = [SparsePauliOp(["ZZ", "XX"], [1.0, 0.5]), SparsePauliOp("IZ"), SparsePauliOp("IZ"), "ZZ"]
    points = [[0.4], [1.1], [0.0], [0.4]]
    result = estimator.main(AER, None, [rotated()] * 4, observables, points, shots=4000, seed=1)
    again = decode(encode(result))
    for number, (observable, point) in enumerate(zip(observables, points, strict=True)):
        state = Statevector(rotated().assign_parameters(point))
        exact = state.expectation_value(SparsePauliOp(observable)).real
        assert abs(again["values"][number] - exact) < 0.08
        assert again["metadata"][number]["shots"] == 4000
    # Of one Pauli the variance is one less its value's square; a hundred parts tell it to a seventh.
    assert result["metadata"][1]["variance"] == pytest.approx(1 - result["values"][1] ** 2, rel=0.5)
    assert result["metadata"][2]["variance"] == 0


def test_a_variance_knows_of_what_terms_have_in_common(estimator: ModuleType) -> None:
    ghz = QuantumCircuit(3)
    ghz.h(0)
    ghz.cx(0, 1)
    ghz.cx(0, 2)
    total, difference = SparsePauliOp(["ZII", "IZI", "IIZ"]), SparsePauliOp(["ZII", "IZI"], [1, -1])
    result = estimator.main(AER, None, [ghz] * 2, [total, difference], shots=2000, seed=1)
    # All three are the same sign: the sum is 3 or -3. Each on its own has the variance 1.
    assert result["metadata"][0]["variance"] == pytest.approx(9, rel=0.5)
    assert result["metadata"][1]["variance"] == pytest.approx(0, abs=1e-12)


def test_a_circuit_that_comes_twice_is_measured_once(estimator: ModuleType) -> None:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    result = estimator.main(AER, None, [circuit, circuit.copy(), circuit], ["Z", "Z", "X"], shots=300)
    assert result["values"][0] == result["values"][1]
    assert result["values"][2] == 1


RATES = {"XI": 0.01, "IX": 0.008, "YZ": 0.005}


def noisy() -> AerSimulator:
    model = NoiseModel(basis_gates=["cx", "rz", "sx", "x"])
    model.add_all_qubit_quantum_error(PauliLindbladError(PauliList(list(RATES)), list(RATES.values())), ["cx"])
    model.add_all_qubit_readout_error([[0.97, 0.03], [0.04, 0.96]])
    return AerSimulator(noise_model=model, coupling_map=[[0, 1], [1, 0]], n_qubits=2)


def spread(estimator: ModuleType, level: int, times: int, **further: Any) -> tuple[Any, Any]:
    """Values of an observable that is 2 without noise, and their standard errors as they are told."""
    circuit = QuantumCircuit(2)
    for _ in range(4):
        circuit.cx(0, 1)
        circuit.barrier()
    observable = SparsePauliOp(["ZI", "IZ"])
    found = [
        estimator.main(BACKEND, None, [circuit], [observable], shots=2000, seed=100 * seed, resilience_level=level,
                       **further)
        for seed in range(times)
    ]  # fmt: skip
    values = np.array([one["values"][0] for one in found])
    errors = np.array([np.sqrt(one["metadata"][0]["variance"] / one["metadata"][0]["shots"]) for one in found])
    return values, errors


BACKEND = noisy()


def test_each_level_comes_nearer_and_tells_how_far_it_may_be_off(estimator: ModuleType) -> None:
    learning = {"layer_noise_learning": {"num_randomizations": 16, "layer_pair_depths": [0, 2, 8]}}
    off = []
    for level in range(4):
        further = {"resilience": learning} if level == 3 else {}
        values, errors = spread(estimator, level, 6, **further)
        off.append(abs(values.mean() - 2))
        assert np.std(values) < 3 * errors.mean()
        assert errors.mean() < 5 * np.std(values)
    assert off[0] > 1.25 * off[1] > 0.1
    assert off[1] > 2 * off[2]
    assert off[1] > 2 * off[3]


def test_a_seed_repeats_a_level_and_metadata_tell_of_it(estimator: ModuleType) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    learning = {"layer_noise_learning": {"num_randomizations": 4, "layer_pair_depths": [0, 4]}}
    for level, resilience in (
        (2, {"noise_factors": [1, 2, 3], "extrapolator": "QuadraticExtrapolator"}),
        (3, learning),
    ):
        first, again = (
            estimator.main(BACKEND, None, [circuit], ["ZZ"], shots=500, seed=3, resilience_level=level,
                           resilience=resilience)
            for _ in range(2)
        )  # fmt: skip
        assert first["values"] == again["values"]
        assert first["metadata"][0]["variance"] == again["metadata"][0]["variance"]
        told = decode(encode(first))["metadata"][0]
        assert len(told["zne"]["values"]) == 3 if level == 2 else told["pec"]["sampling_overhead"] > 1


def test_lists_of_different_lengths_are_refused(estimator: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"parameter.values"):
        estimator.main(AER, None, [rotated()], ["ZZ"], [[0.1], [0.2]])
