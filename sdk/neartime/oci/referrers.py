"""What refers to an image (a signature, an SBOM): by the registry's own list, or by a list that clients keep for it.

OCI distribution specification, "Listing Referrers", "Referrers Tag Schema", "Pushing Manifests with Subject" and
"Deleting Manifests".
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

from neartime.errors import NotInRegistry, RegistryError
from neartime.oci.descriptor import OCI_INDEX, Descriptor
from neartime.oci.reference import Reference

_WRITES = 5
"""How often a list is written where another client writes it at the same time."""

Read = Callable[[Reference], Awaitable[tuple[Descriptor, bytes]]]
Write = Callable[[Reference, bytes, str], Awaitable[object]]


def fallback_tag(digest: str) -> str:
    """The tag of the list of what refers to the digest, in a registry without a list of its own."""
    algorithm, _, encoded = digest.partition(":")
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', algorithm)[:32]}-{re.sub(r'[^A-Za-z0-9_.-]', '-', encoded)[:64]}"


def described(manifest: dict[str, Any], descriptor: Descriptor) -> Descriptor:
    """A referrer as lists have it: with its artifact's type, which may be its config's, and its annotations."""
    artifact_type = manifest.get("artifactType") or (manifest.get("config") or {}).get("mediaType")
    value = {
        **descriptor.to_json(),
        **({"artifactType": artifact_type} if artifact_type else {}),
        "annotations": manifest.get("annotations") or {},
    }
    return Descriptor.from_json(value)


def listed(content: bytes) -> list[Descriptor]:
    """The descriptors of an index.

    Raises:
        DamagedContent: it has what is no descriptor.
        ValueError: it is no JSON, or no index.
    """
    index = json.loads(content)
    if not isinstance(index, dict) or not isinstance(index.get("manifests"), list):
        raise ValueError("it is no index")
    return [Descriptor.from_json(entry) for entry in index["manifests"]]


class FallbackLists:
    """The lists that clients keep. Registries can't compare and write, so each write is read back."""

    def __init__(self, read: Read, write: Write) -> None:
        self._read_manifest = read
        self._write_manifest = write
        self._lock = asyncio.Lock()

    async def read(self, reference: Reference, digest: str) -> list[Descriptor]:
        """What refers to the digest; nothing where there is no list."""
        try:
            _, content = await self._read_manifest(reference.tagged(fallback_tag(digest)))
        except NotInRegistry:
            return []
        try:
            return listed(content)
        except ValueError as error:
            tag = fallback_tag(digest)
            raise RegistryError(
                f"the tag {tag} of {reference.name}, which should be a list of referrers, is something else: remove it"
            ) from error

    async def add(self, reference: Reference, digest: str, referrer: Descriptor) -> None:
        await self._change(reference, digest, lambda listed: [*_without(listed, referrer.digest), referrer], referrer)

    async def remove(self, reference: Reference, digest: str, referrer: Descriptor) -> None:
        await self._change(reference, digest, lambda listed: _without(listed, referrer.digest), None)

    async def _change(
        self,
        reference: Reference,
        digest: str,
        change: Callable[[list[Descriptor]], list[Descriptor]],
        added: Descriptor | None,
    ) -> None:
        async with self._lock:
            for _ in range(_WRITES):
                before = await self.read(reference, digest)
                after = change(before)
                if before == after or (added is not None and added in before):
                    return
                index = {
                    "schemaVersion": 2,
                    "mediaType": OCI_INDEX,
                    "manifests": [descriptor.to_json() for descriptor in after],
                }
                await self._write_manifest(
                    reference.tagged(fallback_tag(digest)), json.dumps(index).encode(), OCI_INDEX
                )
        raise RegistryError(
            f"the list of what refers to {digest} in {reference.name} is written by others all the time; try again"
        )


def _without(descriptors: list[Descriptor], digest: str) -> list[Descriptor]:
    return [descriptor for descriptor in descriptors if descriptor.digest != digest]
