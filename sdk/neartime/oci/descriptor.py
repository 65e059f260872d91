"""What points at content: the OCI image specification's descriptors (descriptor.md) and platforms (image-index.md)."""

from __future__ import annotations

import platform as machine
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neartime.errors import DamagedContent, InvalidReference
from neartime.oci.digest import check_digest, digest_of

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""What the system calls machines, and what Go, and so a platform, does. Others have the same name."""


@dataclass(frozen=True)
class Platform:
    """Where an image runs, in Go's words: `linux/amd64`, `linux/arm/v7`."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def here(cls) -> Platform:
        """Linux on this machine's processor: containers are Linux wherever they run."""
        name = machine.machine().lower()
        return cls("linux", _MACHINES.get(name, name), "v7" if name == "armv7l" else "")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform:
        return cls(*(str(value.get(name) or "") for name in ("os", "architecture", "variant")))

    def to_json(self) -> dict[str, str]:
        variant = {"variant": self.variant} if self.variant else {}
        return {"os": self.os, "architecture": self.architecture, **variant}

    def runs(self, image: Platform) -> bool:
        """Whether an image of that platform runs on this one. 64-bit ARM has one variant, v8, which many leave out."""
        mine, theirs = (one.variant or ("v8" if one.architecture == "arm64" else "") for one in (self, image))
        return (self.os, self.architecture, mine) == (image.os, image.architecture, theirs)

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True)
class Descriptor:
    """Content by its type, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str | None = None
    """What a referrer is, where it is no image."""
    platform: Platform | None = None
    """What it runs on, in an index."""

    @classmethod
    def from_json(cls, value: Any) -> Descriptor:
        """
        Raises:
            DamagedContent: it is no descriptor.
        """
        try:
            platform = value.get("platform")
            return cls(
                media_type=_text(value["mediaType"]),
                digest=check_digest(_text(value["digest"])),
                size=int(value["size"]),
                annotations={_text(name): _text(text) for name, text in (value.get("annotations") or {}).items()},
                artifact_type=_text(value["artifactType"]) if value.get("artifactType") else None,
                platform=Platform.from_json(platform) if platform else None,
            )
        except (InvalidReference, KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedContent(f"a manifest points at content in a way that can't be understood: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Without the fields that say nothing."""
        rest = {
            "artifactType": self.artifact_type,
            "platform": self.platform.to_json() if self.platform else None,
            "annotations": dict(self.annotations),
        }
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": self.size,
            **{name: value for name, value in rest.items() if value},
        }


EMPTY_CONTENT = b"{}"
EMPTY = Descriptor("application/vnd.oci.empty.v1+json", digest_of(EMPTY_CONTENT), len(EMPTY_CONTENT))
"""The config, or the only layer, of what has none (OCI image specification, manifest.md)."""


def is_media_type(text: str) -> bool:
    """Whether it can stand in a header (RFC 6838, section 4.2)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value
