"""What is pushed to a real registry is read again, verified, found in lists, and gone when it was deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from contents import noise, push_artifact, push_blob, push_image
from registries import Authority
from registries import Registry as Server
from relays import Modern, Relay

from neartime.errors import DamagedContent, InvalidReference, NotInRegistry, RegistryRefused
from neartime.oci import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Credentials,
    Descriptor,
    Login,
    Platform,
    Reference,
    Registry,
    Source,
    digest_of,
)

SBOM, SIGNATURE = "application/vnd.example.sbom", "application/vnd.example.signature"


def of(server: Server | Modern | Relay, name: str) -> Reference:
    return Reference.parse(f"{server.host}/{name}")


async def read(client: Registry, reference: Reference, blob: str) -> bytes:
    return b"".join([piece async for piece in client.blob(reference, blob)])


@pytest.mark.parametrize("kind", ["plain", "locked", "tokens"])
async def test_an_image_is_read_as_it_was_pushed(
    kind: str, request: pytest.FixtureRequest, authority: Authority
) -> None:
    server: Server = request.getfixturevalue(kind)
    logins = Credentials({server.host: Login("neartime", "open-sesame")})
    reference = of(server, "round/trip:1")
    layer = noise(2_500_000)
    async with Registry(logins, ca=authority.certificate, piece_bytes=2**20) as client:
        pushed = await push_image(client, reference, layer=layer, purpose="test")
        image = await client.image(reference)
        assert image.reference == reference.at(pushed.digest)
        assert image.labels == {"purpose": "test"}
        assert image.descriptor == pushed
        assert await read(client, reference, image.layers[0].digest) == layer
        assert (await client.image(image.reference)).config == image.config
        assert await client.tags(reference) == ["1"]
        assert "round/trip" in await client.repositories(server.host)
        assert await client.mount(of(server, "round/mounted"), digest_of(layer), "round/trip")
        await client.delete(image.reference)
        with pytest.raises(NotInRegistry, match="round/trip:1"):
            await client.image(reference)


async def test_of_an_index_comes_the_image_for_the_platform(plain: Server, client: Registry) -> None:
    reference = of(plain, "many:1")
    entries = []
    for architecture in ("amd64", "arm64"):
        pushed = await push_image(client, reference.tagged(architecture), architecture=architecture, cpu=architecture)
        variant = "v8" if architecture == "arm64" else ""
        entries.append(replace(pushed, platform=Platform("linux", architecture, variant)))
    note = await push_image(client, reference.tagged("note"))
    entries.insert(0, replace(note, platform=Platform("unknown", "unknown")))
    index = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [e.to_json() for e in entries]}
    ).encode()
    pushed = await client.push_manifest(reference, index, OCI_INDEX)
    assert await client.manifest(reference) == (pushed, index)
    image = await client.image(reference, Platform("linux", "arm64"))
    assert image.labels == {"cpu": "arm64"}
    assert image.reference == reference.at(entries[2].digest)
    assert (await client.image(reference, Platform("linux", "amd64"))).labels == {"cpu": "amd64"}
    with pytest.raises(NotInRegistry, match=r"no image for linux/riscv64; there is .*linux/amd64, linux/arm64/v8"):
        await client.image(reference, Platform("linux", "riscv64"))


async def test_a_blob_comes_from_bytes_a_file_or_a_function(plain: Server, client: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(noise(9_000_000, 1))

    async def pieces() -> AsyncIterator[bytes]:
        content = noise(9_000_000, 2)
        for start in range(0, len(content), 777_777):
            yield content[start : start + 777_777]

    reference = of(plain, "sources")
    sources: list[tuple[Source, int]] = [(noise(9_000_000, 0), 0), (tmp_path / "file", 1), (pieces, 2)]
    for source, seed in sources:
        content = noise(9_000_000, seed)
        assert await client.push_blob(reference, source, digest_of(content), len(content))
        assert await read(client, reference, digest_of(content)) == content
        assert not await client.push_blob(reference, source, digest_of(content), len(content)), "it is there"


@pytest.mark.parametrize("size", [0, 1, 4 * 2**20 - 1, 4 * 2**20, 4 * 2**20 + 1])
async def test_blobs_of_any_size_arrive(plain: Server, client: Registry, size: int) -> None:
    content = noise(size, 3)
    reference = of(plain, "sizes")
    assert await client.push_blob(reference, content, digest_of(content), size)
    assert await client.blob_exists(reference, digest_of(content))
    assert await read(client, reference, digest_of(content)) == content


@pytest.mark.parametrize("size", [1000, 9_000_000])
async def test_a_blob_with_a_wrong_digest_is_refused_and_not_kept(plain: Server, client: Registry, size: int) -> None:
    reference, claimed = of(plain, "wrong"), digest_of(b"something else")
    with pytest.raises(DamagedContent, match=f"{claimed} to {plain.host}/wrong.*DIGEST_INVALID"):
        await client.push_blob(reference, noise(size), claimed, size)
    assert not await client.blob_exists(reference, claimed)


@pytest.mark.parametrize("announced", [9_000_001, 8_999_999])
async def test_a_source_of_another_size_is_refused(
    plain: Server, client: Registry, tmp_path: Path, announced: int
) -> None:
    content = noise(9_000_000)
    (tmp_path / "file").write_bytes(content)

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    sources: list[Source] = [content, tmp_path / "file", pieces]
    for source in sources:
        with pytest.raises(DamagedContent, match=str(announced)):
            await client.push_blob(of(plain, "short"), source, digest_of(content), announced)


async def test_content_that_is_damaged_in_the_registry_is_found(client: Registry) -> None:
    with Server() as server:
        reference = of(server, "damaged:1")
        pushed = await push_image(client, reference, layer=b"as it was pushed")
        image = await client.image(reference)
        for blob in (*image.layers, Descriptor.from_json(image.manifest["config"])):
            (kept,) = (server.folder / "storage").rglob(f"{blob.digest.partition(':')[2]}/data")
            kept.write_bytes(kept.read_bytes()[:-1] + b"!")
        with pytest.raises(DamagedContent, match=r"as the blob sha256:.*/damaged"):
            await read(client, reference, image.layers[0].digest)
        assert (await client.image(reference)).config == image.config  # which it has seen as it was
        async with Registry(patience=2) as other:
            with pytest.raises(DamagedContent, match=r"as the blob sha256:.*/damaged"):
                await other.image(reference)
    # Distribution verifies manifests itself; others don't.
    with Modern(server.url) as modern:
        for name in (of(modern, "damaged:1").at(pushed.digest), of(modern, "damaged:1")):
            modern.answers = [(200, {"Docker-Content-Digest": pushed.digest})]
            if not modern.requests:
                modern.answers.insert(0, (200, {}))
            with pytest.raises(DamagedContent, match="has not the digest"):
                await client.manifest(name)


async def test_a_mounted_blob_is_not_sent(plain: Server, client: Registry) -> None:
    content = noise(1_000_000, 4)
    await push_blob(client, of(plain, "origin"), content, OCI_LAYER)
    async with Relay(plain.host) as relay:
        target = of(relay, "target")
        assert await client.mount(target, digest_of(content), "origin")
        assert await client.blob_exists(target, digest_of(content))
        assert relay.up < 3000
        assert relay.down < 3000
        assert not await client.mount(target, digest_of(b"nowhere"), "origin")
        assert not await client.mount(target, digest_of(content), "no/where") or await client.blob_exists(
            target, digest_of(content)
        )


async def test_a_blob_that_is_pushed_twice_at_once_is_sent_once(plain: Server, client: Registry) -> None:
    content = noise(1_000_000, 5)
    async with Relay(plain.host) as relay:
        pushes = (client.push_blob(of(relay, "twice"), content, digest_of(content), len(content)) for _ in range(4))
        assert sorted(await asyncio.gather(*pushes)) == [False, False, False, True]
        assert relay.up < len(content) + 10_000


async def test_what_is_not_there_is_said_with_its_name(plain: Server, client: Registry) -> None:
    await push_image(client, of(plain, "there:1"))
    with pytest.raises(NotInRegistry, match=r"manifest of .*/there:2: .* no such thing \(404 MANIFEST_UNKNOWN"):
        await client.image(of(plain, "there:2"))
    with pytest.raises(NotInRegistry, match=r"/nothing/here.*NAME_UNKNOWN"):
        await client.tags(of(plain, "nothing/here"))
    with pytest.raises(NotInRegistry, match=digest_of(b"none")):
        await read(client, of(plain, "there"), digest_of(b"none"))
    assert not await client.blob_exists(of(plain, "nothing/here"), digest_of(b"none"))
    with pytest.raises(InvalidReference, match="neither a tag nor a digest"):
        await client.image(Reference(plain.host, "there"))


async def test_a_manifest_whose_blobs_are_missing_is_refused(plain: Server, client: Registry) -> None:
    await push_image(client, of(plain, "whole:1"))
    _, content = await client.manifest(of(plain, "whole:1"))
    with pytest.raises(NotInRegistry, match=r"a blob that it names is not there .*MANIFEST_BLOB_UNKNOWN"):
        await client.push_manifest(of(plain, "hollow:1"), content, OCI_MANIFEST)
    with pytest.raises(InvalidReference, match="can't be pushed as"):
        await client.push_manifest(of(plain, "whole:1").at(digest_of(b"")), content, OCI_MANIFEST)
    with pytest.raises(DamagedContent, match="no JSON"):
        await client.push_manifest(of(plain, "whole:1"), b"{", DOCKER_MANIFEST)


async def test_deleting_takes_a_digest_and_takes_all_tags(plain: Server, client: Registry) -> None:
    one, two, other = (of(plain, f"deleted:{tag}") for tag in ("one", "two", "other"))
    pushed = await push_image(client, one, same="content")
    assert await push_image(client, two, same="content") == pushed
    await push_image(client, other, another="content")
    with pytest.raises(InvalidReference, match="no digest"):
        await client.delete(one)
    await client.delete(one.at(pushed.digest))
    assert await client.tags(one) == ["other"]
    with pytest.raises(NotInRegistry):
        await client.delete(one.at(pushed.digest))


async def test_a_registry_that_deletes_nothing_says_so(client: Registry) -> None:
    with Server(deletes=False) as server:
        reference = of(server, "kept:1")
        pushed = await push_image(client, reference)
        with pytest.raises(RegistryRefused, match=r"can't delete .*kept:1@.*lets nobody do this \(405.*operator"):
            await client.delete(reference.at(pushed.digest))
        assert (await client.image(reference)).descriptor == pushed


async def test_referrers_are_found_in_a_registry_that_has_no_list_of_them(plain: Server, client: Registry) -> None:
    reference = of(plain, "referred:1")
    image = await push_image(client, reference)
    assert await client.referrers(reference, image.digest) == []
    sbom = await push_artifact(client, reference, image, SBOM, "the SBOM")
    signature = await push_artifact(client, reference, image, SIGNATURE, "the signature")
    assert signature == await push_artifact(client, reference, image, SIGNATURE, "the signature")
    found = await client.referrers(reference, image.digest)
    assert [(one.digest, one.artifact_type, one.annotations) for one in found] == [
        (sbom.digest, SBOM, {"note": "the SBOM"}),
        (signature.digest, SIGNATURE, {"note": "the signature"}),
    ]
    assert await client.referrers(reference, image.digest, SIGNATURE) == found[1:]
    assert f"sha256-{image.digest.partition(':')[2]}" in await client.tags(reference)
    await client.delete(sbom)
    assert await client.referrers(reference, image.digest) == found[1:]


@pytest.mark.parametrize("filters", [True, False])
async def test_referrers_are_found_in_a_registrys_own_list(plain: Server, client: Registry, filters: bool) -> None:
    with Modern(plain.url, filters=filters) as modern:
        reference = of(modern, f"modern/{'filters' if filters else 'whole'}:1")
        image = await push_image(client, reference)
        pushed = [await push_artifact(client, reference, image, SBOM, f"number {n}") for n in range(5)]
        pushed.append(await push_artifact(client, reference, image, SIGNATURE, "the signature"))
        found = await client.referrers(reference, image.digest)
        assert [one.digest for one in found] == [one.digest for one in pushed]
        assert await client.referrers(reference, image.digest, SIGNATURE) == found[5:]
        await client.delete(pushed[0])
        assert await client.referrers(reference, image.digest) == found[1:]
        assert await client.tags(reference) == ["1"], "there is no list beside the registry's own"


async def test_lists_are_read_page_by_page(client: Registry) -> None:
    with Server() as server, Modern(server.url) as modern:
        names = [f"page/{letter}" for letter in "abcde"]
        for name in names:
            await push_image(client, of(server, f"{name}:1"))
        assert await client.repositories(modern.host) == names
        assert modern.requests.count("GET /v2/_catalog") == 3
        assert await client.repositories(server.host) == names


async def test_two_who_add_referrers_at_once_lose_none(plain: Server, client: Registry) -> None:
    reference = of(plain, "crowded:1")
    image = await push_image(client, reference)
    pushed = await asyncio.gather(
        *(push_artifact(client, reference, image, SBOM, f"number {number}") for number in range(6))
    )
    found = await client.referrers(reference, image.digest)
    assert {one.digest for one in found} == {one.digest for one in pushed}
