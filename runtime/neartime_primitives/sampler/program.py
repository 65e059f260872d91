"""SamplerV2 without mitigation."""

from __future__ import annotations

from typing import Any

from backends import refuse, seed_of
from delivery import Delivery
from pubs import coerced
from qiskit.primitives.containers.sampler_pub import SamplerPub
from sampling import sample

DEFAULT_SHOTS = 4096


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
    refuse(options, "sampler-mitigated")
    shots = shots or options.get("default_shots") or DEFAULT_SHOTS
    asked = coerced(SamplerPub, pubs, shots, backend)
    seed = seed_of(options)
    delivery = Delivery(user_messenger, len(asked), stream)
    for number, pub in enumerate(asked):
        # Two equal PUBs of a job are two samples, also where a seed makes the job repeatable.
        delivery.finished(sample(backend, pub, None if seed is None else seed + number))
    return delivery.result()
