"""Which versions of QPY, the wire form of circuits, this environment reads and writes."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path

OLDEST_QPY = 13
"""Older ones hold text that Qiskit evaluated on reading."""

_STATED = re.compile(r"^QPY_VERSION = (\d+)$", re.MULTILINE)


@lru_cache(maxsize=1)
def readable_qpy_version() -> int | None:
    """The highest version of QPY that the installed Qiskit reads and writes; None where there is no Qiskit.

    Qiskit is not imported for it, where its source tells: that takes half a second, and a client that only sends
    numbers has no other use for it.
    """
    if "qiskit.qpy" not in sys.modules:
        spec = importlib.util.find_spec("qiskit")
        if spec is None or spec.origin is None:
            return None
        source = Path(spec.origin).parent / "qpy" / "common.py"
        if source.is_file() and (stated := _STATED.search(source.read_text("utf-8"))):
            return int(stated[1])
    from qiskit.qpy import QPY_VERSION

    return int(QPY_VERSION)
