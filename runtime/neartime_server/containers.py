"""Makes the parts that run programs in containers, from the settings. Only a server that does so imports it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import docker
from docker.errors import DockerException

from neartime.errors import NeartimeError
from neartime.oci import Credentials, Registry
from neartime_server.builder.images import ImageBuilder, ImageMaker
from neartime_server.builder.images.engine import EngineMaker
from neartime_server.builder.images.prune import in_engine, in_registry
from neartime_server.builder.images.registry import RegistryMaker
from neartime_server.builder.prune import Needed, Unneeded
from neartime_server.errors import ConfigurationError
from neartime_server.executors import Executor
from neartime_server.executors.docker import DockerExecutor, mark
from neartime_server.settings import Settings


def executor(settings: Settings) -> Executor:
    """
    Raises:
        ConfigurationError: the Docker Engine does not answer.
    """
    credentials = _credentials(settings)
    engine(settings).close()

    def login(host: str) -> dict[str, str] | None:
        found = asyncio.run(credentials.find(host))
        return None if found is None else {"username": found.username, "password": found.password}

    return DockerExecutor(settings.home, url=settings.docker_host, network=settings.docker_network, credentials=login)


def builder(settings: Settings) -> ImageBuilder:
    """
    Raises:
        ConfigurationError: there is no such builder, or it has no registry, or the Docker Engine does not answer.
    """
    return ImageBuilder(settings.home, _maker(settings), settings.base_image)


def _maker(settings: Settings) -> ImageMaker:
    chosen = settings.builder or ("registry" if settings.registry else "docker")
    try:
        if chosen == "docker":
            client, credentials = engine(settings), _credentials(settings)
            return EngineMaker(client, _prefix(settings), credentials, pushes=settings.registry is not None)
        if chosen != "registry":
            raise ConfigurationError(f"NEARTIME_BUILDER={chosen!r}: expected registry or docker")
        if settings.registry is None:
            raise ConfigurationError("NEARTIME_BUILDER=registry needs NEARTIME_REGISTRY, where images go")
        return RegistryMaker(registry(settings), settings.registry)
    except NeartimeError as error:
        raise ConfigurationError(f"NEARTIME_REGISTRY={settings.registry!r}: {error}") from error


async def unneeded(settings: Settings, stack: AsyncExitStack, needed: Needed, idle: float) -> list[Unneeded]:
    """Images that no version needs; they can be removed until the stack is left.

    Raises:
        ConfigurationError, RegistryError, BuildFailed: registry or engine can't be asked.
    """
    client = engine(settings)
    stack.callback(client.close)
    found = await in_engine(client, _prefix(settings), needed, idle)
    if settings.registry is not None:
        hub = await stack.enter_async_context(registry(settings))
        found += await in_registry(hub, settings.registry, needed)
    return found


def _prefix(settings: Settings) -> str:
    """What images' names begin with. Those that go to no registry have one that no registry can have, and the home's
    mark: others may use the same engine."""
    return settings.registry or f"neartime.local/{mark(settings.home)}"


def registry(settings: Settings) -> Registry:
    """A client of the registry, and of those that base images come from."""
    insecure = [one.strip() for one in (settings.registry_insecure or "").split(",") if one.strip()]
    return Registry(_credentials(settings), ca=settings.registry_ca, insecure=insecure)


def engine(settings: Settings) -> docker.DockerClient:
    """
    Raises:
        ConfigurationError: it does not answer.
    """
    try:
        client = docker.DockerClient(settings.docker_host) if settings.docker_host else docker.from_env()
        client.ping()
    except (DockerException, OSError) as error:
        message = f"the Docker Engine at {settings.docker_host or 'its own place'} does not answer: {error}"
        raise ConfigurationError(f"{message}; name it in NEARTIME_DOCKER_HOST") from error
    return client


def _credentials(settings: Settings) -> Credentials:
    try:
        return Credentials.read(settings.registry_config)
    except NeartimeError as error:
        raise ConfigurationError(f"NEARTIME_REGISTRY_CONFIG: {error}") from error
