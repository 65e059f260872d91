"""How far values may be off, by leaving out a part of what was measured at a time.

So a standard error has in it what terms that were measured together have in common, and what calibration, extrapolation
and the signs of cancelling add.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qiskit_ibm_runtime.decoders.executor_estimator.decoder import ClientSideEstimatorDecoder
from qiskit_ibm_runtime.results import QuantumProgramResult

BLOCKS = 100
"""Into which what was measured is divided: the error is then known to some seven percent."""


def squared_errors(measured: Any) -> NDArray[np.float64]:
    """The squared standard error of each expectation value of a PUB, from what was measured of it."""
    left = np.array([ClientSideEstimatorDecoder.decode(part)[0].data.evs for part in _parts(measured)])
    found: NDArray[np.float64] = (len(left) - 1) / len(left) * np.sum((left - left.mean(axis=0)) ** 2, axis=0)
    return found


def _parts(measured: Any) -> Iterator[Any]:
    """What was measured, with another block of randomizations left out each time; without any, a block of shots."""
    randomizations = [len(item["_meas"]) for item in measured]
    count = min(randomizations)
    if count == 1:
        count = min(item["_meas"].shape[-2] for item in measured)
    count = min(count, BLOCKS)
    for block in range(count):
        items = []
        for item, number in zip(measured, randomizations, strict=True):
            if number > 1:
                kept = _without(number, block, count)
                items.append({name: array[kept] for name, array in item.items()})
            else:
                kept = _without(item["_meas"].shape[-2], block, count)
                items.append({**item, "_meas": item["_meas"][..., kept, :]})
        yield QuantumProgramResult(items, passthrough_data=measured.passthrough_data)


def _without(length: int, block: int, count: int) -> NDArray[np.int64]:
    return np.flatnonzero(np.arange(length) % count != block)
