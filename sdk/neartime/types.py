"""The types of inputs and results, for a program's pydantic models: Qiskit's and numpy's, by their own names.

    from typing import Annotated

    from neartime import types
    from pydantic import BaseModel

    class Inputs(BaseModel):
        circuit: Annotated[types.QuantumCircuit, types.NumQubits(maximum=20)]
        observable: types.SparsePauliOp
        positions: Annotated[types.ndarray, types.Shape(None, 3), types.DType("float64")]
        phase: complex = 1j

Each name is Qiskit's own class with what pydantic needs to know of it; Python's types (`complex`, `bytes`, `datetime`,
`Decimal`, …) and lists, dictionaries and models of all of them need nothing from here. Qiskit's classes do as they are
in a model whose `model_config` has `arbitrary_types_allowed`.

Importing this loads neither Qiskit nor numpy: a name does, when it is first read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

from neartime.schema.names import TYPE_NAMES, TypeName
from neartime.schema.values import inside

if TYPE_CHECKING:
    from numpy import ndarray as ndarray
    from qiskit.circuit import Instruction as Instruction
    from qiskit.circuit import Parameter as Parameter
    from qiskit.circuit import ParameterExpression as ParameterExpression
    from qiskit.circuit import ParameterVector as ParameterVector
    from qiskit.circuit import QuantumCircuit as QuantumCircuit
    from qiskit.primitives.containers import BitArray as BitArray
    from qiskit.primitives.containers import DataBin as DataBin
    from qiskit.primitives.containers import PrimitiveResult as PrimitiveResult
    from qiskit.primitives.containers import PubResult as PubResult
    from qiskit.primitives.containers import SamplerPubResult as SamplerPubResult
    from qiskit.primitives.containers.bindings_array import BindingsArray as BindingsArray
    from qiskit.primitives.containers.estimator_pub import EstimatorPub as EstimatorPub
    from qiskit.primitives.containers.observables_array import ObservablesArray as ObservablesArray
    from qiskit.primitives.containers.sampler_pub import SamplerPub as SamplerPub
    from qiskit.quantum_info import PTM as PTM
    from qiskit.quantum_info import Chi as Chi
    from qiskit.quantum_info import Choi as Choi
    from qiskit.quantum_info import DensityMatrix as DensityMatrix
    from qiskit.quantum_info import Operator as Operator
    from qiskit.quantum_info import Pauli as Pauli
    from qiskit.quantum_info import PauliLindbladMap as PauliLindbladMap
    from qiskit.quantum_info import PauliList as PauliList
    from qiskit.quantum_info import SparseObservable as SparseObservable
    from qiskit.quantum_info import SparsePauliOp as SparsePauliOp
    from qiskit.quantum_info import Statevector as Statevector
    from qiskit.quantum_info import SuperOp as SuperOp
    from qiskit.result import Result as Result
    from qiskit.transpiler import CouplingMap as CouplingMap
    from qiskit_aer.noise import NoiseModel as NoiseModel
    from scipy.sparse import spmatrix as spmatrix

_STANDARD = frozenset({"builtins", "datetime", "decimal", "fractions", "uuid"})
_CLASSES = {one.name: one for one in TYPE_NAMES.values() if one.module not in _STANDARD}
_CONSTRAINTS = ("DType", "NumClbits", "NumParameters", "NumQubits", "Shape")

PLACEHOLDER = "x-neartime"
"""The key that stands for `$ref` until a model's schema is complete: pydantic takes no `$ref` but its own."""


class _Insides:
    """A constraint on what is inside a value; goes into `Annotated`, behind the type."""

    def keyword(self) -> tuple[str, Any]:
        """What a schema says of it."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        schema = handler(source)
        name, wanted = self.keyword()

        def check(value: Any) -> Any:
            for one in TYPE_NAMES.values():
                if name in one.insides and one.holds(value):
                    if messages := inside(value, one, {name: wanted}):
                        raise ValueError(messages[0])
                    break
            return value

        return core_schema.no_info_after_validator_function(check, schema)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        name, wanted = self.keyword()
        found = handler(schema)
        return {**found, name: wanted} if PLACEHOLDER in found else found


@dataclass(frozen=True)
class _Count(_Insides):
    exactly: int | None = None
    minimum: int | None = None
    maximum: int | None = None

    def __post_init__(self) -> None:
        if (self.exactly is None) == (self.minimum is None and self.maximum is None):
            raise TypeError(f"{type(self).__name__} takes a number, or a minimum or maximum or both")

    def _wanted(self) -> Any:
        if self.exactly is not None:
            return self.exactly
        limits = {"minimum": self.minimum, "maximum": self.maximum}
        return {name: limit for name, limit in limits.items() if limit is not None}


class NumQubits(_Count):
    """How many qubits: `NumQubits(4)`, `NumQubits(minimum=2, maximum=20)`."""

    def keyword(self) -> tuple[str, Any]:
        return "num_qubits", self._wanted()


class NumClbits(_Count):
    """How many classical bits a circuit has."""

    def keyword(self) -> tuple[str, Any]:
        return "num_clbits", self._wanted()


class NumParameters(_Count):
    """How many free parameters a circuit has."""

    def keyword(self) -> tuple[str, Any]:
        return "num_parameters", self._wanted()


class Shape(_Insides):
    """An array's shape, None where any length does: `Shape(None, 3)`."""

    def __init__(self, *lengths: int | None) -> None:
        self.lengths: Sequence[int | None] = lengths

    def keyword(self) -> tuple[str, Any]:
        return "shape", list(self.lengths)


@dataclass(frozen=True)
class DType(_Insides):
    """An array's dtype, `DType("float64")`, or a kind of them by numpy's name, `DType("floating")`."""

    name: str

    def keyword(self) -> tuple[str, Any]:
        return "dtype", self.name


@dataclass(frozen=True)
class _Named:
    """Tells pydantic what a type of ours accepts, and what its schema calls it."""

    type_name: TypeName

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        def check(value: Any) -> Any:
            if self.type_name.name == "ndarray" and isinstance(value, (list, tuple)):
                return import_module("numpy").asarray(value)
            if not self.type_name.holds(value):
                raise ValueError(f"expected {self.type_name.name}, got {type(value).__name__}")
            return value

        return core_schema.no_info_plain_validator_function(
            check, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value)
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {PLACEHOLDER: self.type_name.name}


__all__ = sorted([*_CLASSES, *_CONSTRAINTS])


def __getattr__(name: str) -> Any:
    if (found := _CLASSES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: Any = Annotated[getattr(import_module(found.module), name), _Named(found)]
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
