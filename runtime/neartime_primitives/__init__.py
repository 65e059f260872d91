"""The programs that every server has: a folder each, as anybody's program has one.

Modules in `shared` are put beside a program's own when it is packaged. Nothing here is imported by a server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

FOLDER = Path(__file__).parent
SHARED = "shared"


def names() -> list[str]:
    """Those of the programs."""
    return sorted(one.parent.name for one in FOLDER.glob("*/program.toml"))


def assemble(name: str, folder: Path) -> Path:
    """Writes a program, with the modules that it shares with others, below `folder`; returns where it is."""
    place = folder / name
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(FOLDER / name, place, ignore=ignored)
    shutil.copytree(FOLDER / SHARED, place, ignore=ignored, dirs_exist_ok=True)
    return place
