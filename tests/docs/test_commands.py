"""The commands that pages show are those that there are, with options that there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from neartime.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "program-templates").rglob("*.md")])
LINE = re.compile(r"^(?: {4}|\$ )(neartime .*)$", re.MULTILINE)
SHOWN = [
    (str(page.relative_to(ROOT)), line)
    for page in PAGES
    if page.name != "cli.md"
    for line in LINE.findall(page.read_text())
]


def test_pages_show_commands() -> None:
    assert len(SHOWN) > 50


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=lambda text: text)
def test_a_command_that_is_shown_can_be_typed(page: str, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0], comments=True)[1:]
    command = get_command(app)
    context = command.make_context("neartime", words)
    while hasattr(command, "resolve_command"):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        context = command.make_context(name, rest, parent=context)
