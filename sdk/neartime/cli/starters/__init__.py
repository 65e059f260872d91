"""What a program can begin with: folders whose files are copied, with the program's name filled in."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from neartime.contract.programs import NAME_PATTERN
from neartime.errors import PackagingError

PLACE = "@NAME@"
"""Stands for the program's name."""


def names() -> list[str]:
    """The templates there are."""
    return sorted(one.name for one in files(__name__).iterdir() if one.is_dir() and not one.name.startswith("_"))


def write(name: str, template: str, folder: Path) -> Path:
    """Writes the template's files into a new folder; returns it.

    Raises:
        PackagingError: the name can't be a program's, the template is not there, or the folder is.
    """
    if not re.match(NAME_PATTERN, name):
        raise PackagingError(f"{name!r} can't be a program's name: small letters, digits, '-', '_' and '.'")
    if template not in names():
        raise PackagingError(f"there is no template {template!r}; there are {', '.join(names())}")
    if folder.exists():
        raise PackagingError(f"{folder} is there already; take another name")
    source = files(__name__) / template
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            (folder / file.name.removesuffix(".txt")).write_text(file.read_text().replace(PLACE, name))
    return folder
