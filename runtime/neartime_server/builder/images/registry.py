"""Images made in a registry, over HTTP: no daemon, no privilege, and no byte of a base image is moved where the
registry can refer to it.

A program's layer is appended to the manifest of its base. What programs of one lock share lies in one repository,
`environments`, and is mounted from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from neartime.contract.problem import ErrorCode
from neartime.errors import NotInRegistry, RegistryError
from neartime.oci import (
    EMPTY,
    EMPTY_CONTENT,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Image,
    Reference,
    Registry,
    digest_of,
)
from neartime_server.builder import sbom
from neartime_server.builder.images.layers import Layer
from neartime_server.builder.images.recipe import ENVIRONMENTS, Base, Recipe, extended
from neartime_server.builder.protocol import Tell
from neartime_server.builder.remedies import REGISTRY
from neartime_server.errors import BuildFailed, Refused


class RegistryMaker:
    """`prefix` is where images go: a registry and the beginning of their repositories' names."""

    def __init__(self, registry: Registry, prefix: str) -> None:
        """
        Raises:
            InvalidReference: the prefix is none.
        """
        self._registry = registry
        self._prefix = prefix.rstrip("/")
        self._environments = self._repository(ENVIRONMENTS)
        self._there: set[tuple[str, str]] = set()
        """Repositories and the shared blobs that they had."""

    async def base(self, reference: str) -> tuple[str, dict[str, Any]]:
        try:
            image = await self._registry.image(Reference.parse(reference))
        except NotInRegistry as error:
            raise Refused.of(422, ErrorCode.UNSUPPORTED_IMAGE, str(error), path="manifest.image") from error
        except RegistryError as error:
            raise BuildFailed(f"the base image can't be had: {error}", "", REGISTRY) from error
        return str(image.reference), dict(image.config)

    async def find(self, recipe: Recipe) -> str | None:
        wanted = self._repository(recipe.manifest.name).tagged(recipe.tag)
        try:
            descriptor, _ = await self._registry.manifest(wanted)
        except NotInRegistry:
            return None
        except RegistryError as error:
            raise BuildFailed(f"the registry does not say what it has: {error}", "", REGISTRY) from error
        return _pinned(wanted, descriptor)

    async def labels(self, image: str) -> dict[str, str] | None:
        try:
            return (await self._registry.image(Reference.parse(image))).labels
        except NotInRegistry:
            return None
        except RegistryError as error:
            raise BuildFailed(f"the image {image} can't be looked at: {error}", "", REGISTRY) from error

    async def make(self, recipe: Recipe, layers: list[Layer], tell: Tell) -> str:
        target = self._repository(recipe.manifest.name).tagged(recipe.tag)
        try:
            try:
                pushed = await self._make(target, recipe, layers, tell)
            except NotInRegistry:  # it has let go of a blob that was there
                self._there.clear()
                pushed = await self._make(target, recipe, layers, tell)
        except RegistryError as error:
            raise BuildFailed(f"the image can't be pushed: {error}", "", REGISTRY) from error
        tell(f"{_pinned(target, pushed)} is there")
        return _pinned(target, pushed)

    async def _make(self, target: Reference, recipe: Recipe, layers: list[Layer], tell: Tell) -> Descriptor:
        base = await self._registry.image(Reference.parse(recipe.base.reference))
        config = recipe.configuration(base.config, {layer.what: layer.diff_id for layer in layers})
        described = Descriptor(OCI_CONFIG, digest_of(config), len(config))
        annotations = {name: text for name, text in recipe.labels.items() if name.startswith("org.")}
        manifest = _manifest(described, base, layers, annotations)
        image = Descriptor(OCI_MANIFEST, digest_of(manifest), len(manifest))
        await _all(
            *(self._borrow(base, one, target, tell) for one in base.layers),
            *(self._push(layer, target, tell) for layer in layers),
            self._registry.push_blob(target, config, described.digest, described.size),
            self._attach(target, image, recipe),
        )
        # It is there with its manifest, which comes last: what was pushed before is of no image.
        return await self._registry.push_manifest(target, manifest, OCI_MANIFEST)

    async def extend(self, base: Base, layer: Layer, tell: Tell) -> str:
        """An image of a base and one layer, which is of no program; its reference by its digest."""
        tag = hashlib.sha256(f"{base.reference} {layer.digest}".encode()).hexdigest()
        target = self._environments.tagged(f"{layer.what}-{tag[:40]}")
        try:
            with suppress(NotInRegistry):
                found, _ = await self._registry.manifest(target)
                return _pinned(target, found)
            image = await self._registry.image(Reference.parse(base.reference))
            config = extended(image.config, image.config.get("config") or {}, {layer.what: layer.diff_id}, tag[:12])
            described = Descriptor(OCI_CONFIG, digest_of(config), len(config))
            await _all(
                *(self._borrow(image, one, target, tell) for one in image.layers),
                self._registry.push_blob(target, layer.file, layer.digest, layer.size),
                self._registry.push_blob(target, config, described.digest, described.size),
            )
            manifest = _manifest(described, image, [layer], {})
            return _pinned(target, await self._registry.push_manifest(target, manifest, OCI_MANIFEST))
        except RegistryError as error:
            raise BuildFailed(f"the image that fetches packages can't be pushed: {error}", "", REGISTRY) from error

    async def close(self) -> None:
        await self._registry.close()

    def _repository(self, name: str) -> Reference:
        return Reference.parse(f"{self._prefix}/{name}")

    async def _borrow(self, base: Image, wanted: Descriptor, target: Reference, tell: Tell) -> None:
        """Has a layer of the base image in the target's repository."""
        if await self._has(target, wanted.digest):
            return
        source = base.reference
        here = source.registry == target.registry
        if not (here and await self._registry.mount(target, wanted.digest, source.repository)):
            tell(f"copying {_size(wanted.size)} of {source.name}")
            await self._registry.push_blob(
                target, lambda: self._registry.blob(source, wanted.digest), wanted.digest, wanted.size
            )
        self._there.add((target.name, wanted.digest))

    async def _push(self, layer: Layer, target: Reference, tell: Tell) -> None:
        if layer.what == "program":
            tell(f"pushing {layer.what}, {_size(layer.size)}")
            await self._registry.push_blob(target, layer.file, layer.digest, layer.size)
            return
        if await self._has(target, layer.digest):
            return
        if not await self._has(self._environments, layer.digest):
            tell(f"pushing {layer.what}, {_size(layer.size)}")
            await self._registry.push_blob(self._environments, layer.file, layer.digest, layer.size)
        if not await self._registry.mount(target, layer.digest, self._environments.repository):
            await self._registry.push_blob(target, layer.file, layer.digest, layer.size)
        self._there.add((target.name, layer.digest))

    async def _attach(self, target: Reference, image: Descriptor, recipe: Recipe) -> None:
        """The list of packages, as an artifact that refers to the image. It may come before the image does.

        Source: OCI distribution specification 1.1, "Pushing Manifests with Subject".
        """
        if recipe.lock is None:
            return
        document = sbom.of_lock(recipe.manifest, recipe.lock)
        content = Descriptor(sbom.MEDIA_TYPE, digest_of(document), len(document))
        for described, data in ((content, document), (EMPTY, EMPTY_CONTENT)):
            if not await self._has(target, described.digest):
                await self._registry.push_blob(target, data, described.digest, described.size)
                self._there.add((target.name, described.digest))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": sbom.MEDIA_TYPE,
            "config": EMPTY.to_json(),
            "layers": [content.to_json()],
            "subject": image.to_json(),
        }
        encoded = _encoded(manifest)
        named = Reference(target.registry, target.repository, digest=digest_of(encoded))
        await self._registry.push_manifest(named, encoded, OCI_MANIFEST)

    async def _has(self, repository: Reference, digest: str) -> bool:
        """Whether a repository has a blob, or had it before: then the push of a manifest tells if it has it no more."""
        if (repository.name, digest) in self._there:
            return True
        found = await self._registry.blob_exists(repository, digest)
        if found:
            self._there.add((repository.name, digest))
        return found


async def _all(*work: Coroutine[Any, Any, object]) -> None:
    """All at once; the first that fails ends the others."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _pinned(reference: Reference, descriptor: Descriptor) -> str:
    return f"{reference.name}@{descriptor.digest}"


def _manifest(config: Descriptor, base: Image, layers: list[Layer], annotations: dict[str, str]) -> bytes:
    own = [Descriptor(OCI_LAYER_GZIP, layer.digest, layer.size) for layer in layers]
    return _encoded(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.to_json(),
            "layers": [one.to_json() for one in [*base.layers, *own]],
            "annotations": annotations,
        }
    )


def _encoded(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"
