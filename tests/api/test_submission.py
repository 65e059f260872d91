"""The body of POST /jobs: `params` are the bytes that came, and what is checked is what is kept."""

from __future__ import annotations

import json
import math
import mmap
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neartime_server.api.submission import LONG, WINDOW, Submission, read
from neartime_server.errors import Refused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(st.text(), VALUES, max_size=4)


def _params(body: bytes | mmap.mmap, asked: Submission) -> bytes:
    assert asked.span
    return body[slice(*asked.span)]


def _mapped(body: bytes) -> mmap.mmap:
    """As a large body comes: in a file."""
    with tempfile.TemporaryFile() as file:
        file.write(body)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _refusal(body: bytes) -> str:
    with pytest.raises(Refused) as refused:
        read(body)
    assert refused.value.status == 422
    return str(refused.value)


@settings(deadline=None)
@given(PARAMS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_params_are_kept_to_the_byte(params: object, indent: int | str | None, ascii_only: bool, first: bool) -> None:
    text = json.dumps(params, indent=indent, ensure_ascii=ascii_only)
    others = '"program_id": "p",\n "tags": ["é}\\",{"]'
    body = f' {{ "params" : {text} , {others}}} ' if first else f'{{{others}, "params":\t{text}\r\n}}\n'
    try:
        raw = body.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form; escaped it has
        return
    for form in (raw, _mapped(raw)):
        asked = read(form)
        assert _params(form, asked) == text.encode()
    assert json.dumps(asked.value) == json.dumps(params)
    assert asked.request.program_id == "p"
    assert asked.request.tags == ['é}",{']


def test_left_out_params_are_an_empty_object() -> None:
    asked = read(b'{"program_id": "p"}')
    assert (asked.span, asked.value) == (None, {})


def test_nan_and_infinities_pass() -> None:
    body = b'{"program_id": "p", "params": {"x": [NaN, -Infinity]}}'
    asked = read(body)
    assert _params(body, asked) == b'{"x": [NaN, -Infinity]}'
    assert math.isnan(asked.value["x"][0])


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is no JSON object"),
        (b"[1]", "is no JSON object"),
        (b'{"program_id": "p"', "expected ',' or '}'"),
        (b'{"program_id": "p",}', "expected a member's name"),
        (b'{"program_id" "p"}', "expected ':'"),
        (b'{"program_id": "p"} x', "something follows"),
        (b'{"program_id": "p", "params": {"a": }}', "is not JSON: Expecting value"),
        (b'{"program_id": "\xff"}', "is not UTF-8"),
        (b'{"params": {}, "params": {"a": 1}}', "names 'params' twice"),
        (b'{"program_id": "a", "program\\u005fid": "b"}', "names 'program_id' twice"),
        (b'{"params": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"program_id": "p", "params": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_what_is_no_submission_is_refused_with_the_reason(body: bytes, says: str) -> None:
    assert says in _refusal(body)


@pytest.mark.parametrize("piece", ["A", "é", '\\"', "\\u00e9\\n"], ids=["plain", "unicode", "quotes", "escapes"])
def test_long_strings_of_a_large_body_keep_their_length_and_everything_else_its_place(piece: str) -> None:
    long = json.loads(f'"{piece * LONG}"')
    text = f'{{"é": "{piece * LONG}", "n": [1, {{"deep": "{piece * LONG}"}}, "short"]}}'
    body = _mapped(f'{{"program_id": "é", "params": {text}, "tags": ["a"]}}'.encode())
    asked = read(body)
    assert _params(body, asked) == text.encode()
    assert (asked.request.program_id, asked.request.tags) == ("é", ["a"])
    first, (one, deep, short) = asked.value["é"], asked.value["n"]
    assert (one, short) == (1, "short")
    for left_out in (first, deep["deep"]):
        assert len(left_out) == len(long)
        assert long.startswith(left_out[:100])


@settings(deadline=None)
@given(st.integers(0, 3), st.sampled_from(['\\"', "\\\\", "x"]), st.integers(-3, 3))
def test_strings_are_found_wherever_a_window_ends(before: int, piece: str, off: int) -> None:
    text = "y" * before + piece * ((WINDOW + off) // len(piece))
    params = f'{{"a": "{text}", "b": "\\\\", "c": "{text}\\\\"}}'
    body = _mapped(f'{{"params": {params}, "program_id": "p"}}'.encode())
    asked = read(body)
    assert _params(body, asked) == params.encode()
    assert [len(value) for value in asked.value.values()] == [len(value) for value in json.loads(params).values()]


def test_a_long_string_that_is_no_json_is_refused() -> None:
    for bad in (b"\x01", b"\\q", b"\xff"):
        body = b'{"program_id": "p", "params": {"a": "' + b"A" * LONG + bad + b'"}}'
        with pytest.raises(Refused):
            read(_mapped(body))
    with pytest.raises(Refused):
        read(_mapped(b'{"program_id": "p", "params": {"a": "' + b"A" * LONG))


def test_a_misspelt_member_is_a_fault_and_the_others_stand() -> None:
    asked = read(b'{"program_id": "p", "shots": 3, "tags": 1, "backend": "aer", "params": {"a": 1}}')
    assert {fault.path for fault in asked.faults} == {"shots", "tags"}
    assert "shots: is not known here" in [str(fault)[:24] for fault in asked.faults]
    assert (asked.request.program_id, asked.request.backend, asked.value) == ("p", "aer", {"a": 1})
    assert "program_id: is missing; shots: is not" in _refusal(b'{"params": [1], "shots": 3}')
