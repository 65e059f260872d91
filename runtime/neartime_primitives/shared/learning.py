"""The noise of layers of gates, learnt on the backend as Pauli–Lindblad channels by Qiskit Runtime's own protocol.

Gates are gathered in layers, boxes on qubits of the backend. Learning runs a layer in pairs, many times over, between
random Paulis, and fits how fast the expectation value of each Pauli falls.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import quantum_programs
from qiskit import QuantumCircuit
from qiskit.circuit import CircuitInstruction, ParameterExpression, QuantumRegister
from qiskit.quantum_info import PauliLindbladMap
from qiskit_ibm_runtime.decoders.executor_noise_learner.decoder import ClientSideNoiseLearnerResultDecoder
from qiskit_ibm_runtime.executor_estimator.utils import estimator_options_to_boxing_options
from qiskit_ibm_runtime.executor_noise_learner.prepare import prepare
from qiskit_ibm_runtime.options_models import NoiseLearnerV3Options
from qiskit_mitigation import PEC
from samplomatic import InjectNoise
from samplomatic.utils import get_annotation, undress_box

from neartime.layers import LayerError, PauliLindbladError

MAX_LAYERS = 4
"""Layers that are learnt where nothing is said of it, as in Qiskit Runtime."""
OF_THE_PROTOCOL = ("shots_per_randomization", "num_randomizations", "layer_pair_depths")
"""Those of the options that the protocol takes."""


@dataclass
class Layer:
    """A box of gates in a circuit, which says where noise comes in; the gates that dress it are not in it."""

    instruction: Any
    qubits: list[int]
    """Of the backend, in the order of the box."""

    @cached_property
    def gates(self) -> LayerError:
        """Its gates, with its qubits in the backend's order, and no error yet."""
        body = self.instruction.operation.body
        order = sorted(range(len(self.qubits)), key=self.qubits.__getitem__)
        at = {body.qubits[inner]: outer for outer, inner in enumerate(order)}
        circuit = QuantumCircuit(len(self.qubits))
        for step in body.data:
            circuit.append(step.operation, [at[qubit] for qubit in step.qubits])
        return LayerError(circuit, sorted(self.qubits))

    @cached_property
    def key(self) -> tuple[Any, ...]:
        return key(self.gates)

    def learnt(self, noise: PauliLindbladMap) -> LayerError:
        """The layer with its noise, in the form that users get."""
        return LayerError(self.gates.circuit, self.gates.qubits, PauliLindbladError.of_map(noise))


def boxing(twirling: Any, measure_mitigation: bool) -> dict[str, Any]:
    """How gates are gathered in layers whose noise is to be changed, by an Estimator's finished options."""
    return dict(estimator_options_to_boxing_options(twirling, measure_mitigation, inject_noise=True))


def layers_of(circuit: Any, how: dict[str, Any]) -> list[Layer]:
    """The layers of gates of a circuit, one after the other."""
    boxed = PEC._box_circuit(circuit, how)
    found = []
    for step in boxed.data:
        if step.operation.name == "box" and get_annotation(step.operation, InjectNoise) is not None:
            inner = undress_box(step.operation)
            inner.annotations = step.operation.annotations
            qubits = [boxed.find_bit(qubit).index for qubit in step.qubits]
            found.append(Layer(CircuitInstruction(inner, step.qubits), qubits))
    return found


def to_learn(layers: list[Layer], options: dict[str, Any]) -> list[Layer]:
    """Each of them once, up to `max_layers_to_learn`: the most frequent ones first, and of these the largest."""
    times = Counter(layer.key for layer in layers)
    unique = list({layer.key: layer for layer in layers}.values())
    unique.sort(key=lambda layer: (times[layer.key], len(layer.gates.circuit.data)), reverse=True)
    return unique[: options.get("max_layers_to_learn", MAX_LAYERS)]


def learn(backend: Any, instruction: Any, qubits: list[int], options: Any, seed: int | None) -> PauliLindbladMap:
    """The noise of a box, on its qubits in the backend's order.

    Args:
        qubits: the backend's, in the order of the box.
        options: `NoiseLearnerV3Options`, or a dictionary that may have those which are `OF_THE_PROTOCOL`.
    """
    if isinstance(options, dict):
        chosen = {name: options[name] for name in OF_THE_PROTOCOL if options.get(name) is not None}
        options = NoiseLearnerV3Options(**chosen)
    register = QuantumRegister(backend.num_qubits, "q")  # the one in which the protocol looks for qubits
    placed = CircuitInstruction(instruction.operation, [register[qubit] for qubit in qubits], instruction.clbits)
    program, _ = prepare([placed], options, backend)
    result = quantum_programs.run(backend, program, seed)
    return ClientSideNoiseLearnerResultDecoder.decode(result)[0].to_pauli_lindblad_map()


def key(error: LayerError) -> tuple[Any, ...]:
    """What two errors have in common that are of the same layer: qubits, and gates of two qubits."""
    at = dict(zip(error.circuit.qubits, error.qubits, strict=True))
    gates = [
        (step.operation.name, tuple(map(_number, step.operation.params)), tuple(at[qubit] for qubit in step.qubits))
        for step in error.circuit.data
        if step.operation.name != "barrier"
    ]
    return tuple(sorted(error.qubits)), tuple(sorted(gates, key=repr))


def noise_of(error: LayerError) -> PauliLindbladMap:
    """The error as a map whose qubits are in the backend's order; nothing where it was not learnt."""
    if error.error is None:
        return PauliLindbladMap.identity(error.num_qubits)
    places = {qubit: place for place, qubit in enumerate(sorted(error.qubits))}
    return error.error.to_map().apply_layout([places[qubit] for qubit in error.qubits])


def _number(value: Any) -> Any:
    """A gate's parameter; circuits on the wire give back the last bit of an angle as it was."""
    return repr(value) if isinstance(value, ParameterExpression) else float(value)
