"""What a job was given, as PUBs that its backend can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import isa


def coerced(
    kind: Any,
    pubs: Iterable[Any],
    default: float | None,
    backend: Any,
    check: Callable[[Any, str], None] | None = None,
) -> list[Any]:
    """The PUBs, in the form that Qiskit gives them.

    Args:
        kind: `SamplerPub` or `EstimatorPub`.
        default: shots or precision of those that say nothing of their own.
        check: called with each PUB and where it stands, once the backend can run its circuit.

    Raises:
        ValueError: the first one that is none, or that the backend can't run, or what `check` says of it.
    """
    # All of them are coerced before one is looked at: a PUB that is none goes before a circuit that does not fit.
    found = [kind.coerce(pub if isinstance(pub, kind) else tuple(pub), default) for pub in pubs]
    for number, pub in enumerate(found):
        path = f"pubs[{number}]"
        isa.require(pub.circuit, backend, path)
        if check is not None:
            check(pub, path)
    return found
