"""Encoded values against a schema: every fault at once, each with its path."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from jsonschema.exceptions import ValidationError
from referencing.exceptions import Unresolvable

from neartime.contract.problem import Fault
from neartime.schema.keywords import (
    DRAFTS,
    FREE_REFERENCES,
    REFERENCES_PER_NODE,
    TooManySteps,
    Validator,
    budget,
    validator_class,
)
from neartime.schema.mistakes import UnknownMember, WrongKind
from neartime.schema.wire import nodes, seen, step

MAX_FAULTS = 100
"""Of one value that are told."""
DEFAULT_DRAFT = next(iter(DRAFTS))
_UNKNOWN = {
    "inputs": "is not an input of this program",
    "interim": "is not part of this program's interim results",
    "result": "is not part of this program's result",
}
_TOO_MUCH = "is more than the program's schema can be held against: it refers to itself over and over"


def draft_of(schema: Mapping[str, Any]) -> str:
    """The `$schema` of a schema, without the empty fragment that older ones have."""
    said = schema.get("$schema", DEFAULT_DRAFT)
    return said.removesuffix("#") if isinstance(said, str) else DEFAULT_DRAFT


@lru_cache(maxsize=256)
def _compiled(text: str) -> Validator:
    schema = json.loads(text)
    draft = draft_of(schema)
    schema.pop("$schema", None)  # jsonschema would take the draft's own validator wherever it meets it
    return validator_class(draft if draft in DRAFTS else DEFAULT_DRAFT)(schema)


def faults(value: Any, schema: Mapping[str, Any] | None, root: str = "inputs") -> list[Fault]:
    """What is wrong with an encoded value: parsed JSON against a JSON Schema, tags and all.

    Nothing is decoded, so what is inside a circuit or an array is not looked at: see `value_faults`. A schema of None
    accepts anything. Of more than `MAX_FAULTS` faults the rest is left out.

    Args:
        value: as the codec writes it, read by `json`.
        schema: of a manifest; its types may be names, `{"$ref": "neartime:QuantumCircuit"}`.
        root: how paths begin: `inputs`, `interim` or `result`.
    """
    if schema is None:
        return []
    validator = _compiled(json.dumps(schema))
    try:
        instance = seen(value)
        try:
            errors = _errors(validator, instance, FREE_REFERENCES)
        except TooManySteps:  # of a large value they may be its due
            errors = _errors(validator, instance, REFERENCES_PER_NODE * nodes(instance))
    except RecursionError:
        return [Fault(path=root, message="is nested too deep")]
    except TooManySteps:
        return [Fault(path=root, message=_TOO_MUCH)]
    except Unresolvable as error:
        return [Fault(path=root, message=f"can't be checked: the program's schema refers to {error.ref!r}")]
    return told(errors, root) if errors else []


def _errors(validator: Validator, instance: Any, references: int) -> list[ValidationError]:
    budget.left = references
    return list(islice(validator.iter_errors(instance), MAX_FAULTS))


def told(errors: Iterable[ValidationError], root: str) -> list[Fault]:
    """Errors as faults, each once; none below a value that is of the wrong kind as a whole."""
    found = {(tuple(error.absolute_path), _message(error, root)): error for error in errors}
    wrong = {path for (path, _), error in found.items() if isinstance(error, WrongKind)}
    return [
        Fault(path=root + "".join(map(step, path)), message=message)
        for (path, message), error in found.items()
        if isinstance(error, WrongKind) or not any(path[:length] in wrong for length in range(len(path) + 1))
    ]


def _message(error: ValidationError, root: str) -> str:
    if isinstance(error, UnknownMember):
        said = _UNKNOWN.get(root) if len(error.absolute_path) == 1 else None
        return f"{said or 'is not known here'}{error.message}"
    if error.schema is False:
        return "is not allowed here"
    message: str = error.message
    return message
