"""The engine, the registries and the images, as fixtures of this folder."""

from pathlib import Path

import pytest
from engine import authority, base, engine, locked_registry, registry, runner, token_registry

__all__ = ["authority", "base", "engine", "locked_registry", "registry", "runner", "token_registry"]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A builder's, one for all, so that packages are fetched once."""
    return tmp_path_factory.mktemp("images")
