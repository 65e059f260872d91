"""The body of POST /jobs, taken apart without writing it anew: `params` stays the bytes that came.

A large body is not parsed whole. Its long strings (arrays and circuits in base64, almost all of it) are left out of
what is parsed and stand in it by their length and their beginning, which is all that a schema asks of them here.
"""

from __future__ import annotations

import json
import mmap
import re
import secrets
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from pydantic import ValidationError

from neartime.contract.jobs import JobRequest
from neartime.contract.problem import ErrorCode, Fault
from neartime_server.api import problems
from neartime_server.errors import Refused

LONG: Final = 64 << 10
"""Bytes from which on a string of a large body is left out."""
_SAMPLE: Final = 1024
_PROGRAM: Final = frozenset({"program_id", "program_version"})
"""What says which schema the inputs are held against."""
_DECODER: Final = json.JSONDecoder()
_SPACE: Final = re.compile(r"[ \t\n\r]*")
WINDOW: Final = 1 << 20
"""Bytes that are looked at in one go: no other thread runs meanwhile."""
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.?+)*+("|\Z)', re.DOTALL)
"""A string, or its beginning where the window ends within it."""
_UNPLAIN: Final = bytes([*range(0x20), ord("\\")])
"""What makes the length of a string another than that of its ASCII text, or is not allowed in it."""


@dataclass(frozen=True)
class Submission:
    request: JobRequest
    """Without the members that have `faults`."""
    span: tuple[int, int] | None
    """Where `params` lies in the body, from and to; None where it was left out, which means `{}`."""
    value: Any
    """`params` as parsed JSON, for the check against the schema."""
    faults: tuple[Fault, ...] = ()
    """Of its members but `params`. It is to be refused; with those of the inputs, where their schema can be had."""

    def check(self) -> None:
        """Raises Refused (422) where it has faults."""
        if self.faults:
            raise Refused.faults(ErrorCode.INVALID_REQUEST, self.faults)


class LongString(str):
    """The beginning of a string that was left out, as long as the whole."""

    __slots__ = ("_length",)
    _length: int

    def __new__(cls, beginning: str, length: int) -> LongString:
        text = super().__new__(cls, beginning)
        text._length = length
        return text

    def __len__(self) -> int:
        return self._length


def read(body: bytes | mmap.mmap) -> Submission:
    """Take a submission apart.

    Raises:
        Refused: 422, the body is no JSON object, or does not say which program is meant.
    """
    try:
        members, span = _members(body) if isinstance(body, bytes) else _large_members(body)
    except (ValueError, RecursionError) as error:
        reason = "is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise Refused.faults(ErrorCode.INVALID_REQUEST, [Fault(path="body", message=reason)]) from error
    value = members.pop("params", {})
    try:
        return Submission(JobRequest.model_validate(members), span, value)
    except ValidationError as error:
        found = error
    faults = problems.faults(found.errors())
    bad = {one["loc"][0] for one in found.errors() if one["loc"]}
    try:
        if bad & _PROGRAM:
            raise found
        request = JobRequest.model_validate({name: one for name, one in members.items() if name not in bad})
    except ValidationError:
        raise Refused.faults(ErrorCode.INVALID_REQUEST, faults) from found
    return Submission(request, span, value, tuple(faults))


def _members(body: bytes) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """The members of the outermost object, and where `params` lies among them.

    Every member is found by the decoder itself, one value at a time, so that what is checked is what is kept. NaN and
    the infinities, which JSON lacks and Qiskit's encoder writes, pass inside `params`.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: {error.reason} at byte {error.start}") from error
    members: dict[str, Any] = {}
    span = None
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("is no JSON object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return members, _ended(text, at + 1, span)
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
            # Characters are bytes where every one of them is ASCII.
            plain = len(text) == len(body)
            span = (start, at) if plain else (len(text[:start].encode()), len(text[:at].encode()))
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "}":
            return members, _ended(text, at + 1, span)
        if mark != ",":
            raise ValueError(f"is not JSON: expected ',' or '}}' at character {at}")
        at = _skip(text, at + 1)


def _large_members(body: mmap.mmap) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """`_members` of a body whose long strings are left out."""
    mark = secrets.token_hex(16)  # nobody can write a string that passes for one that was left out
    left_out: list[LongString] = []
    short = bytearray()
    ends: list[int] = []  # in `short`, of each string that was left out
    removed: list[int] = []  # bytes that each of them lost
    at = 0
    for start, end in _long_strings(body):
        left_out.append(_long_string(body, start, end))
        name = f'"{mark}{len(left_out) - 1}"'.encode()
        short += body[at:start] + name
        ends.append(len(short))
        removed.append(end - start - len(name))
        at = end
    short += body[at:]
    members, span = _members(bytes(short))
    total = [0, *accumulate(removed)]

    def restored(value: Any) -> Any:
        if isinstance(value, str):
            return left_out[int(value[len(mark) :])] if value.startswith(mark) else value
        if isinstance(value, list):
            return [restored(one) for one in value]
        if isinstance(value, dict):
            return {restored(name): restored(one) for name, one in value.items()}
        return value

    if left_out:
        members = restored(members)
    return members, span and (span[0] + total[bisect(ends, span[0])], span[1] + total[bisect(ends, span[1])])


def _long_strings(body: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Where the strings of `LONG` bytes and more lie, quotes included."""
    at = 0
    while at < len(body):
        window = min(at + WINDOW, len(body))
        for found in _STRING.finditer(body, at, window):
            start, at = found.span()
            if not found[1]:
                at = _end_of_string(body, start, at)
            if at - start >= LONG:
                yield start, at
        at = max(at, window)


def _end_of_string(body: mmap.mmap, start: int, at: int) -> int:
    """Behind the quote that ends the string; the body's end where there is none."""
    while (quote := body.find(b'"', at - 1)) >= 0:
        first = quote
        while first > start + 1 and body[first - 1] == 0x5C:
            first -= 1
        at = quote + 2
        if (quote - first) % 2 == 0 and quote > start:
            return quote + 1
    return len(body)


def _long_string(body: mmap.mmap, start: int, end: int) -> LongString:
    for at in range(start + 1, end - 1, WINDOW):
        piece = body[at : min(at + WINDOW, end - 1)]
        if not piece.isascii() or len(piece.translate(None, _UNPLAIN)) != len(piece):
            text = json.loads(body[start:end].decode("utf-8"))
            return LongString(text[:_SAMPLE], len(text))
    if body[end - 1] != ord('"'):
        raise ValueError("is not JSON: a string has no end")
    return LongString(body[start + 1 : start + 1 + _SAMPLE].decode("ascii"), end - start - 2)


def _value(text: str, at: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from error


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _ended(text: str, at: int, span: tuple[int, int] | None) -> tuple[int, int] | None:
    if _skip(text, at) != len(text):
        raise ValueError(f"is not JSON: something follows the object, at character {at}")
    return span
