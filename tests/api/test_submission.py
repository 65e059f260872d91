"""The body of POST /jobs: `params` are the bytes that came, and what is checked is what is kept."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from neartime_server.api.submission import read
from neartime_server.errors import Refused

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(st.text(), VALUES, max_size=4)


def _refusal(body: bytes) -> str:
    with pytest.raises(Refused) as refused:
        read(body)
    assert refused.value.status == 422
    return str(refused.value)


@given(PARAMS, st.sampled_from([None, 1, "\t"]), st.booleans(), st.booleans())
def test_params_are_kept_to_the_byte(params: object, indent: int | str | None, ascii_only: bool, first: bool) -> None:
    text = json.dumps(params, indent=indent, ensure_ascii=ascii_only)
    others = '"program_id": "p",\n "tags": ["é}\\",{"]'
    body = f' {{ "params" : {text} , {others}}} ' if first else f'{{{others}, "params":\t{text}\r\n}}\n'
    try:
        raw = body.encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form; escaped it has
        return
    asked = read(raw)
    assert asked.params == text.encode()
    assert json.dumps(asked.value) == json.dumps(params)
    assert asked.request.program_id == "p"
    assert asked.request.tags == ['é}",{']


def test_left_out_params_are_an_empty_object() -> None:
    asked = read(b'{"program_id": "p"}')
    assert (asked.params, asked.value) == (b"{}", {})


def test_nan_and_infinities_pass() -> None:
    asked = read(b'{"program_id": "p", "params": {"x": [NaN, -Infinity]}}')
    assert asked.params == b'{"x": [NaN, -Infinity]}'
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
        (b'{"program_id": "p", "params": [1]}', "expected an object"),
        (b'{"program_id": "p", "params": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_what_is_no_submission_is_refused_with_the_reason(body: bytes, says: str) -> None:
    assert says in _refusal(body)


def test_a_misspelt_member_is_a_fault() -> None:
    with pytest.raises(ValidationError, match="shots"):
        read(b'{"program_id": "p", "shots": 3}')
