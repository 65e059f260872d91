"""Runs circuits on the backend, one after the other, and publishes the counts of each as they come."""

from __future__ import annotations

from typing import Any

from qiskit.primitives import BackendSamplerV2
from qiskit.transpiler import generate_preset_pass_manager


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    shots: int = 1024,
    optimization_level: int = 1,
    seed: int | None = None,
) -> dict[str, Any]:
    passes = generate_preset_pass_manager(optimization_level=optimization_level, backend=backend)
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": seed})
    counts: list[dict[str, int]] = []
    bits = []
    for number, circuit in enumerate(passes.run(circuits)):
        measured = sampler.run([circuit], shots=shots).result()[0].join_data()
        bits.append(measured)
        counts.append(measured.get_counts())
        user_messenger.publish({"circuit": number, "counts": counts[-1]})
    return {"counts": counts, "bits": bits}
