"""Quantum programs, which Qiskit Runtime's own preparation makes, run on the backend as it is.

An item is a circuit with its arguments, or a circuit whose arguments a samplex draws at random.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from qiskit.primitives import BackendSamplerV2
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import SamplerV2
from qiskit_ibm_runtime.fake_provider.executor.broadcast_sample import broadcast_sample
from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
from qiskit_ibm_runtime.results import QuantumProgramItemResult, QuantumProgramResult
from samplomatic.quantum_program import SamplexItem

_SIMULATED = (AerSimulator, GenericBackendV2, FakeBackendV2)
"""Backends whose run() is Aer's, so that Aer can be asked for all points of an item in one call."""
_DECIMALS = 5
"""To which a simulated angle is rounded, in quarter turns: a gate that is Clifford, but for the last bit of its angle,
is simulated as one."""
_SIDE_BY_SIDE = {"max_parallel_experiments": 0}
"""Many small circuits, as random ones are, keep the cores busy side by side; one after the other, each on all cores,
they take several times as long. The samples are the same."""
_last: tuple[Any, int | None, Any] | None = None
"""The backend of the run before, its seed, and the sampler that was made of them: a session comes back to it."""


def run(backend: Any, program: Any, seed: int | None) -> Any:
    """The `QuantumProgramResult` of a program; `seed` is of what is drawn, and on a simulator of the samples."""
    rng = np.random.default_rng(seed)
    drawn = [_drawn(item, rng) for item in program.items]
    if isinstance(backend, _SIMULATED):
        drawn = [(np.round(values / (np.pi / 2), _DECIMALS) * (np.pi / 2), beside) for values, beside in drawn]
    pubs = [
        SamplerPub(item.circuit, BindingsArray({tuple(item.circuit.parameters): values}), program.shots)
        for item, (values, _) in zip(program.items, drawn, strict=True)
    ]
    measured = _sampler(backend, seed).run(pubs).result() if pubs else []
    found = []
    for (_, beside), of_pub in zip(drawn, measured, strict=True):
        bits = {name: array.to_bool_array(order="little") for name, array in of_pub.data.items()}
        found.append(QuantumProgramItemResult({**bits, **beside}, metadata=of_pub.metadata))
    return QuantumProgramResult(found, passthrough_data=program.passthrough_data)


def _drawn(item: Any, rng: np.random.Generator) -> tuple[Any, dict[str, Any]]:
    """The values of an item's parameters, an array of the item's shape and one axis more; and what was drawn beside."""
    if not isinstance(item, SamplexItem):
        return (np.empty(0) if item.circuit_arguments is None else item.circuit_arguments), {}
    item.samplex.finalize()  # what came over the wire is not
    beside = dict(broadcast_sample(item.samplex, item.samplex_arguments, item.shape, rng))
    values = beside.pop("parameter_values", None)
    return (np.empty((*item.shape, 0)) if values is None else values), beside


def _sampler(backend: Any, seed: int | None) -> Any:
    global _last
    if _last is None or _last[0] is not backend or _last[1] != seed:
        if isinstance(backend, _SIMULATED):
            sampler = SamplerV2.from_backend(backend, seed=seed)
            sampler.options.run_options = _SIDE_BY_SIDE
        else:
            sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": seed})
        _last = backend, seed, sampler
    return _last[2]
