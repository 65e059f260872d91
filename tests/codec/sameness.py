"""Whether two values are the same: same types, same content, NaN equal to NaN, the sign of zero told apart."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
from qiskit.circuit import CircuitInstruction, Instruction, ParameterExpression, QuantumCircuit
from qiskit.primitives.containers import BitArray, DataBin, PrimitiveResult, PubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.observables_array import ObservablesArray


def same(one: Any, other: Any) -> bool:
    if isinstance(one, ParameterExpression) and isinstance(other, ParameterExpression):
        return one == other
    if isinstance(one, Instruction) and isinstance(other, Instruction):
        return one == other
    if isinstance(one, CircuitInstruction | QuantumCircuit):
        return one == other and same(getattr(one, "metadata", None), getattr(other, "metadata", None))
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, np.generic):
        return same(np.asarray(one), np.asarray(other)) or (one != one and other != other)
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or (
            one == other and math.copysign(1, one) == math.copysign(1, other)
        )
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one), list(other)) and same(list(one.values()), list(other.values()))
    if isinstance(one, BitArray):
        return one.num_bits == other.num_bits and same(one.array, other.array)
    if isinstance(one, DataBin):
        return one.shape == other.shape and same(dict(one.items()), dict(other.items()))
    if isinstance(one, PubResult):
        return same(one.data, other.data) and same(one.metadata, other.metadata)
    if isinstance(one, PrimitiveResult):
        return same(list(one), list(other)) and same(one.metadata, other.metadata)
    if isinstance(one, BindingsArray):
        return one.shape == other.shape and same(one.data, other.data)
    if isinstance(one, ObservablesArray):
        return one.shape == other.shape and same(one.tolist(), other.tolist())
    return bool(one == other)
