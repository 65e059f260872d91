"""A declared manifest, checked: every fault at once, in the words of whoever wrote its program.toml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from neartime.contract.problem import Fault
from neartime.contract.programs import Manifest
from neartime.errors import PackagingError
from neartime.schema.declared import schema_faults
from neartime.schema.mistakes import suggestion
from neartime.schema.requirements import python_faults, requirement_faults
from neartime.schema.wire import shown, step

ROOT = "manifest"
_LIMITS = {
    "greater_than_equal": "{value} is less than the minimum of {ge:g}",
    "less_than_equal": "{value} is greater than the maximum of {le:g}",
    "greater_than": "{value} is not greater than {gt:g}",
    "less_than": "{value} is not less than {lt:g}",
}
_KINDS = {
    "string_": "a string",
    "int_": "an integer",
    "float_": "a number",
    "bool_": "true or false",
    "list_": "an array",
    "dict_": "an object",
    "model_": "an object",
}
"""What pydantic wanted, by the beginning of its name for the error."""
_PATTERNS = {
    "name": "small letters, digits, '-', '_' and '.', at most 63, the first a letter or digit",
    "memory": "a number and a unit, such as 512Mi or 2Gi",
}
_SCHEMAS = ("inputs", "interim", "result")


def manifest_faults(declared: Any) -> list[Fault]:
    """Every fault of a manifest, as JSON: paths such as `manifest.requirements[2]`, with keys as they were written.

    Keys may be written with dashes or with underscores. A requirement that no environment can have is an
    `UnsupportedRequirement`.
    """
    if not isinstance(declared, Mapping):
        return [Fault(path=ROOT, message=f"expected an object, got {shown(declared)}")]
    found = [*_model_faults(declared), *_own_faults(declared)]
    return list({(fault.path, fault.message): fault for fault in found}.values())


def read_manifest(declared: Mapping[str, Any]) -> Manifest:
    """The manifest of a declaration.

    Raises:
        PackagingError: it has faults; `manifest_faults` names them.
    """
    try:
        return Manifest.model_validate(declared)
    except ValidationError as error:
        raise PackagingError("The manifest has faults.", manifest_faults(declared)) from error


def _model_faults(declared: Mapping[str, Any]) -> Iterator[Fault]:
    try:
        Manifest.model_validate(declared)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            location = one["loc"]
            if location[0] == "requirements":
                continue  # looked at one by one, in their own words
            yield Fault(path=_path(location, declared), message=_message(one, location))


def _own_faults(declared: Mapping[str, Any]) -> Iterator[Fault]:
    if "requirements" in declared:
        yield from requirement_faults(declared["requirements"])
    yield from python_faults(declared.get("python"))
    schemas = declared.get("schemas")
    if isinstance(schemas, Mapping):
        for part in _SCHEMAS:
            if schemas.get(part) is not None and isinstance(schemas[part], Mapping):
                yield from schema_faults(schemas[part], f"{ROOT}.schemas.{part}")
        yield from _inputs_faults(schemas.get("inputs"))
    if declared.get("kind") == "function" and not (declared.get("pickled-with") or declared.get("pickled_with")):
        yield Fault(path=f"{ROOT}.pickled-with", message="is missing: what wrote the pickle of the function")


def _inputs_faults(schema: Any) -> Iterator[Fault]:
    """Inputs come by name, so their schema must be of an object."""
    if not isinstance(schema, Mapping) or "type" not in schema:
        return
    kind = schema["type"]
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        message = f"is of {shown(kind)}, but inputs are an object: each of main()'s inputs by its name"
        yield Fault(path=f"{ROOT}.schemas.inputs.type", message=message)


def _path(location: tuple[int | str, ...], declared: Any) -> str:
    """A place in the manifest, its keys as they were written."""
    path, value = ROOT, declared
    for key in location:
        if isinstance(key, str) and isinstance(value, Mapping):
            other = key.replace("-", "_")
            key = key if key in value or other not in value else other
            value = value.get(key)
        elif isinstance(key, int) and isinstance(value, list) and key < len(value):
            value = value[key]
        else:
            value = None
        path += step(key)
    return path


def _message(error: Any, location: tuple[int | str, ...]) -> str:
    kind, value = error["type"], shown(error["input"])
    if kind == "extra_forbidden":
        known = _keys(location[:-1])
        near = suggestion(str(location[-1]).replace("_", "-"), known)
        there = f"; there are {', '.join(known)}" if len(location) > 1 else ""
        return f"is not a key of the manifest{near or there}"
    if kind == "missing":
        return "is missing"
    if kind in _LIMITS:
        return _LIMITS[kind].format(value=value, **error["ctx"])
    if kind == "string_pattern_mismatch":
        return f"{value} is not of the right form: {_PATTERNS.get(str(location[-1]), error['ctx']['pattern'])}"
    if (wanted := next((words for start, words in _KINDS.items() if kind.startswith(start)), None)) is not None:
        return f"expected {wanted}, got {value}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    if str(error["msg"]).startswith("Input should be "):
        return f"expected {message}, got {value}"
    return message[:1].lower() + message[1:]


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that a part of the manifest may have."""
    model: type[BaseModel] = Manifest
    for key in location:
        field = next((one for name, one in model.model_fields.items() if key in (name, one.alias)), None)
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if found is None:
            return []
        model = found
    return [str(field.alias or name) for name, field in model.model_fields.items()]
