"""The inputs of a job that was submitted, in their wire form, and in short: nothing is decoded, no Qiskit is loaded."""

from __future__ import annotations

import json
from typing import Any

from neartime.client import RuntimeService
from neartime.codec import tags
from neartime.transport import segment

MOST = 256 << 10
"""Bytes of inputs that are fetched only to show their beginning."""
LINE = 64
"""Characters of an input that are shown: a terminal is 80 wide, and names stand before it."""
_SHORT = 40
"""Characters up to which the text of a tagged value says something: a date is shown, a circuit is named."""


class _TooMuchError(Exception):
    pass


class _Answer:
    """A sink for an answer of so many bytes at most."""

    def __init__(self, most: int | None) -> None:
        self._most, self._data = most, bytearray()

    def feed(self, chunk: bytes) -> None:
        self._data += chunk
        if self._most is not None and len(self._data) > self._most:
            raise _TooMuchError

    def finish(self) -> Any:
        return json.loads(self._data)


def encoded(runtime: RuntimeService, job_id: str, most: int | None = None) -> dict[str, Any] | None:
    """A job's inputs by name; None where they have more than `most` bytes, and are not fetched."""
    connection = runtime._connection()
    try:
        fed = connection.run(connection.transport.download(f"/jobs/{segment(job_id)}", lambda: _Answer(most)))
    except _TooMuchError:
        return None
    params: dict[str, Any] = fed.finish()["params"] if fed else {}
    return params


def brief(inputs: dict[str, Any] | None) -> str:
    """A line for each input; circuits and arrays are named by their types, and long lines are cut."""
    if inputs is None:
        return f"more than {MOST >> 10} KiB; --json shows them"
    lines = (f"{name}: {json.dumps(_plain(value), ensure_ascii=False)}" for name, value in inputs.items())
    return "\n".join(line if len(line) <= LINE else f"{line[:LINE]}…" for line in lines)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(tags.TYPE)
    if kind is None:
        return {name: _plain(one) for name, one in value.items()}
    inside = value.get(tags.VALUE)
    if kind == tags.SETTINGS or (isinstance(inside, str) and len(inside) > _SHORT):
        return f"<{value.get('__class__', kind)}>"
    return _plain(inside)
