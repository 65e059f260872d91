"""EstimatorV2 with mitigation: Qiskit Runtime's own preparation and post-processing, run on the backend as it is.

PEC, and ZNE whose amplifier is PEA, need the noise of the circuits' layers: it is given, or learnt before the PUBs run.
"""

from __future__ import annotations

from typing import Any

import basis
import mitigation
from delivery import Delivery
from observables import in_paulis
from pubs import coerced
from qiskit.primitives.containers.estimator_pub import EstimatorPub


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
    chosen = dict(options or {})
    if resilience_level is not None:
        chosen["resilience_level"] = resilience_level
    mitigated = mitigation.Estimator(backend, chosen)
    asked = [basis.pub_of(pub, backend) for pub in coerced(EstimatorPub, pubs, precision, backend)]
    learnt = mitigated.learn([pub.circuit for pub in asked])
    delivery = Delivery(user_messenger, len(asked), stream)
    for number, pub in enumerate(asked):
        delivery.finished(mitigated.run(in_paulis(pub), number))
    return delivery.result({} if learnt is None else {"layer_noise_model": learnt})
