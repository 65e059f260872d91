"""SamplerV2 without mitigation: on Aer, all points of a PUB in one call; elsewhere as Qiskit does it on any backend."""

from __future__ import annotations

from typing import Any

import isa
from backends import is_aer, refuse, seed_of
from delivery import Delivery
from qiskit.primitives import BackendSamplerV2
from qiskit.primitives.containers import DataBin, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

DEFAULT_SHOTS = 4096
_samplers: dict[int, Any] = {}
"""Of the backends that this process has seen, by id."""


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
    coerced = [SamplerPub.coerce(pub if isinstance(pub, SamplerPub) else tuple(pub), shots) for pub in pubs]
    for number, pub in enumerate(coerced):
        isa.require(pub.circuit, backend, f"pubs[{number}]")
    seed = seed_of(options)
    delivery = Delivery(user_messenger, len(coerced), stream)
    for number, pub in enumerate(coerced):
        # Two equal PUBs of a job are two samples, also where a seed makes the job repeatable.
        delivery.finished(_run(backend, pub, None if seed is None else seed + number))
    return delivery.result()


def _run(backend: Any, pub: SamplerPub, seed: int | None) -> Any:
    if not is_aer(backend):
        return BackendSamplerV2(backend=backend, options={"seed_simulator": seed}).run([pub]).result()[0]
    if (sampler := _samplers.get(id(backend))) is None:
        from qiskit_aer.primitives import SamplerV2

        sampler = _samplers[id(backend)] = SamplerV2.from_backend(backend)
    sampler.options.run_options = {} if seed is None else {"seed_simulator": seed}
    if pub.circuit.num_parameters or not pub.shape:
        return sampler.run([pub]).result()[0]
    # Aer runs a circuit without parameters once, whatever the shape: all shots are taken of that, and dealt out.
    together = sampler.run([SamplerPub(pub.circuit, shots=pub.shots * pub.size)]).result()[0]
    dealt = {name: bits.reshape(pub.shape, pub.shots) for name, bits in together.data.items()}
    return SamplerPubResult(DataBin(**dealt, shape=pub.shape), {**together.metadata, "shots": pub.shots})
