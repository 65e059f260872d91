"""EstimatorV2 with mitigation: Qiskit Runtime's own preparation and post-processing, run on the backend as it is."""

from __future__ import annotations

from typing import Any

from delivery import Delivery
from observables import in_paulis
from pubs import coerced
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit_ibm_runtime.executor_estimator import EstimatorV2


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
    chosen = {**(options or {}), "experimental": {"local_mode": True}}
    if resilience_level is not None:
        chosen["resilience_level"] = resilience_level
    estimator = EstimatorV2(mode=backend, options=chosen)
    asked = coerced(EstimatorPub, pubs, precision, backend)
    delivery = Delivery(user_messenger, len(asked), stream)
    for pub in asked:
        delivery.finished(estimator.run([in_paulis(pub)]).result()[0])
    return delivery.result()
