"""Circuits of the chain."""

from qiskit import QuantumCircuit


def initial_state(num_qubits):
    """All spins up, a circuit without gates."""
    return QuantumCircuit(num_qubits)


def trotter_step(num_qubits, couplings, field, time):
    """First-order step of exp(-i H t), H = -Σ J ZZ - h Σ X."""
    step = QuantumCircuit(num_qubits)
    for left, right, coupling in couplings:
        step.rzz(-2 * coupling * time, left, right)
    for qubit in range(num_qubits):
        step.rx(-2 * field * time, qubit)
    return step
