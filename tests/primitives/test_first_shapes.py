"""Sampler and Estimator in their first shape: lists in, quasi-probabilities or values and variances out."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from primitives.conftest import Messenger
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit_aer import AerSimulator

from neartime import codec

Load = Callable[[str], ModuleType]
AER = AerSimulator()


def rotated() -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    return circuit


def test_a_sampler_gives_quasi_probabilities_by_integer(load: Load) -> None:
    measured = rotated().measure_all(inplace=False)
    result = load("sampler-v1").main(AER, Messenger(), [measured, measured], [[0.0], [np.pi / 2]], shots=4000, seed=1)
    again = codec.decode(codec.encode(result))
    assert again["quasi_dists"][0] == {0: 1.0}
    assert again["quasi_dists"][1] == pytest.approx({0: 0.5, 3: 0.5}, abs=0.05)
    assert again["metadata"] == [{"shots": 4000}] * 2


def test_an_estimator_gives_values_and_variances(load: Load) -> None:
    observables = [SparsePauliOp(["ZZ", "XX"], [1.0, 0.5]), SparsePauliOp("IZ"), SparsePauliOp("IZ")]
    points = [[0.4], [1.1], [0.0]]
    result = load("estimator-v1").main(AER, Messenger(), [rotated()] * 3, observables, points, shots=4000, seed=1)
    for number, (observable, point) in enumerate(zip(observables, points, strict=True)):
        state = Statevector(rotated().assign_parameters(point))
        exact = state.expectation_value(observable).real
        assert abs(result["values"][number] - exact) < 0.08
    # Of one Pauli the variance is one less its value's square.
    assert result["metadata"][1]["variance"] == pytest.approx(1 - result["values"][1] ** 2, rel=0.01)
    assert result["metadata"][2]["variance"] == 0


@pytest.mark.parametrize("name", ["sampler-v1", "estimator-v1"])
def test_lists_of_different_lengths_are_refused(load: Load, name: str) -> None:
    further = [] if name == "sampler-v1" else [["ZZ"]]
    with pytest.raises(ValueError, match=r"parameter.values"):
        load(name).main(AER, Messenger(), [rotated().measure_all(inplace=False)], *further, [[0.1], [0.2]])
