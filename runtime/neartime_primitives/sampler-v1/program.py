"""Sampler in its first shape: a quasi-probability distribution for each circuit, its outcomes as integers."""

from __future__ import annotations

from typing import Any

import isa
import numpy as np
import readout
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
    if resilience_level > 1:
        raise ValueError(
            f"resilience_level: a Sampler has 0 and 1, not {resilience_level}; extrapolation and cancelling mend "
            "expectation values, which the program `estimator-v1` gives"
        )
    for number, circuit in enumerate(circuits):
        isa.require(circuit, backend, f"circuits[{number}]")
    qubits = [readout.measured_qubits(circuit) for circuit in circuits] if resilience_level else []
    used = sorted({qubit for of_circuit in qubits for qubit in of_circuit})
    errors = readout.calibrated(backend, used, seed) if used else {}
    distributions: list[dict[int, float]] = []
    metadata: list[dict[str, Any]] = []
    for number, (circuit, point) in enumerate(zip(circuits, values, strict=True)):
        pub = SamplerPub.coerce((circuit, np.asarray(point, dtype=float)), shots)
        counts = sample(backend, pub, None if seed is None else seed + number).join_data().get_int_counts()
        metadata.append({"shots": shots})
        if not resilience_level:
            distributions.append({outcome: count / shots for outcome, count in sorted(counts.items())})
            continue
        found, overhead = readout.mended(counts, qubits[number], errors)
        distributions.append(found)
        metadata[-1]["readout_mitigation_overhead"] = overhead
    return {"quasi_dists": distributions, "metadata": metadata}
