"""Estimator in its first shape: a value and a variance for each circuit. Terms that commute are measured together."""

from __future__ import annotations

from typing import Any

import isa
import numpy as np
from observables import in_paulis
from qiskit.primitives import BackendEstimatorV2
from qiskit.primitives.containers.estimator_pub import EstimatorPub


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    observables: list[Any],
    parameter_values: list[Any] | None = None,
    shots: int = 4000,
    seed: int | None = None,
    resilience_level: int = 0,
) -> dict[str, Any]:
    values = parameter_values if parameter_values is not None else [[]] * len(circuits)
    if not len(values) == len(circuits) == len(observables):
        raise ValueError(
            f"there are {len(circuits)} circuits, {len(observables)} observables and {len(values)} lists of parameter "
            "values: each circuit takes one of each"
        )
    found, metadata = [], []
    for number, (circuit, observable, point) in enumerate(zip(circuits, observables, values, strict=True)):
        isa.require(circuit, backend, f"circuits[{number}]")
        pub = in_paulis(EstimatorPub.coerce((circuit, observable, np.asarray(point, dtype=float)), shots**-0.5))
        options = {"seed_simulator": None if seed is None else seed + number}
        data = BackendEstimatorV2(backend=backend, options=options).run([pub]).result()[0].data
        found.append(float(data.evs))
        metadata.append({"variance": float(data.stds) ** 2 * shots, "shots": shots})
    return {"values": np.array(found), "metadata": metadata}
