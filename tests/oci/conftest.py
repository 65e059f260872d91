"""Registries, and the connections to them, as fixtures of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from registries import Authority, Registry, require_registry

import neartime.oci as oci

PIECE = 4 * 2**20
"""How much the tests' clients send at once."""


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def plain() -> Iterator[Registry]:
    """A registry that asks for nothing, over HTTP."""
    require_registry()
    with Registry() as registry:
        yield registry


@pytest.fixture(scope="session")
def locked(authority: Authority) -> Iterator[Registry]:
    """A registry with TLS and a password."""
    require_registry()
    with Registry(authority=authority, users={"neartime": "open-sesame"}) as registry:
        yield registry


@pytest.fixture(scope="session")
def tokens(authority: Authority) -> Iterator[Registry]:
    """A registry with TLS and a token server."""
    require_registry()
    with Registry(authority=authority, users={"neartime": "open-sesame"}, tokens=True) as registry:
        yield registry


@pytest.fixture
async def client() -> AsyncIterator[oci.Registry]:
    """For registries that ask for nothing."""
    async with oci.Registry(piece_bytes=PIECE) as client:
        yield client
