"""EstimatorV2 on a server's backend."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qiskit.primitives.base import BaseEstimatorV2
from qiskit.primitives.containers.estimator_pub import EstimatorPub

from neartime.primitives.options import EstimatorOptions
from neartime.primitives.primitive import Primitive, values

if TYPE_CHECKING:
    from neartime.feed import Callback
    from neartime.job import RuntimeJob


class EstimatorV2(Primitive[EstimatorOptions], BaseEstimatorV2):  # type: ignore[misc]
    """Expectation values, with or without mitigation of errors.

    estimator = EstimatorV2(mode=session, options={"resilience_level": 2})
    energies = estimator.run([(circuit, hamiltonian, values)]).result()[0].data.evs
    """

    _kind = EstimatorOptions

    def run(
        self, pubs: Iterable[Any], *, precision: float | None = None, callback: Callback | None = None
    ) -> RuntimeJob:
        """Runs PUBs: tuples of circuit, observables, parameter values and precision, as Qiskit defines them.

        Args:
            pubs: the circuits are ISA circuits of the backend, and the observables are laid out as they are; a circuit
                that is not fails the job, which names it.
            precision: of PUBs that say nothing of their own; the standard error of an expectation value.
            callback: called as `callback(job_id, {"pub": number, "result": result})` as each PUB is finished.

        Returns:
            A job whose `result()` is a `PrimitiveResult` of `PubResult` with `evs` and `stds`.

        Raises:
            ValueError: a PUB is none.
        """
        if isinstance(pubs, EstimatorPub):
            pubs = [pubs]
        coerced = [EstimatorPub.coerce(pub, precision) for pub in pubs]
        if not coerced:
            raise ValueError("pubs: there are none")
        options = self._options
        inputs: dict[str, Any] = {
            "pubs": [[pub.circuit, pub.observables, values(pub), pub.precision] for pub in coerced],
            "options": options.for_program(),
        }
        if callback is not None:
            inputs["stream"] = True
        program = "estimator"
        # The default level has nothing to do where there is no noise; what was asked for by name is done anyhow.
        if options.mitigates and (options.asks_for_mitigation or self._mode.noisy):
            program = "estimator-mitigated"
        else:
            inputs["options"].pop("resilience_level", None)
            inputs["options"].pop("resilience", None)
        return self._mode.run(program, inputs, options.for_job(), callback)
