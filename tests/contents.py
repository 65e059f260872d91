"""What tests push to registries."""

from __future__ import annotations

import json
import random
from typing import Any

from neartime.oci import (
    EMPTY,
    EMPTY_CONTENT,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Reference,
    Registry,
    digest_of,
)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that nothing makes smaller."""
    return random.Random(seed).randbytes(size)


async def push_blob(client: Registry, reference: Reference, content: bytes, media_type: str) -> Descriptor:
    descriptor = Descriptor(media_type, digest_of(content), len(content))
    await client.push_blob(reference, content, descriptor.digest, descriptor.size)
    return descriptor


async def push_image(
    client: Registry, reference: Reference, *, architecture: str = "amd64", layer: bytes = b"layer", **labels: str
) -> Descriptor:
    """An image of one layer."""
    config = json.dumps({"os": "linux", "architecture": architecture, "config": {"Labels": labels}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": (await push_blob(client, reference, config, OCI_CONFIG)).to_json(),
        "layers": [(await push_blob(client, reference, layer, OCI_LAYER)).to_json()],
    }
    return await client.push_manifest(reference, json.dumps(manifest).encode(), OCI_MANIFEST)


async def push_artifact(
    client: Registry, reference: Reference, subject: Descriptor, artifact_type: str, note: str
) -> Reference:
    """Something that refers to an image, and where it is."""
    await client.push_blob(reference, EMPTY_CONTENT, EMPTY.digest, EMPTY.size)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": EMPTY.to_json(),
        "layers": [EMPTY.to_json()],
        "subject": subject.to_json(),
        "annotations": {"note": note},
    }
    content = json.dumps(manifest).encode()
    pinned = Reference(reference.registry, reference.repository, digest=digest_of(content))
    await client.push_manifest(pinned, content, OCI_MANIFEST)
    return pinned
