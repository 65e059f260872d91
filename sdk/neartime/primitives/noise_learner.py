"""NoiseLearner on a server's backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from qiskit import QuantumCircuit
from qiskit.primitives.containers.estimator_pub import EstimatorPub

from neartime.primitives.mode import Mode
from neartime.primitives.options import EstimatorOptions, LayerNoiseLearningOptions, NoiseLearnerOptions

if TYPE_CHECKING:
    from neartime.client import RuntimeService
    from neartime.feed import Callback
    from neartime.job import RuntimeJob


class NoiseLearner:
    """Learns what the layers of gates of circuits do wrong, for PEC and PEA of an Estimator.

    learnt = NoiseLearner(mode=session).run([circuit]).result()
    options.resilience.layer_noise_model = learnt
    """

    def __init__(
        self,
        mode: Any = None,
        options: NoiseLearnerOptions | EstimatorOptions | Mapping[str, Any] | None = None,
        *,
        service: RuntimeService | None = None,
    ) -> None:
        """
        Args:
            mode: a backend or its name, a `Session` or a `Batch`; None is the server's default backend.
            options: a `NoiseLearnerOptions`, or a dictionary with its keys; of an `EstimatorOptions`, what it says of
                learning.
            service: where a backend is given by name; None finds one as `RuntimeService()` does.

        Raises:
            InvalidInput: an option is none, or can't be that.
        """
        self._mode = Mode(mode, service)
        self._options = _of(options)

    @property
    def options(self) -> NoiseLearnerOptions:
        """Its options, which may be changed between runs."""
        return self._options

    @options.setter
    def options(self, options: NoiseLearnerOptions | EstimatorOptions | Mapping[str, Any]) -> None:
        self._options = _of(options)

    def run(self, circuits: Iterable[Any], *, callback: Callback | None = None) -> RuntimeJob:
        """Learns the noise of the layers that the gates of some circuits make.

        Args:
            circuits: ISA circuits of the backend, or PUBs of an Estimator, of which the circuits are taken.
            callback: called as `callback(job_id, {"layer": number, "result": error})` as each layer is learnt.

        Returns:
            A job whose `result()` is a `NoiseLearnerResult`.

        Raises:
            ValueError: there is no circuit, or what is given is none.
        """
        found = [one if isinstance(one, QuantumCircuit) else EstimatorPub.coerce(one).circuit for one in circuits]
        if not found:
            raise ValueError("circuits: there are none")
        inputs = {"circuits": found, "options": self._options.for_program()}
        return self._mode.run("noise-learner", inputs, self._options.for_job(), callback)


def _of(options: NoiseLearnerOptions | EstimatorOptions | Mapping[str, Any] | None) -> NoiseLearnerOptions:
    if not isinstance(options, EstimatorOptions):
        return NoiseLearnerOptions.of(options)
    how = options.resilience.layer_noise_learning
    return NoiseLearnerOptions(
        **{name: getattr(how, name) for name in LayerNoiseLearningOptions.model_fields},
        twirling_strategy=options.twirling.strategy,
        simulator=options.simulator,
        environment=options.environment,
        max_execution_time=options.max_execution_time,
    )
