"""The software bill of materials of a lock: every package with its version and hashes.

Source of the format: CycloneDX 1.6, JSON; package URLs as in the purl specification's type `pypi`.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timezone
from functools import lru_cache
from typing import Final

from neartime.contract.programs import Manifest

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_ENTRY: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)((?:.*\\\n)*.*)$", re.MULTILINE)
_HELD: Final = 32
"""Documents that are held: programs of one lock are uploaded again and again."""
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def of_lock(manifest: Manifest, lock: str) -> bytes:
    """The document, the same for the same lock, program name and description."""
    return _of_lock(manifest.name, manifest.description, lock)


@lru_cache(_HELD)
def _of_lock(name: str, description: str, lock: str) -> bytes:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    serial = uuid.uuid5(uuid.NAMESPACE_URL, f"{name}\0{description}\0{lock}")
    metadata = BomMetaData(timestamp=datetime(1970, 1, 1, tzinfo=timezone.utc))  # as all that images have
    bom = Bom(serial_number=serial, metadata=metadata)
    component = Component(name=name, type=ComponentType.APPLICATION, description=description or None)
    bom.metadata.component = component
    for package, version, rest in _ENTRY.findall(lock):
        bom.components.add(
            Component(
                name=package,
                version=version,
                type=ComponentType.LIBRARY,
                purl=PackageURL("pypi", name=package, version=version),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in _HASH.findall(rest)],
            )
        )
    bom.register_dependency(component, list(bom.components))
    return JsonV1Dot6(bom).output_as_string().encode()
