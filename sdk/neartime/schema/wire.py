"""Encoded values as a schema sees them, and as messages show them.

Tuples, sets, numpy's numbers and members of enums are tagged on the wire, but to a schema they are the arrays, numbers
and values that they hold. What is opaque (a circuit, an array) stays the tagged object that it is.
"""

from __future__ import annotations

import json
from typing import Any

from neartime.schema.names import PREFIX, TYPE, TYPE_NAMES, VALUE

DICT, TUPLE, FROZENSET = "neartime.dict", "neartime.tuple", "neartime.frozenset"
ENUM, SCALAR, SET, TO_JSON = "neartime.enum", "neartime.scalar", "set", "to_json"
_LISTS = frozenset({TUPLE, SET, FROZENSET})
_LEAVES = frozenset({float, int, str, bool, type(None)})
_SHOWN = 60
"""Characters of a value that a message shows."""
_TAGS = {
    **{tag: one.name for one in TYPE_NAMES.values() for tag in one.tags},
    **{name: name for name in TYPE_NAMES},  # a tag that several types may have is called after its own
    DICT: "dict",
    SCALAR: "numpy scalar",
}


def is_tagged(value: object) -> bool:
    """Whether an encoded value, as `seen`, is of a type that JSON has not."""
    return isinstance(value, dict) and TYPE in value


def seen(value: Any) -> Any:
    """An encoded value as a schema sees it. What is plain JSON already is not copied."""
    kind = type(value)
    if kind is dict:
        if TYPE in value:
            return _tagged(value)
        if _LEAVES.issuperset(map(type, value.values())):
            return value
        return {key: seen(item) for key, item in value.items()}
    if kind is list:
        return value if _LEAVES.issuperset(map(type, value)) else [seen(item) for item in value]
    return value


def _tagged(value: dict[str, Any]) -> Any:
    tag, content = value[TYPE], value.get(VALUE)
    if tag in _LISTS and isinstance(content, list):
        return seen(content)
    if tag == DICT and isinstance(content, list):
        return _pairs(content, value)
    if tag == SCALAR and isinstance(content, list) and len(content) == 2:
        return content[1] if isinstance(content[1], (bool, int, float, str)) else value
    if tag == ENUM and isinstance(content, list) and len(content) == 3:
        return seen(content[2])
    if tag == TO_JSON:
        return seen(content)
    return value


def _pairs(pairs: list[Any], value: dict[str, Any]) -> Any:
    """A dictionary whose keys are not all text, with each key as the text that JSON has for it.

    One that has the key of a tag, or two keys of one text, stays as opaque as it is.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            return value
        key = seen(pair[0])
        if type(key) not in _LEAVES:
            return value
        name = key if isinstance(key, str) else json.dumps(key)
        if name in found or name == TYPE:
            return value
        found[name] = seen(pair[1])
    return found


def nodes(value: Any) -> int:
    """How many values there are in a value, itself included."""
    waiting, count = [value], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return count


def shown(value: object) -> str:
    """An encoded value in a few words, for a message."""
    if isinstance(value, dict):
        return f"a value of type {kind_of(value)}" if TYPE in value else "an object" if value else "an empty object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, str):
        return repr(value[:_SHOWN]) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):  # beyond the limit of digits, or no JSON
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def kind_of(tagged: dict[str, Any]) -> str:
    """The type of a tagged value, as a reader of Qiskit knows it."""
    tag = tagged[TYPE]
    if tag == "settings":
        return str(tagged.get("__class__"))[:_SHOWN]
    return _TAGS.get(tag, f"{tag!s:.60}") if isinstance(tag, str) else shown(tag)


def step(key: str | int) -> str:
    """One step of a path, as a reader writes it."""
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if key.replace("-", "_").removeprefix("$").isidentifier() else f"[{key[:_SHOWN]!r}]"


def expected(kinds: list[str]) -> str:
    """`a string`, `a string or null`, `an integer, an array or a QuantumCircuit`."""
    words = list(dict.fromkeys(_word(kind) for kind in kinds))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _word(kind: str) -> str:
    if kind == "null":
        return kind
    name = kind.removeprefix(PREFIX)
    return f"{'an' if name[:1] in 'aeioAEIO' or name == 'ndarray' else 'a'} {name}"
