"""What is inside opaque values, checked where they are at hand: by the client, and by the runner before main()."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.library import CXGate
from qiskit.primitives.containers import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import (
    PTM,
    Chi,
    Choi,
    DensityMatrix,
    Operator,
    Pauli,
    PauliLindbladMap,
    PauliList,
    SparseObservable,
    SparsePauliOp,
    Statevector,
    SuperOp,
)
from qiskit.result import Result
from qiskit.transpiler import CouplingMap
from qiskit_aer.noise import NoiseModel
from scipy.sparse import csr_array, csr_matrix

from neartime import codec, schema, types
from neartime.packaging import json_schema
from neartime.schema import TYPE_NAMES, faults, value_faults
from neartime.schema.names import of_class


def said(values: Any, declared: Any) -> list[str]:
    return [str(fault) for fault in value_faults(values, declared)]


def circuit(qubits: int, clbits: int = 0, parameters: int = 0) -> QuantumCircuit:
    made = QuantumCircuit(qubits, clbits)
    for number in range(parameters):
        made.rx(Parameter(f"t{number}"), 0)
    return made


WIDE = {"$ref": "neartime:QuantumCircuit", "num_qubits": {"minimum": 2, "maximum": 5}, "num_parameters": 0}
TABLE = {"$ref": "neartime:ndarray", "shape": [None, 3], "dtype": "float64"}
SCHEMA = {
    "$defs": {"Pair": {"type": "object", "properties": {"left": WIDE, "right": WIDE}}},
    "properties": {
        "one": WIDE,
        "many": {"type": "array", "items": WIDE},
        "maybe": {"anyOf": [WIDE, {"type": "null"}, TABLE]},
        "pair": {"$ref": "#/$defs/Pair"},
        "first": {"prefixItems": [{"type": "integer"}, WIDE], "items": TABLE},
        "named": {"additionalProperties": WIDE},
        "table": TABLE,
        "all": {"allOf": [WIDE]},
    },
}


def test_a_circuits_width_is_checked_wherever_it_lies() -> None:
    small, good, large = circuit(1), circuit(3), circuit(7)
    values = {
        "one": large,
        "many": [good, small],
        "maybe": large,
        "pair": {"left": good, "right": large},
        "first": (1, large, np.zeros((2, 3)), np.zeros(3)),
        "named": {"a": good, "b c": small},
        "all": large,
    }
    assert said(values, SCHEMA) == [
        "inputs.one: has 7 qubits, more than the maximum of 5",
        "inputs.many[1]: has 1 qubit, less than the minimum of 2",
        "inputs.maybe: has 7 qubits, more than the maximum of 5",
        "inputs.pair.right: has 7 qubits, more than the maximum of 5",
        "inputs.first[1]: has 7 qubits, more than the maximum of 5",
        "inputs.first[3]: has shape (3,), not (any, 3)",
        "inputs.named['b c']: has 1 qubit, less than the minimum of 2",
        "inputs.all: has 7 qubits, more than the maximum of 5",
    ]


def test_an_arrays_shape_and_dtype_are_checked() -> None:
    assert said({"table": np.zeros((4, 3))}, SCHEMA) == []
    assert said({"table": np.zeros((4, 3), dtype=">f8")}, SCHEMA) == []
    assert said({"table": np.zeros((4, 2), dtype="f4")}, SCHEMA) == [
        "inputs.table: has shape (4, 2), not (any, 3)",
        "inputs.table: has dtype float32, not float64",
    ]
    assert said({"table": [[1.0, 2.0]]}, SCHEMA) == ["inputs.table: has shape (1, 2), not (any, 3)"]
    floating = {"properties": {"x": {"$ref": "neartime:ndarray", "dtype": "floating"}}}
    assert said({"x": np.zeros(1, dtype="f4")}, floating) == []
    assert said({"x": np.zeros(1, dtype=int)}, floating) == ["inputs.x: has dtype int64, not floating"]


def test_of_a_union_the_form_that_the_value_is_of_counts() -> None:
    for value in (None, circuit(3), np.zeros((1, 3)), "of another type, which is for faults() to say"):
        assert said({"maybe": value}, SCHEMA) == []
    assert said({"maybe": np.zeros(2)}, SCHEMA)[0] == "inputs.maybe: has shape (2,), not (any, 3)"


def test_bits_and_parameters_of_a_circuit_are_counted() -> None:
    declared = {
        "properties": {"c": {"$ref": "neartime:QuantumCircuit", "num_clbits": 2, "num_parameters": {"maximum": 1}}}
    }
    assert said({"c": circuit(1, 2, 1)}, declared) == []
    assert said({"c": circuit(1, 1, 2)}, declared) == [
        "inputs.c: has 1 classical bit, not 2",
        "inputs.c: has 2 parameters, more than the maximum of 1",
    ]


def test_a_pydantic_object_is_looked_into_as_a_dictionary_is() -> None:
    class Pair(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        left: QuantumCircuit
        right: QuantumCircuit

    assert said({"pair": Pair(left=circuit(2), right=circuit(9))}, SCHEMA) == [
        "inputs.pair.right: has 9 qubits, more than the maximum of 5"
    ]


def test_values_that_need_no_look_cost_none() -> None:
    declared = {"properties": {"x": {"items": {"type": "number"}}, "c": WIDE}}
    assert said({"x": list(range(1_000_000)), "c": circuit(2)}, declared) == []
    assert value_faults({"x": 1}, None) == []


# --- every type that has a name

SAMPLES: dict[str, Any] = {
    "QuantumCircuit": circuit(2, 1, 1),
    "Instruction": CXGate(),
    "Parameter": Parameter("a"),
    "ParameterExpression": Parameter("a") + 1,
    "ParameterVector": ParameterVector("v", 2),
    "CouplingMap": CouplingMap([[0, 1]]),
    "Pauli": Pauli("XY"),
    "PauliList": PauliList(["XY"]),
    "SparsePauliOp": SparsePauliOp("XY"),
    "Operator": Operator(np.eye(2)),
    "SuperOp": SuperOp(np.eye(4)),
    "Choi": Choi(np.eye(4)),
    "Chi": Chi(np.eye(4)),
    "PTM": PTM(np.eye(4)),
    "Statevector": Statevector([1, 0]),
    "DensityMatrix": DensityMatrix(np.eye(2) / 2),
    "SparseObservable": SparseObservable("XY"),
    "PauliLindbladMap": PauliLindbladMap.from_list([("XY", 0.5)]),
    "ObservablesArray": ObservablesArray(["XX", "YY"]),
    "BindingsArray": BindingsArray({"a": [1.0, 2.0]}),
    "SamplerPub": SamplerPub.coerce((circuit(2, 1), None, 10)),
    "EstimatorPub": EstimatorPub.coerce((circuit(2), "XX")),
    "BitArray": BitArray(np.zeros((3, 1), dtype=np.uint8), 2),
    "DataBin": DataBin(a=1),
    "PubResult": PubResult(DataBin(a=1)),
    "SamplerPubResult": SamplerPubResult(DataBin(a=1)),
    "PrimitiveResult": PrimitiveResult([PubResult(DataBin(a=1))]),
    "Result": Result(results=[]),
    "NoiseModel": NoiseModel(),
    "ndarray": np.zeros(3),
    "spmatrix": csr_matrix(np.eye(2)),
    "complex": 1j,
    "Decimal": Decimal("1.5"),
    "Fraction": Fraction(1, 3),
    "bytes": b"",
    "datetime": datetime(2024, 1, 2, tzinfo=timezone.utc),
    "date": date(2024, 1, 2),
    "time": time(3, 4),
    "timedelta": timedelta(seconds=3),
    "UUID": UUID(int=1),
}


@pytest.mark.parametrize("name", TYPE_NAMES)
def test_a_named_type_accepts_its_values_and_no_other(name: str) -> None:
    kind, value = TYPE_NAMES[name], SAMPLES[name]
    declared = {"properties": {"x": kind.reference}}
    assert kind.holds(value)
    assert of_class(type(value)) is not None
    assert faults(json.loads(codec.encode({"x": value})), declared) == []
    for other in (
        "text" if "string" not in kind.json else {},
        None,
        {"a": 1},
        Parameter("z") if "Param" not in name else 1j,
    ):
        if other == 1j and "complex" in kind.tags:
            continue
        assert [fault.path for fault in faults(json.loads(codec.encode({"x": other})), declared)] == ["inputs.x"]


def test_sparse_arrays_are_sparse_matrices_too() -> None:
    assert TYPE_NAMES["spmatrix"].holds(csr_array(np.eye(2)))


# --- the same in pydantic's models


class Inputs(BaseModel):
    ansatz: Annotated[types.QuantumCircuit, types.NumQubits(minimum=2, maximum=5), types.NumParameters(0)]
    points: Annotated[types.ndarray, types.Shape(None, 3), types.DType("float64")] = Field(description="in Å")
    observables: list[types.SparsePauliOp] = []


def test_a_model_and_its_schema_refuse_the_same_in_the_same_words() -> None:
    declared = json_schema(Inputs)
    assert schema.manifest_faults({"name": "a", "schemas": {"inputs": declared}}) == []
    bad: dict[str, Any] = {"ansatz": circuit(7), "points": np.zeros(3)}
    with pytest.raises(ValidationError) as caught:
        Inputs(**bad)
    ours = {fault.path.removeprefix("inputs."): fault.message for fault in value_faults(bad, declared)}
    theirs = {str(one["loc"][0]): one["msg"].removeprefix("Value error, ") for one in caught.value.errors()}
    assert (
        ours
        == theirs
        == {
            "ansatz": "has 7 qubits, more than the maximum of 5",
            "points": "has shape (3,), not (any, 3)",
        }
    )


def test_a_model_holds_qiskits_own_objects_and_makes_arrays_of_lists() -> None:
    made = circuit(2)
    inputs = Inputs(ansatz=made, points=[[1.0, 2.0, 3.0]])  # type: ignore[arg-type]
    assert inputs.ansatz is made
    assert isinstance(inputs.points, np.ndarray)
    with pytest.raises(ValidationError, match="expected QuantumCircuit, got str"):
        Inputs(ansatz="circuit", points=np.zeros((1, 3)))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="observables"):
        Inputs(ansatz=made, points=np.zeros((1, 3)), observables=[made])  # type: ignore[list-item]


def test_qiskits_classes_do_as_they_are_where_arbitrary_types_are_allowed() -> None:
    class Plain(BaseModel):
        model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
        circuit: QuantumCircuit
        table: np.ndarray

    declared = json_schema(Plain)
    assert declared["properties"] == {
        "circuit": {"$ref": "neartime:QuantumCircuit"},
        "table": {"$ref": "neartime:ndarray"},
    }
    assert declared["additionalProperties"] is True


def test_a_constraint_says_how_it_is_written() -> None:
    with pytest.raises(TypeError, match="takes a number, or a minimum or maximum"):
        types.NumQubits()
    with pytest.raises(TypeError):
        types.NumQubits(3, maximum=4)


def test_the_types_are_those_that_have_a_name_and_loading_them_loads_nothing() -> None:
    assert types.__all__ == sorted(types.__all__)
    for name in types.__all__:
        assert getattr(types, name) is not None
    with pytest.raises(AttributeError, match="QuantumCirquit"):
        _ = types.QuantumCirquit  # type: ignore[attr-defined]
    code = "import sys; from neartime import types; print({'qiskit', 'numpy', 'pydantic_core'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "qiskit" not in run.stdout
    assert "numpy" not in run.stdout
