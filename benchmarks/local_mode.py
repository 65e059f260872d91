"""Qiskit Runtime's own primitives in its local mode, in a process of the environment that has its package.

    .venv-peers/bin/python -m benchmarks.local_mode

It prints the names of what it can run. For each name on its standard input it does that once, and prints how many
milliseconds it took.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any

SHOTS = 1024
DEVICE = {"num_qubits": 5, "coupling_map": [pair for left in range(4) for pair in ([left, left + 1], [left + 1, left])]}
"""As the server's `generic_5q`."""


def work(backend: Any) -> tuple[Any, Any]:
    """A PUB of an Estimator and one of a Sampler, laid out for a device."""
    import numpy as np
    from qiskit.circuit.library import real_amplitudes
    from qiskit.quantum_info import SparsePauliOp
    from qiskit.transpiler import generate_preset_pass_manager

    circuit = real_amplitudes(4, reps=2)
    values = np.linspace(0, 1, circuit.num_parameters)
    passes = generate_preset_pass_manager(1, backend=backend, seed_transpiler=1)
    isa, measured = passes.run([circuit, circuit.measure_all(inplace=False)])
    placed = [SparsePauliOp(term).apply_layout(isa.layout) for term in ("ZZZZ", "XXXX")]
    return (isa, placed, values), (measured, values, SHOTS)


def device() -> Any:
    from qiskit.providers.fake_provider import GenericBackendV2

    return GenericBackendV2(**DEVICE, seed=5)


def main() -> None:
    warnings.simplefilter("ignore")
    import qiskit_ibm_runtime
    from qiskit_ibm_runtime import executor_estimator

    backend = device()
    pub, bits = work(backend)
    runs: dict[str, Callable[[], Any]] = {
        "SamplerV2": lambda: qiskit_ibm_runtime.SamplerV2(backend).run([bits]),
        "EstimatorV2, level 0": lambda: qiskit_ibm_runtime.EstimatorV2(backend).run([pub]),
        "EstimatorV2, level 1": lambda: executor_estimator.EstimatorV2(backend).run([pub]),
    }
    for run in runs.values():
        run().result()
    print(json.dumps(list(runs)), flush=True)
    for line in sys.stdin:
        began = perf_counter()
        runs[line.strip()]().result()
        print((perf_counter() - began) * 1e3, flush=True)


if __name__ == "__main__":
    main()
