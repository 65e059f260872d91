"""Results of PUBs on their way: those of a long job are published one by one, all of them are the job's result."""

from __future__ import annotations

import time
from typing import Any

LONG = 1.0
"""Seconds after which a job counts as long."""


class Delivery:
    """Collects the results of a job's PUBs, in their order."""

    def __init__(self, messenger: Any, count: int, stream: bool) -> None:
        """`stream`: each PUB is published when it is finished, however short the job is."""
        self._messenger = messenger
        self._count = count
        self._stream = stream
        self._began = time.monotonic()
        self._results: list[Any] = []
        self._published = 0

    def finished(self, result: Any) -> None:
        """The next PUB has a result."""
        self._results.append(result)
        long = self._count > len(self._results) and time.monotonic() - self._began > LONG
        if self._stream or long or self._published:
            for number in range(self._published, len(self._results)):
                self._messenger.publish({"pub": number, "result": self._results[number]})
            self._published = len(self._results)

    def result(self, metadata: dict[str, Any] | None = None) -> Any:
        """Of the job, once all PUBs have theirs; `metadata` beside what always is told."""
        from qiskit.primitives import PrimitiveResult

        return PrimitiveResult(self._results, metadata={**(metadata or {}), "version": 2})
