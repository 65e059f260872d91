"""Images made in a registry, over HTTP: no daemon, no privilege, and no byte of a base image is moved where the
registry can refer to it.

A program's layer is appended to the manifest of its base. What programs of one lock share lies in one repository,
`environments`, and is mounted from there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

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
from neartime_server.builder.images.recipe import Recipe
from neartime_server.builder.protocol import Tell
from neartime_server.builder.remedies import REGISTRY
from neartime_server.errors import BuildFailed, Refused

ENVIRONMENTS: Final = "environments"
BASES: Final = 32
"""Base images whose manifests are held."""


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
        self._bases: dict[str, Image] = {}

    async def base(self, reference: str) -> tuple[str, dict[str, Any]]:
        try:
            image = await self._registry.image(Reference.parse(reference))
        except NotInRegistry as error:
            raise Refused.of(422, ErrorCode.UNSUPPORTED_IMAGE, str(error), path="manifest.image") from error
        except RegistryError as error:
            raise BuildFailed(f"the base image can't be had: {error}", "", REGISTRY) from error
        pinned = str(image.reference)
        self._bases.pop(pinned, None)
        self._bases[pinned] = image
        if len(self._bases) > BASES:
            del self._bases[next(iter(self._bases))]
        return pinned, dict(image.config)

    async def find(self, recipe: Recipe) -> str | None:
        wanted = self._repository(recipe.manifest.name).tagged(recipe.tag)
        try:
            descriptor, _ = await self._registry.manifest(wanted)
        except NotInRegistry:
            return None
        except RegistryError as error:
            raise BuildFailed(f"the registry does not say what it has: {error}", "", REGISTRY) from error
        return _pinned(wanted, descriptor)

    async def labels(self, image: str) -> Mapping[str, str]:
        try:
            return (await self._registry.image(Reference.parse(image))).labels
        except NotInRegistry as error:
            raise BuildFailed(f"the version's image is gone: {error}", "", "upload the program again") from error
        except RegistryError as error:
            raise BuildFailed(f"the version's image can't be had: {error}", "", REGISTRY) from error

    async def make(self, recipe: Recipe, layers: list[Layer], tell: Tell) -> str:
        target = self._repository(recipe.manifest.name).tagged(recipe.tag)
        try:
            base = self._bases.get(recipe.base.reference) or await self._registry.image(
                Reference.parse(recipe.base.reference)
            )
            descriptors = [await self._borrow(base, one, target, tell) for one in base.layers]
            descriptors += [await self._push(layer, target, tell) for layer in layers]
            config = recipe.configuration(base.config, {layer.what: layer.diff_id for layer in layers})
            described = Descriptor(OCI_CONFIG, digest_of(config), len(config))
            await self._registry.push_blob(target, config, described.digest, described.size)
            manifest = {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": described.to_json(),
                "layers": [one.to_json() for one in descriptors],
                "annotations": {name: text for name, text in recipe.labels.items() if name.startswith("org.")},
            }
            encoded = _encoded(manifest)
            pushed = Descriptor(OCI_MANIFEST, digest_of(encoded), len(encoded))
            if recipe.lock is not None:
                await self._attach(target, pushed, sbom.of_lock(recipe.manifest, recipe.lock))
            # It is there with its manifest, which comes last: what was pushed before is of no image.
            await self._registry.push_manifest(target, encoded, OCI_MANIFEST)
        except RegistryError as error:
            raise BuildFailed(f"the image can't be pushed: {error}", "", REGISTRY) from error
        tell(f"{_pinned(target, pushed)} is there")
        return _pinned(target, pushed)

    async def close(self) -> None:
        await self._registry.close()

    def _repository(self, name: str) -> Reference:
        return Reference.parse(f"{self._prefix}/{name}")

    async def _borrow(self, base: Image, wanted: Descriptor, target: Reference, tell: Tell) -> Descriptor:
        """A layer of the base image, in the target's repository."""
        if await self._registry.blob_exists(target, wanted.digest):
            return wanted
        source = base.reference
        here = source.registry == target.registry
        if here and await self._registry.mount(target, wanted.digest, source.repository):
            return wanted
        tell(f"copying {_size(wanted.size)} of {source.name}")
        await self._registry.push_blob(
            target, lambda: self._registry.blob(source, wanted.digest), wanted.digest, wanted.size
        )
        return wanted

    async def _push(self, layer: Layer, target: Reference, tell: Tell) -> Descriptor:
        wanted = Descriptor(OCI_LAYER_GZIP, layer.digest, layer.size)
        if layer.what == "program":
            tell(f"pushing {layer.what}, {_size(layer.size)}")
            await self._registry.push_blob(target, layer.file, layer.digest, layer.size)
            return wanted
        if await self._registry.blob_exists(target, layer.digest):
            return wanted
        if not await self._registry.blob_exists(self._environments, layer.digest):
            tell(f"pushing {layer.what}, {_size(layer.size)}")
            await self._registry.push_blob(self._environments, layer.file, layer.digest, layer.size)
        if not await self._registry.mount(target, layer.digest, self._environments.repository):
            await self._registry.push_blob(target, layer.file, layer.digest, layer.size)
        return wanted

    async def _attach(self, target: Reference, image: Descriptor, document: bytes) -> None:
        """The list of packages, as an artifact that refers to the image."""
        content = Descriptor(sbom.MEDIA_TYPE, digest_of(document), len(document))
        await self._registry.push_blob(target, document, content.digest, content.size)
        await self._registry.push_blob(target, EMPTY_CONTENT, EMPTY.digest, EMPTY.size)
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


def _pinned(reference: Reference, descriptor: Descriptor) -> str:
    return f"{reference.name}@{descriptor.digest}"


def _encoded(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count >= 1 << 20 else f"{count / 1024:.1f} KiB"
