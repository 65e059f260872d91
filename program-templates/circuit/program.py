"""Runs an entangled state on the backend, batch by batch, and publishes the counts so far."""

from collections import Counter

from pydantic import BaseModel, Field
from qiskit import QuantumCircuit, transpile


class Inputs(BaseModel):
    """What the program takes: checked before a job is queued."""

    num_qubits: int = Field(2, ge=2, le=20, description="Qubits of the GHZ state")
    batches: int = Field(5, ge=1, description="How often to run it")
    shots: int = Field(200, ge=1, description="Shots of each batch")


def ghz(num_qubits: int) -> QuantumCircuit:
    circuit = QuantumCircuit(num_qubits)
    circuit.h(0)
    for qubit in range(1, num_qubits):
        circuit.cx(0, qubit)
    circuit.measure_all()
    return circuit


def main(backend, user_messenger, inputs: Inputs) -> dict[str, int]:
    """Runs beside the backend: no network lies between one batch and the next."""
    circuit = transpile(ghz(inputs.num_qubits), backend)
    counts: Counter[str] = Counter()
    for _ in range(inputs.batches):
        counts.update(backend.run(circuit, shots=inputs.shots).result().get_counts())
        user_messenger.publish(dict(counts))
    return dict(counts)
