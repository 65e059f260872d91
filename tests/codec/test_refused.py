"""What has no wire form is refused by path and type; what is no wire form raises DecodeError and nothing else."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.circuit.library import efficient_su2
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.quantum_info import Operator, SparseObservable, SparsePauliOp

from neartime.codec import DECODED_LIMIT, Decoder, decode, encode, encode_chunks, readable_qpy_version
from neartime.errors import DecodeError, EncodeError


class Engine:
    pass


def test_an_unknown_object_is_refused_with_its_path_its_type_and_a_remedy() -> None:
    value = {"energies": [1.0, 2.0, Engine()]}
    with pytest.raises(EncodeError) as caught:
        encode(value, root="result")
    assert str(caught.value).startswith(f"result.energies[2]: object of type {__name__}.Engine has no wire form; ")
    assert "docs/reference/codec.md" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Engine, "value"),
        ([lambda: 1], "value[0]"),
        ({"not a name": {1: (1, {"x": Engine()})}}, "value['not a name'][1][1].x"),
        ({(1, 2): Engine()}, "value[(1, 2)]"),
        ({"f": (x for x in [])}, "value.f"),
        ([Path("x")], "value[0]"),
        ({"s": {"a", Engine}}, "value.s["),
        ([np.array([Engine()])], "value[0]"),
        ({"a": np.array([(1, None)], dtype=[("n", "i4"), ("o", "O")])}, "value.a"),
        ({"a": np.ma.masked_array([1, 2], [True, False])}, "value.a"),
        ([{"c": QuantumCircuit(1, metadata={"m": [Engine()]})}], "value[0].c.metadata.m[0]"),
        ([1j * Parameter("t")], "value[0]"),
    ],
)
def test_the_path_leads_to_what_is_at_fault(value: Any, path: str) -> None:
    with pytest.raises(EncodeError) as caught:
        encode(value)
    assert str(caught.value).startswith(path)
    assert "has no wire form" in str(caught.value)


def test_encode_chunks_refuses_at_once_not_when_the_first_chunk_is_taken() -> None:
    with pytest.raises(EncodeError, match="Engine"):
        encode_chunks([Engine()])


def test_what_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append({"again": loop})
    with pytest.raises(EncodeError, match="contains itself"):
        encode(loop)


def test_a_hundred_levels_pass_both_ways() -> None:
    value: Any = 1
    for _ in range(99):
        value = {1: value}
    assert decode(encode(value)) == value
    with pytest.raises(EncodeError, match="100 levels"):
        encode([[value]])


def test_an_integer_too_long_for_text_is_refused() -> None:
    if hasattr(sys, "get_int_max_str_digits"):
        with pytest.raises(EncodeError, match="digits"):
            encode(10**5000)
        with pytest.raises(DecodeError):
            decode(b"1" * 5000)


def test_a_circuit_is_written_in_the_version_that_is_asked_for() -> None:
    for version in (13, readable_qpy_version(), 99):
        text = json.loads(encode(efficient_su2(2), qpy_version=version))["__value__"]
        written = zlib.decompress(base64.b64decode(text))[6]
        assert written == min(version or 0, readable_qpy_version() or 0)
    with pytest.raises(EncodeError, match=r"QPY version 12.* newer Qiskit"):
        encode([QuantumCircuit(1)], qpy_version=12)


def qpy_of(change: dict[int, int]) -> bytes:
    text = json.loads(encode(efficient_su2(2)))["__value__"]
    data = bytearray(zlib.decompress(base64.b64decode(text)))
    for place, byte in change.items():
        data[place] = byte
    return tagged("QuantumCircuit", base64.b64encode(zlib.compress(bytes(data))).decode())


def tagged(tag: Any, value: Any, **more: Any) -> bytes:
    return json.dumps({"__type__": tag, "__value__": value, **more}).encode()


def npy(header: str | bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    header = header.encode() if isinstance(header, str) else header
    file = b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data
    return tagged("ndarray", base64.b64encode(zlib.compress(file)).decode())


def test_qpy_that_this_qiskit_cannot_read_says_what_to_do() -> None:
    with pytest.raises(DecodeError, match=r"QPY version 200, .* pip install --upgrade qiskit"):
        decode(qpy_of({6: 200}))
    with pytest.raises(DecodeError, match=r"version 12; .* not read"):
        decode(qpy_of({6: 12}))


class Bomb:
    def __reduce__(self) -> Any:
        return (exec, ("import sys; sys.bombed = True",))


def test_pickles_are_never_opened() -> None:
    array = np.array([Bomb()], dtype=object)
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    for wire in (npy(header, pickle.dumps(array)), tagged("ndarray", base64.b64encode(pickle.dumps(Bomb())).decode())):
        with pytest.raises(DecodeError):
            decode(wire)
    assert not hasattr(sys, "bombed")


def test_names_in_the_payload_are_looked_up_in_a_table_only() -> None:
    sys.modules.pop("this", None)
    for module, name in [("this", "s"), ("qiskit.quantum_info.operators", "Clifford"), ("subprocess", "Popen")]:
        with pytest.raises(DecodeError):
            decode(tagged("settings", {"data": "XX"}, __module__=module, __class__=name))
    assert "this" not in sys.modules


def test_a_circuit_is_never_simulated_in_place_of_an_operators_matrix() -> None:
    circuit = json.loads(encode(QuantumCircuit(30)))
    module = "qiskit.quantum_info.operators.operator"
    settings = {"data": circuit, "input_dims": [2] * 30, "output_dims": [2] * 30}
    with pytest.raises(DecodeError, match="expected ndarray"):
        decode(tagged("settings", settings, __module__=module, __class__="Operator"))


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"{",
        b"\xff",
        b"[1,]",
        b"nul",
        b'{"__type__":"ndarray"}',
        b'{"__type__":7,"__value__":1}',
        b'{"__type__":["set"],"__value__":[]}',
        b'{"__type__":"neartime.streamed","__value__":0}',
        tagged("ndarray", "@0"),
        tagged("neartime.bytes", "@0"),
        tagged("ndarray", "é"),
        tagged("ndarray", "AAA"),
        tagged("ndarray", None),
        tagged("ndarray", {}),
        tagged("neartime.bytes", "A*=="),
        tagged("neartime.bytes", 3),
        tagged("neartime.dict", [[[1], 2]]),
        tagged("neartime.dict", 5),
        tagged("set", [[1]]),
        tagged("complex", ["a", 1]),
        tagged("datetime", "yesterday"),
        tagged("neartime.fraction", [1, 0]),
        tagged("neartime.timedelta", [10**20, 0, 0]),
        tagged("neartime.decimal", "x"),
        tagged("neartime.enum", []),
        tagged("neartime.enum", [1, 2, 3]),
        tagged("neartime.scalar", ["float128?", 3]),
        tagged("neartime.scalar", ["int8", 300]),
        tagged("neartime.scalar", ["npy", 3]),
        tagged("Parameter", "AAAA"),
        tagged("Parameter", 3),
        tagged("BitArray", {"array": 3, "num_bits": 2}),
        tagged("DataBin", {"fields": {"__class__": 1}, "shape": []}),
        tagged("DataBin", {"fields": {"shape": 1}, "shape": []}),
        tagged("BindingsArray", {"data": {"x": 1}}),
        tagged("PrimitiveResult", 3),
        tagged("ObservablesArray", ["QQ"]),
        tagged("spmatrix", "AAAA"),
        tagged("NoiseModel", 3),
        tagged("Result", {}),
        tagged("neartime.SparseObservable", [2, 1, 1, 1, 1]),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", bytes(16)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(16)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': 'abc', }"),
        npy("{'descr': ('<f8', (2,)), 'fortran_order': False, 'shape': (1,), }", bytes(16)),
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }" % ("1," * 100), bytes(8)),
        npy("__import__('os')"),
        npy("(" * 9000),
        npy(b"x" * 20_000),
        npy("", version=b"\x09\x00"),
    ],
)
def test_malformed_input_raises_decode_error(wire: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(wire)


def test_an_array_that_claims_more_than_the_limit_is_refused_before_it_is_made() -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }"
    with pytest.raises(DecodeError, match="limit"):
        decode(npy(header % (DECODED_LIMIT + 1)))
    with pytest.raises(DecodeError, match="limit"):
        decode(npy(header % 2**62))
    small = encode([np.zeros(600, np.uint8), np.zeros(600, np.uint8)])
    with pytest.raises(DecodeError, match="limit of 1000 bytes"):
        decode(small, limit=1000)


def test_compressed_bytes_that_swell_over_the_limit_are_refused() -> None:
    bomb = base64.b64encode(zlib.compress(b"QISKIT" + bytes(50_000_000))).decode()
    with pytest.raises(DecodeError, match="limit"):
        decode(tagged("QuantumCircuit", bomb), limit=1_000_000)


@pytest.mark.parametrize("bracket", [b"[", b'{"a":', b'[{"a":'])
def test_input_nested_too_deep_is_refused_even_where_the_stack_would_hold(bracket: bytes) -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000_000)
    try:
        with pytest.raises(DecodeError, match="levels deep"):
            decode(bracket * 200_000)
    finally:
        sys.setrecursionlimit(before)


def test_brackets_in_text_are_no_nesting() -> None:
    value = ["[" * 10_000, '"[{\\' * 500, [["]"]] * 1000]
    assert decode(json.dumps(value).encode()) == value


def results() -> list[bytes]:
    circuit = efficient_su2(2, reps=1)
    values = np.zeros(circuit.num_parameters)
    estimated = StatevectorEstimator().run([(circuit, "ZZ", values)]).result()
    sampled = StatevectorSampler().run([(circuit.measure_all(inplace=False), values)], shots=3).result()
    noise = np.random.default_rng(5).integers(0, 255, 120_000, dtype=np.uint8)
    return [
        encode(value)
        for value in (
            circuit,
            estimated,
            sampled,
            {1: (2, {3}), "x": b"abc", "__type__": None},
            SparsePauliOp(["XX", "ZI"], [1, 2]),
            SparseObservable.from_list([("XX", 1.0)]),
            Operator(np.eye(2)),
            [np.arange(10.0), np.float32(3), np.array([(1, 2.0)], dtype="i4,f8")],
            [Parameter("a"), Parameter("a") * 2],
            {"a": noise, "b": noise.tobytes()},
        )
    ]


VALID = results()


def decode_quietly(data: bytes) -> None:
    """Anything but DecodeError fails the test."""
    try:
        decode(data)
    except DecodeError:
        pass


@given(st.binary(max_size=200))
@example(b'{"__type__":"ndarray","__value__":"' + b"A" * 100_000)
@settings(max_examples=200, deadline=None)
def test_random_bytes_raise_decode_error_at_most(data: bytes) -> None:
    decode_quietly(data)


@given(st.sampled_from(VALID), st.data())
@settings(max_examples=400, deadline=None)
def test_changed_payloads_raise_decode_error_at_most(valid: bytes, data: Any) -> None:
    wire = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(wire) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                wire[place] = data.draw(st.integers(0, 255))
            case 1:
                del wire[place : place + data.draw(st.integers(1, 50))]
            case 2:
                wire[place:place] = data.draw(st.binary(max_size=10))
            case _:
                wire[place : place + 1] = data.draw(st.sampled_from([b"null", b"[]", b"{}", b'"', b"1e999", b"NaN"]))
        if not wire:
            break
    decode_quietly(bytes(wire))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["data", "array", "num_bits", "shape", "fields", "metadata", "pub_results", "paulis", "num_qubits", "coeffs"]


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_every_tag_with_any_value_raises_decode_error_at_most(data: Any) -> None:
    from neartime.codec import decoder

    tag = data.draw(st.sampled_from(sorted({*decoder._MODULE_OF, *decoder._KNOWN})))
    value = data.draw(json_values | st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
    name = data.draw(st.sampled_from(["Pauli", "PauliList", "SparsePauliOp", "Operator", "Statevector", "x"]))
    decode_quietly(tagged(tag, value, __module__="qiskit.quantum_info.x", __class__=name))


@given(st.sampled_from(range(len(VALID))), st.data())
@settings(max_examples=150, deadline=None)
def test_changed_binary_values_with_right_checksums_raise_decode_error_at_most(number: int, data: Any) -> None:
    def change(wire: Any) -> Any:
        if isinstance(wire, list):
            return [change(item) for item in wire]
        if not isinstance(wire, dict):
            return wire
        if wire.get("__type__") in ("ndarray", "QuantumCircuit", "neartime.ParameterExpression"):
            content = bytearray(zlib.decompress(base64.b64decode(wire["__value__"])))
            place = data.draw(st.integers(0, min(len(content), 3000) - 1))
            content[place] = data.draw(st.integers(0, 255))
            return {**wire, "__value__": base64.b64encode(zlib.compress(bytes(content))).decode()}
        return {key: change(item) for key, item in wire.items()}

    decode_quietly(json.dumps(change(json.loads(VALID[number]))).encode())


def test_a_payload_cut_anywhere_raises_decode_error() -> None:
    wire = VALID[-1]
    for end in (1, 20, 1000, 70_000, len(wire) // 2, len(wire) - 1):
        with pytest.raises(DecodeError):
            decode_in_chunks(wire[:end], 5000)


def decode_in_chunks(wire: bytes, size: int) -> Any:
    decoder = Decoder()
    for start in range(0, len(wire), size):
        decoder.feed(wire[start : start + size])
    return decoder.finish()
