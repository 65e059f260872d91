"""Every reason code is explained to users."""

from __future__ import annotations

import re
from pathlib import Path

from neartime.contract.jobs import ReasonCode

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "reason-codes.md"


def test_the_reference_explains_every_reason_code_and_no_other() -> None:
    explained = re.findall(r"^\| `(\w+)` \| \S", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(explained) == sorted(code.value for code in ReasonCode)
