"""Estimator in its first shape: a value and a variance for each circuit. Terms that commute are measured together."""

from __future__ import annotations

from typing import Any

import basis
import isa
import mitigation
import numpy as np
from observables import in_paulis
from qiskit.primitives.containers.estimator_pub import EstimatorPub

FEW_SHOTS = 16
"""Of each randomization where noise is cancelled: all have its sign, so that more of them tell little."""
EXTRAPOLATORS = {
    "LinearExtrapolator": "linear",
    "QuadraticExtrapolator": "polynomial_degree_2",
    "CubicExtrapolator": "polynomial_degree_3",
    "QuarticExtrapolator": "polynomial_degree_4",
}
"""By their names of then, those of now."""


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    observables: list[Any],
    parameter_values: list[Any] | None = None,
    shots: int = 4000,
    seed: int | None = None,
    resilience_level: int = 0,
    resilience: dict[str, Any] | None = None,
) -> dict[str, Any]:
    values = parameter_values if parameter_values is not None else [[]] * len(circuits)
    if not len(values) == len(circuits) == len(observables):
        raise ValueError(
            f"there are {len(circuits)} circuits, {len(observables)} observables and {len(values)} lists of parameter "
            "values: each circuit takes one of each"
        )
    points = [np.asarray(point, dtype=float) for point in values]
    for number, circuit in enumerate(circuits):
        isa.require(circuit, backend, f"circuits[{number}]")
    circuits = [basis.drawable(circuit, backend) for circuit in circuits]
    options = {**_options(resilience_level, resilience or {}), "default_shots": shots}
    estimator = mitigation.Estimator(backend, {**options, "simulator": {"seed_simulator": seed}})
    estimator.learn(circuits)
    found = np.zeros(len(circuits))
    metadata: list[dict[str, Any]] = [{} for _ in circuits]
    for number, together in enumerate(_alike(circuits, points)):
        first = together[0]
        pub = EstimatorPub.coerce((circuits[first], [observables[one] for one in together], points[first]))
        measured = estimator.measured(in_paulis(pub), number)
        result = mitigation.finished(measured)
        variances = mitigation.squared_errors(measured, result.data.evs) * shots
        for place, one in enumerate(together):
            found[one] = result.data.evs[place]
            metadata[one] = {"variance": float(variances[place]), "shots": shots, **_told(result, place)}
    return {"values": found, "metadata": metadata}


def _options(level: int, asked: dict[str, Any]) -> dict[str, Any]:
    """Of an EstimatorV2, those that do what a level did."""
    if level < 2:
        return {"resilience_level": level}
    if level == 3:
        cancels = {"resilience_level": 1, "resilience": {**asked, "pec_mitigation": True}}
        return {**cancels, "twirling": {"shots_per_randomization": FEW_SHOTS}}
    extrapolator = asked.get("extrapolator", "LinearExtrapolator")
    zne = {"noise_factors": asked.get("noise_factors", (1, 3, 5)), "extrapolator": EXTRAPOLATORS[extrapolator]}
    return {"resilience_level": 2, "resilience": {"zne": zne}}


def _alike(circuits: list[Any], points: list[Any]) -> list[list[int]]:
    """Numbers of circuits that are the same, with the same values: their observables may share what is measured."""
    groups: list[list[int]] = []
    for number, (circuit, point) in enumerate(zip(circuits, points, strict=True)):
        for group in groups:
            if np.array_equal(points[group[0]], point) and circuits[group[0]] == circuit:
                group.append(number)
                break
        else:
            groups.append([number])
    return groups


def _told(result: Any, place: int) -> dict[str, Any]:
    """What a level tells beside variance and shots."""
    if "evs_noise_factors" in result.data:
        told = {"values": result.data.evs_noise_factors[place], "errors": result.data.stds_noise_factors[place]}
        return {"zne": told}
    return dict(result.metadata.get("resilience", {}))
