"""Images that no version refers to, in a registry and in a Docker Engine. Only those that Neartime made, under the
names that are this installation's, are looked at."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from neartime.errors import NotInRegistry
from neartime.oci import Descriptor, Reference, Registry
from neartime_server.builder import needs, sbom
from neartime_server.builder.images.recipe import LABEL
from neartime_server.builder.prune import Needed, Unneeded
from neartime_server.errors import BuildFailed

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.images import Image

_TAG: Final = re.compile(r"[0-9a-f]{64}")


async def in_registry(registry: Registry, prefix: str, needed: Needed) -> list[Unneeded]:
    """Those of a registry, below a prefix that is this installation's alone.

    The registry frees their layers when its own collector runs.

    Raises:
        RegistryError: it does not answer, or refuses.
    """
    kept, unneeded = set[str](), list[tuple[Reference, list[Descriptor]]]()
    for name in sorted(needed.names):
        repository = Reference.parse(f"{prefix.rstrip('/')}/{name}")
        try:
            tags = await registry.tags(repository)
        except NotInRegistry:
            continue
        for tag in filter(_TAG.fullmatch, tags):
            try:
                image = await registry.image(repository.tagged(tag))
            except NotInRegistry:  # it went meanwhile
                continue
            pinned = Reference(repository.registry, repository.repository, digest=image.descriptor.digest)
            if str(pinned) in needed.images:
                kept |= {layer.digest for layer in image.layers}
            elif image.labels.get(f"{LABEL}recipe") == tag:
                unneeded.append((pinned, image.layers))
    found = []
    for reference, layers in unneeded:
        size = sum(layer.size for layer in layers if layer.digest not in kept)
        kept |= {layer.digest for layer in layers}
        found.append(Unneeded("image", str(reference), size, partial(_delete, registry, reference)))
    return found


async def _delete(registry: Registry, reference: Reference) -> None:
    """The image last: where this ends in between, it is found again."""
    assert reference.digest is not None
    for attached in await registry.referrers(reference, reference.digest, sbom.MEDIA_TYPE):
        await registry.delete(reference.at(attached.digest))
    await registry.delete(reference)


async def in_engine(client: DockerClient, prefix: str, needed: Needed, idle: float) -> list[Unneeded]:
    """Those of a Docker Engine whose names begin with a prefix, and that are older than `idle` seconds.

    Raises:
        BuildFailed: the engine does not answer.
    """
    return await asyncio.to_thread(_in_engine, client, prefix.rstrip("/") + "/", needed, idle)


def _in_engine(client: DockerClient, prefix: str, needed: Needed, idle: float) -> list[Unneeded]:
    from docker.errors import DockerException

    try:
        images = [
            *client.images.list(filters={"label": f"{LABEL}recipe"}),
            *client.images.list(filters={"label": f"{LABEL}environment"}),
        ]
        # Source: Docker Engine API 1.41, GET /system/df: `SharedSize` is what other images have, too.
        sizes = {one["Id"]: int(one["Size"]) - max(0, int(one["SharedSize"])) for one in client.df()["Images"] or []}
        return [
            Unneeded("engine's image", names[0], sizes.get(str(image.id), 0), partial(_untag, client, names))
            for image in dict.fromkeys(images)
            if (names := [name for name in _names(image) if name.startswith(prefix)])
            and not _is_needed(image, names, prefix, needed)
            and _age(image) > idle
        ]
    except (DockerException, OSError) as error:
        raise BuildFailed(f"the engine does not say what it has: {error}", "") from error


def _is_needed(image: Image, names: list[str], prefix: str, needed: Needed) -> bool:
    if (environment := image.labels.get(f"{LABEL}environment")) is not None and f"{LABEL}recipe" not in image.labels:
        runner = f"-{needs.runner_digest()[:32]}"
        return f"sha256:{environment}" in needed.environments and any(name.endswith(runner) for name in names)
    return image.id in needed.images or not needed.images.isdisjoint(names)


def _names(image: Image) -> list[str]:
    """Tags first: they are what people know it by."""
    return [*image.tags, *(image.attrs.get("RepoDigests") or [])]


def _age(image: Image) -> float:
    """Seconds since it was built here; of one that says that it was made in 1970, many."""
    text = re.sub(r"(\.\d{6})\d*", r"\1", str(image.attrs.get("Created") or "1970-01-01T00:00:00Z"))
    created = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (datetime.now(timezone.utc) - created) / timedelta(seconds=1)


async def _untag(client: DockerClient, names: list[str]) -> None:
    await asyncio.to_thread(_untag_now, client, names)


def _untag_now(client: Any, names: list[str]) -> None:
    """All names that are ours; with the last one goes the image, unless somebody else has a name for it."""
    from docker.errors import ImageNotFound

    for name in names:
        with suppress(ImageNotFound):  # its last tag took the digests along
            _remove(client, name)


def _remove(client: Any, name: str) -> None:
    from docker.errors import DockerException, ImageNotFound

    try:
        client.images.remove(name)
    except ImageNotFound:
        raise
    except (DockerException, OSError) as error:
        explanation = getattr(error, "explanation", None)
        raise BuildFailed(f"{name} can't be removed: {explanation or error}", "") from error
