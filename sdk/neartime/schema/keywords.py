"""The keywords of JSON Schema, with messages for people and with costs that no schema can run up.

`jsonschema` walks schema and value. What it would leave to Python's backtracking `re` goes to pydantic's engine, which
is linear; its comparison of every item with every other is a set's; references are counted, since a few dozen of them
can ask for more steps than there is time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jsonschema import validators
from jsonschema.exceptions import ValidationError

from neartime.schema.mistakes import UnknownMember, is_wrong, suggestion, wrong_kind
from neartime.schema.names import TYPE, VALUE, TypeName, named
from neartime.schema.texts import matches, reads
from neartime.schema.wire import DICT, is_tagged, shown

Validator = Any
"""An object of a class that `jsonschema` made."""
Errors = Iterator[ValidationError]

FREE_REFERENCES = 10_000
"""References that are followed for any value."""
REFERENCES_PER_NODE = 20
"""References that are followed for each value in a value."""
DRAFTS = {
    "https://json-schema.org/draft/2020-12/schema": validators.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": validators.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": validators.Draft7Validator,
    "http://json-schema.org/draft-06/schema": validators.Draft6Validator,
}
"""Drafts that are read, by their `$schema`; the first, where a schema does not say. Qiskit Runtime had the second."""
_STRUCTURAL = frozenset({"properties", "patternProperties", "required", "additionalProperties", "minProperties"})


class TooManySteps(Exception):
    """A schema asks for more steps than a value of any use takes."""


class Budget(threading.local):
    """References that the validation that runs in this thread may still follow."""

    left = FREE_REFERENCES


budget = Budget()


def _reference(validator: Validator, reference: Any, instance: Any, schema: Any) -> Errors:
    if (name := named(reference)) is not None:
        if not _is_of(name, instance):
            yield wrong_kind([name.name], instance)
        return
    budget.left -= 1
    if budget.left < 0:
        raise TooManySteps
    yield from validator._validate_reference(ref=reference, instance=instance)


def _is_of(name: TypeName, instance: Any) -> bool:
    if is_tagged(instance):
        return VALUE in instance and name.fits(instance)
    for kind in name.json:
        if kind == "string" and isinstance(instance, str):
            return reads(name.name, instance)
        if kind == "number" and _is_number(instance):
            return True
        if kind == "[number]" and isinstance(instance, list) and _all_numbers(instance):
            return True
    return False


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all_numbers(values: list[Any]) -> bool:
    """Whether lists of lists, of one depth, hold only numbers, truth values and complex numbers."""
    level = values
    while level and isinstance(level[0], list):
        if not all(isinstance(item, list) for item in level):
            return False
        level = [part for item in level for part in item]
    return all(isinstance(item, (int, float)) or (is_tagged(item) and item[TYPE] == "complex") for item in level)


def _type(validator: Validator, types: Any, instance: Any, schema: Any) -> Errors:
    kinds = [types] if isinstance(types, str) else types
    if any(validator.is_type(instance, kind) for kind in kinds):
        return
    if is_tagged(instance):
        # A tagged value is an object on the wire, and so Qiskit Runtime's specs declare it; an ndarray is an array.
        if "object" in kinds and not _STRUCTURAL.intersection(schema):
            return
        if "array" in kinds and instance[TYPE] == "ndarray":
            return
    yield wrong_kind(kinds, instance)


def is_object(_: Any, instance: object) -> bool:
    return isinstance(instance, dict) and (TYPE not in instance or instance[TYPE] == DICT)


def _required(validator: Validator, names: list[str], instance: Any, schema: Any) -> Errors:
    if is_object(None, instance):
        for name in names:
            if name not in instance:
                yield ValidationError("is missing", path=[name])


def _additional(validator: Validator, allowed: Any, instance: Any, schema: Any) -> Errors:
    if not is_object(None, instance) or allowed is True:
        return
    properties = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    for name, value in instance.items():
        if name in properties or any(matches(pattern, name) for pattern in patterns):
            continue
        if allowed is False:
            missing = [one for one in properties if one not in instance]
            yield UnknownMember(suggestion(name, missing or properties), path=[name])
        else:
            yield from validator.descend(value, allowed, path=name)


def _properties(validator: Validator, properties: Mapping[str, Any], instance: Any, schema: Any) -> Errors:
    if is_object(None, instance):
        for name, subschema in properties.items():
            if name in instance and subschema is False:
                yield ValidationError("is not allowed here", path=[name])
            elif name in instance:
                yield from validator.descend(instance[name], subschema, path=name, schema_path=name)


def _pattern_properties(validator: Validator, patterns: Mapping[str, Any], instance: Any, schema: Any) -> Errors:
    if is_object(None, instance):
        for pattern, subschema in patterns.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from validator.descend(value, subschema, path=name, schema_path=pattern)


def _pattern(validator: Validator, pattern: str, instance: Any, schema: Any) -> Errors:
    # Of a long string of a large body only the beginning is there; it is of a type of its own.
    if type(instance) is str and not matches(pattern, instance):
        yield ValidationError(f"{shown(instance)} does not match the pattern {pattern}")


def frozen(value: Any) -> Any:
    """A JSON value as something hashable that is equal where JSON is: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, str) and type(value) is not str:
        return ("cut", id(value))  # the beginning of a long string of a large body: equal to no other
    if isinstance(value, list):
        return ("list", *map(frozen, value))
    if isinstance(value, dict):
        return ("dict", frozenset((key, frozen(item)) for key, item in value.items()))
    return value


def _unique(validator: Validator, wanted: bool, instance: Any, schema: Any) -> Errors:
    if not wanted or not isinstance(instance, list):
        return
    found = set()
    for number, item in enumerate(instance):
        key = frozen(item)
        if key in found:
            yield ValidationError(f"has {shown(item)} twice, the second time at [{number}]; its items must differ")
            return
        found.add(key)


def _enum(validator: Validator, values: list[Any], instance: Any, schema: Any) -> Errors:
    if frozen(instance) not in map(frozen, values):
        near = (
            suggestion(instance, [one for one in values if isinstance(one, str)]) if isinstance(instance, str) else ""
        )
        yield ValidationError(f"{shown(instance)} is none of {', '.join(map(shown, values))}{near}")


def _const(validator: Validator, value: Any, instance: Any, schema: Any) -> Errors:
    if frozen(instance) != frozen(value):
        yield ValidationError(f"{shown(instance)} is not {shown(value)}")


def _limit(beyond: Callable[[Any, Any], bool], words: str) -> Callable[..., Errors]:
    def check(validator: Validator, limit: Any, instance: Any, schema: Any) -> Errors:
        if _is_number(instance) and beyond(instance, limit):
            yield ValidationError(f"{shown(instance)} {words} {shown(limit)}")

    return check


def _multiple(validator: Validator, of: Any, instance: Any, schema: Any) -> Errors:
    if not _is_number(instance):
        return
    try:
        remainder = instance % of if isinstance(of, int) and isinstance(instance, int) else instance / of % 1
        whole = not remainder
    except (OverflowError, ZeroDivisionError):
        whole = False
    if not whole or not math.isfinite(remainder):
        yield ValidationError(f"{shown(instance)} is not a multiple of {shown(of)}")


def _size(kind: type, beyond: Callable[[int, int], bool], noun: str, words: str) -> Callable[..., Errors]:
    def check(validator: Validator, limit: int, instance: Any, schema: Any) -> Errors:
        fits = is_object(None, instance) if kind is dict else isinstance(instance, kind)
        if fits and beyond(size := len(instance), limit):
            yield ValidationError(f"has {size} {noun}{'s' if size != 1 else ''}, {words} of {limit}")

    return check


def _less(value: Any, limit: Any) -> bool:
    return bool(value < limit)


def _more(value: Any, limit: Any) -> bool:
    return bool(value > limit)


def _any_of(validator: Validator, branches: list[Any], instance: Any, schema: Any) -> Errors:
    found = []
    for number, branch in enumerate(branches):
        errors = list(validator.descend(instance, branch, schema_path=number))
        if not errors:
            return
        found.append(errors)
    yield from _nearest(found, instance)


def _one_of(validator: Validator, branches: list[Any], instance: Any, schema: Any) -> Errors:
    if (branch := _discriminated(schema, instance)) is not None:
        yield from validator.descend(instance, branch)
        return
    found, fitting = [], 0
    for number, branch in enumerate(branches):
        errors = list(validator.descend(instance, branch, schema_path=number))
        fitting += not errors
        found.append(errors)
    if fitting == 0:
        yield from _nearest(found, instance)
    elif fitting > 1:
        yield ValidationError(f"{shown(instance)} fits {fitting} of the forms that are allowed; it must fit one")


def _discriminated(schema: Mapping[str, Any], instance: Any) -> Any:
    """The form that an object's own tag names, where the schema has `discriminator`, as pydantic writes it."""
    said = schema.get("discriminator")
    if not isinstance(said, dict) or not is_object(None, instance):
        return None
    tag, mapping = instance.get(said.get("propertyName")), said.get("mapping")
    if isinstance(mapping, dict) and isinstance(tag, str) and isinstance(mapping.get(tag), str):
        return {"$ref": mapping[tag]}
    return None


def _nearest(found: list[list[ValidationError]], instance: Any) -> Errors:
    """The errors of the branch that the value was most likely meant for; of none, the types that there are."""
    near = [errors for errors in found if not any(is_wrong(error) for error in errors)]
    if near:
        yield from min(near, key=len)
        return
    kinds = [kind for errors in found for error in errors if is_wrong(error) for kind in error.kinds]
    yield wrong_kind(kinds, instance)


OWN: dict[str, Callable[..., Errors]] = {
    "$ref": _reference,
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "patternProperties": _pattern_properties,
    "pattern": _pattern,
    "uniqueItems": _unique,
    "enum": _enum,
    "const": _const,
    "minimum": _limit(_less, "is less than the minimum of"),
    "maximum": _limit(_more, "is greater than the maximum of"),
    "exclusiveMinimum": _limit(lambda value, limit: value <= limit, "is not greater than"),
    "exclusiveMaximum": _limit(lambda value, limit: value >= limit, "is not less than"),
    "multipleOf": _multiple,
    "minLength": _size(str, _less, "character", "less than the minimum"),
    "maxLength": _size(str, _more, "character", "more than the maximum"),
    "minItems": _size(list, _less, "item", "less than the minimum"),
    "maxItems": _size(list, _more, "item", "more than the maximum"),
    "minProperties": _size(dict, _less, "key", "less than the minimum"),
    "maxProperties": _size(dict, _more, "key", "more than the maximum"),
    "anyOf": _any_of,
    "oneOf": _one_of,
}
UNSUPPORTED = frozenset({"$dynamicRef", "$recursiveRef"})
"""Keywords that are refused in a declared schema."""


@lru_cache(maxsize=len(DRAFTS))
def validator_class(draft: str) -> Validator:
    """The validator of a draft, of those in `DRAFTS`, with our keywords in place of its own."""
    base = DRAFTS[draft]
    return validators.extend(  # type: ignore[no-untyped-call]
        base, OWN, type_checker=base.TYPE_CHECKER.redefine("object", is_object)
    )
