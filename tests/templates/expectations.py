"""What a template's expect.toml says of a run, held against the run.

`interim` is the list of interim results; `interim-at-least`, how many there are. Below `result`, a table's keys lead to
a part of the result (of a list, its number; of an object, its attribute), and these say what that part is: `equals`,
`contains`, `length`, `at-least`, `at-most`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "equals": lambda actual, wanted: bool(actual == wanted),
    "contains": lambda actual, wanted: wanted in actual,
    "length": lambda actual, wanted: len(actual) == wanted,
    "at-least": lambda actual, wanted: bool(actual >= wanted),
    "at-most": lambda actual, wanted: bool(actual <= wanted),
}


def disappointments(expected: Mapping[str, Any], interims: Sequence[Any], result: Any) -> list[str]:
    """Whatever is not as expected, in words."""
    found = []
    if unknown := set(expected) - {"interim", "interim-at-least", "result"}:
        found.append(f"expect.toml says what nobody reads: {sorted(unknown)}")
    if "interim" in expected and list(interims) != expected["interim"]:
        found.append(f"the interim results are {interims}, not {expected['interim']}")
    if len(interims) < expected.get("interim-at-least", 0):
        found.append(f"there are {len(interims)} interim results, not at least {expected['interim-at-least']}")
    return [*found, *_parts(expected.get("result", {}), result, "result")]


def _parts(expected: Mapping[str, Any], actual: Any, path: str) -> Iterator[str]:
    for key, wanted in expected.items():
        if check := _CHECKS.get(key):
            if not check(actual, wanted):
                yield f"{path} is {actual!r}: {key} {wanted!r} does not hold"
        else:
            yield from _parts(wanted, _part(actual, key), f"{path}.{key}")


def _part(actual: Any, key: str) -> Any:
    if isinstance(actual, Mapping):
        return actual[key]
    return actual[int(key)] if key.isdigit() else getattr(actual, key)
