"""The software bill of materials of a lock: every package with its version and hashes.

Source of the format: CycloneDX 1.6, JSON; package URLs as in the purl specification's type `pypi`.
"""

from __future__ import annotations

import re
from typing import Final

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from neartime.contract.programs import Manifest

MEDIA_TYPE: Final = "application/vnd.cyclonedx+json"
_ENTRY: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)((?:.*\\\n)*.*)$", re.MULTILINE)
_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def of_lock(manifest: Manifest, lock: str) -> bytes:
    """The document, the same for the same lock but for its serial number and time."""
    bom = Bom()
    bom.metadata.component = Component(
        name=manifest.name, type=ComponentType.APPLICATION, description=manifest.description or None
    )
    for name, version, rest in _ENTRY.findall(lock):
        bom.components.add(
            Component(
                name=name,
                version=version,
                type=ComponentType.LIBRARY,
                purl=PackageURL("pypi", name=name, version=version),
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in _HASH.findall(rest)],
            )
        )
    bom.register_dependency(bom.metadata.component, list(bom.components))
    return JsonV1Dot6(bom).output_as_string().encode()
