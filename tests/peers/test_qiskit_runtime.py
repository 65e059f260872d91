"""The genuine encoder and decoder of Qiskit Runtime read what this codec writes, and the other way round."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from codec.sameness import same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.circuit.library import RZGate, efficient_su2
from qiskit.primitives import StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.observables_array import ObservablesArray
from qiskit.quantum_info import Operator, Pauli, PauliLindbladMap, PauliList, SparsePauliOp
from qiskit.transpiler import CouplingMap
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel, depolarizing_error
from qiskit_ibm_runtime import RuntimeDecoder, RuntimeEncoder, SamplerV2
from qiskit_ibm_runtime.fake_provider import FakeManilaV2
from qiskit_ibm_runtime.results import noise_learner
from scipy.sparse import csr_matrix

from neartime.codec import decode, encode
from neartime.errors import DecodeError
from neartime.layers import LayerError, PauliLindbladError


def ours_to_theirs(value: Any) -> Any:
    return json.loads(encode(value), cls=RuntimeDecoder)


def theirs_to_ours(value: Any) -> Any:
    return decode(json.dumps(value, cls=RuntimeEncoder).encode())


def both_ways(value: Any) -> None:
    assert same(ours_to_theirs(value), value)
    assert same(theirs_to_ours(value), value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(plain.filter(lambda value: not (isinstance(value, dict) and {"program", "params"} & set(value))))
@settings(max_examples=150, deadline=None)
def test_numbers_text_lists_and_dictionaries_are_shared(value: Any) -> None:
    both_ways(value)


dtypes = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes(endianness="?")
    | hnp.unsigned_integer_dtypes()
    | hnp.floating_dtypes(endianness="?")
    | hnp.complex_number_dtypes()
    | hnp.datetime64_dtypes()
    | hnp.byte_string_dtypes()
    | hnp.unicode_string_dtypes()
)


@given(hnp.arrays(dtypes | hnp.array_dtypes(dtypes), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
@settings(max_examples=150, deadline=None)
def test_arrays_are_shared(array: np.ndarray) -> None:
    both_ways([array, array.T])


def test_large_arrays_are_shared_compressed_or_not() -> None:
    for array in (np.random.default_rng(1).normal(size=(400, 300)), np.zeros(200_000), np.arange(90_000.0)[::-1]):
        both_ways({"a": array, "b": [1]})


def test_complex_numbers_times_and_sets_are_shared() -> None:
    both_ways([1 + 2j, datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc), {1, 2, "x"}])


def circuits() -> list[QuantumCircuit]:
    circuit = efficient_su2(3, reps=1)
    circuit.metadata = {"experiment": 7}
    measured = circuit.measure_all(inplace=False)
    return [circuit, measured, transpile(measured, FakeManilaV2(), seed_transpiler=1)]


def test_circuits_parameters_and_instructions_are_shared() -> None:
    for circuit in circuits():
        for back in (ours_to_theirs(circuit), theirs_to_ours(circuit)):
            assert back == circuit
            assert back.metadata == circuit.metadata
            assert (back.layout is None) == (circuit.layout is None)
    both_ways([Parameter("θ"), RZGate(0.5)])


def test_observables_and_operators_are_shared() -> None:
    operator = SparsePauliOp(["XX", "ZI"], [1.5, -2])
    both_ways([operator, PauliList(["XY", "ZZ"]), Pauli("-iXZ"), Operator(np.diag([1, 1j]))])
    both_ways([ObservablesArray([operator, "XX"]), ObservablesArray("ZZ")])
    both_ways([PauliLindbladMap.from_list([("XI", 0.5)])])
    both_ways(BindingsArray({("a", "b"): np.zeros((3, 2)), "c": np.ones(3)}, shape=(3,)))


def test_results_of_primitives_are_shared() -> None:
    bits = BitArray.from_samples(["010", "110"])
    built = PrimitiveResult(
        [SamplerPubResult(DataBin(meas=bits), {"shots": 2}), PubResult(DataBin(evs=np.zeros(3), shape=(3,)))],
        {"version": 2},
    )
    circuit = efficient_su2(2, reps=1)
    values = np.zeros((2, circuit.num_parameters))
    estimated = StatevectorEstimator().run([(circuit, "ZZ", values)]).result()
    sampled = StatevectorSampler().run([(circuit.measure_all(inplace=False), values)], shots=5).result()
    for value in (bits, built, estimated, sampled):
        both_ways(value)


def test_the_result_of_the_genuine_sampler_is_read() -> None:
    backend = FakeManilaV2()
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.measure_all()
    result = SamplerV2(backend).run([transpile(circuit, backend)], shots=10).result()
    assert same(theirs_to_ours(result), result)
    assert same(ours_to_theirs(result), result)


def test_backend_results_noise_models_and_sparse_matrices_are_shared() -> None:
    circuit = QuantumCircuit(1)
    circuit.h(0)
    circuit.measure_all()
    result = AerSimulator().run(circuit, shots=20).result()
    model = NoiseModel()
    model.add_all_qubit_quantum_error(depolarizing_error(0.1, 1), ["x"])
    matrix = csr_matrix(np.diag([1.0, 2]))
    for send in (ours_to_theirs, theirs_to_ours):
        assert send(result).get_counts() == result.get_counts()
        assert send(model) == model
        assert (send(matrix) != matrix).nnz == 0


def test_errors_of_layers_are_shared() -> None:
    paulis, rates = PauliList(["XI", "ZZ"]), [0.5, 0.25]
    theirs = noise_learner.LayerError(QuantumCircuit(2), [3, 1], noise_learner.PauliLindbladError(paulis, rates))
    ours = LayerError(QuantumCircuit(2), [3, 1], PauliLindbladError(paulis, rates))
    for found in (theirs_to_ours([theirs]), theirs_to_ours(noise_learner.NoiseLearnerResult([theirs])), [ours]):
        back = ours_to_theirs(found[0])
        assert (type(found[0]), type(back)) == (LayerError, noise_learner.LayerError)
        for layer in (found[0], back):
            assert (layer.circuit, layer.qubits, layer.error.generators) == (QuantumCircuit(2), [3, 1], paulis)
            assert layer.error.rates.tolist() == rates


def test_what_only_we_can_say_reaches_their_decoder_as_plain_dictionaries() -> None:
    for value in ((1, 2), b"x", {1: 2}, frozenset({1}), np.float64(1.5), np.int8(3)):
        seen = ours_to_theirs(value)
        assert seen["__type__"].startswith("neartime.")


def test_what_their_form_loses_comes_to_us_lost() -> None:
    assert theirs_to_ours({"t": (1, 2), 3: np.int64(4)}) == {"t": [1, 2], "3": 4}
    assert theirs_to_ours(CouplingMap.from_line(2)) == [[0, 1], [1, 0]]
    assert same(theirs_to_ours(np.array([1, "x"], dtype=object)), np.array([1, "x"]))


def test_their_own_classes_are_refused_by_name() -> None:
    with pytest.raises(DecodeError, match="ExecutionSpans"):
        decode(b'{"__type__":"ExecutionSpans","__value__":{"spans":[]}}')
