"""A real server for the API's suite, once on each database."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import httpx
import pytest
from databases import Postgres, postgres
from servers import Server

__all__ = ["postgres"]


@pytest.fixture(scope="session", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    database = None
    if request.param == "postgresql":
        running: Postgres = request.getfixturevalue("postgres")
        database = running.create(f"api_{secrets.token_hex(6)}")
    server = Server(tmp_path_factory.mktemp("home"), database)
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    """Of an instance of this test's own."""
    with server.client(server.instance()) as client:
        yield client


@pytest.fixture
def stranger(server: Server) -> Iterator[httpx.Client]:
    """Of another instance."""
    with server.client(server.instance()) as client:
        yield client


@pytest.fixture
def owner(server: Server) -> Iterator[httpx.Client]:
    """With the token of the embedded runtime's owner."""
    with server.client() as client:
        yield client
