"""A backend's target, as it crosses from a provider's Qiskit to a program's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Gate, Parameter
from qiskit.circuit.library import RXGate
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.transpiler import Target
from qiskit_aer import AerSimulator

from neartime_runner.targets import from_plain, to_plain


def crossed(target: Target) -> Target:
    return from_plain(json.loads(json.dumps(to_plain(target))))


@pytest.mark.parametrize(
    "backend",
    [
        GenericBackendV2(5, seed=1, control_flow=True),
        GenericBackendV2(3, basis_gates=["cz", "rz", "sx", "x", "id"], seed=2),
        AerSimulator(),
        AerSimulator.from_backend(GenericBackendV2(3, seed=2)),
        AerSimulator(method="stabilizer"),
    ],
    ids=lambda backend: f"{backend.name}-{backend.num_qubits}",
)
def test_a_target_is_the_same_after_it_has_crossed(backend: Any) -> None:
    told, there = to_plain(backend.target), crossed(backend.target)
    assert json.loads(json.dumps(to_plain(there))) == json.loads(json.dumps(told))
    assert there.operation_names == backend.target.operation_names
    coupling, again = backend.target.build_coupling_map(), there.build_coupling_map()
    assert (coupling and set(coupling.get_edges())) == (again and set(again.get_edges()))


def test_a_circuit_is_transpiled_for_it_as_for_the_original() -> None:
    target = GenericBackendV2(5, coupling_map=[[0, 1], [1, 2], [2, 3], [3, 4]], seed=1).target
    circuit = QuantumCircuit(4)
    circuit.h(0)
    for number in range(3):
        circuit.cx(0, number + 1)
    circuit.rx(Parameter("a"), 2)
    circuit.measure_all()
    ready = [
        transpile(circuit, target=one, seed_transpiler=7, optimization_level=3) for one in (target, crossed(target))
    ]
    assert ready[0].count_ops() == ready[1].count_ops()
    assert ready[0].depth() == ready[1].depth()


def test_fixed_angles_and_gates_of_a_provider_cross_by_their_names() -> None:
    target = Target(num_qubits=2)
    target.add_instruction(RXGate(0.5), {(0,): None}, name="rx_half")
    target.add_instruction(Gate("zap", 2, [Parameter("strength"), 0.25]), {(0, 1): None})
    there = crossed(target)
    half = there.operation_from_name("rx_half")
    assert (type(half).__name__, half.params) == ("RXGate", [0.5])
    zap = there.operation_from_name("zap")
    assert (zap.num_qubits, zap.params[0].name, zap.params[1]) == (2, "strength", 0.25)
    assert there.instruction_supported("zap", (0, 1))
    assert not there.instruction_supported("zap", (1, 0))
