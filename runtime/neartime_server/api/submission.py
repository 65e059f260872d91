"""The body of POST /jobs, taken apart without writing it anew: `params` stays the bytes that came."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from neartime.contract.jobs import JobRequest
from neartime.contract.problem import ErrorCode, Fault
from neartime_server.errors import Refused

_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Submission:
    request: JobRequest
    params: bytes
    """As they came, to the byte."""
    value: Any
    """`params` as parsed JSON, for the check against the schema."""


def read(body: bytes) -> Submission:
    """Take a submission apart.

    Raises:
        Refused: 422, the body is no JSON object of known members; pydantic's ValidationError for the members' values.
    """
    try:
        members, params = _members(body)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Refused.faults(ErrorCode.INVALID_REQUEST, [Fault(path="body", message=reason)]) from error
    value = members.pop("params", {})
    if not isinstance(value, dict):
        fault = Fault(path="inputs", message="expected an object, the program's inputs by name")
        raise Refused.faults(ErrorCode.INVALID_INPUT, [fault])
    return Submission(JobRequest.model_validate(members), params, value)


def _members(body: bytes) -> tuple[dict[str, Any], bytes]:
    """The members of the outermost object, and the bytes of `params` among them.

    Every member is found by the decoder itself, one value at a time, so that what is checked is what is kept. NaN and
    the infinities, which JSON lacks and Qiskit's encoder writes, pass inside `params`.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    members: dict[str, Any] = {}
    params = b"{}"
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("is no JSON object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return members, _ended(text, at + 1, params)
    while True:
        if text[at : at + 1] != '"':
            raise ValueError(f"is not JSON: expected a member's name at character {at}")
        name, at = _value(text, at)
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            raise ValueError(f"is not JSON: expected ':' at character {at}")
        start = _skip(text, at + 1)
        value, at = _value(text, start)
        if name in members:
            raise ValueError(f"names {name!r} twice")
        members[name] = value
        if name == "params":
            # Where every character is one byte, the slice need not be encoded again.
            params = body[start:at] if len(text) == len(body) else text[start:at].encode()
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "}":
            return members, _ended(text, at + 1, params)
        if mark != ",":
            raise ValueError(f"is not JSON: expected ',' or '}}' at character {at}")
        at = _skip(text, at + 1)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from error


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _ended(text: str, at: int, params: bytes) -> bytes:
    if _skip(text, at) != len(text):
        raise ValueError(f"is not JSON: something follows the object, at character {at}")
    return params
