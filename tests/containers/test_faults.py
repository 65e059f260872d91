"""What goes wrong when images are made and run: told so that somebody can mend it, and nothing half-made is left."""

from __future__ import annotations

import asyncio
import gzip
import io
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import pytest
from containers.test_images import building, source
from docker.errors import ImageNotFound
from engine import Engine
from indexes import PrivateIndex
from registries import Registry as Hub
from relays import Relay

from neartime import RuntimeService, Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import InvalidRequest, JobFailed, NotInRegistry
from neartime.oci import Reference, Registry
from neartime_server.builder.images import ImageBuilder
from neartime_server.errors import BuildFailed
from neartime_server.testing import Runtime

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

ECHO = "def main(backend, user_messenger):\n    return 'here'\n"


def drafts(home: Path) -> list[str]:
    return [str(path) for path in home.rglob(".*") if path.name.startswith((".draft-", ".making-"))]


# --- a registry that goes


@pytest.mark.parametrize("way", ["registry", "docker"])
async def test_a_registry_that_dies_in_the_middle_of_a_push_leaves_nothing_that_looks_like_an_image(
    way: str, engine: Engine, base: str, home: Path
) -> None:
    with Hub() as hub:
        async with Relay(hub.host) as relay:
            builder = building(way, engine, relay, base, home)  # type: ignore[arg-type] # it has a host, too
            program = source(30, name="cut")
            making = asyncio.create_task(builder.build(program))
            while relay.up < 4 << 20:
                assert not making.done(), making
                await asyncio.sleep(0.005)
            hub.kill()
            with pytest.raises(BuildFailed, match=r"can't be pushed: .*(registry|connection|dial|EOF|reset)"):
                await making
            assert drafts(home) == []
            hub.start()
            name = Reference.parse(f"{hub.host}/{way}/cut")
            async with Registry() as client:
                with suppress(NotInRegistry):
                    assert await client.tags(name) == []
            if way == "docker":
                assert not [tag for image in engine.client.images.list() for tag in image.tags if "/cut:" in tag]
            said: list[str] = []
            built = await builder.build(program, said.append)
            assert not any("is there already" in line for line in said)
            assert built.image is not None
            async with Registry() as client:
                await client.image(Reference.parse(built.image))
            await builder.close()


# --- a disk that is full


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def give_space(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=2g", folder], check=True)


def fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


async def test_a_builder_without_space_for_packages_says_so_and_goes_on_when_there_is_some(
    engine: Engine, registry: Hub, base: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with small_disk(home, "48m"):
        builder = building("registry", engine, registry, base, home)
        with pytest.raises(BuildFailed) as failed:
            await builder.build(source(31))
        assert "No space left" in f"{failed.value}\n{failed.value.log}"
        assert drafts(home) == []
        assert list((home / "layers").glob("*.tar.gz")) == []
        give_space(home)
        assert (await builder.build(source(31))).image is not None
        await builder.close()


async def test_a_builder_without_space_for_a_layer_says_so_and_goes_on_when_there_is_some(
    engine: Engine, registry: Hub, base: str, home: Path, tmp_path: Path
) -> None:
    await building("registry", engine, registry, base, home).build(source(32))
    full = tmp_path / "home"
    with small_disk(full, "1g"):
        shutil.copytree(home / "layers", full / "layers")
        builder = building("registry", engine, registry, base, full)
        fill(full)
        with pytest.raises(BuildFailed, match="No space left on device"):
            await builder.build(source(33))
        assert drafts(full) == []
        (full / "filler").unlink()
        assert (await builder.build(source(33))).image is not None
        await builder.close()


async def test_an_engine_without_space_says_so_and_goes_on_when_there_is_some(
    registry: Hub, base: str, home: Path
) -> None:
    with Engine(disk="240m") as small:
        builder = building("docker alone", small, registry, base, home)
        with pytest.raises(BuildFailed, match="no space left on device"):
            await builder.build(source(34))
        assert [tag for image in small.client.images.list() for tag in image.tags if "neartime.local" in tag] == []
        assert small.client.containers.list(all=True) == []
        give_space(small.folder / "data")
        assert (await builder.build(source(34))).image is not None
        await builder.close()


# --- a base or an image that is gone


@pytest.mark.parametrize("way", ["registry", "docker"])
async def test_a_worker_of_an_image_that_is_there_does_not_need_its_base(
    way: str, engine: Engine, base: str, home: Path
) -> None:
    with Hub() as hub:
        own = f"{hub.host}/own/base:1"
        engine.client.images.get(base).tag(own.rpartition(":")[0], "1")
        engine.client.images.push(own.rpartition(":")[0], "1")
        first = building(way, engine, hub, own, home)
        program = source(35, name="lasting")
        built = await first.build(program)
        await first.close()
        async with Registry() as client:
            pinned = await client.image(Reference.parse(own))
            await client.delete(pinned.reference)
        engine.client.images.remove(own)
        again = building(way, engine, hub, own, home)
        assert await again.build(made(program, built)) == built
        await again.close()


@pytest.mark.parametrize("way", ["registry", "docker", "docker alone"])
async def test_an_image_that_is_gone_is_made_again_with_the_same_packages(
    way: str, engine: Engine, registry: Hub, base: str, home: Path
) -> None:
    builder = building(way, engine, registry, base, home)
    program = source(36, name="gone-again")
    built = await builder.build(program)
    await builder.close()
    assert built.image is not None
    if way != "docker alone":
        async with Registry() as client:
            await client.delete(Reference.parse(built.image))
    if way != "registry":
        image = engine.client.images.get(built.image)
        engine.client.images.remove(str(image.id), force=True)
    builder = building(way, engine, registry, base, home)
    again = await builder.build(made(program, built))
    await builder.close()
    assert again.lock == built.lock
    assert again.image is not None
    if way == "registry":
        assert again.image == built.image  # bit by bit
        async with Registry() as client:
            await client.image(Reference.parse(again.image))
    else:
        assert engine.client.images.get(again.image)


def made(program: Any, built: Any) -> Any:
    """The version as the store has it when it was built."""
    return type(program)(program.manifest, program.digest, program.archive, built.lock, built.image)


# --- secrets


@pytest.fixture
def private_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateIndex]:
    """One with the package `hidden`, known to the builder's tools by the operator's variable, password and all."""
    with PrivateIndex(tmp_path / "index") as index:
        index.wheel("hidden", "1.0", source="VALUE = 'found'\n")
        monkeypatch.setenv("UV_INDEX", index.url)
        yield index


@pytest.mark.parametrize("way", ["registry", "docker"])
async def test_the_credential_of_a_package_index_is_nowhere_in_an_image_or_in_what_is_told(
    way: str, engine: Engine, registry: Hub, base: str, tmp_path: Path, private_index: PrivateIndex
) -> None:
    home, said = tmp_path / "home", list[str]()
    builder = building(way, engine, registry, base, home)
    built = await builder.build(source(37, name="hushed", requirements=["hidden==1.0"]), said.append)
    assert built.image is not None
    with pytest.raises(BuildFailed) as failed:
        await builder.build(source(38, name="hushed", requirements=["hidden==9.9"]), said.append)
    assert "hidden" in failed.value.log
    await builder.close()
    found = [*said, built.lock or "", str(failed.value), failed.value.log]
    found += [path.read_bytes().decode(errors="replace") for path in home.rglob("*") if path.is_file()]
    async with Registry() as client:
        image = await client.image(Reference.parse(built.image))
        _, manifest = await client.manifest(image.reference)
        found += [manifest.decode(), str(image.config)]
        for layer in image.layers:
            blob = b"".join([piece async for piece in client.blob(image.reference, layer.digest)])
            found.append(gzip.decompress(blob).decode(errors="replace"))
    assert any("VALUE = 'found'" in text for text in found)
    secrets = [secret.decode() for secret in private_index.secrets]
    assert not [text[:80] for text in found if any(secret in text for secret in secrets)]


# --- several servers


async def test_two_servers_that_build_the_same_at_once_push_the_same_image(
    engine: Engine, registry: Hub, base: str, home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / "layers", tmp_path / "other" / "layers", ignore=shutil.ignore_patterns("program-*"))
    for number in range(40, 46):
        both: list[ImageBuilder] = [
            building("registry", engine, registry, base, one) for one in (home, tmp_path / "other")
        ]
        built = await asyncio.gather(*(one.build(source(number, name="twice")) for one in both))
        assert len({one.image for one in built}) == 1
        assert built[0].image is not None
        async with Registry() as client:
            await client.image(Reference.parse(built[0].image))
        for one in both:
            await one.close()


# --- through the whole runtime


def test_a_requirement_that_does_not_exist_and_one_that_contradicts_are_told_in_the_resolvers_words(
    service: RuntimeService,
) -> None:
    with pytest.raises(InvalidRequest, match=r"no-such-package-of-neartime was not found in the package\s+registry"):
        service.upload_program(ECHO, name="unmet", requirements=["no-such-package-of-neartime==1.0"])
    with pytest.raises(InvalidRequest, match=r"you\s+require\s+six==1\.15\.0\s+and\s+six==1\.16\.0"):
        service.upload_program(ECHO, name="unmet", requirements=["six==1.16.0", "six==1.15.0"])
    assert "unmet" not in [program.name for program in service.programs()]


def derived(engine: Engine, registry: Hub, base: str, name: str, **labels: str) -> str:
    """An image of the base with labels of its own, in the registry."""
    reference = f"{registry.host}/derived/{name}:1"
    lines = [f"FROM {base}", *(f'LABEL neartime.{key}="{value}"' for key, value in labels.items())]
    dockerfile = "\n".join(lines).encode()
    engine.client.images.build(fileobj=io.BytesIO(dockerfile), tag=reference, rm=True)
    engine.client.images.push(f"{registry.host}/derived/{name}", "1")
    return reference


def test_a_complete_image_without_a_runner_or_with_one_that_is_too_old_is_refused(
    service: RuntimeService, engine: Engine, registry: Hub, base: str
) -> None:
    def upload(reference: str) -> None:
        service.upload_program(ECHO, name="whole", image={"base": reference, "complete": True})

    with pytest.raises(InvalidRequest, match=r"(?s)does not carry Neartime's runner.*LABEL neartime.contract"):
        upload(base)
    with pytest.raises(InvalidRequest, match=r"(?s)contract.*install the neartime release of this server"):
        upload(derived(engine, registry, base, "old", contract="0"))
    assert "whole" not in [program.name for program in service.programs()]
    # One that says it has a runner, and has none, is found out before a program of it runs.
    upload(derived(engine, registry, base, "lying", contract="1"))
    with pytest.raises(JobFailed, match=r"does not carry a runner that works; install neartime\[runner\]"):
        service.run("whole", {}, {"backend": "aer"}).result(timeout=120)


GREEDY = """
def main(backend, user_messenger, megabytes=1):
    print("taking", megabytes, flush=True)
    return len(bytearray(megabytes << 20))
"""
FORKS = """
import os, time

def main(backend, user_messenger):
    print("forking", flush=True)
    while True:
        if os.fork() == 0:
            time.sleep(600)
"""


def test_a_program_that_takes_too_much_memory_is_told_so_with_its_log_and_the_next_job_runs(
    service: RuntimeService,
) -> None:
    service.upload_program(GREEDY, name="greedy", resources={"memory": "512Mi"})
    with Session(service, backend="aer") as session:
        job = session.run("greedy", {"megabytes": 2000})
        with pytest.raises(JobFailed, match="memory") as failed:
            job.result(timeout=120)
        assert failed.value.reason_code is ReasonCode.OUT_OF_MEMORY
        assert "taking 2000" in job.logs()
        assert session.run("greedy", {"megabytes": 1}).result(timeout=120) == 1 << 20


def test_a_program_that_forks_without_end_is_held_and_the_next_job_runs(service: RuntimeService) -> None:
    service.upload_program(FORKS, name="forking")
    service.upload_program(ECHO, name="after")
    with Session(service, backend="aer") as session:
        job = session.run("forking", {})
        with pytest.raises(JobFailed, match="Resource temporarily unavailable"):
            job.result(timeout=120)
        assert "forking" in job.logs()
        assert session.run("after", {}).result(timeout=120) == "here"


def test_an_engine_that_dies_while_a_job_runs_ends_the_job_with_that_reason_and_the_next_one_runs(
    registry: Hub, base: str
) -> None:
    waits = "import time\n\ndef main(backend, user_messenger, seconds=0):\n    user_messenger.publish(1)\n"
    waits += "    time.sleep(seconds)\n    return 'here'\n"
    with (
        Engine() as engine,
        Runtime(
            executor="docker",
            docker_host=engine.url,
            registry=f"{registry.host}/faults",
            base_image=base,
            worker_heartbeat=0.5,
        ) as runtime,
        runtime.service() as service,
    ):
        service.upload_program(waits, name="waiting")
        heard = threading.Event()
        job = service.run("waiting", {"seconds": 600}, {"backend": "aer"}, callback=lambda *_: heard.set())
        assert heard.wait(120)
        engine.kill()
        service.upload_program(ECHO, name="meanwhile")  # the `registry` builder needs no engine
        engine.start()
        with pytest.raises(JobFailed) as failed:
            job.result(timeout=120)
        assert failed.value.reason_code is ReasonCode.WORKER_LOST
        assert service.run("waiting", {}, {"backend": "aer"}).result(timeout=120) == "here"
        leftover = docker.DockerClient(engine.url)
        with suppress(ImageNotFound):
            assert len(leftover.containers.list(all=True)) <= 1
        leftover.close()
