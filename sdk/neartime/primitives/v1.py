"""Sampler and Estimator in their first shape, which Qiskit has no longer: lists in, a value for each circuit out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import Field
from qiskit import QuantumCircuit
from qiskit.result import QuasiDistribution

from neartime.connection import decode
from neartime.primitives.options import (
    Count,
    EnvironmentOptions,
    LayerNoise,
    LayerNoiseLearningOptions,
    Options,
    PecOptions,
    Sent,
    SimulatorOptions,
)
from neartime.primitives.primitive import Primitive

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from neartime.job import RuntimeJob

R = TypeVar("R", bound="_Result")


class ExecutionV1Options(Options):
    """How circuits are run."""

    shots: Count = 4000
    """Of each circuit; of an Estimator, also of each group of observables that commute."""
    init_qubits: bool = True
    """Whether each shot begins with all qubits in their ground state; a simulator has nothing to heed."""


class ResilienceV1Options(Options):
    """How an Estimator's level is done."""

    noise_factors: Sequence[Annotated[float, Field(ge=1)]] = (1, 3, 5)
    """Of level 2: how much stronger noise is made, each."""
    extrapolator: Literal["LinearExtrapolator", "QuadraticExtrapolator", "CubicExtrapolator", "QuarticExtrapolator"] = (
        "LinearExtrapolator"
    )
    """Of level 2: by which curve. It takes one noise factor more than it has degrees."""
    pec: PecOptions = PecOptions()
    """Of level 3: how it cancels."""
    layer_noise_learning: LayerNoiseLearningOptions = LayerNoiseLearningOptions()
    """Of level 3: how the noise of layers is learnt, where it is not given."""
    layer_noise_model: LayerNoise = None
    """Of level 3: the noise of layers, as a `NoiseLearner` found it. None: learnt in each job."""


class V1Options(Sent):
    """Options of a `SamplerV1` and of an `EstimatorV1`."""

    resilience_level: int | None = None
    """As the program has them: one that it has not is refused when a job is run. None: the program's default."""
    resilience: ResilienceV1Options = ResilienceV1Options()
    """How an Estimator's level is done."""
    execution: ExecutionV1Options = ExecutionV1Options()
    """How circuits are run."""
    simulator: SimulatorOptions = SimulatorOptions()
    """Of backends that simulate."""
    environment: EnvironmentOptions = EnvironmentOptions()
    """Of the job itself."""
    max_execution_time: Count | None = None
    """Seconds that a job may run; None for the program's own limit."""

    def for_program(self) -> dict[str, Any]:
        """What the program is told, beside circuits and values: shots, and all that was set."""
        told: dict[str, Any] = {"shots": self.execution.shots}
        if self.simulator.seed_simulator is not None:
            told["seed"] = self.simulator.seed_simulator
        if self.resilience_level is not None:
            told["resilience_level"] = self.resilience_level
        if asked := self.resilience.model_dump(exclude_defaults=True):
            told["resilience"] = asked
        return told


@dataclass(frozen=True)
class _Result:
    metadata: list[dict[str, Any]]
    """Of each circuit."""

    @classmethod
    def of(cls: type[R], result: Mapping[str, Any]) -> R:
        """From what the program returns, as `RuntimeService.job(id).result()` has it."""
        raise NotImplementedError

    @property
    def num_experiments(self) -> int:
        """How many circuits it is of."""
        return len(self.metadata)


@dataclass(frozen=True)
class SamplerV1Result(_Result):
    """What a `SamplerV1` found. `metadata` has the `shots` of each circuit."""

    quasi_dists: list[QuasiDistribution]
    """Of each circuit: the quasi-probability of each outcome, an integer. There is `binary_probabilities()`, too."""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> SamplerV1Result:
        metadata = list(result["metadata"])
        found = zip(result["quasi_dists"], metadata, strict=True)
        return cls(metadata, [QuasiDistribution(outcomes, shots=about.get("shots")) for outcomes, about in found])


@dataclass(frozen=True)
class EstimatorV1Result(_Result):
    """What an `EstimatorV1` found. `metadata` has the `variance` and the `shots` of each value."""

    values: NDArray[np.float64]
    """Expectation values, one for each circuit."""

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> EstimatorV1Result:
        return cls(list(result["metadata"]), np.asarray(result["values"], dtype=float))


class SamplerV1(Primitive[V1Options]):
    """Circuits to quasi-probability distributions.

    sampler = SamplerV1(mode=session, options={"execution": {"shots": 1000}})
    probabilities = sampler.run([bell, ghz]).result().quasi_dists
    """

    _kind = V1Options

    def run(
        self,
        circuits: QuantumCircuit | Iterable[QuantumCircuit],
        parameter_values: Any = None,
        *,
        shots: int | None = None,
    ) -> RuntimeJob:
        """Runs circuits, one after the other.

        Args:
            circuits: one or several, each with its measurements, ISA circuits of the backend.
            parameter_values: a list for each circuit, in the order of its parameters; of one circuit, its list does.
            shots: in place of `options.execution.shots`.

        Returns:
            A job whose `result()` is a `SamplerV1Result`.

        Raises:
            ValueError: there is not one list of as many values as it has parameters for each circuit.
            InvalidInput: a circuit measures nothing, or the program does not have that `resilience_level`.
        """
        chosen = _listed(circuits)
        inputs = {"circuits": chosen, "parameter_values": _values(chosen, parameter_values)}
        return _run(self, "sampler-v1", inputs, shots, SamplerV1Result)


class EstimatorV1(Primitive[V1Options]):
    """Circuits and observables to expectation values.

    estimator = EstimatorV1(mode=session, options={"simulator": {"seed_simulator": 7}})
    energies = estimator.run([ansatz] * 2, [hamiltonian] * 2, [[0.1], [0.2]]).result().values
    """

    _kind = V1Options

    def run(
        self,
        circuits: QuantumCircuit | Iterable[QuantumCircuit],
        observables: Any,
        parameter_values: Any = None,
        *,
        shots: int | None = None,
    ) -> RuntimeJob:
        """Runs circuits, one after the other; terms of an observable that commute share their shots.

        Args:
            circuits: one or several, without measurements, ISA circuits of the backend.
            observables: one for each circuit: a `SparsePauliOp`, a `Pauli` or its letters, laid out as the circuit is.
            parameter_values: a list for each circuit, in the order of its parameters; of one circuit, its list does.
            shots: in place of `options.execution.shots`.

        Returns:
            A job whose `result()` is an `EstimatorV1Result`.

        Raises:
            ValueError: there is not one observable for each circuit, and one list of as many values as parameters.
            InvalidInput: the program does not have that `resilience_level`.
        """
        chosen = _listed(circuits)
        # A SparsePauliOp and a Pauli are sequences, too.
        several = isinstance(observables, (list, tuple)) or (
            isinstance(observables, np.ndarray) and observables.ndim > 0
        )
        observed = list(observables) if several else [observables]
        if len(observed) != len(chosen):
            raise ValueError(f"observables: there are {len(observed)} for {len(chosen)} circuits; each takes one")
        inputs = {
            "circuits": chosen,
            "observables": observed,
            "parameter_values": _values(chosen, parameter_values),
        }
        return _run(self, "estimator-v1", inputs, shots, EstimatorV1Result)


def _listed(circuits: QuantumCircuit | Iterable[QuantumCircuit]) -> list[QuantumCircuit]:
    found = [circuits] if isinstance(circuits, QuantumCircuit) else list(circuits)
    if not found:
        raise ValueError("circuits: there are none")
    return found


def _values(circuits: Sequence[QuantumCircuit], given: Any) -> list[list[float]]:
    """A list of numbers for each circuit."""
    if given is None:
        found: list[list[float]] = [[] for _ in circuits]
    else:
        lists = [given] if len(circuits) == 1 and np.ndim(given[0] if len(given) else given) == 0 else given
        found = [np.asarray(point, dtype=float).reshape(-1).tolist() for point in lists]
    if len(found) != len(circuits):
        raise ValueError(f"parameter_values: there are {len(found)} lists for {len(circuits)} circuits; each takes one")
    for number, (circuit, point) in enumerate(zip(circuits, found, strict=True)):
        if len(point) != circuit.num_parameters:
            raise ValueError(
                f"parameter_values[{number}]: there are {len(point)}, and the circuit has {circuit.num_parameters} "
                "parameters"
            )
    return found


def _run(
    primitive: Primitive[V1Options], program: str, inputs: dict[str, Any], shots: int | None, kind: type[_Result]
) -> RuntimeJob:
    options = primitive.options
    return primitive._mode.run(
        program,
        {**inputs, **options.for_program(), **({} if shots is None else {"shots": shots})},
        options.for_job(),
        decoder=(None, lambda text: kind.of(decode(text.encode()))),
    )
