"""EstimatorV2 without mitigation: on a simulator without noise from the state itself, elsewhere from samples."""

from __future__ import annotations

from typing import Any

from backends import is_exact, refuse, seed_of
from delivery import Delivery
from observables import in_paulis, spread
from prepared import noise_on, threads
from pubs import coerced
from qiskit.circuit import Gate
from qiskit.primitives import BackendEstimatorV2
from qiskit.primitives.containers.estimator_pub import EstimatorPub

DEFAULT_PRECISION = 0.015625
"""What 4096 shots give of an observable with the variance 1."""
_estimators: dict[int, Any] = {}
"""Of the backends that this process has seen, by id."""


def main(
    backend: Any,
    user_messenger: Any,
    pubs: list[Any],
    options: dict[str, Any] | None = None,
    precision: float | None = None,
    resilience_level: int | None = None,
    stream: bool = False,
    version: int = 2,
    support_qiskit: bool = True,
) -> Any:
    options = options or {}
    refuse(options, "estimator-mitigated")
    if precision is None:
        shots = options.get("default_shots")
        precision = shots**-0.5 if shots else options.get("default_precision", DEFAULT_PRECISION)
    exact = is_exact(backend)

    def possible(pub: EstimatorPub, path: str) -> None:
        if not pub.precision and not (exact and _is_unitary(pub.circuit)):
            raise ValueError(
                f"{path}: the precision 0 takes a simulator without noise, and a circuit of gates alone; "
                "elsewhere it would take an infinite number of shots"
            )

    asked = coerced(EstimatorPub, pubs, precision, backend, possible)
    seed = seed_of(options)
    delivery = Delivery(user_messenger, len(asked), stream)
    for number, pub in enumerate(asked):
        # Two equal PUBs of a job are two samples, also where a seed makes the job repeatable.
        of_pub = None if seed is None else seed + number
        delivery.finished(_run(backend, in_paulis(pub), of_pub, exact and _is_unitary(pub.circuit)))
    return delivery.result()


def _run(backend: Any, pub: EstimatorPub, seed: int | None, exact: bool) -> Any:
    if not exact:
        with noise_on(backend, pub):
            return BackendEstimatorV2(backend=backend, options={"seed_simulator": seed}).run([pub]).result()[0]
    if (estimator := _estimators.get(id(backend))) is None:
        from qiskit_aer.primitives import EstimatorV2

        estimator = _estimators[id(backend)] = EstimatorV2.from_backend(backend)
    chosen = threads(pub.circuit)
    estimator.options.run_options = chosen if seed is None else {**chosen, "seed_simulator": seed}
    if not pub.circuit.num_parameters and pub.parameter_values.shape:
        # Aer runs a circuit without parameters once, whatever the shape: the observables take the shape of both.
        pub = EstimatorPub(pub.circuit, spread(pub.observables, pub.shape), precision=pub.precision)
    return estimator.run([pub]).result()[0]


def _is_unitary(circuit: Any) -> bool:
    """Whether its state is one vector: no measurement, reset or branch."""
    return all(isinstance(one.operation, Gate) or one.operation.name in ("barrier", "delay") for one in circuit.data)
