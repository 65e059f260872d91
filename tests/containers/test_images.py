"""Images of programs, made in a real registry and by a real Docker Engine."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
from engine import Engine
from registries import Authority
from registries import Registry as Hub
from uploads import archive

from neartime import images, packaging
from neartime.contract.programs import Image, Manifest, digest
from neartime.errors import InvalidReference
from neartime.oci import Credentials, Reference, Registry
from neartime_server.builder import Source
from neartime_server.builder.images import ImageBuilder, ImageMaker
from neartime_server.builder.images.engine import EngineMaker
from neartime_server.builder.images.registry import RegistryMaker
from neartime_server.errors import BuildFailed, Refused

CODE = "def main(backend, user_messenger):\n    return {number}\n"


def source(number: int = 1, name: str = "program", **manifest: Any) -> Source:
    """A program whose file has this number in it, and a requirement that no base has."""
    zipped = archive({"program.py": CODE.format(number=number)})
    declared = Manifest(name=name, **{"requirements": ["six==1.16.0"], **manifest})

    async def read() -> bytes:
        return zipped

    return Source(declared, digest(declared, packaging.read_files(zipped)), read)


@pytest.fixture(params=["registry", "docker", "docker alone"])
async def builder(
    request: pytest.FixtureRequest, engine: Engine, registry: Hub, base: str, home: Path
) -> AsyncIterator[ImageBuilder]:
    """Each way of making images; the last one pushes none."""
    made = building(request.param, engine, registry, base, home)
    yield made
    await made.close()


def building(way: str, engine: Engine, registry: Hub, base: str, home: Path) -> ImageBuilder:
    prefix = f"{registry.host}/{way}" if way != "docker alone" else "neartime.local/test"
    maker: ImageMaker = (
        RegistryMaker(Registry(patience=2), f"{registry.host}/registry")
        if way == "registry"
        else EngineMaker(
            docker.DockerClient(engine.url, timeout=120), prefix, Credentials(), pushes=way != "docker alone"
        )
    )
    return ImageBuilder(home, maker, base)


def run(engine: Engine, image: str, code: str) -> str:
    if "@" in image:
        engine.client.images.pull(image)
    output: bytes = engine.client.containers.run(
        image, ["python3", "-c", code], remove=True, network_mode="none", read_only=True, tmpfs={"/tmp": ""}
    )
    return output.decode().strip()


@pytest.mark.timeout(400)
async def test_an_image_has_the_program_its_packages_and_the_runner(builder: ImageBuilder, engine: Engine) -> None:
    built = await builder.build(source(7))
    assert built.image is not None
    assert built.path == "/opt/neartime/program"
    assert built.lock is not None
    code = "import os, six, qiskit_aer, neartime_runner.worker, program; print(program.main(0, 0), os.getuid())"
    assert await asyncio.to_thread(run, engine, built.image, f"import sys; sys.path[0] = '.'; {code}") == "7 65532"
    labels = (await asyncio.to_thread(engine.client.images.get, built.image)).labels
    assert Manifest.model_validate_json(labels["neartime.manifest"]).name == "program"


@pytest.mark.timeout(400)
async def test_what_is_there_is_not_made_again_and_a_changed_line_moves_its_own_layer_alone(
    builder: ImageBuilder,
) -> None:
    first, said = await builder.build(source(1)), []
    again = await builder.build(source(1), said.append)
    assert again == first
    assert any("is there already" in line for line in said)
    said.clear()
    changed = await builder.build(source(2), said.append)
    assert changed.image != first.image
    assert not any("packages" in line and "push" in line for line in said)
    assert not any("packages.tar.gz" in line for line in said)


@pytest.mark.timeout(400)
async def test_two_who_want_the_same_at_once_get_one_image_made_once(builder: ImageBuilder) -> None:
    said: list[str] = []
    built = await asyncio.gather(*(builder.build(source(3), said.append) for _ in range(3)))
    assert len({one.image for one in built}) == 1
    assert sum("building" in line or "pushing program" in line for line in said) == 1


@pytest.mark.timeout(400)
async def test_a_registry_says_what_an_image_is_and_what_is_in_it(
    engine: Engine, registry: Hub, base: str, home: Path
) -> None:
    builder = building("registry", engine, registry, base, home)
    built = await builder.build(source(4, name="told"))
    assert built.image is not None
    reference = Reference.parse(built.image)
    async with Registry() as client:
        labels = (await client.image(reference)).labels
        assert labels["org.opencontainers.image.title"] == "told"
        assert reference.digest is not None
        (bill,) = await client.referrers(reference, reference.digest, "application/vnd.cyclonedx+json")
        _, manifest = await client.manifest(reference.at(bill.digest))
        assert b"cyclonedx" in manifest
        tags = await client.tags(reference)
    assert labels["neartime.recipe"] in tags
    told = await images.inspect(built.image)
    assert (told.manifest.name, told.python, told.reference) == ("told", "3.11", built.image)
    assert told.layers == 4
    with pytest.raises(InvalidReference, match="is not the image of a program"):
        await images.inspect(base)
    await builder.close()


# --- what goes wrong


async def test_a_requirement_that_there_is_not_is_told_in_the_resolvers_words(builder: ImageBuilder) -> None:
    with pytest.raises(BuildFailed) as caught:
        await builder.build(source(requirements=["there-is-no-such-package==9"]))
    assert "there-is-no-such-package" in caught.value.log


async def test_an_image_that_can_not_be_built_on_is_refused_with_the_reason(
    builder: ImageBuilder, base: str, registry: Hub
) -> None:
    with pytest.raises(Refused, match="does not carry Neartime's runner"):
        await builder.build(source(image=Image(base=base, complete=True)))
    with pytest.raises((Refused, BuildFailed), match=r"nothing/here"):
        await builder.build(source(image=Image(base=f"{registry.host}/nothing/here:1")))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", ["registry", "docker"])
async def test_a_registry_that_is_down_leaves_nothing_half_made(
    way: str, engine: Engine, base: str, home: Path
) -> None:
    with Hub() as hub:
        own = building(way, engine, hub, base, home)
        hub.kill()
        with pytest.raises(BuildFailed, match=r"registry|refused|connect"):
            await own.build(source(5))
        hub.start()
        said: list[str] = []
        assert (await own.build(source(5), said.append)).image
        assert not any("is there already" in line for line in said)
        await own.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["locked_registry", "token_registry"])
@pytest.mark.parametrize("way", ["registry", "docker"])
async def test_a_registry_with_tls_and_a_password_takes_images_of_those_who_know_it(
    request: pytest.FixtureRequest, way: str, kind: str, engine: Engine, base: str, home: Path, tmp_path: Path
) -> None:
    hub: Hub = request.getfixturevalue(kind)
    authority: Authority = request.getfixturevalue("authority")
    known = tmp_path / "config.json"
    known.write_text(json.dumps({"auths": {hub.host: {"auth": base64.b64encode(b"neartime:secret").decode()}}}))

    def builder(credentials: Credentials) -> ImageBuilder:
        client = docker.DockerClient(engine.url, timeout=120)
        maker: ImageMaker = (
            RegistryMaker(Registry(credentials, ca=authority.certificate, patience=2), f"{hub.host}/{way}")
            if way == "registry"
            else EngineMaker(client, f"{hub.host}/{way}", credentials)
        )
        return ImageBuilder(home, maker, base)

    unknown = builder(Credentials())
    with pytest.raises(BuildFailed, match=r"(?i)unauthorized|credential|denied|no basic auth"):
        await unknown.build(source(50, name="locked"))
    await unknown.close()
    admitted = builder(Credentials.read(known))
    built = await admitted.build(source(50, name="locked"))
    await admitted.close()
    assert built.image is not None
    async with Registry(Credentials.read(known), ca=authority.certificate) as client:
        assert (await client.image(Reference.parse(built.image))).labels["neartime.python-version"] == "3.11"
