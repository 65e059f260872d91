"""The runtime of this machine: `up`, `down`, `doctor`, `admin`."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the commands to the app."""
