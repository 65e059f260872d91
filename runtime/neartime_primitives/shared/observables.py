"""Observables in the form that backends measure: sums of Paulis."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.observables_array import ObservablesArray

_PROJECTORS = {"0": ("Z", 1), "1": ("Z", -1), "+": ("X", 1), "-": ("X", -1), "r": ("Y", 1), "l": ("Y", -1)}
"""A projector on an eigenstate is half the sum of I and a Pauli, with this sign."""


def in_paulis(pub: EstimatorPub) -> EstimatorPub:
    """The PUB with projectors written out in Paulis; the same one where it has none."""
    terms = [term for one in pub.observables.ravel() for term in one]
    if not any(letter in _PROJECTORS for term in terms for letter in term):
        return pub
    written = np.empty(pub.observables.shape, dtype=object)
    for index in np.ndindex(written.shape):
        written[index] = _written_out(pub.observables[index])
    return EstimatorPub(pub.circuit, ObservablesArray(written), pub.parameter_values, pub.precision)


def spread(observables: ObservablesArray, shape: tuple[int, ...]) -> ObservablesArray:
    """Observables, broadcast to a shape."""
    held = np.empty(observables.shape, dtype=object)
    for index in np.ndindex(held.shape):
        held[index] = observables[index]
    return ObservablesArray(np.broadcast_to(held, shape).copy())


def _written_out(observable: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for term, coefficient in observable.items():
        parts = [[("I", 0.5), (_PROJECTORS[one][0], _PROJECTORS[one][1] / 2)] if one in _PROJECTORS else [(one, 1.0)]
                 for one in term]  # fmt: skip
        for chosen in itertools.product(*parts):
            pauli = "".join(letter for letter, _ in chosen)
            factor = float(np.prod([value for _, value in chosen]))
            total[pauli] = total.get(pauli, 0.0) + coefficient * factor
    return total
