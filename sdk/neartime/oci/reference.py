"""Names of images as people write them, with Docker's rules (the `reference` package of the distribution project)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from neartime.errors import InvalidReference
from neartime.oci.digest import check_digest

DOCKER_HUB = "docker.io"
"""The registry of a name that names none."""
_HUB_LIBRARY = "library"
"""Where Docker Hub keeps images whose name is one word."""
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io")
_LATEST = "latest"
_LONGEST = 255
"""Characters of registry and repository together, as Docker has it."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A repository of a registry and, in it, a tag, a digest, both or neither. Every one that exists is well-formed.

    Where there are both, the digest says what the content is, and the tag is for people.
    """

    registry: str
    """The host with its port, as it was written: `docker.io` for Docker Hub."""
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        if self.registry in _HUB_NAMES:
            object.__setattr__(self, "registry", DOCKER_HUB)
        if self.registry == DOCKER_HUB and "/" not in self.repository:
            object.__setattr__(self, "repository", f"{_HUB_LIBRARY}/{self.repository}")
        if not _REGISTRY.fullmatch(self.registry) or not _is_host(self.registry):
            raise InvalidReference(f"{self.registry!r} is no registry: one is a host and, after a colon, its port")
        if not _REPOSITORY.fullmatch(self.repository):
            hint = ", in lower case" if _REPOSITORY.fullmatch(self.repository.lower()) else ""
            raise InvalidReference(
                f"{self.repository!r} is no repository{hint}: its parts have the letters a-z, digits and, "
                "between them, one of . _ __ or -"
            )
        if len(self.name) > _LONGEST:
            raise InvalidReference(f"an image's name has at most {_LONGEST} characters, this has {len(self.name)}")
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidReference(
                f"{self.tag!r} is no tag: one has up to 128 letters, digits, and . _ - but not at the beginning"
            )
        if self.digest is not None:
            check_digest(self.digest)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """`python`, `host:5000/a/b:tag`, `host/a@sha256:…` and so on. Without tag and digest, the tag is `latest`.

        Raises:
            InvalidReference: it is no name of an image; the message says which part isn't, and why.
        """
        rest, at, digest = text.partition("@")
        first, slash, remote = rest.partition("/")
        registry, remote = (first, remote) if slash and _is_host(first) else (DOCKER_HUB, rest)
        repository, colon, tag = remote.partition(":")
        try:
            return cls(registry, repository, tag if colon else (None if at else _LATEST), digest if at else None)
        except InvalidReference as error:
            raise InvalidReference(f"{text[:300]!r} is no name of an image: {error}") from None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    def at(self, digest: str) -> Reference:
        """The same, pinned to a digest. The tag stays, for people."""
        return replace(self, digest=digest)

    def tagged(self, tag: str) -> Reference:
        """Another tag of the same repository, without a digest."""
        return replace(self, tag=tag, digest=None)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def _is_host(first: str) -> bool:
    """Docker's rule for the part before the first slash, which may be a repository's, too."""
    return first == "localhost" or first != first.lower() or any(sign in first for sign in ".:[")
