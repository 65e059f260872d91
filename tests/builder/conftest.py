from __future__ import annotations

from pathlib import Path

import pytest
from builder.packages import Index


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose environments the module's tests share."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """Packages of the test's own, beside those of the real index."""
    index = Index(tmp_path / "packages")
    monkeypatch.setenv("UV_FIND_LINKS", str(index.folder))
    return index
