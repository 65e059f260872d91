"""Manifests: every fault at once, in the words of whoever wrote the program.toml."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neartime.contract.programs import Manifest
from neartime.errors import PackagingError
from neartime.schema import UnsupportedRequirement, manifest_faults, read_manifest, schema_faults


def said(declared: Any) -> list[str]:
    return [str(fault) for fault in manifest_faults(declared)]


def of_schema(schema: Any) -> list[str]:
    return [str(fault) for fault in schema_faults(schema, "s")]


def test_a_name_is_all_that_a_manifest_needs() -> None:
    assert said({"name": "vqe"}) == []
    assert read_manifest({"name": "vqe"}) == Manifest(name="vqe")


def test_every_fault_is_told_at_once_with_its_path_and_what_was_meant() -> None:
    declared = {
        "nmae": "x",
        "max_execution_time": 0,
        "entry-point": "nothing",
        "python": "3",
        "description": 7,
        "requirements": ["numpy", "-e .", "qiskit==1.3.3"],
        "resources": {"cpu": 0, "memory": "2GB", "memroy": "2Gi"},
        "backends": {"min_num_qubits": "many"},
        "schemas": {"inputs": {"properties": {"n": {"type": "intger"}}}, "output": {}},
        "kind": "script",
    }
    assert sorted(said(declared)) == [
        "manifest.backends.min_num_qubits: expected an integer, got 'many'",
        "manifest.description: expected a string, got 7",
        "manifest.entry-point: 'nothing' is not of the form module:function, for example program:main",
        "manifest.kind: expected 'module' or 'function', got 'script'",
        "manifest.max_execution_time: 0 is less than the minimum of 1",
        "manifest.name: is missing",
        "manifest.nmae: is not a key of the manifest; did you mean name?",
        "manifest.python: '3' is no version specifier, for example '>=3.11'",
        "manifest.requirements[1]: '-e .' is no package; options, index lines and comments are not taken",
        "manifest.requirements[2]: 'qiskit==1.3.3' allows only a Qiskit older than 1.4.2, which evaluates text that is "
        "in circuit files; ask for qiskit>=1.4.2",
        "manifest.resources.cpu: 0 is not greater than 0",
        "manifest.resources.memory: '2GB' is not of the right form: a number and a unit, such as 512Mi or 2Gi",
        "manifest.resources.memroy: is not a key of the manifest; did you mean memory?",
        "manifest.schemas.inputs.properties.n.type: 'intger' is none of 'array', 'boolean', 'integer', 'null', "
        "'number', 'object', 'string'; did you mean integer?",
        "manifest.schemas.output: is not a key of the manifest; there are inputs, interim, result",
    ]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (None, "manifest: expected an object, got null"),
        ({"name": "a", "resources": 3}, "manifest.resources: expected an object, got 3"),
        ({"name": "a", "requirements": "numpy"}, "manifest.requirements: expected a list of requirements, got 'numpy'"),
        ({"name": "a", "kind": "function"}, "manifest.pickled-with: is missing: what wrote the pickle of the function"),
        (
            {"name": "a", "max-execution-time": 10**6},
            "manifest.max-execution-time: 1000000 is greater than the maximum of 604800",
        ),
        (
            {"name": "a", "schemas": {"inputs": {"type": "array"}}},
            "manifest.schemas.inputs.type: is of 'array', but inputs are an object: "
            "each of main()'s inputs by its name",
        ),
    ],
)  # fmt: skip
def test_a_fault_says_what_is_wrong(declared: Any, message: str) -> None:
    assert said(declared) == [message]


def test_a_manifest_with_faults_is_not_read() -> None:
    with pytest.raises(PackagingError, match=r"manifest\.colour: is not a key") as caught:
        read_manifest({"name": "a", "colour": "red"})
    assert [fault.path for fault in caught.value.faults] == ["manifest.colour"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)
       | st.dictionaries(st.sampled_from([*Manifest.model_fields, "inputs", "cpu", "names", "x"]), inner)))  # fmt: skip
def test_whatever_is_declared_has_faults_or_is_a_manifest(declared: Any) -> None:
    if not manifest_faults(declared):
        assert isinstance(read_manifest(declared), Manifest)


# --- requirements


@pytest.mark.parametrize(
    "requirement",
    [
        "numpy",
        "scipy>=1.13,<2",
        "qiskit-aer[gpu]>=0.17 ; python_version >= '3.11'",
        "qiskit",
        "qiskit==1.4.2",
        "qiskit==1.4.3",
        "qiskit>=1.0",
        "qiskit==1.*",
        "qiskit~=1.4",
        "qiskit<1.4.3",
        "qiskit<2,!=1.4.2",
        "qiskit>1.4.2,<1.5",
        "qiskit>=2.0.0rc1",
        "Qiskit==2.6.2",
    ],
)
def test_packages_by_name_are_taken(requirement: str) -> None:
    assert said({"name": "a", "requirements": [requirement]}) == []


@pytest.mark.parametrize(
    "requirement",
    [
        *("-r other.txt", "--index-url https://evil", "-e .", "# numpy", "", " "),
        *("./wheel.whl", "/abs/wheel.whl", "~/wheel.whl", "file:///wheel.whl", "https://host/wheel.whl"),
        *("numpy @ https://host/numpy.whl", "numpy @ file:numpy", "numpy @ git+ssh://host/numpy"),
        *("numpy scipy", "numpy>=", "numpy; nonsense", "numpy\nscipy", 3, None),
    ],
)
def test_options_paths_addresses_and_nonsense_are_refused(requirement: Any) -> None:
    (fault,) = manifest_faults({"name": "a", "requirements": ["numpy", requirement]})
    assert fault.path == "manifest.requirements[1]"
    assert not isinstance(fault, UnsupportedRequirement)


@pytest.mark.parametrize(
    "requirement",
    [
        *("qiskit==1.3.3", "qiskit<1.4", "qiskit<=1.4.1", "qiskit~=1.3.0", "qiskit==0.46.*", "qiskit<1.4.2"),
        *("QISKIT==1.0", "qiskit>=1.0,<1.4", "qiskit===1.2.0", "qiskit[all]==1.1", "qiskit-terra>=0.25", "qiskit_aqua"),
    ],
)
def test_a_qiskit_before_1_4_2_is_refused_by_name(requirement: str) -> None:
    (fault,) = manifest_faults({"name": "a", "requirements": [requirement]})
    assert isinstance(fault, UnsupportedRequirement)
    assert "qiskit>=1.4.2" in fault.message


# --- declared schemas


@pytest.mark.parametrize(
    ("schema", "faults"),
    [
        ([], ["s: expected a JSON Schema, an object, got an array of 0"]),
        ({"minimum": "1"}, ["s.minimum: expected a number, got '1'"]),
        ({"required": "a"}, ["s.required: expected an array, got 'a'"]),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, None),
        ({"default": date(2024, 1, 2)}, None),
        ({"properties": {"x": {"$ref": "#/$defs/y"}}}, ["s.properties.x.$ref: #/$defs/y is not there"]),
        ({"items": {"$ref": "https://host/schema.json"}}, None),
        ({"$dynamicRef": "#a"}, ["s.$dynamicRef: is not supported; use $ref"]),
        (
            {"anyOf": [{"$ref": "neartime:QuantumCirquit"}]},
            ["s.anyOf[0].$ref: neartime:QuantumCirquit is no type that is known here; "
             "did you mean neartime:QuantumCircuit?"],
        ),
        ({"$defs": {"a": {"$schema": "http://json-schema.org/draft-07/schema"}}}, None),
        ({"pattern": "("}, None),
        ({"pattern": "(?=a)b"}, None),
        ({"patternProperties": {r"(a)\1": True}}, None),
        ({"patternProperties": {"a": True}, "unevaluatedProperties": False}, None),
        (
            {"$ref": "neartime:QuantumCircuit", "num_qbits": 3},
            ["s.num_qbits: says nothing of a QuantumCircuit: there are num_clbits, num_parameters, num_qubits; "
             "did you mean num_qubits?"],
        ),
        (
            {"$ref": "neartime:QuantumCircuit", "num_qubits": {"most": 3}},
            ['s.num_qubits: expected a number, or {"minimum": …, "maximum": …}, got an object'],
        ),
        ({"$ref": "neartime:Pauli", "shape": [2]}, ["s.shape: says nothing of a Pauli: there are num_qubits"]),
        ({"$ref": "neartime:ndarray", "shape": 3}, ["s.shape: expected a list of lengths, null for any, got 3"]),
        ({"$ref": "neartime:ndarray", "dtype": "flaot64"}, None),
        ({"description": "x" * 300_000}, None),
    ],
)  # fmt: skip
def test_a_fault_of_a_schema_shows_when_it_is_declared(schema: Any, faults: list[str] | None) -> None:
    found = of_schema(schema)
    assert len(found) == 1
    if faults is not None:
        assert found == faults


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "properties": {"n": {"type": "integer"}}},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]},
        {"$defs": {"a/b": {"type": "integer"}}, "properties": {"x": {"$ref": "#/$defs/a~1b"}}},
        {"$ref": "neartime:ndarray", "shape": [None, 3], "dtype": "complex128", "description": "of points"},
        {"$ref": "neartime:QuantumCircuit", "num_qubits": {"minimum": 1, "maximum": 5}},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "integer"}}},
        {"enum": [{"$ref": "https://host"}], "const": {"pattern": "("}},
    ],
)  # fmt: skip
def test_a_good_schema_has_no_fault(schema: Any) -> None:
    assert of_schema(schema) == []


def test_a_schema_that_is_nested_too_deep_is_a_fault_and_no_crash() -> None:
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"not": schema}
    assert of_schema(schema) == ["s: is nested too deep"]
