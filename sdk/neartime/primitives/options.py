"""Options of Sampler and Estimator: names and defaults are Qiskit Runtime's. One that there is not is refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from neartime.contract.problem import Fault
from neartime.errors import InvalidInput

O = TypeVar("O", bound="Options")  # noqa: E741
Count = Annotated[int, Field(ge=1)]
TwirlingStrategy = Literal["active", "active-accum", "active-circuit", "all"]
_ADVICE = {
    ("SamplerOptions", "resilience_level"): "a Sampler gives bits, and levels mend expectation values; there are "
    "twirling.enable_measure and dynamical_decoupling.enable, or an EstimatorV2",
    ("SamplerOptions", "resilience"): "a Sampler gives bits, and this mends expectation values; there are "
    "twirling.enable_measure and dynamical_decoupling.enable, or an EstimatorV2",
    ("EstimatorOptions", "optimization_level"): "circuits are run as they are; transpile them before",
    ("SamplerOptions", "optimization_level"): "circuits are run as they are; transpile them before",
    ("V1Options", "optimization_level"): "circuits are run as they are; transpile them before",
    ("V1Options", "transpilation"): "circuits are run as they are; transpile them before",
    ("V1Options", "shots"): "it is execution.shots",
    ("SimulatorOptions", "noise_model"): "a backend's noise is configured with it, by its operator",
}
"""Of options that people know from elsewhere, what to do in their place."""


class Options(BaseModel):
    """A group of options. A value that can't be raises `ValueError`; so does a name that is none."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            unknown = [cls._unknown(str(name)) for name in values if name not in cls.model_fields]
            if unknown:
                raise ValueError("; ".join(unknown))
        return values

    @classmethod
    def _unknown(cls, name: str) -> str:
        """What is wrong with a name that is no option."""
        if (advice := _ADVICE.get((cls.__name__, name))) is not None:
            return f"{name}: there is no such option: {advice}"
        near = difflib.get_close_matches(name, cls.model_fields, 1)
        known = f"did you mean {near[0]}?" if near else f"there are {', '.join(cls.model_fields)}"
        return f"{name}: there is no such option; {known}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).model_fields and not name.startswith("_"):
            raise ValueError(self._unknown(name))
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ValueError("; ".join(dict.fromkeys(_told(name, one["msg"]) for one in error.errors()))) from None

    @classmethod
    def of(cls: type[O], options: O | Mapping[str, Any] | None) -> O:
        """Such options from themselves, a dictionary or nothing.

        Raises:
            InvalidInput: with every fault and where it is.
        """
        if options is None:
            return cls()
        if isinstance(options, cls):
            return options
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            faults = [
                Fault(
                    path=".".join(["options", *(str(part) for part in one["loc"])]),
                    message=one["msg"].removeprefix("Value error, "),
                )
                for one in error.errors()
            ]
            raise InvalidInput("The options can't be used.", faults) from error


def _told(name: str, message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message if message.startswith(name) else f"{name}: {message}"


class DynamicalDecouplingOptions(Options):
    """Pulses on qubits that wait, which undo slow noise."""

    enable: bool = False
    """Whether there are any."""
    sequence_type: Literal["XX", "XpXm", "XY4"] = "XX"
    """Which pulses."""
    extra_slack_distribution: Literal["middle", "edges"] = "middle"
    """Where time goes that pulses leave over."""
    scheduling_method: Literal["alap", "asap"] = "alap"
    """Whether gates are as late as they can be, or as early."""
    skip_reset_qubits: bool = False
    """Whether qubits that wait in their ground state are left alone."""


class TwirlingOptions(Options):
    """Random Paulis around gates and measurements, which make of any noise a Pauli channel."""

    enable_gates: bool | None = None
    """Of two-qubit gates. None: as the resilience level has it; of a Sampler, no."""
    enable_measure: bool | None = None
    """Of measurements. None: as the resilience level has it; of a Sampler, no."""
    num_randomizations: Count | Literal["auto"] = "auto"
    """Different circuits of each one."""
    shots_per_randomization: Count | Literal["auto"] = "auto"
    """Of each of these."""
    strategy: TwirlingStrategy = "active-accum"
    """Which qubits of a layer are twirled."""


class ExecutionOptions(Options):
    """How a device runs circuits; a simulator has nothing to heed."""

    init_qubits: bool = True
    """Whether each shot begins with all qubits in their ground state."""
    rep_delay: float | None = None
    """Seconds between shots; None for the device's default."""


class SamplerExecutionOptions(ExecutionOptions):
    """How a device runs a Sampler's circuits."""

    meas_type: Literal["classified"] = "classified"
    """What a measurement gives: bits."""


class SimulatorOptions(Options):
    """Of backends that simulate."""

    seed_simulator: int | None = None
    """The same seed with the same PUBs gives the same samples."""


class EnvironmentOptions(Options):
    """Of the job itself."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"
    """From which level on its log is kept."""
    job_tags: list[str] = []
    """Tags that it can be found by."""


class ZneOptions(Options):
    """Zero-noise extrapolation."""

    amplifier: Literal["gate_folding", "gate_folding_front", "gate_folding_back", "pea"] = "gate_folding"
    """How noise is made stronger: by more gates, or, as `pea`, by random errors like those learnt of the layers."""
    noise_factors: Sequence[Annotated[float, Field(ge=1)]] | Literal["auto"] = "auto"
    """How much stronger, each; `auto` is 1, 3, 5."""
    extrapolator: Any = ("exponential", "linear")
    """By which curves, the first that fits: exponential, double_exponential, linear, polynomial_degree_(1 to 7),
    fallback."""
    extrapolated_noise_factors: Sequence[Annotated[float, Field(ge=0)]] | Literal["auto"] = "auto"
    """Where the curves are read; `auto` is 0 and the noise factors."""


class MeasureNoiseLearningOptions(Options):
    """How measurement mitigation learns the noise."""

    num_randomizations: Count | Literal["auto"] = "auto"
    """Different circuits that it learns from."""


class PecOptions(Options):
    """Probabilistic error cancellation."""

    max_overhead: Annotated[float, Field(gt=0)] | None = 100
    """How many times as many circuits it may run as without it; None for any number. Less noise is cancelled then."""
    noise_gain: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """How much of the noise is left: 0 none, 1 all; `auto` is as little as `max_overhead` allows."""


class LayerNoiseLearningOptions(Options):
    """How the noise of layers is learnt, for PEC and the amplifier `pea`."""

    max_layers_to_learn: Annotated[int, Field(ge=0)] | None = 4
    """Different layers, the most frequent ones; others are taken to be without noise. None for all."""
    shots_per_randomization: Count = 128
    """Of each random circuit."""
    num_randomizations: Count = 32
    """Random circuits of each depth and basis."""
    layer_pair_depths: Sequence[Annotated[int, Field(ge=0)]] = (0, 1, 2, 4, 16, 32)
    """How often a layer is repeated, in pairs."""


def _layers(value: Any) -> Any:
    """A list of `LayerError` from what a noise learner gives; raises ValueError where it is none."""
    if value is None:
        return None
    from neartime.layers import LayerError

    layers = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(layer, LayerError) for layer in layers):
        raise ValueError("it is neither the result of a NoiseLearner nor a list of LayerErrors")
    return layers


LayerNoise = Annotated[Any, AfterValidator(_layers)]


class ResilienceOptions(Options):
    """Mitigation, each kind on its own."""

    measure_mitigation: bool | None = None
    """Of readout errors (TREX). None: as the resilience level has it."""
    measure_noise_learning: MeasureNoiseLearningOptions = MeasureNoiseLearningOptions()
    """How it learns."""
    zne_mitigation: bool | None = None
    """Zero-noise extrapolation. None: as the resilience level has it."""
    zne: ZneOptions = ZneOptions()
    """How it extrapolates."""
    pec_mitigation: bool = False
    """Probabilistic error cancellation, in place of extrapolation."""
    pec: PecOptions = PecOptions()
    """How it cancels."""
    layer_noise_learning: LayerNoiseLearningOptions = LayerNoiseLearningOptions()
    """How the noise of layers is learnt, where it is needed and not given."""
    layer_noise_model: LayerNoise = None
    """The noise of layers, as a `NoiseLearner` found it: its result, or `LayerError`s. None: learnt in each job."""


class Sent(Options):
    """Options of a job: some are its program's, some the server's."""

    if TYPE_CHECKING:
        environment: EnvironmentOptions
        max_execution_time: int | None

    _of_job: ClassVar[set[str]] = {"environment", "max_execution_time"}

    def for_program(self) -> dict[str, Any]:
        """What the program is told: all that was set."""
        return self.model_dump(exclude=self._of_job, exclude_defaults=True)

    def for_job(self) -> dict[str, Any]:
        """What the server is told, as `RuntimeOptions` has it."""
        found: dict[str, Any] = {"log_level": self.environment.log_level}
        if self.environment.job_tags:
            found["job_tags"] = self.environment.job_tags
        if self.max_execution_time is not None:
            found["max_execution_time"] = self.max_execution_time
        return found


class _Shared(Sent):
    default_shots: Count | None = None
    """Of PUBs and runs that say nothing of their own."""
    dynamical_decoupling: DynamicalDecouplingOptions = DynamicalDecouplingOptions()
    """Pulses on qubits that wait."""
    twirling: TwirlingOptions = TwirlingOptions()
    """Random Paulis around gates and measurements."""
    simulator: SimulatorOptions = SimulatorOptions()
    """Of backends that simulate."""
    environment: EnvironmentOptions = EnvironmentOptions()
    """Of the job itself."""
    max_execution_time: Count | None = None
    """Seconds that a job may run; None for the program's own limit."""

    @property
    def suppresses(self) -> bool:
        """Whether decoupling or twirling is asked for."""
        return bool(self.dynamical_decoupling.enable or self.twirling.enable_gates or self.twirling.enable_measure)


class SamplerOptions(_Shared):
    """Options of a `SamplerV2`."""

    default_shots: Count | None = 4096
    """Of PUBs and runs that say nothing of their own."""
    execution: SamplerExecutionOptions = SamplerExecutionOptions()
    """How a device runs circuits."""

    @property
    def program(self) -> str:
        """Name of the program that does what is asked for."""
        return "sampler-mitigated" if self.suppresses else "sampler"


class NoiseLearnerOptions(LayerNoiseLearningOptions, Sent):
    """Options of a `NoiseLearner`."""

    twirling_strategy: TwirlingStrategy = "active-accum"
    """Which qubits belong to a layer: as `twirling.strategy` of the Estimator that it is for."""
    simulator: SimulatorOptions = SimulatorOptions()
    """Of backends that simulate."""
    environment: EnvironmentOptions = EnvironmentOptions()
    """Of the job itself."""
    max_execution_time: Count | None = None
    """Seconds that a job may run; None for the program's own limit."""


class EstimatorOptions(_Shared):
    """Options of an `EstimatorV2`."""

    default_precision: Annotated[float, Field(ge=0)] = 0.015625
    """Standard error of expectation values, of PUBs and runs that say nothing of their own; what 4096 shots give."""
    default_shots: Count | None = None
    """In place of `default_precision`, its shots."""
    execution: ExecutionOptions = ExecutionOptions()
    """How a device runs circuits."""
    resilience_level: int = 1
    """0: no mitigation. 1: of readout errors. 2: twirling of gates and zero-noise extrapolation, too."""
    resilience: ResilienceOptions = ResilienceOptions()
    """Mitigation, each kind on its own."""

    @model_validator(mode="after")
    def _level(self) -> EstimatorOptions:
        self._go_together()
        return self

    def _go_together(self) -> None:
        if self.resilience_level == 3:
            raise ValueError("resilience_level: 3 was V1's; what it did is resilience.pec_mitigation in V2")
        if self.resilience_level not in (0, 1, 2):
            raise ValueError(f"resilience_level: {self.resilience_level} is none of 0, 1, 2")
        resilience = self.resilience
        extrapolates = resilience.zne_mitigation or (resilience.zne_mitigation is None and self.resilience_level == 2)
        if resilience.pec_mitigation and extrapolates:
            raise ValueError("resilience.pec_mitigation: it takes the place of extrapolation, which level 2 has: set "
                             "resilience_level=1, or resilience.zne_mitigation=False")  # fmt: skip

    def for_program(self) -> dict[str, Any]:
        """What the program is told: all that was set.

        Raises:
            InvalidInput: what was set, one after the other, does not go together.
        """
        try:
            self._go_together()
        except ValueError as error:
            raise InvalidInput("The options can't be used.", [Fault(path="options", message=str(error))]) from None
        return super().for_program()

    @property
    def asks_for_mitigation(self) -> bool:
        """Whether anything was asked for by name, beyond the level that is there by default."""
        resilience = self.resilience
        named = resilience.measure_mitigation or resilience.zne_mitigation or resilience.pec_mitigation
        return bool(named or self.suppresses or ("resilience_level" in self.model_fields_set and self.resilience_level))

    @property
    def mitigates(self) -> bool:
        """Whether anything is to be done against errors, by level or by name."""
        resilience, twirling = self.resilience, self.twirling
        switches = [resilience.measure_mitigation, twirling.enable_measure]
        if self.resilience_level == 2:
            switches += [resilience.zne_mitigation, twirling.enable_gates]
        by_level = self.resilience_level > 0 and any(one is not False for one in switches)
        return (
            by_level or self.resilience.pec_mitigation or bool(self.asks_for_mitigation and self.resilience_level == 0)
        )
