"""What is inside opaque values: a circuit's width, an array's shape and dtype.

A schema says it beside a type's name, in Qiskit's and numpy's words:

    {"$ref": "neartime:QuantumCircuit", "num_qubits": {"maximum": 5}}
    {"$ref": "neartime:ndarray", "shape": [null, 3], "dtype": "float64"}

Values are only asked for attributes that Qiskit and numpy give them; neither is imported here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any
from urllib.parse import unquote

from neartime.contract.problem import Fault
from neartime.schema.names import INSIDES, PREFIX, TypeName, named
from neartime.schema.wire import step

_KINDS = frozenset(
    {"integer", "signedinteger", "unsignedinteger", "floating", "complexfloating", "inexact", "number", "character"}
)
"""What a dtype may be said to be, besides one exactly: numpy's kinds of scalars."""
_NOUNS = {"num_qubits": "qubit", "num_clbits": "classical bit", "num_parameters": "parameter"}


def value_faults(values: Any, schema: Mapping[str, Any] | None, root: str = "inputs") -> list[Fault]:
    """What is wrong inside the opaque values of some inputs, which `faults` can't see in their encoded form.

    The client calls it before it sends, the runner before main(): the same faults in the same words. That a value is
    of the wrong type altogether is left to `faults`.
    """
    if schema is None or not _looks_inside(json.dumps(schema)):
        return []
    try:
        return list(_Walk(schema).visit(values, schema, root))
    except RecursionError:
        return []


@lru_cache(maxsize=256)
def _looks_inside(text: str) -> bool:
    return PREFIX in text and any(f'"{keyword}"' in text for keyword in INSIDES)


class _Walk:
    """Goes along a schema and a value together, to each of the schema's type names."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._reaching: dict[int, bool] = {}

    def visit(self, value: Any, schema: Any, path: str) -> Iterator[Fault]:
        if not isinstance(schema, Mapping) or not self._reaches(schema):
            return
        reference = schema.get("$ref")
        if (name := named(reference)) is not None:
            for message in inside(value, name, schema):
                yield Fault(path=path, message=message)
        elif (target := self._resolved(reference)) is not None:
            yield from self.visit(value, target, path)
        for branch in schema.get("allOf", ()):
            yield from self.visit(value, branch, path)
        for keyword in ("anyOf", "oneOf"):
            if branches := schema.get(keyword):
                yield from self._best(value, branches, path)
        if (members := _members(value)) is not None:
            properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
            for key, item in members:
                yield from self.visit(item, properties.get(key, rest), path + step(str(key)))
        elif isinstance(value, (list, tuple, set, frozenset)):
            yield from self._items(value, schema, path)

    def _items(self, values: Any, schema: Mapping[str, Any], path: str) -> Iterator[Fault]:
        first, rest = schema.get("prefixItems", ()), schema.get("items")
        if isinstance(rest, list):  # before 2020-12
            first, rest = rest, schema.get("additionalItems")
        if not first and (not isinstance(rest, Mapping) or not self._reaches(rest)):
            return
        for number, item in enumerate(values):
            yield from self.visit(item, first[number] if number < len(first) else rest, f"{path}[{number}]")

    def _best(self, value: Any, branches: Sequence[Any], path: str) -> Iterator[Fault]:
        """Of the branches whose type the value is, the one with the fewest faults."""
        found = [list(self.visit(value, branch, path)) for branch in branches if self._is_of(value, branch)]
        if found:
            yield from min(found, key=len)

    def _is_of(self, value: Any, branch: Any) -> bool:
        """Whether a branch is meant for such a value, as far as its type tells."""
        if not isinstance(branch, Mapping):
            return branch is True
        if (name := named(branch.get("$ref"))) is not None:
            return name.holds(value) or (name.name == "ndarray" and isinstance(value, (list, tuple)))
        if (target := self._resolved(branch.get("$ref"))) is not None:
            return self._is_of(value, target)
        kinds = branch.get("type")
        return kinds is None or any(_is_json(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))

    def _resolved(self, reference: object) -> Any:
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        target: Any = self._schema
        for part in unquote(reference[1:]).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, Mapping) or key not in target:
                return None
            target = target[key]
        return target

    def _reaches(self, schema: Mapping[str, Any]) -> bool:
        """Whether a schema may lead to a type's name: most lists of numbers are not walked."""
        known = self._reaching.get(id(schema))
        if known is None:
            known = self._reaching[id(schema)] = '"$ref"' in json.dumps(schema)
        return known


_JSON: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list, tuple, set, frozenset),
}


def _is_json(value: Any, kind: str) -> bool:
    """Whether a value is written as this type of JSON."""
    return _members(value) is not None if kind == "object" else isinstance(value, _JSON.get(kind, object))


def _members(value: Any) -> Any:
    """(name, value) of a dictionary's entries or a pydantic object's fields; None of anything else."""
    if isinstance(value, Mapping):
        return list(value.items())
    fields = getattr(type(value), "model_fields", None)
    return None if fields is None else [(name, getattr(value, name)) for name in fields]


def inside(value: Any, name: TypeName, said: Mapping[str, Any]) -> list[str]:
    """What is inside a value and not as `said`; nothing of one that is of another type."""
    if not name.holds(value):
        if (
            name.name != "ndarray"
            or not isinstance(value, (list, tuple))
            or (numpy := sys.modules.get("numpy")) is None
        ):
            return []
        try:
            value = numpy.asarray(value)
        except ValueError:
            return ["its lists are of different lengths, so that they make no array"]
    found = []
    for keyword in name.insides:
        if keyword not in said:
            continue
        actual = getattr(value, keyword, None)
        if actual is None:
            continue
        if message := _INSIDE.get(keyword, partial(_number, keyword))(actual, said[keyword]):
            found.append(message)
    return found


def _number(keyword: str, actual: int, wanted: Any) -> str | None:
    has = f"has {actual} {_NOUNS[keyword]}{'s' if actual != 1 else ''}"
    if isinstance(wanted, int):
        return None if actual == wanted else f"{has}, not {wanted}"
    least, most = wanted.get("minimum"), wanted.get("maximum")
    if least is not None and actual < least:
        return f"{has}, less than the minimum of {least}"
    if most is not None and actual > most:
        return f"{has}, more than the maximum of {most}"
    return None


def _shape(actual: Sequence[int], wanted: Sequence[int | None]) -> str | None:
    if len(actual) == len(wanted) and all(
        length is None or length == real for real, length in zip(actual, wanted, strict=True)
    ):
        return None
    return f"has shape {_tuple(list(actual))}, not {_tuple(wanted)}"


def _tuple(shape: Sequence[int | None]) -> str:
    text = ", ".join("any" if length is None else str(length) for length in shape)
    return f"({text},)" if len(shape) == 1 else f"({text})"


def _dtype(actual: Any, wanted: str) -> str | None:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    if wanted in _KINDS:
        fits = numpy.issubdtype(actual, getattr(numpy, wanted))
    else:
        fits = numpy.dtype(actual).newbyteorder("=") == numpy.dtype(wanted)
    return None if fits else f"has dtype {actual}, not {wanted}"


_INSIDE: dict[str, Callable[[Any, Any], str | None]] = {"shape": _shape, "dtype": _dtype}
