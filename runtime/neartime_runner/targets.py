"""A backend's target as plain data, and back: between two Qiskits that may be of different versions.

An instruction that Qiskit has goes by its name. One that a provider has made goes by name, width and parameters: a
program can use it in circuits without the provider's package, since the provider's side knows it by its name.
"""

from __future__ import annotations

from typing import Any

from qiskit.circuit import (
    BreakLoopOp,
    ContinueLoopOp,
    ForLoopOp,
    Gate,
    IfElseOp,
    Instruction,
    Parameter,
    SwitchCaseOp,
    WhileLoopOp,
)
from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping
from qiskit.transpiler import InstructionProperties, QubitProperties, Target

_CONTROL_FLOW = {
    "if_else": IfElseOp,
    "while_loop": WhileLoopOp,
    "for_loop": ForLoopOp,
    "switch_case": SwitchCaseOp,
    "break_loop": BreakLoopOp,
    "continue_loop": ContinueLoopOp,
}
_PLAIN = ("description", "num_qubits", "dt", "granularity", "min_length", "pulse_alignment", "acquire_alignment")
_QUBIT = ("t1", "t2", "frequency")


def to_plain(target: Target) -> dict[str, Any]:
    """A target in dictionaries, lists, text and numbers."""
    qubits = target.qubit_properties
    return {
        **{name: getattr(target, name, None) for name in _PLAIN},
        "concurrent_measurements": target.concurrent_measurements,
        "qubits": None if qubits is None else [{name: getattr(one, name, None) for name in _QUBIT} for one in qubits],
        "operations": [_operation(target, name) for name in target.operation_names],
    }


def from_plain(told: dict[str, Any]) -> Target:
    """The target again, of this environment's own instructions."""
    known = {name: told.get(name) for name in _PLAIN if told.get(name) is not None}
    if (qubits := told.get("qubits")) is not None:
        known["qubit_properties"] = [QubitProperties(**one) for one in qubits]
    if (together := told.get("concurrent_measurements")) is not None:
        known["concurrent_measurements"] = together
    target = Target(**known)
    standard = get_standard_gate_name_mapping()
    for one in told["operations"]:
        operation = _rebuilt(one, standard)
        if isinstance(operation, type) or one["places"] is None:
            target.add_instruction(operation, name=one["name"])
            continue
        places = {tuple(qubits): _properties(*values) for qubits, *values in one["places"]}
        target.add_instruction(operation, places, name=one["name"])
    return target


def _operation(target: Target, name: str) -> dict[str, Any]:
    operation = target.operation_from_name(name)
    told: dict[str, Any] = {"name": name, "places": None}
    if isinstance(operation, type):  # of any width
        return told | {"variable": True, "gate": issubclass(operation, Gate)}
    places = target[name] or {}
    if None not in places:
        told["places"] = [
            [list(qubits), getattr(known, "error", None), getattr(known, "duration", None)]
            for qubits, known in places.items()
        ]
    standard = get_standard_gate_name_mapping().get(operation.name)
    return told | {
        "of": operation.name,  # another one than `name` where a target has two of it, with fixed angles
        "standard": standard is not None and standard.base_class is operation.base_class,
        "gate": isinstance(operation, Gate),
        "qubits": operation.num_qubits,
        "clbits": operation.num_clbits,
        "parameters": [_parameter(one, number) for number, one in enumerate(operation.params)],
    }


def _parameter(value: Any, number: int) -> float | str:
    """A fixed value, or the name of a free one."""
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value.name if isinstance(value, Parameter) else f"p{number}"


def _properties(error: float | None, duration: float | None) -> InstructionProperties | None:
    return None if error is None and duration is None else InstructionProperties(duration=duration, error=error)


def _rebuilt(one: dict[str, Any], standard: dict[str, Any]) -> Any:
    name = one["name"]
    if one.get("variable"):
        return _CONTROL_FLOW.get(name) or type(name, (Gate if one["gate"] else Instruction,), {})
    parameters = [Parameter(value) if isinstance(value, str) else value for value in one["parameters"]]
    found = standard.get(one["of"]) if one["standard"] else None
    if found is not None and len(found.params) == len(parameters):
        if not parameters:
            return found
        made = found.to_mutable() if hasattr(found, "to_mutable") else found.copy()
        made.params = parameters
        return made
    if one["gate"]:
        return Gate(one["of"], one["qubits"], parameters)
    return Instruction(one["of"], one["qubits"], one["clbits"], parameters)
