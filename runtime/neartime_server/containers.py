"""Makes the parts that run programs in containers and pods, from the settings. Only a server that does so imports it.

What needs an extra is imported where it is made: `docker` and `kubernetes` do not need each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from neartime.contract.backends import Placement
from neartime.errors import NeartimeError, NotInRegistry
from neartime.oci import Credentials, Reference, Registry
from neartime_server.builder import uv
from neartime_server.builder.images import ImageBuilder, ImageMaker
from neartime_server.builder.images.layers import Layers
from neartime_server.builder.images.prune import in_engine, in_registry
from neartime_server.builder.images.recipe import ENVIRONMENTS, Base
from neartime_server.builder.images.registry import RegistryMaker
from neartime_server.builder.images.remote import Remote
from neartime_server.builder.prune import Needed, Unneeded
from neartime_server.errors import BuildFailed, ConfigurationError, Refused
from neartime_server.executors import Executor, addresses
from neartime_server.settings import Settings

if TYPE_CHECKING:
    from docker import DockerClient

LONGER: Final = 3600.0
"""Seconds that a pod may live beyond its session."""
_HELD: Final = {"memory": "MemoryLimit", "processes": "PidsLimit", "cores": "CpuCfsQuota"}
"""What the engine says it can hold containers to. Source: Docker Engine API 1.41, GET /info."""


def executor(settings: Settings) -> Executor:
    """
    Raises:
        ConfigurationError: the Docker Engine does not answer.
    """
    from neartime_server.executors.docker import DockerExecutor

    credentials = _credentials(settings)
    engine(settings).close()

    def login(host: str) -> dict[str, str] | None:
        found = asyncio.run(credentials.find(host))
        return None if found is None else {"username": found.username, "password": found.password}

    return DockerExecutor(settings.home, url=settings.docker_host, network=settings.docker_network, credentials=login)


def pods(settings: Settings, placements: Mapping[str, Placement], installation: str) -> Executor:
    """
    Raises:
        ConfigurationError: no cluster is named, or where NATS is can't be read.
    """
    from neartime_server.executors.cluster import Cluster
    from neartime_server.executors.kubernetes import KubernetesExecutor

    if settings.registry is None:
        raise ConfigurationError("NEARTIME_EXECUTOR=kubernetes needs NEARTIME_REGISTRY, where images go")
    cluster = Cluster(settings.kubernetes_namespace, settings.kubeconfig)
    try:
        return KubernetesExecutor(
            cluster,
            installation,
            placements,
            nats=settings.kubernetes_nats,
            pending=settings.kubernetes_pending,
            longest=settings.session_max_ttl + LONGER,
            spares=settings.kubernetes_spares,
        )
    except ValueError as error:
        raise ConfigurationError(f"NEARTIME_KUBERNETES_NATS: {error}") from error


def builder(
    settings: Settings, placements: Mapping[str, Placement] | None = None, installation: str = ""
) -> ImageBuilder:
    """
    Raises:
        ConfigurationError: there is no such builder, or it has no registry, or the Docker Engine does not answer.
    """
    maker = _maker(settings)
    remote = _remote(settings, maker, placements or {}, installation)
    ahead = settings.executor == "kubernetes" and settings.kubernetes_spares > 0
    return ImageBuilder(settings.home, maker, settings.base_image, remote, ahead=ahead)


def _remote(
    settings: Settings, maker: ImageMaker, placements: Mapping[str, Placement], installation: str
) -> Callable[[Layers], Remote] | None:
    """Who fetches packages, where it is not the server."""
    able = settings.executor == "kubernetes" and isinstance(maker, RegistryMaker)
    chosen = settings.packages or ("job" if able else "server")
    if chosen == "server":
        return None
    if chosen != "job":
        raise ConfigurationError(f"NEARTIME_PACKAGES={chosen!r}: expected job or server")
    if not (settings.executor == "kubernetes" and isinstance(maker, RegistryMaker)):
        raise ConfigurationError("NEARTIME_PACKAGES=job needs NEARTIME_EXECUTOR=kubernetes, NEARTIME_BUILDER=registry")
    from neartime_server.executors.cluster import Cluster
    from neartime_server.executors.jobs import Jobs
    from neartime_server.executors.manifests import Bounds

    bounds = Bounds(settings.packages_memory, settings.packages_disk, settings.packages_seconds)
    if not re.fullmatch(r"[1-9][0-9]*(Mi|Gi)", bounds.memory):
        raise ConfigurationError(f"NEARTIME_PACKAGES_MEMORY={bounds.memory!r}: expected a number and Mi or Gi")
    try:
        jobs = Jobs(
            Cluster(settings.kubernetes_namespace, settings.kubeconfig),
            installation,
            next(iter(placements.values()), Placement()),
            bounds=bounds,
            pending=settings.kubernetes_pending,
            index=settings.packages_index,
        )
    except ValueError as error:
        raise ConfigurationError(f"NEARTIME_PACKAGES_INDEX: {error}") from error
    return partial(Remote, jobs, maker)


def _maker(settings: Settings) -> ImageMaker:
    chosen = settings.builder or ("registry" if settings.registry else "docker")
    try:
        if chosen == "docker":
            from neartime_server.builder.images.engine import EngineMaker

            client, credentials = engine(settings), _credentials(settings)
            return EngineMaker(client, _prefix(settings), credentials, pushes=settings.registry is not None)
        if chosen != "registry":
            raise ConfigurationError(f"NEARTIME_BUILDER={chosen!r}: expected registry or docker")
        if settings.registry is None:
            raise ConfigurationError("NEARTIME_BUILDER=registry needs NEARTIME_REGISTRY, where images go")
        return RegistryMaker(registry(settings), settings.registry)
    except NeartimeError as error:
        raise ConfigurationError(f"NEARTIME_REGISTRY={settings.registry!r}: {error}") from error


def check(settings: Settings) -> list[dict[str, Any]]:
    """What there is of that which the settings name: rows of `name`, `ok`, `found` and `remedy`."""
    return asyncio.run(_check(settings))


async def _check(settings: Settings) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def told(name: str, ok: bool, found: str, remedy: str = "") -> None:
        rows.append({"name": name, "ok": ok, "found": found, "remedy": remedy})

    if settings.executor == "docker" or settings.builder == "docker":
        told("Docker Engine", *_engine_of(settings))
    if settings.executor == "kubernetes":
        told("Kubernetes", *_cluster_of(settings))
    if settings.registry is not None:
        async with registry(settings) as hub:
            try:
                with contextlib.suppress(NotInRegistry):
                    await hub.tags(Reference.parse(f"{settings.registry}/{ENVIRONMENTS}"))
                told("registry", True, settings.registry)
            except NeartimeError as error:
                told("registry", False, str(error), "see NEARTIME_REGISTRY and the settings beside it")
    try:
        maker = _maker(settings)
        name = settings.base_image.format(python=uv.this_python().minor)
        try:
            pinned, config = await maker.base(name)
            told("base image", True, f"{name}, Python {Base.of(pinned, config, complete=False).minor}")
        finally:
            await maker.close()
    except (ConfigurationError, BuildFailed, Refused) as error:
        told("base image", False, str(error), "see NEARTIME_BASE_IMAGE")
    return rows


def _engine_of(settings: Settings) -> tuple[bool, str, str]:
    try:
        client = engine(settings)
    except ConfigurationError as error:
        return False, str(error), ""
    said = client.info()
    client.close()
    unheld = [what for what, key in _HELD.items() if not said.get(key)]
    remedy = f"it can't hold containers to their {', '.join(unheld)}: enable these control groups" if unheld else ""
    return not unheld, f"{said['ServerVersion']}, {said['Driver']}", remedy


def _cluster_of(settings: Settings) -> tuple[bool, str, str]:
    from kubernetes.client.exceptions import ApiException

    from neartime_server.executors.cluster import AWAY, Cluster, words

    try:
        cluster = Cluster(settings.kubernetes_namespace, settings.kubeconfig)
    except ConfigurationError as error:
        return False, str(error), ""
    try:
        count = len(cluster.pods("app.kubernetes.io/managed-by=neartime")[0])
    except ApiException as error:
        return False, words(error), f"make the namespace {settings.kubernetes_namespace}, and let the server list pods"
    except AWAY as error:
        return False, str(error), "see NEARTIME_KUBECONFIG"
    finally:
        cluster.close()
    return True, f"namespace {settings.kubernetes_namespace}, {count} pods of workers", ""


async def unneeded(settings: Settings, stack: AsyncExitStack, needed: Needed, idle: float) -> list[Unneeded]:
    """Images that no version needs; they can be removed until the stack is left.

    Raises:
        ConfigurationError, RegistryError, BuildFailed: registry or engine can't be asked.
    """
    found: list[Unneeded] = []
    if "docker" in (settings.executor, settings.builder):
        client = engine(settings)
        stack.callback(client.close)
        found += await in_engine(client, _prefix(settings), needed, idle)
    if settings.registry is not None:
        hub = await stack.enter_async_context(registry(settings))
        found += await in_registry(hub, settings.registry, needed)
    return found


def _prefix(settings: Settings) -> str:
    """What images' names begin with. Those that go to no registry have one that no registry can have, and the home's
    mark: others may use the same engine."""
    return settings.registry or f"neartime.local/{addresses.mark(settings.home)}"


def registry(settings: Settings) -> Registry:
    """A client of the registry, and of those that base images come from."""
    insecure = [one.strip() for one in (settings.registry_insecure or "").split(",") if one.strip()]
    return Registry(_credentials(settings), ca=settings.registry_ca, insecure=insecure)


def engine(settings: Settings) -> DockerClient:
    """
    Raises:
        ConfigurationError: it does not answer.
    """
    import docker
    from docker.errors import DockerException

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
