"""Digests, `algorithm:hex`, as the OCI image specification has them (descriptor.md, section "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from neartime.errors import InvalidReference

if TYPE_CHECKING:
    from hashlib import _Hash

_LENGTHS = {"sha256": 64, "sha512": 128}
"""The registered algorithms, and how many digits each has. Others can't be verified, so they are refused."""
_FORM = re.compile(r"(sha256|sha512):([0-9a-f]+)")


def check_digest(text: str) -> str:
    """The digest as it is. Whatever passes can stand in a path.

    Raises:
        InvalidReference: it is none, or of an algorithm that is not registered.
    """
    found = _FORM.fullmatch(text)
    if not found or len(found[2]) != _LENGTHS[found[1]]:
        raise InvalidReference(f"{text[:160]!r} is no digest: one is sha256: and 64 of the digits 0-9 and a-f")
    return text


def digest_of(data: bytes) -> str:
    """SHA-256, which is what content is named by that is made here."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Verifier:
    """Takes content as it comes and tells whether it is what a digest names."""

    def __init__(self, digest: str) -> None:
        self.digest = check_digest(digest)
        self.size = 0
        """Bytes so far."""
        self._algorithm = digest.partition(":")[0]
        self._hash: _Hash = hashlib.new(self._algorithm)

    def feed(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    @property
    def found(self) -> str:
        """The digest of what came so far."""
        return f"{self._algorithm}:{self._hash.hexdigest()}"


def matches(data: bytes, digest: str) -> bool:
    """Whether the digest is that of the data."""
    verifier = Verifier(digest)
    verifier.feed(data)
    return verifier.found == digest
