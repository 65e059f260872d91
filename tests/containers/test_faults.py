"""What goes wrong with images, as who uploads and runs programs sees it: a clear word, and nothing half-made left.

Everything is real: servers, a Docker Engine, a registry with a line to it that breaks, and a package index with a password.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine import Engine
from indexes import PrivateIndex
from registries import Registry as Hub
from relays import Relay

from neartime import RuntimeService, Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import InvalidRequest, JobFailed, NotFound
from neartime_server.testing import Runtime

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

WAYS = ["registry", "docker"]
"""Who makes images."""
REQUIREMENTS = ["private-thing==1.0"]
"""Of every program here: one that only the private index has. So packages are fetched and packed once for all tests."""
MAIN = """
import private_thing

def main(backend, user_messenger, number={number}):
    user_messenger.publish(number)
    return private_thing.THING + number
"""
NOISE = 10 << 20
"""Bytes of a program that are to go over a line that breaks, or on a disk that is full."""


class Line(Relay):
    """To a registry. It can be made to break each time that much goes over it."""

    breaks_after: int | None = None
    """How many bytes of content go through, until this is None again."""

    async def _take(self, reader: asyncio.StreamReader) -> bytes:
        data = await super()._take(reader)
        if self.breaks_after is not None and len(data) > 4096:
            self.breaks_after = max(self.breaks_after - len(data), 0)
            if not self.breaks_after:
                return b""
        return data


@dataclass
class House:
    """A runtime, who makes its images, and where they go."""

    way: str
    runtime: Runtime
    service: RuntimeService
    prefix: str
    hub: Hub
    engine: Engine
    line: Line

    def upload(self, name: str, number: int = 1, *, noise: bytes = b"", **manifest: Any) -> list[str]:
        """What was said of it."""
        said: list[str] = []
        declared = {"requirements": REQUIREMENTS, **manifest}
        self.service.upload_program(
            self.program(name, number, noise), name=name, log=said.append, **declared
        )
        return said

    def program(self, name: str, number: int, noise: bytes) -> Path:
        folder = self.runtime.home.parent / f"{name}-{number}"
        folder.mkdir(exist_ok=True)
        (folder / "program.py").write_text(MAIN.replace("{number}", str(number)))
        if noise:
            (folder / "noise.bin").write_bytes(noise)
        return folder

    def refused(self, name: str, number: int = 1, **more: Any) -> str:
        """Why an upload was refused, having looked whether something of it is left."""
        with pytest.raises(InvalidRequest) as caught:
            self.upload(name, number, **more)
        assert self.left(name) == []
        return str(caught.value)

    def left(self, name: str) -> list[str]:
        """What there is of a program that could be taken for one, and what is half-made, in words."""
        with pytest.raises(NotFound):
            self.service.program(name)
        return [*self.tags(name), *self.images(name), *drafts(self.runtime.home)]

    def tags(self, name: str) -> list[str]:
        """In the registry."""
        repository = f"{self.prefix.partition('/')[2]}/{name}"
        answer = httpx.get(f"{self.hub.url}/v2/{repository}/tags/list", trust_env=False)
        found = answer.json().get("tags") or [] if answer.status_code == 200 else []
        return [tag for tag in found if not tag.startswith("sha256-")]  # lists of what refers to an image

    def images(self, name: str) -> list[str]:
        """In the engine."""
        return [tag for image in self.engine.client.images.list(f"{self.prefix}/{name}") for tag in image.tags]

    def runs(self, name: str, number: int = 1) -> None:
        assert self.service.run(name, {}, {"backend": "aer"}).result(timeout=120) == 41 + number


def drafts(home: Path) -> list[str]:
    return [str(path.relative_to(home)) for path in home.rglob(".*") if not path.name.startswith(".nfs")]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateIndex]:
    """Servers that start from here on have its password in their environment."""
    with PrivateIndex(tmp_path_factory.mktemp("index") / "packages") as index, pytest.MonkeyPatch.context() as patch:
        index.wheel("private_thing", "1.0", source="THING = 41\n")
        index.wheel("broken_thing", "1.0")
        index.broken.add("broken_thing")
        patch.setenv("UV_INDEX", index.url)
        yield index


@pytest.fixture(scope="module")
def line(registry: Hub) -> Iterator[Line]:
    """To the registry. It has a loop of its own, since servers and tests block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    line = Line(registry.host)
    asyncio.run_coroutine_threadsafe(line.__aenter__(), loop).result(10)
    yield line
    asyncio.run_coroutine_threadsafe(line.__aexit__(None, None, None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def place(base: str, registry: Hub, line: Line) -> str:
    """The base image, as it is called over the line."""
    return base.replace(registry.host, line.host)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where layers are kept that every home needs."""
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="module", params=WAYS)
def house(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    index: PrivateIndex,
    engine: Engine,
    registry: Hub,
    line: Line,
    place: str,
    packed: Path,
) -> Iterator[House]:
    """A runtime in which everything has worked once."""
    way: str = request.param
    prefix = f"{line.host}/faults-{way}"
    home = tmp_path_factory.mktemp(way) / "home"
    furnish(home, packed)
    with Runtime(
        home, executor="docker", docker_host=engine.url, builder=way, registry=prefix, base_image=place
    ) as runtime:
        with runtime.service() as service:
            house = House(way, runtime, service, prefix, registry, engine, line)
            house.upload("first")
            house.runs("first")
            for file in (home / "layers").glob("packages-*"):
                if not (packed / file.name).exists():
                    os.link(file, packed / file.name)
            yield house


def furnish(home: Path, packed: Path, *, link: bool = False) -> None:
    """Layers that were made before: making them takes half a minute."""
    (home / "layers").mkdir(parents=True, mode=0o700, exist_ok=True)
    for file in packed.iterdir():
        if link and file.suffix == ".gz":
            (home / "layers" / file.name).symlink_to(file)
        else:
            shutil.copy(file, home / "layers" / file.name)


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(NOISE)


# --- the registry


def test_a_line_that_breaks_in_the_middle_of_a_push_leaves_nothing_and_the_next_upload_works(house: House) -> None:
    house.line.breaks_after = 3 << 20
    try:
        told = house.refused("broken-off", noise=noise(1))
    finally:
        house.line.breaks_after = None
    assert "can't be pushed" in told
    assert "ask the operator to look at the registry" in told
    assert "mend the requirements" not in told
    said = house.upload("broken-off", noise=noise(1))
    assert not any("is there already" in one for one in said)
    assert len(house.tags("broken-off")) == 1
    house.runs("broken-off")
