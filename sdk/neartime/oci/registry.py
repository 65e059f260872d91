"""Registries as the rest of the framework sees them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin
from weakref import WeakValueDictionary

from neartime.errors import DamagedContent, InvalidReference, NotInRegistry
from neartime.oci.access import CATALOG_SCOPE, repository_scope
from neartime.oci.credentials import Credentials
from neartime.oci.descriptor import INDEXES, MANIFESTS, Descriptor, Platform, is_media_type
from neartime.oci.digest import Verifier, check_digest, digest_of, matches
from neartime.oci.reference import Reference
from neartime.oci.referrers import FallbackLists, described, listed
from neartime.oci.source import Reader, Source
from neartime.oci.upload import Upload
from neartime.oci.wire import ANSWER_BYTES, PATIENCE, Answer, Ask, Trouble, Wire

PIECE_BYTES = 16 * 2**20
"""How much of a blob is sent at once, and held in memory. Smaller blobs go in one piece."""
_PAGE = 1000
"""How many names a page of a list may have."""
_IMAGES = 64
"""How many images' configurations are held."""
_NEXT = re.compile(r"<([^>]*)>\s*;[^,]*\brel=\"?next\"?")


@dataclass(frozen=True)
class Image:
    """An image without its layers. What is here is verified."""

    reference: Reference
    """Pinned to the digest of the manifest, so the same image for good."""
    descriptor: Descriptor
    """Of the manifest."""
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def labels(self) -> dict[str, str]:
        """What the image says of itself (OCI image specification, config.md, "Labels")."""
        return dict((self.config.get("config") or {}).get("Labels") or {})

    @property
    def layers(self) -> list[Descriptor]:
        """The lowest first."""
        return [Descriptor.from_json(layer) for layer in self.manifest["layers"]]


class Registry:
    """A client of any number of registries: each reference names its own. An asynchronous context manager.

    Every method may raise

    - `RegistryUnreachable`: there is no connection or no trust, or the registry was busy or failing for too long;
    - `RegistryRefused`: who asks may not, or nobody may;
    - `RegistryError`: the registry answers something else;
    - `ConfigurationError`: the credentials' file, a credential helper or the file of the authority can't be used.
    """

    def __init__(
        self,
        credentials: Credentials | None = None,
        *,
        ca: Path | str | None = None,
        insecure: Collection[str] = (),
        patience: float = PATIENCE,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        """
        Args:
            credentials: none by default; `Credentials.read()` has those of `docker login`.
            ca: a file in PEM with a certificate authority, which is trusted beside those that the machine trusts.
            insecure: registries, as references name them, that speak HTTP without TLS. One on a loopback address
                is asked which it speaks.
            patience: seconds for which a registry may be away or busy.
            piece_bytes: how much of a blob is sent at once.
        """
        path = Path(ca) if ca is not None else None
        self._wire = Wire(credentials or Credentials(), ca=path, insecure=insecure, patience=patience)
        self._piece = piece_bytes
        self._pushing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._images: dict[Reference, Image] = {}
        """By their digests, which stand for the same image for good."""
        self._lists = FallbackLists(self.manifest, self._put)

    async def __aenter__(self) -> Registry:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections."""
        await self._wire.close()

    # --- manifests

    async def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]:
        """The manifest or the index itself, which is verified.

        Raises:
            NotInRegistry: there is none.
            DamagedContent: it does not have the digest that was asked for, or that the registry says.
        """
        answer = await self._wire.send(
            self._ask(
                "GET",
                reference,
                f"manifests/{_which(reference)}",
                f"read the manifest of {reference}",
                headers={"Accept": ", ".join((*MANIFESTS, *INDEXES))},
            )
        )
        digest = reference.digest or answer.headers.get("Docker-Content-Digest") or digest_of(answer.body)
        if not matches(answer.body, digest):
            raise DamagedContent(f"what the registry gives as the manifest of {reference} has not the digest {digest}")
        media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        if media_type not in (*MANIFESTS, *INDEXES):
            media_type = str(_object(answer.body, reference).get("mediaType") or media_type)
        return Descriptor(media_type, digest, len(answer.body)), answer.body

    async def image(self, reference: Reference, platform: Platform | None = None) -> Image:
        """Manifest and config of an image, of an index the one for the platform; by default, this machine's.

        Raises:
            NotInRegistry: there is no such image, or none for the platform.
            DamagedContent: something does not have the digest that names it, or is no manifest.
        """
        descriptor, content = await self.manifest(reference)
        if descriptor.media_type in INDEXES:
            chosen = _choose(_entries(content, reference), platform or Platform.here(), reference)
            descriptor, content = await self.manifest(reference.at(chosen.digest))
        if descriptor.media_type not in MANIFESTS:
            raise DamagedContent(f"{reference} is no image, but {descriptor.media_type!r}")
        pinned = reference.at(descriptor.digest)
        if (known := self._images.get(pinned)) is not None:
            return known
        manifest = _object(content, reference)
        config = Descriptor.from_json(manifest.get("config"))
        if not isinstance(manifest.get("layers"), list):
            raise DamagedContent(f"the manifest of {reference} has no layers")
        if config.size > ANSWER_BYTES:
            raise DamagedContent(f"the config of {reference} has {config.size} bytes, which no config has")
        pieces = [piece async for piece in self.blob(pinned, config.digest)]
        if len(self._images) >= _IMAGES:
            del self._images[next(iter(self._images))]
        image = self._images[pinned] = Image(pinned, descriptor, manifest, _object(b"".join(pieces), reference))
        return image

    async def push_manifest(self, reference: Reference, manifest: bytes, media_type: str) -> Descriptor:
        """Puts a manifest or an index under the reference's tag, or where it has none, under the digest alone.

        Where it has a `subject`, it can be found by `referrers` from then on, whatever the registry knows of that.

        Raises:
            InvalidReference: it does not have the digest of the reference.
            DamagedContent: it is no JSON object, or did not arrive as it is.
            NotInRegistry: a blob that it names is missing.
        """
        if not is_media_type(media_type):
            raise InvalidReference(f"{media_type[:200]!r} is no media type")
        content = _object(manifest, reference)
        descriptor = Descriptor(media_type, digest_of(manifest), len(manifest))
        if reference.digest is not None and not matches(manifest, reference.digest):
            raise InvalidReference(f"the manifest is {descriptor.digest}, so it can't be pushed as {reference}")
        answer = await self._put(reference, manifest, media_type)
        subject = content.get("subject")
        if subject is not None and "OCI-Subject" not in answer.headers:
            target = Descriptor.from_json(subject).digest
            await self._lists.add(reference, target, described(content, descriptor))
        return descriptor

    async def _put(self, reference: Reference, manifest: bytes, media_type: str) -> Answer:
        digest = digest_of(manifest)
        answer = await self._wire.send(
            self._ask(
                "PUT",
                reference,
                f"manifests/{reference.tag or digest}",
                f"push the manifest of {reference}",
                push=True,
                expected=(201,),
                headers={"Content-Type": media_type},
                content=manifest,
            )
        )
        stored = answer.headers.get("Docker-Content-Digest", digest)
        if stored.startswith("sha256:") and stored != digest:
            raise DamagedContent(f"the manifest of {reference} did not arrive as it is: the registry has {stored}")
        return answer

    async def delete(self, reference: Reference) -> None:
        """Removes a manifest by its digest, with all of its tags. Blobs are left to the registry's own collector.

        Raises:
            InvalidReference: the reference has no digest: a tag's manifest may have other tags.
            NotInRegistry: there is none.
            RegistryRefused: also where the registry isn't set to delete anything.
        """
        if reference.digest is None:
            raise InvalidReference(f"{reference} has no digest: only what is named by its digest is deleted")
        descriptor, content = await self.manifest(reference)
        ask = self._ask(
            "DELETE",
            reference,
            f"manifests/{reference.digest}",
            f"delete {reference}",
            expected=(202, 200, 204, 404),  # there was one a moment ago: an answer was lost
        )
        scopes = frozenset([repository_scope(reference.repository, "delete", "pull", "push")])
        await self._wire.send(replace(ask, scopes=scopes))
        subject = _object(content, reference).get("subject")
        if subject is not None:
            target = Descriptor.from_json(subject).digest
            if await self._own_list(reference, target, None) is None:
                await self._lists.remove(reference, target, descriptor)

    async def referrers(self, reference: Reference, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """What refers to a manifest as its subject. Nothing where there is nothing, even no such manifest."""
        check_digest(digest)
        found = await self._own_list(reference, digest, artifact_type)
        if found is None:
            found = await self._lists.read(reference, digest)
        return [one for one in found if artifact_type is None or one.artifact_type == artifact_type]

    async def _own_list(self, reference: Reference, digest: str, artifact_type: str | None) -> list[Descriptor] | None:
        """The registry's; None where it keeps none."""
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        doing = f"list what refers to {digest} in {reference.name}"
        ask = self._ask("GET", reference, f"referrers/{digest}{query}", doing, expected=(200, 404))
        found: list[Descriptor] = []
        async for answer in self._pages(ask):
            if answer.status == 404:
                return None
            found += _entries(answer.body, reference)
        return found

    # --- blobs

    async def blob_exists(self, reference: Reference, digest: str) -> bool:
        """Whether the repository has it. That another one has it is not seen here: `mount` is for that."""
        doing = f"look for the blob {digest} in {reference.name}"
        ask = self._ask("HEAD", reference, f"blobs/{check_digest(digest)}", doing, expected=(200, 404))
        return (await self._wire.send(ask)).status == 200

    async def blob(self, reference: Reference, digest: str) -> AsyncIterator[bytes]:
        """The content, piece by piece. After a broken connection it goes on where it was.

        What came is verified at the end: who has not read to the end has nothing that can be relied on.

        Raises:
            NotInRegistry: the repository has no such blob.
            DamagedContent: what came does not have the digest.
        """
        verifier = Verifier(digest)
        base = self._ask("GET", reference, f"blobs/{digest}", f"read the blob {digest} of {reference.name}")
        attempt, reached, began = 0, 0, time.monotonic()
        while True:
            rest = {"Range": f"bytes={verifier.size}-"} if verifier.size else {}
            ask = replace(base, headers=rest, expected=(200, 206, 416) if rest else (200,))
            try:
                async with self._wire.open(ask) as response:
                    skip = verifier.size if response.status_code == 200 else 0
                    begins = response.headers.get("Content-Range", f"bytes {verifier.size}-").partition("-")[0]
                    if response.status_code == 416 or begins != f"bytes {verifier.size}":
                        break  # there is no more than what came, or it is something else: the digest tells
                    async for piece in response.aiter_raw():
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        fresh, skip = piece[skip:], 0
                        verifier.feed(fresh)
                        yield fresh
                break
            except Trouble as trouble:
                if verifier.size > reached:
                    attempt, reached, began = 0, verifier.size, time.monotonic()
                await self._wire.wait(ask, trouble, attempt, began)
                attempt += 1
        if verifier.found != digest:
            raise DamagedContent(f"the registry gives {verifier.found} as the blob {digest} of {reference.name}")

    async def push_blob(self, reference: Reference, source: Source, digest: str, size: int) -> bool:
        """Uploads a blob, unless the repository has it; whether it had to.

        A broken connection, a busy or a restarted registry costs the piece that was on its way. Registries of the
        distribution project, 2 and 3, forget the whole upload where a piece had come in part; it then begins again.

        Args:
            source: bytes, a file, or a function that begins to read each time that it is called.
            size: in bytes.

        Raises:
            DamagedContent: the source does not have that size or digest. The registry keeps nothing of it.
        """
        # Of two uploads of a blob at once one would be for nothing, and in the moment in which the second ends,
        # distribution 2 may not see the blob.
        async with self._pushing.setdefault((reference.name, digest), asyncio.Lock()):
            if await self.blob_exists(reference, digest):
                return False
            reader = Reader(source, size)
            try:
                await Upload(self._wire, reference, reader, digest, _scopes(reference, push=True), self._piece).run()
            finally:
                await reader.close()
        return True

    async def mount(self, reference: Reference, digest: str, from_repository: str) -> bool:
        """Makes a blob of another repository of the same registry one of this, without sending it.

        False where the registry does not do that, or has no such blob there that one may read.
        """
        origin = Reference(reference.registry, from_repository)
        query = f"?mount={quote(check_digest(digest), safe='')}&from={quote(origin.repository, safe='')}"
        doing = f"mount the blob {digest} of {origin.name} into {reference.name}"
        ask = self._ask("POST", reference, f"blobs/uploads/{query}", doing, push=True, expected=(201, 202))
        scopes = ask.scopes | {repository_scope(origin.repository, "pull")}
        answer = await self._wire.send(replace(ask, scopes=scopes))
        if answer.status == 201:
            return True
        if location := answer.headers.get("Location"):  # the upload that it has begun instead
            url = urljoin(answer.url, location)
            expected = (200, 202, 204, 400, 404, 405)
            await self._wire.send(replace(ask, method="DELETE", url=url, expected=expected, scopes=scopes))
        return False

    # --- lists

    async def tags(self, reference: Reference) -> list[str]:
        """All tags of the repository.

        Raises:
            NotInRegistry: there is no such repository.
        """
        ask = self._ask("GET", reference, f"tags/list?n={_PAGE}", f"list the tags of {reference.name}")
        return [tag async for answer in self._pages(ask) for tag in _names(answer, "tags")]

    async def repositories(self, registry: str) -> list[str]:
        """All repositories of a registry. Public registries refuse this, or have no such list."""
        scopes = frozenset([CATALOG_SCOPE])
        ask = Ask("GET", registry, f"/v2/_catalog?n={_PAGE}", f"list the repositories of {registry}", scopes)
        return [name async for answer in self._pages(ask) for name in _names(answer, "repositories")]

    async def _pages(self, ask: Ask) -> AsyncIterator[Answer]:
        seen = set[str]()
        while ask.url not in seen:
            seen.add(ask.url)
            answer = await self._wire.send(ask)
            yield answer
            following = _NEXT.search(answer.headers.get("Link", ""))
            if following is None:
                return
            ask = replace(ask, url=urljoin(answer.url, following[1]))

    def _ask(
        self,
        method: str,
        reference: Reference,
        path: str,
        doing: str,
        *,
        push: bool = False,
        expected: Collection[int] = (200,),
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
    ) -> Ask:
        url = f"/v2/{reference.repository}/{path}"
        scopes = _scopes(reference, push=push)
        return Ask(method, reference.registry, url, doing, scopes, expected, headers or {}, content)


def _scopes(reference: Reference, *, push: bool) -> frozenset[str]:
    return frozenset([repository_scope(reference.repository, *(("pull", "push") if push else ("pull",)))])


def _which(reference: Reference) -> str:
    which = reference.digest or reference.tag
    if which is None:
        raise InvalidReference(f"{reference} has neither a tag nor a digest, so it names no image")
    return which


def _object(content: bytes, reference: Reference) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DamagedContent(f"the manifest or config of {reference} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise DamagedContent(f"the manifest or config of {reference} is no JSON object")
    return value


def _entries(content: bytes, reference: Reference) -> list[Descriptor]:
    try:
        return listed(content)
    except ValueError as error:
        raise DamagedContent(f"the index of {reference} can't be read: {error}") from error


def _choose(entries: list[Descriptor], platform: Platform, reference: Reference) -> Descriptor:
    """The image of an index for a platform. What has no platform, or an unknown one, is no image but says something of
    one."""
    for entry in entries:
        if entry.platform is not None and platform.runs(entry.platform):
            return entry
    there = ", ".join(str(entry.platform) for entry in entries if entry.platform) or "none that says its platform"
    raise NotInRegistry(f"{reference} has no image for {platform}; there is {there}: build or name one for it")


def _names(answer: Answer, field: str) -> list[str]:
    try:
        return [str(name) for name in json.loads(answer.body)[field] or []]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedContent("the registry's list can't be read") from error
