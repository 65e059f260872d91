"""One evaluation of a six-qubit energy. What the next job of the session can use stays in the module."""

import numpy as np
from qiskit.circuit.library import efficient_su2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

QUBITS = 6
PREPARED = []
"""Estimator, circuit and observable, once a job of this worker has made them."""


def prepare(backend):
    from qiskit_aer.primitives import EstimatorV2

    ansatz = efficient_su2(QUBITS, reps=2)
    circuit = generate_preset_pass_manager(optimization_level=1, backend=backend, seed_transpiler=7).run(ansatz)
    terms = [("ZZ", [k, k + 1], 1.0) for k in range(QUBITS - 1)] + [("X", [k], 0.5) for k in range(QUBITS)]
    observable = SparsePauliOp.from_sparse_list(terms, QUBITS).apply_layout(circuit.layout)
    return EstimatorV2.from_backend(backend), circuit, observable


def main(backend, user_messenger, seed):
    if not PREPARED:
        PREPARED.extend(prepare(backend))
    estimator, circuit, observable = PREPARED
    parameters = np.random.default_rng(seed).uniform(-np.pi, np.pi, circuit.num_parameters)
    return float(estimator.run([(circuit, observable, parameters)]).result()[0].data.evs)
