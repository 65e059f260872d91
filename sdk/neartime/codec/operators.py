"""The forms of operators, states and observables.

Where Qiskit Runtime writes the `settings` of an object with the names of its module and class, the names are looked up
in a table here; nothing is imported by them.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from qiskit import quantum_info
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import (
    PTM,
    Chi,
    Choi,
    DensityMatrix,
    Operator,
    Pauli,
    PauliList,
    SparsePauliOp,
    Statevector,
    SuperOp,
)

from neartime.codec import tags
from neartime.codec.encoder import Walk, Wire, Writer, tagged
from neartime.errors import DecodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading

_MATRICES = {kind.__name__: kind for kind in (Operator, SuperOp, Choi, Chi, PTM)}
_STATES = {kind.__name__: kind for kind in (Statevector, DensityMatrix)}
# Newer than the oldest Qiskit that programs may use.
_SparseObservable: Any = getattr(quantum_info, "SparseObservable", None)
_PauliLindbladMap: Any = getattr(quantum_info, "PauliLindbladMap", None)


def _settings(kind: type, value: Wire) -> Wire:
    return {tags.TYPE: tags.SETTINGS, "__module__": kind.__module__, "__class__": kind.__name__, tags.VALUE: value}


def _write_pauli(pauli: Pauli, walk: Walk) -> Wire:
    return _settings(Pauli, {"data": pauli.to_label()})


def _write_pauli_list(paulis: PauliList, walk: Walk) -> Wire:
    return _settings(PauliList, {"data": paulis.to_labels()})


def _write_sparse_pauli_op(operator: SparsePauliOp, walk: Walk) -> Wire:
    coefficients = operator.coeffs
    if coefficients.dtype == object:  # parameter expressions
        coefficients = coefficients.tolist()
    return _settings(
        SparsePauliOp,
        {"data": walk.part(".paulis", operator.paulis), "coeffs": walk.part(".coeffs", coefficients)},
    )


def _write_matrix(operator: Any, walk: Walk) -> Wire:
    kind = _MATRICES[type(operator).__name__]
    dims = {"input_dims": list(operator.input_dims()), "output_dims": list(operator.output_dims())}
    return _settings(kind, {"data": walk.part(".data", operator.data), **dims})


def _write_state(state: Any, walk: Walk) -> Wire:
    kind = _STATES[type(state).__name__]
    return _settings(kind, {"data": walk.part(".data", state.data), "dims": list(state.dims())})


def _read_settings(value: Any, reading: Reading) -> object:
    name, module, settings = value.get("__class__"), value.get("__module__"), value[tags.VALUE]
    if not isinstance(module, str) or not module.startswith("qiskit.quantum_info."):
        raise DecodeError(f"{module!r:.80} is not one of the modules whose settings are read")
    data = settings["data"]
    if name == "Pauli":
        return Pauli(_checked(data, str))
    if name == "PauliList":
        return PauliList([_checked(label, str) for label in _checked(data, list)])
    if name == "SparsePauliOp":
        return _sparse_pauli_op(_checked(data, PauliList), settings["coeffs"])
    if matrix := _MATRICES.get(name):
        dims = {key: tuple(settings[key]) for key in ("input_dims", "output_dims")}
        return matrix(_checked(data, np.ndarray), **dims)
    if state := _STATES.get(name):
        return state(_checked(data, np.ndarray), dims=tuple(settings["dims"]))
    raise DecodeError(f"{name!r:.80} is not one of the classes whose settings are read")


def _sparse_pauli_op(paulis: PauliList, coefficients: Any) -> SparsePauliOp:
    if not isinstance(coefficients, np.ndarray):
        coefficients = np.array(_checked(coefficients, list), dtype=object)
    return SparsePauliOp(paulis, coefficients)


def _checked(value: Any, kind: type) -> Any:
    """Constructors take many things, some costly (a circuit is simulated); only what the form says is let through."""
    if not isinstance(value, kind):
        raise DecodeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value


def _write_sparse_observable(observable: Any, walk: Walk) -> Wire:
    arrays = (observable.coeffs, observable.bit_terms, observable.indices, observable.boundaries)
    # The arrays are views into the observable, of integer types that depend on the machine.
    kinds = (np.complex128, np.uint8, np.uint32, np.uint64)
    parts = [walk.tree(np.array(array, dtype=kind)) for array, kind in zip(arrays, kinds, strict=True)]
    return tagged(tags.SPARSE_OBSERVABLE, [observable.num_qubits, *parts])


def _read_sparse_observable(value: Any, reading: Reading) -> object:
    if _SparseObservable is None:
        raise DecodeError("this environment's Qiskit has no SparseObservable: pip install --upgrade qiskit")
    num_qubits, *arrays = value
    coefficients, bits, indices, boundaries = (_checked(array, np.ndarray).tolist() for array in arrays)
    bits = [_SparseObservable.BitTerm(bit) for bit in bits]
    return _SparseObservable.from_raw_parts(num_qubits, coefficients, bits, indices, boundaries)


def _write_observables_array(observables: ObservablesArray, walk: Walk) -> Wire:
    return tagged(tags.OBSERVABLES_ARRAY, plain(observables.tolist()))


def _read_observables_array(value: Any, reading: Reading) -> ObservablesArray:
    if not isinstance(value, (list, dict)):
        raise DecodeError(f"expected list, got {type(value).__name__}")
    return ObservablesArray(value)


def _write_pauli_lindblad_map(lindblad: Any, walk: Walk) -> Wire:
    return tagged(
        tags.PAULI_LINDBLAD_MAP, {"paulis": plain(lindblad.to_sparse_list()), "num_qubits": lindblad.num_qubits}
    )


def _read_pauli_lindblad_map(value: Any, reading: Reading) -> object:
    if _PauliLindbladMap is None:
        raise DecodeError("this environment's Qiskit has no PauliLindbladMap: pip install --upgrade qiskit")
    terms = [tuple(term) for term in value["paulis"]]
    return _PauliLindbladMap.from_sparse_list(terms, num_qubits=value["num_qubits"])


def plain(value: Any) -> Any:
    """A value as Qiskit Runtime would write it: numpy's numbers and enums as plain numbers, tuples as lists.

    For the insides of shared forms, which that decoder must read.
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return plain(value.value) if isinstance(value, Enum) else value


WRITERS: dict[type, Writer] = {
    Pauli: _write_pauli,
    PauliList: _write_pauli_list,
    SparsePauliOp: _write_sparse_pauli_op,
    ObservablesArray: _write_observables_array,
    **dict.fromkeys(_MATRICES.values(), _write_matrix),
    **dict.fromkeys(_STATES.values(), _write_state),
}
if _SparseObservable is not None:
    WRITERS[_SparseObservable] = _write_sparse_observable
if _PauliLindbladMap is not None:
    WRITERS[_PauliLindbladMap] = _write_pauli_lindblad_map

READERS: dict[str, Reader] = {
    tags.SETTINGS: _read_settings,
    tags.SPARSE_OBSERVABLE: _read_sparse_observable,
    tags.OBSERVABLES_ARRAY: _read_observables_array,
    tags.PAULI_LINDBLAD_MAP: _read_pauli_lindblad_map,
}
