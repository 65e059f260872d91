"""Whether a backend can run a circuit as it is. Primitives don't transpile: the caller has chosen qubits and gates."""

from __future__ import annotations

from typing import Any

_FREE = frozenset({"barrier", "delay", "store"})
"""What takes no gate."""
_known: dict[int, tuple[Any, Any, dict[tuple[str, tuple[int, ...]], bool]]] = {}
"""Each backend that this process has seen, by its id, which is its own as long as it is kept here; its target, which
some make anew when they are asked; and what that said before."""


def require(circuit: Any, backend: Any, path: str) -> None:
    """Raises ValueError, which names the first instruction that the backend does not have there, and its qubits."""
    if id(backend) not in _known:
        _known[id(backend)] = backend, backend.target, {}
    _, target, known = _known[id(backend)]
    if target.num_qubits is not None and circuit.num_qubits > target.num_qubits:
        raise ValueError(
            f"{path}: the circuit has {circuit.num_qubits} qubits, and the backend {backend.name!r} {target.num_qubits}"
        )
    at = {qubit: number for number, qubit in enumerate(circuit.qubits)}
    fault = _fault(circuit, at, target, known)
    if fault is not None:
        name, qubits = fault
        raise ValueError(
            f"{path}: the circuit is no ISA circuit of the backend {backend.name!r}, which has no instruction {name!r} "
            f"on qubits {qubits}; transpile it for the backend first, here or with the program `transpile`"
        )


def _fault(
    circuit: Any, at: dict[Any, int], target: Any, known: dict[tuple[str, tuple[int, ...]], bool]
) -> tuple[str, tuple[int, ...]] | None:
    for instruction in circuit.data:
        operation = instruction.operation
        name = operation.name
        if name in _FREE:
            continue
        qubits = tuple(at[qubit] for qubit in instruction.qubits)
        supported = known.get((name, qubits))
        if supported is None:
            supported = known[name, qubits] = bool(target.instruction_supported(name, qubits))
        if not supported:
            return name, qubits
        for block in getattr(operation, "blocks", ()):
            inner = {qubit: at[outer] for qubit, outer in zip(block.qubits, instruction.qubits, strict=True)}
            if (fault := _fault(block, inner, target, known)) is not None:
                return fault
    return None
