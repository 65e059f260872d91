"""Encoded inputs against a schema: every fault at once, in words, and at a cost that no schema can run up."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from neartime import codec
from neartime.codec import tags
from neartime.schema import MAX_FAULTS, TYPE_NAMES, faults
from neartime.schema import names as wire_names
from neartime.schema.wire import DICT, ENUM, FROZENSET, SCALAR, SET, TO_JSON, TUPLE, seen


def said(value: Any, schema: Any, root: str = "inputs") -> list[str]:
    return [str(fault) for fault in faults(value, schema, root)]


def one(value: Any, schema: Any) -> list[str]:
    """What is said of one input, `x`, of a schema; it is encoded first."""
    return said(json.loads(codec.encode({"x": value})), {"type": "object", "properties": {"x": schema}})


VQE = {
    "type": "object",
    "properties": {
        "maxiter": {"type": "integer", "minimum": 1},
        "ansatz": {"$ref": "neartime:QuantumCircuit"},
        "method": {"enum": ["COBYLA", "SPSA"]},
        "start": {"anyOf": [{"$ref": "neartime:ndarray"}, {"type": "null"}]},
        "graph": {
            "type": "object",
            "properties": {"nodes": {"type": "integer"}, "edges": {"type": "array", "items": {"type": "integer"}}},
            "required": ["nodes"],
            "additionalProperties": False,
        },
    },
    "required": ["maxiter", "ansatz"],
    "additionalProperties": False,
}


def test_every_fault_is_told_at_once_each_with_its_path() -> None:
    value = {
        "maxiter": -3,
        "mxiter": 3,
        "method": "COBLYA",
        "start": "here",
        "graph": {"nods": 3, "edges": [1, "two", 3, None]},
    }
    assert sorted(said(value, VQE)) == [
        "inputs.ansatz: is missing",
        "inputs.graph.edges[1]: expected an integer, got 'two'",
        "inputs.graph.edges[3]: expected an integer, got null",
        "inputs.graph.nodes: is missing",
        "inputs.graph.nods: is not known here; did you mean nodes?",
        "inputs.maxiter: -3 is less than the minimum of 1",
        "inputs.method: 'COBLYA' is none of 'COBYLA', 'SPSA'; did you mean COBYLA?",
        "inputs.mxiter: is not an input of this program",
        "inputs.start: expected an ndarray or null, got 'here'",
    ]


def test_a_misspelt_input_is_met_with_the_one_that_is_missing() -> None:
    schema = {**VQE, "required": []}
    assert said({"mxiter": 3}, schema) == ["inputs.mxiter: is not an input of this program; did you mean maxiter?"]
    assert said({"zzz": 3}, schema) == ["inputs.zzz: is not an input of this program"]
    assert said({"zzz": 3}, schema, "result") == ["result.zzz: is not part of this program's result"]


def test_what_fits_has_no_fault_and_no_schema_accepts_anything() -> None:
    circuit = {"__type__": "QuantumCircuit", "__value__": "eJw="}
    assert said({"maxiter": 3, "ansatz": circuit, "start": None, "graph": {"nodes": 2}}, VQE) == []
    assert said({"anything": [1]}, None) == []


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        (7, {"type": "string"}, "expected a string, got 7"),
        ("a", {"type": ["integer", "null"]}, "expected an integer or null, got 'a'"),
        (True, {"type": "integer"}, "expected an integer, got true"),
        ([1], {"type": "object"}, "expected an object, got an array of 1"),
        (0, {"exclusiveMinimum": 0}, "0 is not greater than 0"),
        (1.5, {"exclusiveMaximum": 1}, "1.5 is not less than 1"),
        (11, {"maximum": 10}, "11 is greater than the maximum of 10"),
        (7, {"multipleOf": 2}, "7 is not a multiple of 2"),
        (0.35, {"multipleOf": 0.25}, "0.35 is not a multiple of 0.25"),
        (math.nan, {"multipleOf": 2}, "NaN is not a multiple of 2"),
        (math.inf, {"multipleOf": 0.5}, "Infinity is not a multiple of 0.5"),
        ("a", {"minLength": 2}, "has 1 character, less than the minimum of 2"),
        ("abc", {"maxLength": 2}, "has 3 characters, more than the maximum of 2"),
        ([], {"minItems": 1}, "has 0 items, less than the minimum of 1"),
        ([1, 2], {"maxItems": 1}, "has 2 items, more than the maximum of 1"),
        ({}, {"minProperties": 1}, "has 0 keys, less than the minimum of 1"),
        ("B", {"pattern": "^[a-z]+$"}, "'B' does not match the pattern ^[a-z]+$"),
        ([1, 1.0], {"uniqueItems": True}, "has 1.0 twice, the second time at [1]; its items must differ"),
        (1, {"const": True}, "1 is not true"),
        (1, {"not": {}}, "1 should not be valid under {}"),
        (1, False, "is not allowed here"),
        (2, {"oneOf": [{"minimum": 0}, {"minimum": 1}]}, "2 fits 2 of the forms that are allowed; it must fit one"),
        ("a", {"anyOf": [{"minLength": 2}, {"type": "null"}]}, "has 1 character, less than the minimum of 2"),
        (None, {"$ref": "neartime:SparsePauliOp"}, "expected a SparsePauliOp, got null"),
        ("x" * 100, {"type": "null"}, f"expected null, got '{'x' * 60}'…"),
    ],
)  # fmt: skip
def test_a_fault_says_what_is_wrong(value: Any, schema: Any, message: str) -> None:
    assert one(value, schema) == [f"inputs.x: {message}"]


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ((1, 2), {"type": "array", "items": {"type": "integer"}, "maxItems": 2}),
        ({1, 2}, {"type": "array", "uniqueItems": True}),
        (frozenset("ab"), {"type": "array", "items": {"type": "string"}}),
        ({1: 0.5, 2: 0.25}, {"type": "object", "additionalProperties": {"type": "number"}}),
        (Colour.RED, {"enum": ["red", "blue"]}),
        ([(0, 1, 0.5)], {"type": "array", "items": {"type": "array", "prefixItems": [{"type": "integer"}]}}),
        (1 + 2j, {"$ref": "neartime:complex"}),
        (2.5, {"$ref": "neartime:complex"}),
        (b"\x00", {"$ref": "neartime:bytes"}),
        (datetime(2024, 1, 2), {"$ref": "neartime:datetime"}),  # noqa: DTZ001
        ("2024-01-02T03:04:05Z", {"$ref": "neartime:datetime"}),
        (date(2024, 1, 2), {"$ref": "neartime:date"}),
        (timedelta(seconds=3), {"$ref": "neartime:timedelta"}),
        ("PT3S", {"$ref": "neartime:timedelta"}),
        (Decimal("1.5"), {"$ref": "neartime:Decimal"}),
        ("1.5", {"$ref": "neartime:Decimal"}),
        (Fraction(1, 3), {"$ref": "neartime:Fraction"}),
        (UUID(int=3), {"$ref": "neartime:UUID"}),
        ([[1, 2.5], [3, 4]], {"$ref": "neartime:ndarray"}),
        (1 + 2j, {"type": "object"}),  # a tagged value is an object, as Qiskit Runtime's specs had it
    ],
)
def test_python_values_are_what_they_hold(value: Any, schema: Any) -> None:
    assert one(value, schema) == []


def test_numpys_numbers_and_arrays_are_numbers_and_arrays() -> None:
    import numpy as np

    assert one(np.int64(3), {"type": "integer", "minimum": 1}) == []
    assert one(np.float32(0.5), {"type": "number"}) == []
    assert one(np.int64(0), {"type": "integer", "minimum": 1}) == ["inputs.x: 0 is less than the minimum of 1"]
    assert one(np.complex128(1j), {"$ref": "neartime:complex"}) == []
    assert one(np.zeros(3), {"type": "array"}) == []
    assert one(np.zeros(3), {"$ref": "neartime:ndarray"}) == []
    assert one(np.zeros(3), {"type": "number"}) == ["inputs.x: expected a number, got a value of type ndarray"]


@pytest.mark.parametrize(
    ("value", "schema", "message"),
    [
        ("yesterday", {"$ref": "neartime:datetime"}, "expected a datetime, got 'yesterday'"),
        ("1.5x", {"$ref": "neartime:Decimal"}, "expected a Decimal, got '1.5x'"),
        ([[1, 2], 3], {"$ref": "neartime:ndarray"}, "expected an ndarray, got an array of 2"),
        (["a"], {"$ref": "neartime:ndarray"}, "expected an ndarray, got an array of 1"),
        (1 + 2j, {"$ref": "neartime:ndarray"}, "expected an ndarray, got a value of type complex"),
        (1 + 2j, {"type": "object", "properties": {}}, "expected an object, got a value of type complex"),
        ({"__type__": 3}, {"type": "integer"}, "expected an integer, got a value of type dict"),
    ],
)
def test_what_only_looks_like_it_is_refused(value: Any, schema: Any, message: str) -> None:
    assert one(value, schema) == [f"inputs.x: {message}"]


def test_a_dictionary_with_the_key_of_a_tag_does_not_pass_for_a_circuit() -> None:
    forged = {"__type__": "QuantumCircuit", "__value__": "eJw="}
    assert one(forged, {"$ref": "neartime:QuantumCircuit"}) == [
        "inputs.x: expected a QuantumCircuit, got a value of type dict"
    ]


def test_a_discriminator_chooses_the_form_whose_faults_are_told() -> None:
    kinds = {
        name: {"type": "object", "properties": {"kind": {"const": name}, name: {"type": "integer"}}, "required": [name]}
        for name in ("ising", "random")
    }
    schema = {
        "$defs": kinds,
        "type": "object",
        "properties": {
            "model": {
                "oneOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
                "discriminator": {"propertyName": "kind", "mapping": {name: f"#/$defs/{name}" for name in kinds}},
            }
        },
    }
    assert said({"model": {"kind": "random", "random": "x"}}, schema) == [
        "inputs.model.random: expected an integer, got 'x'"
    ]
    assert said({"model": {"kind": "ising", "ising": 3}}, schema) == []


def test_older_drafts_are_read_by_their_own_rules() -> None:
    pair = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}]}
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"pair": pair}}
    assert said({"pair": [1, 2]}, schema) == ["inputs.pair[1]: expected a string, got 2"]


@pytest.mark.parametrize(
    "draft", ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-06/schema#"]
)
def test_a_schema_that_refers_to_itself_is_checked_by_our_rules_all_the_way(draft: str) -> None:
    circuit = {"$ref": "neartime:QuantumCircuit"}
    schema = {"$schema": draft, "properties": {"next": {"$ref": "#"}, "circuit": circuit, "x": {"pattern": "^(a+)+$"}}}
    value = {"next": {"next": {"circuit": 3, "x": "a" * 50_000 + "!"}}}
    assert [message.partition(":")[0] for message in quickly(lambda: said(value, schema))] == [
        "inputs.next.next.circuit",
        "inputs.next.next.x",
    ]


def test_a_long_string_that_was_left_out_counts_with_its_whole_length() -> None:
    from neartime_server.api.submission import LongString

    long = {"x": LongString("AB", 70_000)}
    assert said(long, {"properties": {"x": {"maxLength": 100}}}) == [
        "inputs.x: has 70000 characters, more than the maximum of 100"
    ]
    assert said(long, {"properties": {"x": {"pattern": "^.{70000}$"}}}) == []
    twins = {"x": [LongString("AB", 70_000), LongString("AB", 70_000)]}
    assert said(twins, {"properties": {"x": {"uniqueItems": True}}}) == []


# --- agreement with jsonschema itself

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
NUMBERS = st.integers(-3, 3)
KEYWORDS = {
    "type": st.sampled_from(["integer", "number", "string", "array", "object", "null", "boolean"])
    | st.lists(st.sampled_from(["integer", "string", "array", "null"]), min_size=1, unique=True),
    "minimum": NUMBERS,
    "exclusiveMaximum": NUMBERS,
    "multipleOf": st.sampled_from([1, 2, 0.5]),
    "minLength": st.integers(0, 3),
    "maxItems": st.integers(0, 3),
    "maxProperties": st.integers(0, 3),
    "pattern": st.sampled_from(["a", "^b", "a+b?$"]),
    "uniqueItems": st.booleans(),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    "const": VALUES,
    "required": st.lists(st.sampled_from("abc"), unique=True),
}


def _larger(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some = st.lists(inner, min_size=1, max_size=2)
    named = st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    combined = {
        "properties": named,
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(["a", "^[bc]"]), inner, max_size=2),
        "items": inner,
        "prefixItems": some,
        "anyOf": some,
        "oneOf": some,
        "allOf": some,
        "not": inner,
        "if": inner,
        "then": inner,
    }
    return st.fixed_dictionaries({}, optional={**KEYWORDS, **combined})


SCHEMAS = st.recursive(st.booleans() | st.fixed_dictionaries({}, optional=KEYWORDS), _larger, max_leaves=4)


@settings(max_examples=300, deadline=None)
@given(VALUES, SCHEMAS.filter(lambda schema: isinstance(schema, dict)))
def test_a_value_has_faults_exactly_where_jsonschema_finds_some(value: Any, schema: Any) -> None:
    assert (said(value, schema) == []) == Draft202012Validator(schema).is_valid(value)


@settings(deadline=None)
@given(VALUES)
def test_plain_json_is_seen_as_it_is(value: Any) -> None:
    assert seen(value) == value
    assert json.dumps(seen(json.loads(codec.encode(value)))) == json.dumps(value)


def test_the_tags_are_the_codecs() -> None:
    ours = (DICT, TUPLE, FROZENSET, ENUM, SCALAR, SET, TO_JSON, wire_names.TYPE, wire_names.VALUE)
    theirs = (
        tags.DICT,
        tags.TUPLE,
        tags.FROZENSET,
        tags.ENUM,
        tags.SCALAR,
        tags.SET,
        tags.TO_JSON,
        tags.TYPE,
        tags.VALUE,
    )
    assert ours == theirs
    known = {value for name, value in vars(tags).items() if name.isupper()}
    for name in TYPE_NAMES.values():
        assert name.tags <= known, name.name


# --- cost


def quickly(check: Callable[[], list[str]], seconds: float = 5.0) -> list[str]:
    """What it returns, which must be soon."""
    start = time.monotonic()
    found = check()
    assert time.monotonic() - start < seconds
    return found


def test_a_pattern_that_backtracks_for_ever_elsewhere_is_linear() -> None:
    schema = {"properties": {"x": {"pattern": "^(a+)+$"}}, "patternProperties": {"^(b+)+$": {"type": "string"}}}
    assert len(quickly(lambda: said({"x": "a" * 50_000 + "!", "b" * 50_000 + "!": 1}, schema))) == 1


def test_items_that_must_differ_are_not_compared_each_with_each() -> None:
    many = [{"n": number} for number in range(50_000)]
    assert quickly(lambda: said({"x": many}, {"properties": {"x": {"uniqueItems": True}}})) == []


def test_a_schema_that_doubles_at_every_reference_is_given_up() -> None:
    doubling = {f"d{k}": {"allOf": [{"$ref": f"#/$defs/d{k + 1}"}] * 2} for k in range(40)} | {"d40": {}}
    schema = {"$defs": doubling, "$ref": "#/$defs/d0"}
    (message,) = quickly(lambda: said({}, schema))
    assert "over and over" in message


def test_a_large_value_may_take_many_references() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"x": {"items": {"$ref": "#/$defs/n"}}}}
    assert said({"x": [1] * 20_000}, schema) == []


def test_a_schema_that_is_itself_is_given_up() -> None:
    assert said({}, {"$ref": "#"}) == ["inputs: is nested too deep"]


def test_no_more_than_some_faults_are_told() -> None:
    many = {"x": ["a"] * 10_000}
    assert len(said(many, {"properties": {"x": {"items": {"type": "integer"}}}})) == MAX_FAULTS


def test_threads_check_side_by_side() -> None:
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(said({"maxiter": -3}, VQE))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [said({"maxiter": -3}, VQE)] * 8


def test_the_server_may_check_without_loading_numpy_qiskit_or_pickle() -> None:
    code = """
import sys
from neartime import packaging, schema
from neartime.contract import ibm
archive = packaging.pack({"program.py": b""})
packaging.read_files(archive)
value = {"a": {"__type__": "QuantumCircuit", "__value__": ""}, "b": {"__type__": "ndarray", "__value__": ""}}
declared = {"properties": {"a": {"$ref": "neartime:QuantumCircuit"}, "b": {"$ref": "neartime:ndarray"}}}
assert schema.faults(value, declared, "inputs") == []
assert schema.manifest_faults(ibm.manifest("a", "", 3, {"parameters": declared})) == []
print({name.partition(".")[0] for name in sys.modules} & {"numpy", "qiskit", "cloudpickle", "pickle", "httpx", "nats"})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
