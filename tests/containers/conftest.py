"""The engine, the registries and the images, and a runtime on them, as fixtures of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import Engine, authority, base, engine, locked_registry, registry, runner, token_registry
from registries import Registry

from neartime import RuntimeService
from neartime_server.testing import Runtime

__all__ = ["authority", "base", "engine", "locked_registry", "registry", "runner", "token_registry"]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A builder's, one for all, so that packages are fetched once."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def contained(request: pytest.FixtureRequest, engine: Engine, registry: Registry, base: str) -> Iterator[Runtime]:
    """A runtime whose workers are containers, of images in a registry."""
    prefix = f"{registry.host}/{request.module.__name__.rpartition('.')[2].replace('_', '-')}"
    with Runtime(executor="docker", docker_host=engine.url, registry=prefix, base_image=base) as runtime:
        yield runtime


@pytest.fixture
def service(contained: Runtime) -> Iterator[RuntimeService]:
    with contained.service() as service:
        yield service
