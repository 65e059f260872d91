"""What the error of a failed job says beside its reason."""

from __future__ import annotations

import pytest

from neartime.job import _unsaid

TRACEBACK = ["Traceback (most recent call last):", '  File "program.py", line 3, in main', "ValueError: no"]


@pytest.mark.parametrize(
    ("log", "said", "left"),
    [
        (["a", "b"], [], ["a", "b"]),
        (["a", *TRACEBACK], TRACEBACK, ["a"]),
        ([*TRACEBACK, "through another pipe"], TRACEBACK, ["through another pipe"]),
        (["logged by the program:", *TRACEBACK, *TRACEBACK], TRACEBACK, ["logged by the program:"]),
        (["a", "b", "c"], ["last lines of its log:", "b", "c"], ["a"]),
        ([], TRACEBACK, []),
    ],
)
def test_the_end_of_a_log_does_not_repeat_the_reason(log: list[str], said: list[str], left: list[str]) -> None:
    assert _unsaid(log, said) == left
