"""Nothing public is undocumented."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import neartime

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "python-api.md").read_text()
INTERNAL = {"read", "of", "request", "all"}
"""Constructors and conversions that other modules of the package call."""


@pytest.mark.parametrize("name", [name for name in neartime.__all__ if not name.startswith("_")])
def test_every_public_name_and_member_is_in_the_reference(name: str) -> None:
    assert f"`{name}" in PAGE or f"## {name}" in PAGE
    found = getattr(neartime, name)
    if not inspect.isclass(found) or issubclass(found, BaseException) or name == "JobStatus":
        return
    for member in vars(found):
        if not member.startswith("_") and member not in INTERNAL:
            assert f"`{member}" in PAGE, f"{name}.{member} is not in docs/reference/python-api.md"


def test_every_public_method_says_what_it_does() -> None:
    for kind in (neartime.RuntimeService, neartime.RuntimeJob, neartime.Session):
        for name, member in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_") and name not in ("queued", "running", "errored", "cancelled", "in_final_state"):
                assert member.__doc__, f"{kind.__name__}.{name}"
