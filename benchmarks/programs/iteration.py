"""A six-qubit VQE: one evaluation as a job, or all of it in one job, or (as a script) in a plain process."""

import json
import sys
import time

import numpy as np
from qiskit.circuit.library import efficient_su2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

QUBITS = 6
PREPARED = []
"""Estimator, circuit and observable, once a job of this worker has made them, for the next jobs of its session."""


def prepare(backend):
    from qiskit_aer.primitives import EstimatorV2

    ansatz = efficient_su2(QUBITS, reps=2)
    circuit = generate_preset_pass_manager(optimization_level=1, backend=backend, seed_transpiler=7).run(ansatz)
    terms = [("ZZ", [k, k + 1], 1.0) for k in range(QUBITS - 1)] + [("X", [k], 0.5) for k in range(QUBITS)]
    observable = SparsePauliOp.from_sparse_list(terms, QUBITS).apply_layout(circuit.layout)
    return EstimatorV2.from_backend(backend), circuit, observable


def energy(backend, parameters):
    if not PREPARED:
        PREPARED.extend(prepare(backend))
    estimator, circuit, observable = PREPARED
    return float(estimator.run([(circuit, observable, parameters)]).result()[0].data.evs)


def vqe(evaluate, iterations, publish=lambda value: None):
    """(energies, milliseconds) of each iteration: a step from the best parameters so far, after one that warms up."""
    draw = np.random.default_rng(7)
    best = draw.uniform(-np.pi, np.pi, 2 * QUBITS * 3)
    lowest = evaluate(best)
    energies, times = [], []
    for step in range(iterations):
        start = time.perf_counter()
        parameters = best + draw.normal(0, 0.1, best.size)
        found = evaluate(parameters)
        if found < lowest:
            best, lowest = parameters, found
        publish([step, found])
        times.append((time.perf_counter() - start) * 1e3)
        energies.append(found)
    return energies, times


def main(backend, user_messenger, parameters=None, iterations=0):
    """The energy at these parameters; or, without any, a VQE of so many iterations."""
    if parameters is not None:
        return energy(backend, parameters)
    return vqe(lambda parameters: energy(backend, parameters), iterations, user_messenger.publish)


if __name__ == "__main__":
    from qiskit_aer import AerSimulator

    simulator = AerSimulator()
    sys.stdout.write(json.dumps(vqe(lambda parameters: energy(simulator, parameters), int(sys.argv[1]))))
