"""SamplerV2 with dynamical decoupling and twirling: Qiskit Runtime's own preparation, run on the backend as it is."""

from __future__ import annotations

from typing import Any

import basis
import quantum_programs
from backends import seed_of
from delivery import Delivery
from pubs import coerced
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.decoders.executor_sampler.decoder import ClientSideSamplerResultDecoder
from qiskit_ibm_runtime.executor_sampler.prepare import prepare
from qiskit_ibm_runtime.options_models import SamplerOptions


def main(
    backend: Any,
    user_messenger: Any,
    pubs: list[Any],
    options: dict[str, Any] | None = None,
    shots: int | None = None,
    stream: bool = False,
    version: int = 2,
    support_qiskit: bool = True,
) -> Any:
    options = options or {}
    chosen, seed = SamplerOptions(**options), seed_of(options)
    asked = [basis.pub_of(pub, backend) for pub in coerced(SamplerPub, pubs, shots, backend)]
    delivery = Delivery(user_messenger, len(asked), stream)
    for number, pub in enumerate(asked):
        program, _ = prepare([pub], chosen, backend=backend)
        # Two equal PUBs of a job are two samples, also where a seed makes the job repeatable.
        result = quantum_programs.run(backend, program, None if seed is None else seed + number)
        delivery.finished(ClientSideSamplerResultDecoder.decode(result)[0])
    return delivery.result()
