"""SamplerV2 with dynamical decoupling and twirling: Qiskit Runtime's own preparation, run on the backend as it is."""

from __future__ import annotations

from typing import Any

from delivery import Delivery
from pubs import coerced
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit_ibm_runtime.executor_sampler import SamplerV2


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
    sampler = SamplerV2(mode=backend, options={**(options or {}), "experimental": {"local_mode": True}})
    asked = coerced(SamplerPub, pubs, shots, backend)
    delivery = Delivery(user_messenger, len(asked), stream)
    for pub in asked:
        delivery.finished(sampler.run([pub]).result()[0])
    return delivery.result()
