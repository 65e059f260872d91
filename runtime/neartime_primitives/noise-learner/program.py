"""Learns the noise of layers of gates: those of circuits, or layers that were boxed before.

The first is what `NoiseLearner` sends, here and in the client of Qiskit Runtime; the second is what that client's
`NoiseLearnerV3` sends, and answered in its form.
"""

from __future__ import annotations

from typing import Any

import basis
import isa
import learning
from backends import seed_of
from qiskit.quantum_info import QubitSparsePauliList
from qiskit_ibm_runtime.noise_learner_v3.converters import noise_learner_v3_result_to_0_3
from qiskit_ibm_runtime.noise_learner_v3.find_learning_protocol import find_learning_protocol
from qiskit_ibm_runtime.noise_learner_v3.learning_protocol import LearningProtocol
from qiskit_ibm_runtime.noise_learner_v3.params_converters import NOISE_LEARNER_V3_PARAMS_CONVERTERS
from qiskit_ibm_runtime.options_models.twirling import TwirlingOptions
from qiskit_ibm_runtime.results.noise_learner_v3 import NoiseLearnerV3Result, NoiseLearnerV3Results

from neartime.layers import NoiseLearnerResult

SCHEMA = "v0.3"
STRATEGY = "active-accum"


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any] | None = None,
    options: dict[str, Any] | None = None,
    instructions: dict[str, Any] | None = None,
    schema_version: str | None = None,
    version: int = 2,
    support_qiskit: bool = True,
) -> Any:
    options = options or {}
    if (circuits is None) == (instructions is None):
        raise ValueError("noise-learner takes either circuits or instructions")
    if circuits is None:
        return _of_instructions(backend, user_messenger, instructions, options, schema_version)
    return _of_circuits(backend, user_messenger, circuits, options)


def _of_circuits(backend: Any, messenger: Any, circuits: list[Any], options: dict[str, Any]) -> NoiseLearnerResult:
    for number, circuit in enumerate(circuits):
        isa.require(circuit, backend, f"circuits[{number}]")
    circuits = [basis.drawable(circuit, backend) for circuit in circuits]
    how = learning.boxing(TwirlingOptions(strategy=options.get("twirling_strategy", STRATEGY)), True)
    layers = [layer for circuit in circuits for layer in learning.layers_of(circuit, how)]
    seed = seed_of(options)
    found = []
    for number, layer in enumerate(learning.to_learn(layers, options)):
        of_layer = None if seed is None else seed + number
        noise = learning.learn(backend, layer.instruction, layer.qubits, options, of_layer)
        found.append(layer.learnt(noise))
        messenger.publish({"layer": number, "result": found[-1]})
    return NoiseLearnerResult(found, {"backend": backend.name, "num_layers": len({layer.key for layer in layers})})


def _of_instructions(
    backend: Any, messenger: Any, instructions: Any, options: dict[str, Any], schema: str | None
) -> dict[str, Any]:
    if schema != SCHEMA:
        raise ValueError(f"this noise learner speaks {SCHEMA} of instructions, not {schema}")
    form = NOISE_LEARNER_V3_PARAMS_CONVERTERS[SCHEMA]
    params = form.model.model_validate({"schema_version": schema, "instructions": instructions, "options": options})
    boxes, chosen = form.decoder(params)
    circuit = params.instructions.to_quantum_circuit()
    found = []
    for number, box in enumerate(boxes):
        if (protocol := find_learning_protocol(box)) is None:
            raise ValueError(f"instructions[{number}]: a box of Clifford gates, or of measurements, can be learnt")
        noise = learning.learn(backend, box, [_number(circuit, qubit) for qubit in box.qubits], chosen, None)
        messenger.publish({"layer": number, "result": noise})
        name = "trex" if protocol is LearningProtocol.TREX else "lindblad"
        nothing_left_out = {"fraction_kept": 1.0 if name == "trex" else {}, "success_rates": {}}
        generators = [QubitSparsePauliList.from_qubit_sparse_paulis([one]) for one in noise.generators()]
        metadata = {"learning_protocol": name, "post_selection": nothing_left_out}
        found.append(NoiseLearnerV3Result.from_generators(generators, noise.rates, metadata=metadata))
    answer: dict[str, Any] = noise_learner_v3_result_to_0_3(NoiseLearnerV3Results(found)).model_dump(mode="json")
    return answer


def _number(circuit: Any, qubit: Any) -> int:
    """Of a qubit in its register, which is the backend's: the circuit that carries boxes has their qubits alone."""
    locations = circuit.find_bit(qubit).registers
    return int(locations[0][1] if locations else qubit._index)
