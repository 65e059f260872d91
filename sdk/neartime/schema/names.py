"""The names of types in schemas, `{"$ref": "neartime:QuantumCircuit"}`: what each is on the wire and in Python.

The server knows no Qiskit and opens no payload: of an encoded value it sees the tag. Whoever holds the value itself
looks into it too (`neartime.schema.values`). Each name is explained in docs/reference/programs.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFIX = "neartime:"
TYPE, VALUE = "__type__", "__value__"
"""The keys of the wire's tagged form. It is `neartime.codec`'s, which this does not import: the server loads this."""


@dataclass(frozen=True)
class TypeName:
    """A type that a schema can name."""

    name: str
    home: str
    """Where its Python class is imported from, `qiskit.quantum_info:SparsePauliOp`."""
    tags: frozenset[str]
    """Any of which an encoded value may have."""
    settings: str | None = None
    """Of the tag `settings`, which class it must be of."""
    json: tuple[str, ...] = ()
    """JSON types that are taken too, without a tag; `[number]` is numbers in lists of lists of any depth."""
    insides: tuple[str, ...] = ()
    """Keywords beside the name that say something of what is inside a value."""
    others: tuple[str, ...] = ()
    """Names of further classes of the same package that it stands for."""

    @property
    def module(self) -> str:
        return self.home.partition(":")[0]

    @property
    def reference(self) -> dict[str, Any]:
        """The schema that names it."""
        return {"$ref": f"{PREFIX}{self.name}"}

    def fits(self, tagged: Mapping[str, Any]) -> bool:
        """Whether an encoded value, a tagged one, is of this type as far as its tag tells."""
        tag = tagged.get(TYPE)
        if tag not in self.tags:
            return False
        return self.settings is None or tagged.get("__class__") == self.settings

    def holds(self, value: object) -> bool:
        """Whether a Python value is of this type. It is told by its class's name, so that nothing is imported."""
        return any(map(self.is_class, type(value).__mro__))

    def is_class(self, kind: type) -> bool:
        """Whether a class, leaving its bases aside, is the one that this names."""
        return (
            kind.__name__ in (self.home.partition(":")[2], *self.others)
            and (kind.__module__ or "").partition(".")[0] == self.module.partition(".")[0]
        )


def _type(
    home: str, *tags: str, json: tuple[str, ...] = (), insides: str = "", others: tuple[str, ...] = ()
) -> TypeName:
    name = home.partition(":")[2]
    return TypeName(name, home, frozenset(tags or {name}), json=json, insides=tuple(insides.split()), others=others)


def _settings(name: str) -> TypeName:
    home = f"qiskit.quantum_info:{name}"
    return TypeName(name, home, frozenset({"settings"}), settings=name, insides=("num_qubits",))


_CIRCUITS = "qiskit.circuit"
_CONTAINERS = "qiskit.primitives.containers"
_EXPRESSION = "neartime.ParameterExpression"

TYPE_NAMES: dict[str, TypeName] = {
    one.name: one
    for one in (
        # circuits and their parameters
        _type(f"{_CIRCUITS}:QuantumCircuit", insides="num_qubits num_clbits num_parameters"),
        _type(f"{_CIRCUITS}:Instruction", insides="num_qubits num_clbits"),
        _type(f"{_CIRCUITS}:Parameter", "Parameter", _EXPRESSION),
        _type(f"{_CIRCUITS}:ParameterExpression", "Parameter", _EXPRESSION, "complex", json=("number",)),
        _type(f"{_CIRCUITS}:ParameterVector", "neartime.ParameterVector"),
        _type("qiskit.transpiler:CouplingMap", "neartime.CouplingMap"),
        # operators, observables, states
        *map(_settings, ("Pauli", "PauliList", "SparsePauliOp", "Operator", "SuperOp", "Choi", "Chi", "PTM")),
        *map(_settings, ("Statevector", "DensityMatrix")),
        _type("qiskit.quantum_info:SparseObservable", "neartime.SparseObservable", insides="num_qubits"),
        _type("qiskit.quantum_info:PauliLindbladMap", insides="num_qubits"),
        # what primitives take and give
        _type(f"{_CONTAINERS}.observables_array:ObservablesArray", insides="shape"),
        _type(f"{_CONTAINERS}.bindings_array:BindingsArray", insides="shape num_parameters"),
        _type(f"{_CONTAINERS}.sampler_pub:SamplerPub", "neartime.SamplerPub"),
        _type(f"{_CONTAINERS}.estimator_pub:EstimatorPub", "neartime.EstimatorPub"),
        _type(f"{_CONTAINERS}:BitArray", insides="shape"),
        _type(f"{_CONTAINERS}:DataBin"),
        _type(f"{_CONTAINERS}:PubResult", "PubResult", "SamplerPubResult", "EstimatorPubResult"),
        _type(f"{_CONTAINERS}:SamplerPubResult"),
        _type(f"{_CONTAINERS}:PrimitiveResult"),
        _type("qiskit.result:Result"),
        _type("qiskit_aer.noise:NoiseModel"),
        # arrays and numbers
        _type("numpy:ndarray", json=("[number]",), insides="shape dtype"),
        _type("scipy.sparse:spmatrix", insides="shape dtype", others=("sparray",)),
        _type("builtins:complex", "complex", "neartime.scalar", json=("number",)),
        _type("decimal:Decimal", "neartime.decimal", json=("number", "string")),
        _type("fractions:Fraction", "neartime.fraction", json=("number", "string")),
        # the rest of what Python has and JSON has not
        _type("builtins:bytes", "neartime.bytes"),
        _type("datetime:datetime", json=("number", "string")),
        _type("datetime:date", "neartime.date", json=("string",)),
        _type("datetime:time", "neartime.time", json=("string",)),
        _type("datetime:timedelta", "neartime.timedelta", json=("number", "string")),
        _type("uuid:UUID", "neartime.uuid", json=("string",)),
    )
}
"""By name."""

INSIDES = ("num_qubits", "num_clbits", "num_parameters", "shape", "dtype")
"""Every keyword that says something of what is inside a value."""


def named(reference: object) -> TypeName | None:
    """The type that a `$ref` names; None where it is no name of ours, or of none that is known."""
    if isinstance(reference, str) and reference.startswith(PREFIX):
        return TYPE_NAMES.get(reference[len(PREFIX) :])
    return None


def of_class(kind: type) -> TypeName | None:
    """The type whose Python class this is, or which it derives from."""
    return next((one for base in kind.__mro__ for one in TYPE_NAMES.values() if one.is_class(base)), None)
