"""A schema that a manifest declares, checked itself: a fault in it must show at upload, not at the first job."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from jsonschema.exceptions import ValidationError
from pydantic_core import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from neartime.contract.problem import Fault
from neartime.schema.check import draft_of, told
from neartime.schema.keywords import DRAFTS, OWN, UNSUPPORTED
from neartime.schema.mistakes import suggestion
from neartime.schema.names import INSIDES, PREFIX, TYPE_NAMES, TypeName, named
from neartime.schema.texts import matcher
from neartime.schema.wire import shown, step

MAX_SCHEMA: Final = 256 << 10
"""Bytes of a schema: it is looked up for every job."""
DTYPES: Final = frozenset(
    {
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
        *(
            "integer",
            "signedinteger",
            "unsignedinteger",
            "floating",
            "complexfloating",
            "inexact",
            "number",
            "character",
        ),
    }
)
"""What `dtype` may say: a type, or a kind of types, by numpy's name."""
_WORDED = frozenset({"type", "enum", "minimum", "exclusiveMinimum", "minItems", "uniqueItems", "pattern"})
"""Keywords of the schema of schemas whose faults are told in our words."""
_BESIDE = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"})
"""What may stand beside a type's name besides what it says of the insides."""
_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SINGLE = frozenset(
    {"items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "contains"}
    | {"propertyNames", "not", "if", "then", "else"}
)


def schema_faults(schema: Any, root: str) -> list[Fault]:
    """Every fault of a JSON Schema, with paths such as `manifest.schemas.inputs.properties.n.minimum`."""
    if not isinstance(schema, Mapping):
        return [Fault(path=root, message=f"expected a JSON Schema, an object, got {shown(schema)}")]
    draft = draft_of(schema)
    if draft not in DRAFTS:
        known = ", ".join(DRAFTS)
        return [Fault(path=f"{root}.$schema", message=f"{draft} is not read here; there are {known}")]
    try:
        size = len(json.dumps(schema))
    except RecursionError:
        return [Fault(path=root, message="is nested too deep")]
    except (TypeError, ValueError) as error:
        return [Fault(path=root, message=f"is no JSON: {error}; a date, for example, is written as text")]
    if size > MAX_SCHEMA:
        return [Fault(path=root, message=f"has {size} bytes, more than the {MAX_SCHEMA} that are taken")]
    try:
        if found := told(_against_draft(schema, draft), root):
            return found
        parts = list(_parts(schema, root))
    except RecursionError:
        return [Fault(path=root, message="is nested too deep")]
    resolver = Registry().resolver_with_root(DRAFT202012.create_resource(schema))
    found = [fault for path, part in parts for fault in _part_faults(path, part, resolver, part is schema)]
    keys = {key for _, part in parts for key in part}
    if "patternProperties" in keys and keys & {"unevaluatedProperties", "unevaluatedItems"}:
        message = "patternProperties and unevaluatedProperties do not go together here; use additionalProperties"
        found.append(Fault(path=root, message=message))
    return found


def _against_draft(schema: Mapping[str, Any], draft: str) -> Iterator[ValidationError]:
    """What the draft's own schema of schemas finds, in our words where there are some."""
    validator = DRAFTS[draft](DRAFTS[draft].META_SCHEMA)
    for error in validator.iter_errors(schema):
        nearest = error
        while nearest.context:
            nearest = next((one for one in nearest.context if one.validator != "type"), nearest.context[0])
        ours = OWN.get(str(nearest.validator))
        if ours is not None and nearest.validator in _WORDED:
            found = next(ours(validator, nearest.validator_value, nearest.instance, nearest.schema), nearest)
            error.message = found.message
        yield error


def _parts(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, schema) of a schema and of every schema in it."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key, value in schema.items():
        here = path + step(key)
        if key in _MAPS and isinstance(value, Mapping):
            for name, part in value.items():
                yield from _parts(part, here + step(str(name)))
        elif isinstance(value, list) and (key in _LISTS or key == "items"):
            for number, part in enumerate(value):
                yield from _parts(part, here + step(number))
        elif key in _SINGLE:
            yield from _parts(value, here)


def _part_faults(path: str, schema: Mapping[str, Any], resolver: Any, top: bool) -> Iterator[Fault]:
    if "$schema" in schema and not top:
        yield Fault(path=f"{path}.$schema", message="belongs at the top of the whole schema")
    for keyword in UNSUPPORTED.intersection(schema):
        yield Fault(path=path + step(keyword), message="is not supported; use $ref")
    if (reference := schema.get("$ref")) is not None:
        yield from _reference_faults(path, reference, schema, resolver)
    patterns = [("patternProperties", pattern) for pattern in schema.get("patternProperties", {})]
    if "pattern" in schema:
        patterns.append(("pattern", schema["pattern"]))
    for keyword, pattern in patterns:
        if message := _pattern_wrong(pattern):
            yield Fault(path=path + step(keyword), message=message)


def _pattern_wrong(pattern: str) -> str | None:
    try:
        matcher(pattern)
    except SchemaError as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("error: ")
        return f"{shown(pattern)} can't be used: {reason}"
    return None


def _reference_faults(path: str, reference: Any, schema: Mapping[str, Any], resolver: Any) -> Iterator[Fault]:
    here = path + step("$ref")
    if (name := named(reference)) is not None:
        yield from _name_faults(path, name, schema)
    elif isinstance(reference, str) and reference.startswith(PREFIX):
        near = suggestion(reference, [PREFIX + one for one in TYPE_NAMES])
        yield Fault(path=here, message=f"{reference} is no type that is known here{near}")
    elif not isinstance(reference, str) or not reference.startswith("#"):
        message = f"{shown(reference)} is elsewhere, and nothing is fetched; put what it refers to under $defs"
        yield Fault(path=here, message=message)
    else:
        try:
            resolver.lookup(reference)
        except Unresolvable:
            yield Fault(path=here, message=f"{reference} is not there")


def _name_faults(path: str, name: TypeName, schema: Mapping[str, Any]) -> Iterator[Fault]:
    for key in schema:
        if key == "$ref" or key in _BESIDE or key in name.insides:
            continue
        known = sorted(name.insides)
        says = f"there are {', '.join(known)}" if known else "it takes none"
        message = f"says nothing of a {name.name}: {says}{suggestion(key, known)}"
        if key in INSIDES or suggestion(key, known):
            yield Fault(path=path + step(key), message=message)
    for key in name.insides:
        if key in schema and (wanted := _INSIDE_WRONG[key](schema[key])):
            yield Fault(path=path + step(key), message=f"expected {wanted}, got {shown(schema[key])}")


def _not_count(value: Any) -> str | None:
    def is_count(one: Any) -> bool:
        return isinstance(one, int) and not isinstance(one, bool) and one >= 0

    if is_count(value):
        return None
    ranged = isinstance(value, Mapping) and value and set(value) <= {"minimum", "maximum"}
    if ranged and all(map(is_count, value.values())):
        return None
    return 'a number, or {"minimum": …, "maximum": …}'


def _not_shape(value: Any) -> str | None:
    whole = isinstance(value, list) and all(one is None or (isinstance(one, int) and one >= 0) for one in value)
    return None if whole else "a list of lengths, null for any"


def _not_dtype(value: Any) -> str | None:
    return None if isinstance(value, str) and value in DTYPES else f"one of {', '.join(sorted(DTYPES))}"


_INSIDE_WRONG = {
    "num_qubits": _not_count,
    "num_clbits": _not_count,
    "num_parameters": _not_count,
    "shape": _not_shape,
    "dtype": _not_dtype,
}
