"""Sampler in its first shape: a quasi-probability distribution for each circuit, its outcomes as integers."""

from __future__ import annotations

from typing import Any

import isa
import numpy as np
from qiskit.primitives.containers.sampler_pub import SamplerPub
from sampling import sample


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    parameter_values: list[Any] | None = None,
    shots: int = 4000,
    seed: int | None = None,
    resilience_level: int = 0,
) -> dict[str, Any]:
    values = parameter_values if parameter_values is not None else [[]] * len(circuits)
    if len(values) != len(circuits):
        raise ValueError(f"parameter_values: there are {len(values)} lists, and {len(circuits)} circuits")
    distributions = []
    for number, (circuit, point) in enumerate(zip(circuits, values, strict=True)):
        isa.require(circuit, backend, f"circuits[{number}]")
        pub = SamplerPub.coerce((circuit, np.asarray(point, dtype=float)), shots)
        counts = sample(backend, pub, None if seed is None else seed + number).join_data().get_int_counts()
        distributions.append({outcome: count / shots for outcome, count in sorted(counts.items())})
    return {"quasi_dists": distributions, "metadata": [{"shots": shots} for _ in circuits]}
