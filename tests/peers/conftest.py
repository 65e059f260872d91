"""These tests run in the environment that scripts/test-peers makes, and only there.

Elsewhere they are not collected, unless the folder is named on the command line: then a missing peer is an error.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    here = Path(__file__).parent
    named = any(Path(argument.partition("::")[0]).resolve().is_relative_to(here) for argument in config.args)
    if not named and importlib.util.find_spec("qiskit_ibm_runtime") is None:
        return True
    return None
