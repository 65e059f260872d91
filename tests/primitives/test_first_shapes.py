"""Sampler in its first shape: lists in, quasi-probabilities out. The Estimator's tests are among the peers'."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from primitives.conftest import Messenger
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, ReadoutError

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


@pytest.mark.parametrize("width", [3, 12])
def test_level_1_takes_readout_errors_out_of_probabilities(load: Load, width: int) -> None:
    noise = NoiseModel(basis_gates=["h", "x", "cx"])
    for qubit in range(width):
        noise.add_readout_error(ReadoutError([[0.97, 0.03], [0.02 + 0.004 * qubit, 0.98 - 0.004 * qubit]]), [qubit])
    backend = AerSimulator(noise_model=noise)
    circuit = QuantumCircuit(width)
    circuit.h(0)
    for qubit in range(width - 1):
        circuit.cx(qubit, qubit + 1)
    circuit.measure_all()
    off = {}
    for level in (0, 1):
        result = load("sampler-v1").main(backend, Messenger(), [circuit], shots=20_000, seed=1, resilience_level=level)
        found = result["quasi_dists"][0]
        assert sum(found.values()) == pytest.approx(1)
        off[level] = abs(found[0] - 0.5) + abs(found[2**width - 1] - 0.5)
    assert off[0] > 0.06
    # Of two frequencies near a half, out of 20,000, and a calibration of 10,000.
    assert off[1] < 0.03
    assert 1 < result["metadata"][0]["readout_mitigation_overhead"] < 10


def test_level_1_asks_which_bit_is_of_which_qubit(load: Load) -> None:
    noise = NoiseModel(basis_gates=["x"])
    noise.add_readout_error(ReadoutError([[1, 0], [0.3, 0.7]]), [1])
    circuit = QuantumCircuit(2, 2)
    circuit.x([0, 1])
    circuit.measure([0, 1], [1, 0])
    main = load("sampler-v1").main
    result = main(AerSimulator(noise_model=noise), Messenger(), [circuit], shots=5000, seed=1, resilience_level=1)
    assert result["quasi_dists"][0][3] == pytest.approx(1, abs=0.05)


def test_a_level_that_a_sampler_has_not_is_refused(load: Load) -> None:
    with pytest.raises(ValueError, match="a Sampler has 0 and 1, not 3"):
        load("sampler-v1").main(AER, Messenger(), [rotated().measure_all(inplace=False)], [[0.1]], resilience_level=3)
    unmeasured = QuantumCircuit(1, 2)
    unmeasured.measure(0, 0)
    with pytest.raises(ValueError, match=r"bits \[1\] are not measured"):
        load("sampler-v1").main(AER, Messenger(), [unmeasured], resilience_level=1)


def test_lists_of_different_lengths_are_refused(load: Load) -> None:
    with pytest.raises(ValueError, match=r"parameter.values"):
        load("sampler-v1").main(AER, Messenger(), [rotated().measure_all(inplace=False)], [[0.1], [0.2]])
