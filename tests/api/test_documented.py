"""Every setting, error code and route is explained in docs/reference."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from neartime.contract.problem import ErrorCode
from neartime_server.api import PREFIX
from neartime_server.app import create_app
from neartime_server.settings import PREFIX as SETTINGS_PREFIX
from neartime_server.settings import Settings

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def _first_cells(page: str) -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", (REFERENCE / page).read_text(), re.MULTILINE)


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert _first_cells("settings.md") == [
        SETTINGS_PREFIX + field.name.upper() for field in dataclasses.fields(Settings)
    ]


def test_every_error_code_is_documented_and_nothing_else() -> None:
    assert _first_cells("error-codes.md") == [code.value for code in ErrorCode]


def test_every_route_is_documented_and_nothing_else(tmp_path: Path) -> None:
    described = create_app(Settings(home=tmp_path)).app.openapi()["paths"]
    routes = {
        f"{method.upper()} {path.removeprefix(PREFIX)}" for path, methods in described.items() for method in methods
    }
    assert set(_first_cells("rest-api.md")) == routes
