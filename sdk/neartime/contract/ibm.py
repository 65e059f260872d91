"""Qiskit Runtime's custom programs: their metadata and `spec`, made a manifest and read back from one.

Three forms were in use and all are taken as they are:

- the service's last one: `name`, `description`, `max_execution_time` (also `cost`), and a `spec` with
  `backend_requirements`, `parameters`, `return_values` and `interim_results`, JSON Schemas each;
- the same without a `spec` around them;
- the first one, where the last three are lists of `{"name", "description", "type", "required"}`.

Qiskit Runtime held nobody to the declared return values and interim results, and a job that ran for an hour must not
fail by a stale description: they are kept as they are, in the manifest's metadata, and given back, but not enforced.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from neartime.contract.problem import Fault
from neartime.contract.programs import Manifest

SPEC = "spec"
"""The key of a manifest's metadata that holds what of a spec has no place of its own in a manifest."""
TITLE = "title"
"""The key of a manifest's metadata that holds a name as it was, where it can't be a program's."""
_PARTS = ("backend_requirements", "parameters", "return_values", "interim_results")
_KNOWN = frozenset({"name", "description", "cost", "max_execution_time", SPEC, *_PARTS})
_OWN = frozenset(Manifest.model_fields) - {"name", "description", "max_execution_time", "typed", "kind", "pickled_with"}
"""Keys of a manifest, as an author may write them, that are not Qiskit Runtime's too."""
_NEAR = 0.8
"""How alike, of 1, an unknown key and a known one are where the one is taken for a misspelling of the other."""
_REQUIREMENTS = {"min_num_qubits": "min-num-qubits", "simulator": "simulator", "names": "names"}
_TYPES = {
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "str": "string",
    "string": "string",
    "bool": "boolean",
    "boolean": "boolean",
    "list": "array",
    "array": "array",
    "dict": "object",
    "object": "object",
}
"""What the first form calls types; whatever else it says is prose, and accepts anything."""


def manifest(name: str, description: str, cost: int | None, spec: Mapping[str, Any] | None) -> dict[str, Any]:
    """A manifest, as JSON, of the fields of Qiskit Runtime's POST /programs; `cost` is in seconds."""
    return fields({"name": name, "description": description, "cost": cost, "spec": spec})


def fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a manifest, as JSON, that a metadata dictionary gives; those it leaves out are not there.

    What is not Qiskit Runtime's (a `version`, an `author`) is kept in the manifest's metadata. A value of the wrong
    type is passed on as it is, for the manifest's own check to name.
    """
    found: dict[str, Any] = {}
    kept = {str(key): value for key, value in metadata.items() if key not in _KNOWN}
    if (name := metadata.get("name")) is not None:
        found["name"] = slug(name) if isinstance(name, str) else name
        if found["name"] != name:
            kept.setdefault(TITLE, name)
    if (description := metadata.get("description")) is not None:
        found["description"] = description
    for key in ("cost", "max_execution_time"):
        if metadata.get(key) is not None:
            found["max-execution-time"] = metadata[key]
    given = {part: metadata[part] for part in _PARTS if metadata.get(part)}
    spec = metadata.get(SPEC)
    if isinstance(spec, Mapping):
        given.update({str(part): value for part, value in spec.items() if value})
    if left := _of_spec(given, found):
        kept[SPEC] = left
    if kept:
        found["metadata"] = kept
    return found


def misplaced(metadata: Mapping[str, Any], root: str = "") -> list[Fault]:
    """Keys of a metadata dictionary, or of its spec, that were surely meant for something and would do nothing: a known
    one misspelt, or a manifest's own. Others are no fault, since they are kept."""
    found = list(_misplaced(metadata, _KNOWN, _OWN, f"{root}."))
    if isinstance(spec := metadata.get(SPEC), Mapping):
        found += _misplaced(spec, frozenset(_PARTS), _OWN | {"cost", "max_execution_time"}, f"{root}.{SPEC}.")
    for within, where in ((metadata, root), (spec, f"{root}.{SPEC}")):
        required = within.get("backend_requirements") if isinstance(within, Mapping) else None
        if isinstance(required, Mapping):
            found += _misplaced(required, _REQUIREMENTS.keys(), frozenset(), f"{where}.backend_requirements.")
    return [Fault(path=fault.path.lstrip("."), message=fault.message) for fault in found]


def _misplaced(keys: Iterable[Any], known: Iterable[str], elsewhere: frozenset[str], where: str) -> Iterator[Fault]:
    for key in keys:
        word = str(key).lower().replace("-", "_")
        if key in known:
            continue
        if word in elsewhere and word in _KNOWN:
            message = f"belongs beside {SPEC}, not in it"
        elif word in elsewhere:
            message = f"is a key of the manifest: it goes into program.toml, or is passed as {word}=…"
        elif near := difflib.get_close_matches(word, [*known, *elsewhere], n=1, cutoff=_NEAR):
            message = f"is not known; did you mean {near[0]}?"
        else:
            continue
        yield Fault(path=f"{where}{key}", message=message)


def _of_spec(given: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Puts into `found` what of a spec has a place in a manifest; returns what is left."""
    left = dict(given)
    required = left.pop("backend_requirements", None)
    if isinstance(required, Mapping):
        own = {_REQUIREMENTS[key]: value for key, value in required.items() if key in _REQUIREMENTS}
        if own:
            found["backends"] = own
        if others := {str(key): value for key, value in required.items() if key not in _REQUIREMENTS}:
            left["backend_requirements"] = others
    elif required is not None:
        found["backends"] = required
    if (parameters := left.pop("parameters", None)) is not None:
        found["schemas"] = {"inputs": _schema(parameters) if isinstance(parameters, list) else parameters}
    return left


def spec(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The `spec` of a manifest, as JSON: what a Qiskit Runtime client reads of a program."""
    metadata = manifest.get("metadata") or {}
    kept = metadata.get(SPEC)
    found: dict[str, Any] = dict(kept) if isinstance(kept, Mapping) else {}
    backends = manifest.get("backends") or {}
    required = {
        key: value
        for key, own in _REQUIREMENTS.items()
        if (value := backends.get(own, backends.get(key))) not in (None, [])
    }
    schemas = manifest.get("schemas") or {}
    found["backend_requirements"] = {**_mapping(found.get("backend_requirements")), **required}
    found["parameters"] = schemas.get("inputs") or {}
    for part, own in (("return_values", "result"), ("interim_results", "interim")):
        declared = schemas.get(own) or found.get(part) or {}
        found[part] = _schema(declared) if isinstance(declared, list) else declared
    return found


def slug(name: str) -> str:
    """A program's name of any name: `My Program (v2)` becomes `my-program-v2`; empty where nothing is left."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("._-")[:63].rstrip("._-")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _schema(parameters: list[Any]) -> dict[str, Any]:
    """The JSON Schema of a list of parameters, the first form."""
    properties: dict[str, Any] = {}
    required = []
    for one in parameters:
        if not isinstance(one, Mapping) or not isinstance(one.get("name"), str):
            continue
        declared: dict[str, Any] = {}
        if kind := _TYPES.get(str(one.get("type", "")).strip().lower()):
            declared["type"] = kind
        said = [str(text) for text in (one.get("description"), None if kind else one.get("type")) if text]
        if said:
            declared["description"] = "; ".join(said)
        if "default" in one:
            declared["default"] = one["default"]
        properties[one["name"]] = declared
        if one.get("required") in (True, "true", "True"):
            required.append(one["name"])
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": required} if required else schema
