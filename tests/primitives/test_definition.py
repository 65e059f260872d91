"""Qiskit's own definition is the oracle: results agree with those of its reference primitives, within statistics."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from primitives.conftest import Messenger
from qiskit import QuantumCircuit, QuantumRegister
from qiskit.circuit import ClassicalRegister, Parameter
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2, StatevectorEstimator, StatevectorSampler
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Operator, Pauli, SparsePauliOp, Statevector
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_aer import AerSimulator

from neartime import codec

Load = Callable[[str], ModuleType]
PRECISION = 0.02
SHOTS = 2000
FAR = 5.5
"""Standard errors: of a few thousand values, one in a million is as far away by chance."""

AER = AerSimulator(seed_simulator=1)
DEVICE = GenericBackendV2(4, seed=1, noise_info=False)
property_test = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def circuits(draw: st.DrawFn) -> QuantumCircuit:
    """Of one to three qubits, with up to three parameters."""
    width = draw(st.integers(1, 3))
    circuit = QuantumCircuit(QuantumRegister(width, "q"))
    parameters = [Parameter(name) for name in "abc"[: draw(st.integers(0, 3))]]
    for parameter in parameters:
        circuit.ry(parameter, draw(st.integers(0, width - 1)))
    for _ in range(draw(st.integers(1, 6))):
        qubit = draw(st.integers(0, width - 1))
        gate = draw(st.sampled_from(["h", "sx", "rz", "cx"]))
        if gate == "rz":
            circuit.rz(draw(st.floats(-3, 3)), qubit)
        elif gate == "cx" and width > 1:
            circuit.cx(qubit, (qubit + 1) % width)
        elif gate != "cx":
            getattr(circuit, gate)(qubit)
    return circuit


SHAPES = [((), ()), ((3,), ()), ((), (2,)), ((3,), (3,)), ((2, 1), (3,)), ((4, 1, 2), (3, 1)), ((2, 3), (2, 3))]
"""Of parameter values and of observables: any that NumPy can broadcast."""


def some_values(circuit: QuantumCircuit, shape: tuple[int, ...], seed: int) -> Any:
    return np.random.default_rng(seed).uniform(-np.pi, np.pi, (*shape, circuit.num_parameters))


def some_observables(width: int, shape: tuple[int, ...], seed: int) -> Any:
    chosen = np.random.default_rng(seed)
    made = np.empty(shape, dtype=object)
    for index in np.ndindex(shape):
        labels = ["".join(chosen.choice(list("IXYZ"), width)) for _ in range(3)]
        made[index] = SparsePauliOp(labels, chosen.uniform(-1, 1, 3)).simplify()
    return made if shape else made[()]


@property_test
@given(circuits(), st.sampled_from(SHAPES), st.integers(0, 1000))
def test_an_estimator_without_noise_agrees_with_the_definition(
    load: Load, circuit: QuantumCircuit, shapes: Any, seed: int
) -> None:
    values, observables = some_values(circuit, shapes[0], seed), some_observables(circuit.num_qubits, shapes[1], seed)
    exact = StatevectorEstimator().run([(circuit, observables, values)], precision=0).result()[0].data
    main = load("estimator").main
    ours = main(AER, Messenger(), [(circuit, observables, values)], precision=0.0)[0].data
    np.testing.assert_allclose(ours.evs, exact.evs, atol=1e-9)
    assert ours.evs.shape == exact.evs.shape == np.broadcast_shapes(*shapes)
    assert not np.any(ours.stds)
    seeded = {"simulator": {"seed_simulator": seed}}
    noisy = main(AER, Messenger(), [(circuit, observables, values)], seeded, precision=PRECISION)[0].data
    assert np.all(np.abs(noisy.evs - exact.evs) <= FAR * PRECISION)
    np.testing.assert_allclose(noisy.stds, PRECISION)


@property_test
@given(circuits(), st.sampled_from(SHAPES[:5]), st.integers(0, 1000))
def test_an_estimator_that_samples_agrees_with_the_definition(
    load: Load, circuit: QuantumCircuit, shapes: Any, seed: int
) -> None:
    values, observables = some_values(circuit, shapes[0], seed), some_observables(circuit.num_qubits, shapes[1], seed)
    exact = StatevectorEstimator().run([(circuit, observables, values)], precision=0).result()[0].data
    isa = generate_preset_pass_manager(1, backend=DEVICE, seed_transpiler=1).run(circuit)
    placed = np.empty(shapes[1], dtype=object)
    for index in np.ndindex(shapes[1]):
        placed[index] = (observables[index] if shapes[1] else observables).apply_layout(isa.layout)
    pub = (isa, placed if shapes[1] else placed[()], values)
    seeded = {"simulator": {"seed_simulator": seed}}
    ours = load("estimator").main(DEVICE, Messenger(), [pub], seeded, precision=PRECISION)[0].data
    assert ours.evs.shape == np.broadcast_shapes(*shapes)
    # Three terms of at most 1, each with the variance of a Pauli.
    assert np.all(np.abs(ours.evs - exact.evs) <= FAR * PRECISION * np.sqrt(3))


@pytest.mark.parametrize("backend", [AER, DEVICE], ids=["aer", "device"])
@property_test
@given(circuits(), st.sampled_from([(), (1,), (3,), (2, 2)]), st.integers(0, 1000))
def test_a_sampler_agrees_with_the_definition(
    load: Load, backend: Any, circuit: QuantumCircuit, shape: tuple[int, ...], seed: int
) -> None:
    measured = circuit.copy()
    measured.add_register(ClassicalRegister(1, "first"), ClassicalRegister(circuit.num_qubits, "all"))
    measured.measure(range(circuit.num_qubits), measured.cregs[1])
    values = some_values(circuit, shape, seed)
    isa = measured
    if backend is DEVICE:
        isa = generate_preset_pass_manager(1, backend=DEVICE, seed_transpiler=1).run(measured)
    seeded = {"simulator": {"seed_simulator": seed}}
    ours = load("sampler").main(backend, Messenger(), [(isa, values, SHOTS)], seeded)[0].data
    theirs = StatevectorSampler(seed=seed).run([(measured, values, SHOTS)]).result()[0].data
    assert set(ours) == set(theirs) == {"first", "all"}
    for name in theirs:
        mine, other = ours[name], theirs[name]
        assert (mine.shape, mine.num_shots, mine.num_bits) == (other.shape, other.num_shots, other.num_bits)
    for index in np.ndindex(shape):
        mine, other = ours["all"].get_counts(index or None), theirs["all"].get_counts(index or None)
        for bits in {*mine, *other}:
            one, two = mine.get(bits, 0), other.get(bits, 0)
            assert abs(one - two) <= FAR * np.sqrt(one + two + 1)


VECTORS = {"0": [1, 0], "1": [0, 1], "+": [1, 1], "-": [1, -1], "r": [1, 1j], "l": [1, -1j]}


def expected(state: Statevector, term: str) -> float:
    """The expectation value of a product of Paulis and projectors."""
    product = Operator(np.eye(1))
    for letter in term:
        if letter in VECTORS:
            vector = np.array(VECTORS[letter]) / np.linalg.norm(VECTORS[letter])
            product ^= Operator(np.outer(vector, vector.conj()))
        else:
            product ^= Operator(Pauli(letter))
    return float(np.vdot(state.data, product.data @ state.data).real)


def test_projectors_are_observables_too(load: Load) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.ry(0.7, 1)
    observables = [{"0+": 1.0}, {"1-": 2.0, "ZZ": 0.5}, {"rl": 1.0}]
    state = Statevector(circuit)
    exact = [sum(scale * expected(state, term) for term, scale in one.items()) for one in observables]
    ours = load("estimator").main(AER, Messenger(), [(circuit, observables)], precision=0.0)[0].data.evs
    np.testing.assert_allclose(ours, exact, atol=1e-9)


def test_a_circuit_that_measures_in_its_middle_is_sampled(load: Load) -> None:
    circuit = QuantumCircuit(1, 1)
    circuit.h(0)
    circuit.measure(0, 0)
    main = load("estimator").main
    found = main(AER, Messenger(), [(circuit, ["X", "Z"])], {"simulator": {"seed_simulator": 5}})[0].data
    assert np.all(np.abs(found.evs) < 0.1)
    with pytest.raises(ValueError, match=r"pubs\[0\]: the precision 0 takes a simulator without noise"):
        main(AER, Messenger(), [(circuit, "X")], precision=0.0)


def test_a_seed_repeats_a_job_and_not_a_pub(load: Load) -> None:
    circuit = QuantumCircuit(4)
    circuit.h(range(4))
    circuit.measure_all()
    seeded = {"simulator": {"seed_simulator": 7}, "default_shots": 100}

    def runs() -> list[Any]:
        return [one.data.meas.get_counts() for one in load("sampler").main(AER, Messenger(), [(circuit,)] * 2, seeded)]

    first, again = runs(), runs()
    assert first == again
    assert first[0] != first[1]


@pytest.mark.parametrize("program", ["sampler", "estimator"])
def test_a_circuit_that_is_no_isa_circuit_is_refused_with_instruction_and_qubits(load: Load, program: str) -> None:
    far = QuantumCircuit(4)
    far.x(0)
    device = GenericBackendV2(4, coupling_map=[[0, 1], [1, 2], [2, 3]], seed=1)
    ours = generate_preset_pass_manager(0, backend=device).run(far)
    far.cx(0, 3)
    further = [] if program == "sampler" else ["ZZZZ"]
    with pytest.raises(ValueError, match=r"pubs\[1\]: .*no instruction 'cx' on qubits \(0, 3\); transpile it"):
        load(program).main(device, Messenger(), [(ours, *further), (far, *further)])
    wide = QuantumCircuit(9)
    with pytest.raises(ValueError, match=r"pubs\[0\]: the circuit has 9 qubits, and the backend .* 4"):
        load(program).main(device, Messenger(), [(wide, *(["I" * 9] if further else []))])


def test_instructions_inside_branches_are_looked_at_with_their_own_qubits(load: Load) -> None:
    device = GenericBackendV2(3, coupling_map=[[0, 1], [1, 2]], seed=1, control_flow=True)
    circuit = QuantumCircuit(3, 1)
    circuit.measure(0, 0)
    with circuit.if_test((0, 1)):
        circuit.cx(2, 0)
    with pytest.raises(ValueError, match=r"'cx' on qubits \(2, 0\)"):
        load("sampler").main(device, Messenger(), [(circuit,)])


@pytest.mark.parametrize("stream", [True, False])
def test_finished_pubs_are_published_where_somebody_listens(load: Load, stream: bool) -> None:
    circuit = QuantumCircuit(1)
    messenger = Messenger()
    pubs = [(circuit, "Z"), (circuit, ["X", "Z"])]
    result = load("estimator").main(AER, messenger, pubs, precision=0.0, stream=stream)
    assert [one["pub"] for one in messenger.said] == ([0, 1] if stream else [])
    for one in messenger.said:
        np.testing.assert_array_equal(one["result"].data.evs, result[one["pub"]].data.evs)


def test_a_long_job_publishes_what_is_finished_and_each_pub_once(load: Load) -> None:
    load("sampler")
    from delivery import LONG, Delivery  # type: ignore[import-not-found]

    messenger = Messenger()
    delivery = Delivery(messenger, 4, stream=False)
    delivery.finished("first")
    assert messenger.said == []
    time.sleep(LONG + 0.05)
    for result in ("second", "third", "fourth"):
        delivery.finished(result)
    told = [(one["pub"], one["result"]) for one in messenger.said]
    assert told == [(0, "first"), (1, "second"), (2, "third"), (3, "fourth")]


def test_results_have_a_wire_form(load: Load) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.measure_all()
    result = load("sampler").main(AER, Messenger(), [(circuit,)])
    again = codec.decode(codec.encode(result))
    assert again[0].data.meas == result[0].data.meas
    assert again[0].metadata["shots"] == 4096


@pytest.mark.parametrize(
    ("program", "options", "message"),
    [
        ("sampler", {"twirling": {"enable_gates": True}}, "twirling.enable_gates: the program 'sampler-mitigated'"),
        ("estimator", {"resilience": {"zne_mitigation": True}}, "resilience.zne_mitigation: the program 'estimator-m"),
        ("sampler", {"execution": {"meas_type": "kerneled"}}, "options.execution.meas_type"),
    ],
)
def test_what_a_program_does_not_do_it_refuses(load: Load, program: str, options: Any, message: str) -> None:
    circuit = QuantumCircuit(1)
    pub = (circuit,) if program == "sampler" else (circuit, "Z")
    with pytest.raises(ValueError, match=message):
        load(program).main(AER, Messenger(), [pub], options)


def test_noise_that_is_written_once_and_told_in_part_is_the_same_noise(load: Load) -> None:
    """On a device whose noise Aer is told anew and in whole, and on one that the programs prepared."""
    line = [pair for left in range(6) for pair in ([left, left + 1], [left + 1, left])]
    plain, prepared = (GenericBackendV2(7, coupling_map=line, seed=3) for _ in range(2))
    circuit = QuantumCircuit(7)
    circuit.sx(2)
    circuit.cx(2, 3)
    circuit.cx(3, 4)
    measured = circuit.copy()
    measured.add_register(ClassicalRegister(2, "ends"))
    measured.measure([2, 4], [0, 1])
    seeded = {"simulator": {"seed_simulator": 5}, "default_shots": 3000}
    # The observable looks at a qubit without a gate, whose readout errs all the same.
    observables, precision = ["IZIIZII", "IIIZZZI", "ZIIIIII"], 0.02
    for _ in range(3):  # the noise model is there from the second run on
        mine = load("sampler").main(prepared, Messenger(), [(measured,)], seeded)[0].data.ends.get_counts()
        job = BackendSamplerV2(backend=plain, options={"seed_simulator": 5}).run([(measured,)], shots=3000)
        assert mine == job.result()[0].data.ends.get_counts()
        found = load("estimator").main(prepared, Messenger(), [(circuit, observables)], seeded, precision=precision)
        theirs = BackendEstimatorV2(backend=plain, options={"seed_simulator": 5})
        expected = theirs.run([(circuit, observables)], precision=precision).result()[0].data
        np.testing.assert_array_equal(found[0].data.evs, expected.evs)
    assert found[0].data.evs[2] < 1
    # What else runs on the backend has all of its noise, and all of its threads.
    from prepared import Written, noise_on  # type: ignore[import-not-found]

    noise = prepared.options.noise_model
    assert isinstance(noise, Written)
    count = len(plain.options.noise_model.to_dict(serializable=True)["errors"])
    assert len(noise.to_dict(serializable=True)["errors"]) == count
    with noise_on(prepared, SamplerPub(measured)):
        assert 0 < len(noise.to_dict(serializable=True)["errors"]) < count / 1.5
        assert prepared.options.max_parallel_threads == 1
    assert len(noise.to_dict(serializable=True)["errors"]) == count
    assert prepared.options.max_parallel_threads == plain.options.max_parallel_threads
    wide = QuantumCircuit(7)
    wide.sx(range(7))
    with noise_on(prepared, SamplerPub(wide)):
        assert prepared.options.max_parallel_threads == plain.options.max_parallel_threads


@pytest.mark.parametrize("kind", ["ends", "goes on", "resets", "branches", "is wide"])
def test_one_thread_is_for_small_circuits_that_are_simulated_once(load: Load, kind: str) -> None:
    load("sampler")
    from prepared import threads  # type: ignore[import-not-found]

    circuit = QuantumCircuit(14 if kind == "is wide" else 13, 1)
    circuit.h(0)
    if kind == "resets":
        circuit.reset(1)
    circuit.measure(0, 0)
    circuit.barrier()
    circuit.x(1)
    if kind == "goes on":
        circuit.x(0)
    if kind == "branches":
        with circuit.if_test((0, 1)):
            circuit.x(2)
    assert threads(circuit) == ({"max_parallel_threads": 1} if kind == "ends" else {})
