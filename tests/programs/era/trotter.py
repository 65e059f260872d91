# ruff: noqa: PTH118, PTH120, PTH123
"""Magnetization of a transverse-field Ising chain after each Trotter step.

Written as programs for Qiskit Runtime were: keyword arguments, `user_messenger`, modules and data beside it.
"""

import csv
import os

from chain.circuits import initial_state, trotter_step
from chain.observables import magnetization
from qiskit import QuantumCircuit, transpile

DATA = os.path.join(os.path.dirname(__file__), "data", "couplings.csv")


def load_couplings():
    with open(DATA) as file:
        return [(int(row["left"]), int(row["right"]), float(row["j"])) for row in csv.DictReader(file)]


def main(backend, user_messenger, **kwargs):
    """Main entry point of the program.

    Args:
        backend: Backend to submit the circuits to.
        user_messenger: Used to communicate with the program consumer.
        kwargs: User inputs.
    """
    steps = kwargs.pop("steps", 3)
    shots = kwargs.pop("shots", 1024)
    field = kwargs.pop("field", 0.5)
    time = kwargs.pop("time", 0.2)
    couplings = load_couplings()
    num_qubits = 1 + max(max(left, right) for left, right, _ in couplings)

    history = []
    state = initial_state(num_qubits)
    for step in range(steps):
        state.compose(trotter_step(num_qubits, couplings, field, time), inplace=True)
        circuit = QuantumCircuit(num_qubits)
        circuit.compose(state, inplace=True)
        circuit.measure_all()
        counts = backend.run(transpile(circuit, backend), shots=shots).result().get_counts()
        history.append(magnetization(counts))
        user_messenger.publish({"step": step + 1, "magnetization": history[-1]})

    user_messenger.publish({"magnetization": history, "couplings": couplings, "unused": kwargs}, final=True)
