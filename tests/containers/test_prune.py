"""Images that no version refers to: found, told, removed; and never one that Neartime has not made."""

from __future__ import annotations

import asyncio
from pathlib import Path

import docker
import pytest
from containers.test_images import building, source
from engine import Engine
from registries import Registry as Hub

from neartime.errors import NotInRegistry
from neartime.oci import OCI_MANIFEST, Reference, Registry
from neartime_server.builder import Built
from neartime_server.builder.images.prune import in_engine, in_registry
from neartime_server.builder.prune import Needed

PROGRAM = {"name": "pruned"}


def needed(*built: Built) -> Needed:
    return Needed(
        names=frozenset({"pruned", "never-built"}),
        environments=frozenset(one.digest for one in built if one.digest),
        images=frozenset(one.image for one in built if one.image),
    )


@pytest.mark.timeout(400)
async def test_an_image_in_a_registry_goes_with_what_is_attached_to_it_and_the_others_stay(
    engine: Engine, registry: Hub, base: str, home: Path
) -> None:
    builder = building("registry", engine, registry, base, home)
    kept, gone = await builder.build(source(1, **PROGRAM)), await builder.build(source(2, **PROGRAM))
    await builder.close()
    assert gone.image is not None
    assert kept.image is not None
    reference, prefix = Reference.parse(gone.image), f"{registry.host}/registry"
    assert reference.digest is not None
    async with Registry() as client:
        # Somebody else's image in the same repository, under a tag that looks like ours; and the same under its own.
        other = await client.image(Reference.parse(base))
        _, content = await client.manifest(other.reference)
        foreign = reference.tagged("ab" * 32)
        for blob in (*(layer.digest for layer in other.layers), other.manifest["config"]["digest"]):
            assert await client.mount(foreign, blob, other.reference.repository)
        await client.push_manifest(foreign, content, other.manifest.get("mediaType") or OCI_MANIFEST)

        found = await in_registry(client, prefix, needed(kept))
        assert [one.name for one in found] == [str(reference)]
        assert 0 < found[0].size < 100_000  # what the two share does not count
        assert await client.referrers(reference, reference.digest)
        for one in found:
            await one.remove()
        assert await in_registry(client, prefix, needed(kept)) == []
        with pytest.raises(NotInRegistry):
            await client.image(reference)
        assert await client.referrers(reference, reference.digest) == []
        await client.image(Reference.parse(kept.image))
        await client.image(foreign)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", ["docker", "docker alone"])
async def test_an_image_in_an_engine_goes_and_the_others_stay(
    engine: Engine, registry: Hub, base: str, home: Path, way: str
) -> None:
    builder = building(way, engine, registry, base, home)
    numbers = (10, 11) if way == "docker" else (20, 21)  # the engine makes the same image of the same program
    kept, gone = [await builder.build(source(number, **PROGRAM)) for number in numbers]
    client = docker.DockerClient(engine.url)
    prefix = f"{registry.host}/docker" if way == "docker" else "neartime.local/test"
    image = await asyncio.to_thread(client.images.get, gone.image)
    image.tag("somebody/elses", "1")
    before = {one.id for one in client.images.list()}
    try:
        assert await in_engine(client, prefix, needed(kept), 3600) == []  # it was built just now
        found = [one for one in await in_engine(client, prefix, needed(kept), 0) if "/pruned:" in one.name]
        assert len(found) == 1
        assert await in_engine(client, f"{registry.host}/others", needed(kept), 0) == []
        await found[0].remove()
        assert {one.id for one in client.images.list()} == before  # it still has somebody's name
        assert client.images.get("somebody/elses:1").tags == ["somebody/elses:1"]
        client.images.remove("somebody/elses:1")
        assert {one.id for one in client.images.list()} == before - {image.id}
        assert client.images.get(kept.image)
        again = await builder.build(source(numbers[1], **PROGRAM))
        assert again.image is not None
        assert client.images.get(again.image)
    finally:
        client.close()
        await builder.close()


@pytest.mark.timeout(400)
async def test_what_programs_share_stays_in_the_engine_until_no_version_has_it(
    engine: Engine, registry: Hub, base: str, home: Path
) -> None:
    builder = building("docker alone", engine, registry, base, home)
    built = await builder.build(source(5, **PROGRAM))
    await builder.close()
    client = docker.DockerClient(engine.url)
    try:

        async def environments(*needs: Built) -> list[str]:
            found = await in_engine(client, "neartime.local/test", needed(*needs), 0)
            return [one.name for one in found if "/environments:" in one.name]

        assert built.digest is not None
        shared = f"neartime.local/test/environments:{built.digest.removeprefix('sha256:')[:32]}"
        assert not any(name.startswith(shared) for name in await environments(built))
        assert any(name.startswith(shared) for name in await environments())
    finally:
        client.close()
