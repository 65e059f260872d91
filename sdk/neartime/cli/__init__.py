"""The command `neartime`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    from neartime.cli.app import run

    sys.exit(run())
