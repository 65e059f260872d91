"""A PUB's samples: on Aer, all points in one call; elsewhere as Qiskit takes them of any backend."""

from __future__ import annotations

from typing import Any

from backends import is_aer, is_exact
from prepared import noise_on, threads
from qiskit.primitives import BackendSamplerV2
from qiskit.primitives.containers import DataBin, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub

_samplers: dict[int, Any] = {}
"""Of the backends that this process has seen, by id."""


def sample(backend: Any, pub: SamplerPub, seed: int | None) -> Any:
    """The `SamplerPubResult` of a PUB."""
    with noise_on(backend, pub):
        return _sample(backend, pub, seed)


def _sample(backend: Any, pub: SamplerPub, seed: int | None) -> Any:
    if not is_aer(backend):
        return BackendSamplerV2(backend=backend, options={"seed_simulator": seed}).run([pub]).result()[0]
    if (sampler := _samplers.get(id(backend))) is None:
        from qiskit_aer.primitives import SamplerV2

        sampler = _samplers[id(backend)] = SamplerV2.from_backend(backend)
    chosen = threads(pub.circuit) if is_exact(backend) else {}
    sampler.options.run_options = chosen if seed is None else {**chosen, "seed_simulator": seed}
    if pub.circuit.num_parameters or not pub.shape:
        return sampler.run([pub]).result()[0]
    # Aer runs a circuit without parameters once, whatever the shape: all shots are taken of that, and dealt out.
    together = sampler.run([SamplerPub(pub.circuit, shots=pub.shots * pub.size)]).result()[0]
    dealt = {name: bits.reshape(pub.shape, pub.shots) for name, bits in together.data.items()}
    return SamplerPubResult(DataBin(**dealt, shape=pub.shape), {**together.metadata, "shots": pub.shots})
