"""What is wrong with a value, where `jsonschema`'s own error says too little."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeGuard

from jsonschema.exceptions import ValidationError

from neartime.schema.wire import expected, shown

_LONGEST_WORD = 100
"""Characters of a word for which a near one is looked for."""


class WrongKind(ValidationError):
    """A value is of none of some types, `expected`: what it is said to have inside is not worth a word."""

    kinds: list[str]


class UnknownMember(ValidationError):
    """An object has a member that is not declared; the message is what it may have been meant for."""


def wrong_kind(kinds: list[str], instance: object) -> WrongKind:
    error = WrongKind(f"expected {expected(kinds)}, got {shown(instance)}")
    error.kinds = kinds
    return error


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean maxiter?` where one of the known words is near, or nothing."""
    if len(word) > _LONGEST_WORD:
        return ""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def is_wrong(error: ValidationError) -> TypeGuard[WrongKind]:
    """Whether the value as a whole is of the wrong kind, rather than a part of it."""
    return isinstance(error, WrongKind) and not error.path
