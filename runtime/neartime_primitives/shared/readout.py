"""Readout errors taken out of counts: each measured qubit is calibrated, and the outcomes that were seen are reweighed.

The matrix of errors is kept to those outcomes, as in PRX Quantum 2, 040326 (2021): 2^n columns are never
made, and what is left of each column is scaled to a sum of one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit import ClassicalRegister, QuantumCircuit
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import generate_preset_pass_manager
from sampling import sample

CALIBRATION_SHOTS = 10_000
"""Of each of the two circuits that calibrate."""


def measured_qubits(circuit: Any) -> list[int]:
    """The qubit that each classical bit has from its last measurement.

    Raises:
        ValueError: a bit has none, so that nothing is known of its errors.
    """
    found: dict[int, int] = {}
    for step in circuit.data:
        if step.operation.name == "measure":
            found[circuit.find_bit(step.clbits[0]).index] = circuit.find_bit(step.qubits[0]).index
    if missing := sorted(set(range(circuit.num_clbits)) - set(found)):
        raise ValueError(f"the classical bits {missing} are not measured, so level 1 can't mend them")
    return [found[bit] for bit in range(circuit.num_clbits)]


def calibrated(backend: Any, qubits: list[int], seed: int | None) -> dict[int, NDArray[np.float64]]:
    """Of each qubit, the probabilities of what is read (rows) by what was prepared (columns)."""
    columns = []
    for prepared in (0, 1):
        circuit = QuantumCircuit(len(qubits))
        circuit.add_register(ClassicalRegister(len(qubits), "meas"))
        if prepared:
            circuit.x(range(len(qubits)))
        circuit.barrier()
        circuit.measure(range(len(qubits)), range(len(qubits)))
        passes = generate_preset_pass_manager(0, backend=backend, initial_layout=qubits)
        pub = SamplerPub.coerce(passes.run(circuit), CALIBRATION_SHOTS)
        of_circuit = None if seed is None else seed + prepared
        columns.append(sample(backend, pub, of_circuit).data.meas.to_bool_array(order="little").mean(axis=0))
    zero, one = columns
    return {
        qubit: np.array([[1 - zero[place], 1 - one[place]], [zero[place], one[place]]])
        for place, qubit in enumerate(qubits)
    }


def mended(
    counts: dict[int, int], qubits: list[int], errors: dict[int, NDArray[np.float64]]
) -> tuple[dict[int, float], float]:
    """Quasi-probabilities by outcome, and the overhead: by so much their variance is larger than that of counts.

    Args:
        counts: of outcomes, whose bit n is read of `qubits[n]`.
    """
    outcomes = sorted(counts)
    bits = np.array([[outcome >> place & 1 for place in range(len(qubits))] for outcome in outcomes], dtype=int)
    matrix = np.ones((len(outcomes), len(outcomes)))
    for place, qubit in enumerate(qubits):
        matrix *= errors[qubit][bits[:, None, place], bits[None, :, place]]
    matrix /= matrix.sum(axis=0)
    seen = np.array([counts[outcome] for outcome in outcomes], dtype=float)
    inverse = np.linalg.inv(matrix)
    quasi = inverse @ (seen / seen.sum())
    found = {outcome: float(value) for outcome, value in zip(outcomes, quasi, strict=True)}
    return found, float(np.abs(inverse).sum(axis=0).max() ** 2)
