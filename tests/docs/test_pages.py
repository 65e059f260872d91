"""Pages lead somewhere: links, the index, and the code that they show."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "charts", "program-templates", "benchmarks", "tests", "sdk", "runtime")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]\[]*\]\(([^)\s]+)\)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def prose(page: Path) -> str:
    """The text without its code."""
    return re.sub(r"`[^`\n]+`", "", BLOCK.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    """What links into a page may end with: headings as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert target.is_relative_to(ROOT), f"{link} leads out of the repository"
        assert not heading or heading in anchors(target), f"{link}: there is no such heading"


@pages
def test_code_that_is_shown_can_be_read(page: Path) -> None:
    for language, text in BLOCK.findall(page.read_text()):
        if language == "python":
            compile(textwrap.dedent(text), f"a block of {page.name}", "exec")
        elif language == "json":
            json.loads(text)
        elif language == "toml":
            tomllib.loads(text)


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link.partition("#")[0]).resolve() for link in LINK.findall(prose(index))}
    missing = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md") if page not in {*named, index}]
    assert not missing
