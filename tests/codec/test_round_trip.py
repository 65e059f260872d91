"""What goes in comes out: same type, same content."""

from __future__ import annotations

import enum
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from codec.sameness import same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel, Field
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter, ParameterVector
from qiskit.circuit.library import CXGate, RZGate, efficient_su2
from qiskit.circuit.random import random_circuit
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.quantum_info import (
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
from qiskit.transpiler import CouplingMap
from scipy.optimize import OptimizeResult
from scipy.sparse import csr_array, csr_matrix

from neartime.codec import Decoder, decode, encode, encode_chunks
from neartime.layers import LayerError, NoiseLearnerResult, PauliLindbladError


class Colour(enum.Enum):
    RED = 1
    GREEN = (2, "two")


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Word(str, enum.Enum):
    YES = "yes"


Point = namedtuple("Point", "x y")


@dataclass
class Step:
    energy: float
    point: Any


class Inputs(BaseModel):
    shots: int = 100
    step_size: float = Field(0.1, alias="stepSize")
    parts: list[Any] = []


def through(value: Any) -> Any:
    return decode(encode(value))


offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
numbers = st.integers() | st.floats() | st.complex_numbers() | st.booleans() | st.decimals() | st.fractions()
moments = (
    st.datetimes()
    | st.datetimes(timezones=offsets)
    | st.dates()
    | st.times()
    | st.times(timezones=offsets)
    | st.timedeltas()
)
scalar_dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes(endianness="?")
    | hnp.datetime64_dtypes(endianness="?")
    | hnp.timedelta64_dtypes(endianness="?")
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
)
arrays = hnp.arrays(
    scalar_dtypes | hnp.array_dtypes(scalar_dtypes), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
)
hashable = st.recursive(
    st.none() | st.text(max_size=5) | st.integers() | st.binary(max_size=5) | st.booleans() | st.sampled_from(Level),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
leaves = (
    st.none()
    | st.text(st.characters(), max_size=20)
    | numbers
    | moments
    | st.binary(max_size=50)
    | st.uuids()
    | st.sampled_from([*Colour, *Level, *Word])
)
values = st.recursive(
    leaves | arrays,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.just("__type__") | st.just("__value__"), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=15,
)


@given(values)
@settings(max_examples=150, deadline=None)
def test_any_nest_of_plain_values_comes_back_as_it_was(value: Any) -> None:
    assert same(through(value), value)
    assert b"".join(encode_chunks(value, chunk_size=100)) == encode(value)


@given(arrays)
@settings(max_examples=200, deadline=None)
def test_an_array_of_every_dtype_shape_and_layout_comes_back(array: np.ndarray) -> None:
    assert same(through(array), array)
    for view in (array.T, array[..., ::2] if array.ndim else array, array[::-1] if array.ndim else array):
        assert same(through(view), view)


def test_a_large_array_comes_back_in_every_layout() -> None:
    array = np.random.default_rng(1).normal(size=(300, 70, 8))
    for view in (array, array.T, np.asfortranarray(array), array[::2, 1:], array[..., ::-1], array > 0):
        back = through(view)
        assert same(back, view)
        assert back.flags.c_contiguous or back.flags.f_contiguous
        assert back.flags.c_contiguous or not view.flags.c_contiguous


def test_an_array_is_writable_and_owns_its_order() -> None:
    back = through(np.asfortranarray(np.eye(3)[:, :2]))
    back[0, 0] = 5
    assert back.flags.f_contiguous


@given(hnp.arrays(scalar_dtypes, (1,)))
@settings(max_examples=200, deadline=None)
def test_a_numpy_scalar_keeps_its_type(array: np.ndarray) -> None:
    scalar = array[0]
    assert same(through(scalar), scalar)


def test_numpys_float64_is_not_taken_for_a_float() -> None:
    assert type(through(np.float64(0.1))) is np.float64
    assert type(through([np.float64(0.1), 1.0])[0]) is np.float64
    assert type(through(np.complex128(1j))) is np.complex128
    assert type(through(np.str_("a\0"))) is np.str_
    assert type(through({np.int64(3): 1}).popitem()[0]) is np.int64


def test_records_with_named_fields_come_back() -> None:
    records = np.array([(1, 2.5, "a")], dtype=[("n", "<i2"), ("величина", "<f8"), ("t", "<U3")])
    assert same(through(records), records)
    assert same(through(records[0]), records[0])


def test_large_bytes_and_long_lists_come_back_between_other_things() -> None:
    blob = bytes(range(256)) * 1000
    value = {"a": blob, "t": ("x", blob[1:], list(range(100_000))), "b": [b"", blob], "z": '{"__type__":'}
    assert same(through(value), value)
    assert b"".join(encode_chunks(value)) == encode(value)


def test_text_that_looks_like_the_marks_of_this_package_stays_text() -> None:
    value = {"__type__": "neartime.streamed", "__value__": 0}
    assert through([value, b"x" * 200_000, '{"__type__":"neartime.streamed","__value__":0}', "@0"]) == [
        value,
        b"x" * 200_000,
        '{"__type__":"neartime.streamed","__value__":0}',
        "@0",
    ]


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_chunks_may_be_cut_anywhere(data: Any) -> None:
    noise = np.random.default_rng(3).integers(0, 255, 150_000, dtype=np.uint8)
    value = {"text": 'quo"te\\' * 20_000, "array": noise, "bytes": noise.tobytes(), "list": [1.5] * 40_000}
    wire = encode(value)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    decoder = Decoder()
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        decoder.feed(wire[start:end])
    assert same(decoder.finish(), value)


def test_members_of_enums_come_back_where_their_class_is_loaded() -> None:
    for member in (*Colour, *Level, *Word):
        assert through(member) is member
        assert next(iter(through({member: 1}))) is member


def test_a_member_of_an_unknown_enum_comes_back_as_its_value() -> None:
    assert decode(encode(Colour.GREEN).replace(b"Colour", b"Umbrae")) == (2, "two")
    assert decode(encode(Level.HIGH).replace(b"test_round_trip", b"elsewhere")) == 2


def test_reading_an_enum_imports_nothing() -> None:
    import sys

    sys.modules.pop("this", None)
    wire = b'{"__type__":"neartime.enum","__value__":["this:s","x",3]}'
    assert decode(wire) == 3
    assert "this" not in sys.modules


def test_what_has_no_form_of_its_own_comes_back_as_the_plainer_thing() -> None:
    class Ratio(float):
        pass

    assert through(OrderedDict(a=1)) == {"a": 1}
    assert through(Point(1, 2)) == (1, 2)
    assert through(Step(1.5, Point(1, 2))) == {"energy": 1.5, "point": (1, 2)}
    assert type(through(Ratio(2.5))) is float
    assert through(bytearray(b"abc")) == b"abc"
    assert through(memoryview(b"abcdef")[::2]) == b"ace"
    assert through(Inputs(stepSize=0.5, parts=[(1,)])) == {"shots": 100, "stepSize": 0.5, "parts": [(1,)]}
    assert through({"a": 1}.keys()) == {"a"}


def test_the_result_of_a_scipy_optimiser_comes_back_as_a_dictionary() -> None:
    result = OptimizeResult(x=np.array([0.5]), fun=np.float64(-1.5), success=True, nfev=7, message="done")
    assert same(through(result), dict(result))


def test_exact_and_rare_numbers_come_back() -> None:
    for value in (
        Decimal("1e400"),
        Decimal("NaN"),
        Fraction(1, 3),
        uuid4(),
        10**4000,
        -0.0,
        complex(-0.0, float("inf")),
    ):
        assert same(through(value), value) or value != value


def test_times_come_back_to_the_microsecond() -> None:
    eastern = timezone(timedelta(hours=-5))
    for value in (
        datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001
        datetime(2024, 1, 2, tzinfo=eastern),
        date(2024, 1, 2),
        time(1, 2, 3, tzinfo=eastern),
        timedelta(days=-1, microseconds=5),
    ):
        assert same(through(value), value)
    assert decode(b'{"__type__":"datetime","__value__":"2024-01-02T03:04:05Z"}') == datetime(
        2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc
    )


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 2**30))
@settings(max_examples=40, deadline=None)
def test_a_random_circuit_comes_back(width: int, depth: int, seed: int) -> None:
    circuit = random_circuit(width, depth, measure=bool(seed % 2), conditional=False, seed=seed)
    assert same(through(circuit), circuit)


def test_circuits_keep_metadata_layout_and_parameters() -> None:
    circuit = efficient_su2(4, reps=1)
    circuit.metadata = {"point": (1, 2), 3: np.arange(3), "text": "é"}
    circuit.measure_all()
    back = through([circuit, circuit])
    assert same(back, [circuit, circuit])
    placed = transpile(
        circuit, coupling_map=CouplingMap.from_line(6), basis_gates=["rz", "sx", "cx"], seed_transpiler=1
    )
    assert through(placed).layout.final_index_layout() == placed.layout.final_index_layout()
    parameter = next(iter(circuit.parameters))
    assert (
        through(circuit).assign_parameters({parameter: 1.0}, strict=True).num_parameters == circuit.num_parameters - 1
    )


def test_circuits_with_control_flow_and_own_gates_come_back() -> None:
    inner = QuantumCircuit(2, name="mine")
    inner.cx(0, 1)
    circuit = QuantumCircuit(2, 2)
    circuit.append(inner.to_gate(), [0, 1])
    circuit.measure(0, 0)
    with circuit.if_test((circuit.clbits[0], 1)):
        circuit.x(1)
    assert same(through(circuit), circuit)


def test_parameters_keep_their_identity() -> None:
    theta, vector = Parameter("θ"), ParameterVector("v", 3)
    expression = theta * 2 + vector[1].sin()
    back = through({"p": theta, "e": vector[2], "x": expression, "v": vector, "empty": ParameterVector("n", 0)})
    assert back["p"] == theta
    assert back["e"] == vector[2]
    assert back["x"] == expression
    assert list(back["v"]) == list(vector)
    assert back["v"].name == "v"
    assert len(back["empty"]) == 0
    assert through(theta - theta + 1.5 if not (theta - theta).parameters else (theta * 1).assign(theta, 1.5)) == 1.5
    circuit = QuantumCircuit(1)
    circuit.rx(theta, 0)
    assert through(circuit.parameters) == [theta]


def test_instructions_come_back() -> None:
    from qiskit.circuit import Measure

    for instruction in (CXGate(), RZGate(0.5), RZGate(Parameter("a")), Measure(), CXGate().control(2)):
        assert same(through(instruction), instruction)


paulis = st.text("IXYZ", min_size=3, max_size=3)


@given(st.lists(paulis, min_size=1, max_size=6, unique=True), st.data())
@settings(max_examples=60, deadline=None)
def test_observables_come_back(labels: list[str], data: Any) -> None:
    reals = st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6)
    coefficients = data.draw(st.lists(reals, min_size=len(labels), max_size=len(labels)))
    operator = SparsePauliOp(labels, coefficients)
    assert same(through(operator), operator)
    assert same(through(PauliList(labels)), PauliList(labels))
    assert same(through(Pauli("-i" + labels[0])), Pauli("-i" + labels[0]))
    sparse = SparseObservable.from_sparse_pauli_op(operator)
    assert same(through(sparse), sparse)
    observables = ObservablesArray([[operator, labels[0]]])
    assert same(through(observables), observables)
    assert same(through(ObservablesArray(operator)), ObservablesArray(operator))


def test_operators_states_and_maps_come_back() -> None:
    theta = Parameter("θ")
    parametric = through(SparsePauliOp(["X", "Z"], np.array([theta, 2.0], dtype=object)))
    assert parametric.coeffs.dtype == object
    assert parametric.assign_parameters({theta: 1.0}) == SparsePauliOp(["X", "Z"], [1, 2])
    for value in (
        Operator(CXGate()),
        Operator(np.eye(6), input_dims=(2, 3), output_dims=(3, 2)),
        SuperOp(CXGate()),
        Statevector([1, 0, 0, 1j]) / np.sqrt(2),
        DensityMatrix([[1, 0], [0, 0]]),
        SparseObservable.from_label("0+rX"),
        PauliLindbladMap.from_list([("XI", 0.5), ("ZZ", 0.25)]),
    ):
        assert same(through(value), value)
    layer = LayerError(QuantumCircuit(2), [4, 2], PauliLindbladError(PauliList(["XI", "ZZ"]), [0.5, 0.25]))
    again = through(NoiseLearnerResult([layer, LayerError(QuantumCircuit(1), [0])], {"backend": "x"}))
    assert (type(again), again.metadata, again[1].error) == (NoiseLearnerResult, {"backend": "x"}, None)
    assert (again[0].circuit, again[0].qubits) == (layer.circuit, layer.qubits)
    assert again[0].error.to_map() == PauliLindbladMap.from_list([("XI", 0.5), ("ZZ", 0.25)])
    assert sorted(through(CouplingMap.from_ring(3)).get_edges()) == sorted(CouplingMap.from_ring(3).get_edges())


shapes = hnp.array_shapes(min_dims=0, max_dims=2, max_side=3)


@given(shapes, st.integers(1, 20), st.integers(1, 4), st.data())
@settings(max_examples=60, deadline=None)
def test_results_of_primitives_come_back(shape: tuple[int, ...], bits: int, shots: int, data: Any) -> None:
    array = data.draw(hnp.arrays(np.uint8, (*shape, shots, (bits + 7) // 8)))
    evs = data.draw(hnp.arrays(np.float64, shape))
    sampled = SamplerPubResult(DataBin(meas=BitArray(array, bits), shape=shape), {"shots": shots, "level": Level.LOW})
    estimated = PubResult(DataBin(evs=evs, stds=evs, shape=shape), {"target_precision": np.float64(0.1)})
    result = PrimitiveResult([sampled, estimated], {"version": 2, "at": (1, 2)})
    assert same(through(result), result)
    bindings = BindingsArray({("a", "b"): np.zeros((*shape, 2)), "c": np.ones(shape)}, shape=shape)
    assert same(through(bindings), bindings)


def test_results_that_primitives_gave_come_back() -> None:
    circuit = efficient_su2(2, reps=1)
    values = np.linspace(0, 1, 2 * circuit.num_parameters).reshape(2, -1)
    estimated = StatevectorEstimator().run([(circuit, "ZZ", values), (circuit, ["XX", "IZ"], values[0])]).result()
    assert same(through(estimated), estimated)
    sampled = StatevectorSampler().run([(circuit.measure_all(inplace=False), values)], shots=10).result()
    back = through(sampled)
    assert same(back, sampled)
    assert back[0].join_data().get_counts() == sampled[0].join_data().get_counts()


def test_pubs_come_back() -> None:
    circuit = efficient_su2(2, reps=1)
    values = np.zeros((3, circuit.num_parameters))
    pub = through(EstimatorPub.coerce((circuit, ["ZZ", "XX", "YY"], values), precision=0.1))
    assert same([pub.circuit, pub.precision, pub.shape], [circuit, 0.1, (3,)])
    pub = through(SamplerPub.coerce((circuit, values), shots=7))
    assert same([pub.circuit, pub.shots, pub.shape], [circuit, 7, (3,)])


def test_aers_results_and_noise_models_come_back() -> None:
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import NoiseModel, ReadoutError, depolarizing_error, pauli_error, thermal_relaxation_error

    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.save_statevector()
    circuit.measure_all()
    result = AerSimulator().run(circuit, shots=20).result()
    back = through(result)
    assert back.get_counts() == result.get_counts()
    assert np.allclose(back.get_statevector(), result.get_statevector())
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 2), ["cx"])
    model.add_quantum_error(thermal_relaxation_error(50, 70, 100), ["x"], [0])
    model.add_quantum_error(pauli_error([("X", 0.1), ("I", 0.9)]), ["h"], [1])
    model.add_readout_error(ReadoutError([[0.9, 0.1], [0.2, 0.8]]), [0])
    assert through(model) == model


@pytest.mark.parametrize("kind", [csr_matrix, csr_array])
def test_sparse_matrices_come_back(kind: type) -> None:
    matrix = kind(np.diag([1.0, 0, 3]))
    back = through(matrix)
    assert type(back) is kind
    assert (back.toarray() == matrix.toarray()).all()
