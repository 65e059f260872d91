"""What the images of programs say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from neartime.contract.programs import Manifest
from neartime.errors import InvalidReference
from neartime.oci import Credentials, Reference, Registry


@dataclass(frozen=True)
class Inspected:
    """A program's image, by its labels."""

    reference: str
    """By its digest."""
    manifest: Manifest
    program: str
    """Digest of the program's manifest and files."""
    contract: int
    """Version of the contract that its runner speaks."""
    version: str
    """Of Neartime in it."""
    python: str
    """Its Python's minor version."""
    base: str
    """The image that it was built on, by its digest."""
    size: int
    """Bytes of its layers, as they are in the registry."""
    layers: int

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "manifest": self.manifest.model_dump(mode="json")}


async def inspect(
    image: str, *, credentials: Credentials | None = None, ca: Path | None = None, insecure: bool = False
) -> Inspected:
    """Reads an image's labels, without its layers.

    Args:
        credentials: of the registry; None for those of `docker login`.
        ca: certificates, PEM, that are trusted beside the system's.
        insecure: the registry speaks HTTP without TLS.

    Raises:
        InvalidReference: it is no reference, or that image is no program's.
        NotInRegistry: there is no such image.
        RegistryError: the registry does not answer, or refuses.
    """
    reference = Reference.parse(image)
    hosts = [reference.registry] if insecure else []
    async with Registry(credentials or Credentials.read(), ca=ca, insecure=hosts) as registry:
        found = await registry.image(reference)
    labels = found.labels
    try:
        manifest = Manifest.model_validate_json(labels["neartime.manifest"])
        base = "org.opencontainers.image.base"
        return Inspected(
            reference=str(found.reference),
            manifest=manifest,
            program=labels["neartime.program"],
            contract=int(labels["neartime.contract"]),
            version=labels["neartime.version"],
            python=labels["neartime.python-version"],
            base=f"{labels[f'{base}.name']}@{labels[f'{base}.digest']}",
            size=sum(layer.size for layer in found.layers),
            layers=len(found.layers),
        )
    except (KeyError, ValueError, ValidationError) as error:
        raise InvalidReference(f"{image} is not the image of a program: its labels lack {error}") from error
