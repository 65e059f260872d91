"""Circuits in gates that Qiskit Runtime's preparation can draw at random.

It takes Clifford gates of two qubits, and of gates with parameters `rx` and `rz` alone. A simulator's circuits may have
others, which are written in these: the same unitary, on the same qubits.
"""

from __future__ import annotations

from typing import Any

from qiskit import QuantumCircuit
from qiskit.circuit import Gate
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import generate_preset_pass_manager

ENTANGLERS = ("cx", "cz", "ecr")
TURNS = ("rx", "rz")
PLAIN = ("rz", "sx", "x")
"""In which gates of one qubit are drawn anyway."""


def drawable(circuit: QuantumCircuit, backend: Any) -> QuantumCircuit:
    """The circuit itself, where all of its gates can be drawn, or where the backend has none that can be."""
    names = set(backend.target.operation_names)
    two = next((name for name in ENTANGLERS if name in names), None)
    gates = [step.operation for step in circuit.data if isinstance(step.operation, Gate)]
    strange = {gate.name for gate in gates if _strange(gate)}
    if not strange or two is None or not names >= set(PLAIN):
        return circuit
    kept = {gate.name for gate in gates} - strange
    manager = generate_preset_pass_manager(0, basis_gates=sorted({*kept, *PLAIN, two}))
    found = manager.run(circuit)
    # No expectation value and no sample knows of the phase, and a parameter in it can't be drawn.
    phase, found.global_phase = found.global_phase, 0.0
    if found.parameters != circuit.parameters:  # one that is in the phase alone: values are given for it, too
        found.global_phase = phase
    return found


def pub_of(pub: EstimatorPub | SamplerPub, backend: Any) -> Any:
    """The PUB with its circuit in gates that can be drawn."""
    circuit = drawable(pub.circuit, backend)
    if circuit is pub.circuit:
        return pub
    if isinstance(pub, SamplerPub):
        return SamplerPub(circuit, pub.parameter_values, pub.shots)
    return EstimatorPub(circuit, pub.observables, pub.parameter_values, pub.precision)


def _strange(gate: Gate) -> bool:
    if gate.num_qubits > 1:
        return gate.name not in ENTANGLERS
    return gate.name == "unitary" or (gate.is_parameterized() and gate.name not in TURNS)
