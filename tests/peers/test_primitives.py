"""Primitives beside the genuine ones: the same options, the same results, read by the genuine decoder."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import PrimitiveResult, StatevectorEstimator
from qiskit.providers import BackendV2, Options
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Pauli, PauliLindbladMap, PauliList, QubitSparsePauli, SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel
from qiskit_aer.noise import PauliLindbladError as AerError
from qiskit_ibm_runtime import RuntimeDecoder, options_models
from qiskit_ibm_runtime.decoders.noise_learner import NoiseLearnerResultDecoder
from qiskit_ibm_runtime.options.layer_noise_learning_options import LayerNoiseLearningOptions
from qiskit_ibm_runtime.options.noise_learner_options import NoiseLearnerOptions as GenuineNoiseLearnerOptions
from qiskit_ibm_runtime.results.noise_learner import NoiseLearnerResult as GenuineNoiseLearnerResult

import neartime_primitives
from neartime.codec import encode
from neartime.layers import LayerError, PauliLindbladError
from neartime.primitives import EstimatorOptions, NoiseLearnerOptions, SamplerOptions


def options_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its default."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from options_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(SamplerOptions, options_models.SamplerOptions), (EstimatorOptions, options_models.EstimatorOptions)],
)
def test_every_option_is_a_genuine_one_with_the_same_default(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    genuine = dict(options_of(theirs))
    learning = "resilience.layer_noise_learning."
    """The newer classes have no such options, since they learn nothing; those of the older ones tell no defaults."""
    named = {field.name for field in fields(LayerNoiseLearningOptions)}
    different = {name: default for name, default in options_of(ours) if genuine.get(name, "none") != default}
    assert {name for name in different if name.removeprefix(learning) not in named} == set()


def test_options_of_a_noise_learner_are_genuine_ones_with_the_same_defaults() -> None:
    genuine = dict(options_of(options_models.NoiseLearnerV3Options))
    ours = {name: default for name, default in options_of(NoiseLearnerOptions) if name in genuine}
    assert {**ours, "layer_pair_depths": list(ours["layer_pair_depths"])}.items() <= genuine.items()
    groups = {name.partition(".")[0] for name, _ in options_of(NoiseLearnerOptions)}
    assert groups <= {field.name for field in fields(GenuineNoiseLearnerOptions)}


def program(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(neartime_primitives.assemble(name, folder)))
    try:
        sys.modules.pop("program", None)
        import program  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return program


class Messenger:
    def __init__(self) -> None:
        self.said: list[Any] = []

    def publish(self, message: Any) -> None:
        self.said.append(message)


RATES = {"XI": 0.02, "IX": 0.012, "YZ": 0.008}
"""Of a channel that a pair of CNOTs does not hide: each is told apart, or its sum with what the gate makes of it."""


def noisy(rates: dict[str, float], readout: float) -> AerSimulator:
    """A simulator whose CNOTs have an error that is known."""
    model = NoiseModel(basis_gates=["cx", "rz", "sx", "x"])
    if rates:
        model.add_all_qubit_quantum_error(AerError(PauliList(list(rates)), list(rates.values())), ["cx"])
    flips = [[1 - readout, readout], [readout, 1 - readout]]
    model.add_all_qubit_readout_error(flips)
    return AerSimulator(noise_model=model, coupling_map=[[0, 1], [1, 0]], n_qubits=2)


def fidelities(rates: dict[str, float]) -> dict[str, float]:
    """What a pair of layers leaves of each Pauli: the product of two of its own and of what a CNOT makes of it."""
    lindblad = PauliLindbladMap.from_list(list(rates.items()), num_qubits=2)
    cnot = QuantumCircuit(2)
    cnot.cx(0, 1)
    found = {}
    for letters in itertools.product("IXYZ", repeat=2):
        label = "".join(letters)
        after = Pauli(label).evolve(cnot, frame="s").to_label().lstrip("-")
        sparse = [QubitSparsePauli.from_label(one) for one in (label, after)]
        found[label] = float(np.prod([lindblad.pauli_fidelity(one) for one in sparse]))
    return found


def test_what_is_learnt_is_the_noise_that_there_is(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    messenger = Messenger()
    options = {"simulator": {"seed_simulator": 1}, "layer_pair_depths": [0, 1, 2, 4, 8]}
    result = program("noise-learner", tmp_path).main(noisy(RATES, 0.02), messenger, [circuit], options)
    assert [one["result"] for one in messenger.said] == list(result)
    labels, rates = result[0].error.generators.to_labels(), result[0].error.rates
    assert rates.sum() == pytest.approx(sum(RATES.values()), rel=0.1)
    # A fidelity alone is not to be learnt, by anybody; that of a pair is.
    learnt, exact = fidelities(dict(zip(labels, rates, strict=True))), fidelities(RATES)
    assert learnt == pytest.approx(exact, abs=0.012)
    read = NoiseLearnerResultDecoder.decode(encode(result).decode())
    assert isinstance(read, GenuineNoiseLearnerResult)
    assert read[0].error.generators.to_labels() == labels
    np.testing.assert_array_equal(read[0].error.rates, rates)
    assert (read[0].qubits, read[0].circuit) == ([0, 1], result[0].circuit)
    assert NoiseLearnerResultDecoder.is_applicable(encode(result).decode())


def test_pec_gives_the_value_without_noise_and_an_error_that_is_true(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.rx(0.3, 0)
    for qubits in ([0, 1], [1, 0], [0, 1]):
        circuit.cx(*qubits)
    observables = ["ZZ", "ZI"]
    backend = noisy(RATES, 0.03)
    isa = generate_preset_pass_manager(1, backend=backend, initial_layout=[1, 0]).run(circuit)
    placed = [SparsePauliOp(one).apply_layout(isa.layout) for one in observables]
    exact = StatevectorEstimator().run([(circuit, observables)], precision=0).result()[0].data.evs
    estimator = program("estimator-mitigated", tmp_path)
    known = PauliLindbladMap.from_list(list(RATES.items()))
    gate = QuantumCircuit(2)
    gate.cx(0, 1)
    # The noise is the gate's, whichever way round it is on the device.
    layers = [LayerError(gate, qubits, PauliLindbladError.of_map(known)) for qubits in ([0, 1], [1, 0])]

    def off(resilience: dict[str, Any], seed: int) -> Any:
        options = {
            "resilience_level": 1,
            "resilience": resilience,
            "simulator": {"seed_simulator": seed},
            "twirling": {"num_randomizations": 300, "shots_per_randomization": 4},
        }
        data = estimator.main(backend, Messenger(), [(isa, placed)], options)[0].data
        return data.evs - exact, data.stds

    times = 5
    raw = np.mean([off({}, seed)[0] for seed in range(times)], axis=0)
    mitigated = [off({"pec_mitigation": True, "layer_noise_model": layers}, seed) for seed in range(times)]
    mean, stated = np.mean([one for one, _ in mitigated], axis=0), np.mean([std for _, std in mitigated], axis=0)
    assert np.all(np.abs(raw) > 0.05)
    assert np.all(np.abs(mean) < 4 * stated / np.sqrt(times))
    # The stated errors are those that there are, as far as a few samples can tell.
    assert np.all(np.std([one for one, _ in mitigated], axis=0) < 2.5 * stated)


def test_the_error_of_a_sum_knows_that_its_terms_have_one_sign(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    rates = {"ZI": 0.02, "ZZ": 0.02}
    """What cancels them changes no bit: both terms have the sign, and nothing else."""
    layer = LayerError(circuit, [0, 1], PauliLindbladError(PauliList(list(rates)), list(rates.values())))
    options = {
        "resilience": {"pec_mitigation": True, "layer_noise_model": [layer]},
        "twirling": {"num_randomizations": 1000, "shots_per_randomization": 8},
        "simulator": {"seed_simulator": 1},
    }
    pub = (circuit, ["ZI", "IZ", {"ZI": 1, "IZ": 1}])
    result = program("estimator-mitigated", tmp_path).main(noisy(rates, 0.01), Messenger(), [pub], options)
    first, second, both = result[0].data.stds
    # Of terms that are independent, it would be 0.7 of the sum.
    assert 0.85 * (first + second) < both < 1.01 * (first + second)


@pytest.mark.parametrize(
    "resilience", [{"pec_mitigation": True}, {"zne_mitigation": True, "zne": {"amplifier": "pea"}}]
)
def test_a_circuit_without_layers_has_nothing_to_cancel(tmp_path: Path, resilience: dict[str, Any]) -> None:
    circuit = QuantumCircuit(2)
    circuit.x(0)
    options = {"resilience": resilience, "simulator": {"seed_simulator": 1}}
    result = program("estimator-mitigated", tmp_path).main(noisy({}, 0.02), Messenger(), [(circuit, "IZ")], options)
    assert result[0].data.evs == pytest.approx(-1, abs=0.02)
    assert len(result.metadata["layer_noise_model"]) == 0


GATES: dict[str, Callable[[QuantumCircuit, Parameter], Any]] = {
    "ry": lambda circuit, angle: circuit.ry(angle, 0),
    "p": lambda circuit, angle: circuit.p(angle, 0),
    "u": lambda circuit, angle: circuit.u(angle, 0.2, angle / 2, 1),
    "crx": lambda circuit, angle: circuit.crx(angle, 0, 1),
    "rxx": lambda circuit, angle: circuit.rxx(angle, 1, 0),
    "swap": lambda circuit, angle: (circuit.rx(angle, 0), circuit.swap(0, 1)),
    "unitary": lambda circuit, angle: (circuit.rz(angle, 0), circuit.unitary(np.fliplr(np.eye(4)), [0, 1])),
}
"""Which a simulator takes, and Qiskit Runtime's preparation does not."""


@pytest.mark.parametrize("gate", list(GATES))
def test_gates_of_a_simulator_that_are_not_drawn_at_random_are_written_in_others(gate: str, tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    GATES[gate](circuit, Parameter("angle"))
    circuit.cx(0, 1)
    pub = (circuit, ["ZZ", "XI", "YX"], [0.7])
    exact = StatevectorEstimator().run([pub], precision=0).result()[0].data.evs
    backend, seeded = AerSimulator(), {"simulator": {"seed_simulator": 2}, "default_precision": 0.005}
    estimator = program("estimator-mitigated", tmp_path / "v2")
    for options in ({"resilience_level": 1}, {"resilience_level": 2}, {"twirling": {"enable_gates": True}}):
        found = estimator.main(backend, Messenger(), [pub], {**options, **seeded})[0].data
        assert np.allclose(found.evs, exact, atol=0.1), options
    first = program("estimator-v1", tmp_path / "v1")
    found = first.main(backend, Messenger(), [circuit] * 3, pub[1], [pub[2]] * 3, seed=2)
    assert np.allclose(found["values"], exact, atol=0.1)
    measured = circuit.measure_all(inplace=False)
    sampler = program("sampler-mitigated", tmp_path / "sampler")
    twirled = {"twirling": {"enable_gates": True}, "simulator": seeded["simulator"]}
    bits = sampler.main(backend, Messenger(), [(measured, [0.7], 4000)], twirled)
    assert bits[0].data.meas.expectation_values("ZZ") == pytest.approx(exact[0], abs=0.1)


def test_an_error_where_no_sign_was_negative_is_what_signs_can_add(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    rates = {"ZI": 0.01}
    layer = LayerError(circuit, [0, 1], PauliLindbladError(PauliList(list(rates)), list(rates.values())))
    for seed in range(6):
        options = {
            "resilience": {"pec_mitigation": True, "layer_noise_model": [layer]},
            "twirling": {"num_randomizations": 20, "shots_per_randomization": 200},
            "simulator": {"seed_simulator": seed},
        }
        estimator = program("estimator-mitigated", tmp_path / str(seed))
        result = estimator.main(noisy(rates, 0.0), Messenger(), [(circuit, "ZI")], options)
        gamma = result[0].metadata["resilience"]["pec"]["gamma"]
        assert gamma == pytest.approx(np.exp(0.02))
        error = np.sqrt((gamma**2 - 1) / 20)
        assert result[0].data.stds > 0.9 * error
        assert abs(result[0].data.evs - 1) < 4 * result[0].data.stds


class Machine(BackendV2):
    """A device that nobody knows to be simulated."""

    def __init__(self) -> None:
        super().__init__(name="machine")
        self._device = GenericBackendV2(2, seed=1)
        self.ran = 0

    @property
    def target(self) -> Any:
        return self._device.target

    @property
    def max_circuits(self) -> None:
        return None

    @classmethod
    def _default_options(cls) -> Options:
        return Options(shots=1024, memory=False, seed_simulator=None)

    def run(self, run_input: Any, **options: Any) -> Any:
        self.ran += len(run_input)
        return self._device.run(run_input, **options)


def test_a_device_itself_runs_what_is_mitigated(tmp_path: Path) -> None:
    machine = Machine()
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    learning = {"num_randomizations": 2, "layer_pair_depths": [0, 2]}
    learnt = program("noise-learner", tmp_path).main(machine, Messenger(), [circuit], learning)
    after = machine.ran
    assert after >= 2 * 9 * 2
    options = {
        "resilience": {"pec_mitigation": True, "layer_noise_model": learnt},
        "twirling": {"num_randomizations": 10, "shots_per_randomization": 50},
    }
    result = program("estimator-mitigated", tmp_path).main(machine, Messenger(), [(circuit, "ZZ")], options)
    assert result[0].data.evs == pytest.approx(1, abs=0.3)
    # As many of its own as PEC takes, and ten that calibrate the readout.
    assert machine.ran - after == result[0].metadata["resilience"]["pec"]["num_randomizations"] + 10
    after = machine.ran
    measured = circuit.measure_all(inplace=False)
    twirled = {"twirling": {"enable_gates": True, "num_randomizations": 5}}
    bits = program("sampler-mitigated", tmp_path).main(machine, Messenger(), [(measured, None, 100)], twirled)[0].data
    assert (machine.ran - after, bits.meas.num_shots) == (5, 100)


def test_the_genuine_decoder_reads_results_of_primitives(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    measured = circuit.measure_all(inplace=False)
    backend, options = AerSimulator(), {"simulator": {"seed_simulator": 1}}
    result = program("sampler", tmp_path).main(backend, None, [(measured, None, 100)], options)
    read = json.loads(encode(result), cls=RuntimeDecoder)
    assert isinstance(read, PrimitiveResult)
    assert read[0].data.meas.get_counts() == result[0].data.meas.get_counts()
    result = program("estimator", tmp_path).main(backend, None, [(circuit, [["ZZ"], ["XX"]])], options)
    read = json.loads(encode(result), cls=RuntimeDecoder)
    np.testing.assert_array_equal(read[0].data.evs, result[0].data.evs)
    np.testing.assert_array_equal(read[0].data.stds, result[0].data.stds)
