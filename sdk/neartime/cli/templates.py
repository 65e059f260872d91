"""What a program can begin with: the project's templates, copied with the program's own name.

They lie in the folder `program-templates` of the repository, and beside this package where it is installed.
"""

from __future__ import annotations

import re
from pathlib import Path

from neartime.contract.programs import NAME_PATTERN
from neartime.errors import PackagingError

_PACKAGE = Path(__file__).parents[1]
FOLDER = next(
    (path for path in (_PACKAGE / "program-templates", _PACKAGE.parents[1] / "program-templates") if path.is_dir()),
    _PACKAGE / "program-templates",
)
INPUTS = "inputs.json"
_EXAMPLE = "inputs.example.json"
_LEFT_OUT = ("expect.toml",)
"""By which the project's tests judge a run."""


def names() -> list[str]:
    """The templates there are."""
    return sorted(path.parent.name for path in FOLDER.glob("*/program.toml"))


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
    source = FOLDER / template
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.name not in _LEFT_OUT:
            text = _renamed(file.read_text(), template, name)
            (folder / (INPUTS if file.name == _EXAMPLE else file.name)).write_text(text)
    return folder


def _renamed(text: str, template: str, name: str) -> str:
    """A template's text for a program of another name, in a folder of its own."""
    for old, new in (
        (f"program-templates/{template}/{_EXAMPLE}", INPUTS),
        (f"program-templates/{template}", "."),
        (_EXAMPLE, INPUTS),
    ):
        text = text.replace(old, new)
    return re.sub(rf'^# {template}$|"{template}"', lambda found: found[0].replace(template, name), text, flags=re.M)
