"""Fifty evaluations of a six-qubit energy; the same file is the job's program and the plain process's script."""

import sys
import time

import numpy as np
from qiskit.circuit.library import efficient_su2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

ITERATIONS = 50
QUBITS = 6


def loop(backend, publish):
    """Milliseconds that fifty evaluations took, after one that warms caches up."""
    from qiskit_aer.primitives import EstimatorV2

    ansatz = efficient_su2(QUBITS, reps=2)
    circuit = generate_preset_pass_manager(optimization_level=1, backend=backend, seed_transpiler=7).run(ansatz)
    terms = [("ZZ", [k, k + 1], 1.0) for k in range(QUBITS - 1)] + [("X", [k], 0.5) for k in range(QUBITS)]
    observable = SparsePauliOp.from_sparse_list(terms, QUBITS).apply_layout(circuit.layout)
    estimator = EstimatorV2.from_backend(backend)
    draw = np.random.default_rng(7)
    parameters = draw.uniform(-np.pi, np.pi, circuit.num_parameters)
    estimator.run([(circuit, observable, parameters)]).result()
    start = time.perf_counter()
    for step in range(ITERATIONS):
        energy = float(estimator.run([(circuit, observable, parameters)]).result()[0].data.evs)
        publish([step, energy])
        parameters = parameters + draw.normal(0, 0.1, circuit.num_parameters)
    return (time.perf_counter() - start) * 1e3


def main(backend, user_messenger):
    return loop(backend, user_messenger.publish)


if __name__ == "__main__":
    from qiskit_aer import AerSimulator

    sys.stdout.write(f"{loop(AerSimulator(), lambda value: None)}\n")
