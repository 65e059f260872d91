"""What goes wrong with images, as who uploads programs sees it: what to do about it, and nothing half-made left.

Everything is real: servers, a Docker Engine, a registry with a line to it that breaks, a package index with a
password.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Postgres, postgres
from engine import Engine
from indexes import PrivateIndex
from registries import Registry as Hub
from relays import Relay

from neartime import RuntimeService, Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import InvalidRequest, JobFailed, NotFound
from neartime_server.embedded.server import ApiServer
from neartime_server.testing import Runtime

__all__ = ["postgres"]

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]

WAYS = ["registry", "docker"]
"""Who makes images."""
REQUIREMENTS = ["private-thing==1.0"]
"""Of every program here: one that only the private index has. So packages are fetched and packed once for all tests."""
FAULTS = {"lost_thing": 404, "locked_thing": 403, "cut_thing": 0}
"""Packages that the private index has, and does not give."""
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
    breaks_at: bytes | None = None
    """What a request begins with that does not go through."""

    async def _take(self, reader: asyncio.StreamReader) -> bytes:
        data = await super()._take(reader)
        if self.breaks_at is not None and re.match(self.breaks_at, data):
            return b""
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
        return self.send(self.program(name, number, noise), name, **manifest)

    def send(self, folder: Path, name: str, **manifest: Any) -> list[str]:
        """What was said of it."""
        said: list[str] = []
        declared = {"requirements": REQUIREMENTS, **manifest}
        self.service.upload_program(folder, name=name, log=said.append, **declared)
        return said

    def program(self, name: str, number: int = 1, noise: bytes = b"") -> Path:
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
        for name, fault in FAULTS.items():
            index.wheel(name, "1.0")
            index.faults[name] = fault
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


class Houses:
    """One for each way, made when it is first asked for. What all of them need is packed once."""

    def __init__(self, folder: Path, engine: Engine, hub: Hub, line: Line, base: str) -> None:
        self.folder, self.engine, self.hub, self.line, self.base = folder, engine, hub, line, base
        self.packed = folder / "packed"
        self.packed.mkdir()
        self._stack = ExitStack()
        self._made: dict[str, House] = {}

    def house(self, way: str) -> House:
        """A runtime in which everything has worked once."""
        if way not in self._made:
            prefix = f"{self.line.host}/faults-{way}"
            home = self.folder / way / "home"
            furnish(home, self.packed)
            house = self.open(way, home, prefix)
            house.upload("first")
            house.runs("first")
            for file in (home / "layers").glob("packages-*"):
                if not (self.packed / file.name).exists():
                    os.link(file, self.packed / file.name)
            self._made[way] = house
        return self._made[way]

    def open(self, way: str, home: Path, prefix: str, stack: ExitStack | None = None, **settings: Any) -> House:
        """A runtime of its own; it ends with the stack."""
        stack = stack or self._stack
        given = {"docker_host": self.engine.url, "registry": prefix, "base_image": self.base, **settings}
        runtime = stack.enter_context(Runtime(home, executor="docker", builder=way, **given))
        service = stack.enter_context(runtime.service())
        return House(way, runtime, service, prefix, self.hub, self.engine, self.line)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def houses(
    tmp_path_factory: pytest.TempPathFactory, index: PrivateIndex, engine: Engine, registry: Hub, line: Line, base: str
) -> Iterator[Houses]:
    place = base.replace(registry.host, line.host)
    engine.client.images.pull(place)
    houses = Houses(tmp_path_factory.mktemp("houses"), engine, registry, line, place)
    yield houses
    houses.close()


@pytest.fixture(scope="module", params=WAYS)
def house(request: pytest.FixtureRequest, houses: Houses) -> House:
    return houses.house(request.param)


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
    if house.way == "registry":
        house.line.breaks_after = 3 << 20
    else:  # which pushes a layer for a minute before it gives up, but a manifest once
        house.line.breaks_at = rb"PUT /v2/\S+/manifests/"
    try:
        told = house.refused("broken-off", noise=noise(1))
    finally:
        house.line.breaks_after = house.line.breaks_at = None
    assert "can't be pushed" in told
    assert "ask the operator to look at the registry" in told
    assert "mend the requirements" not in told
    said = house.upload("broken-off", noise=noise(1))
    assert not any("is there already" in one for one in said)
    assert len(house.tags("broken-off")) == 1
    house.runs("broken-off")


# --- the disk


def test_a_home_whose_disk_is_full_says_so_keeps_no_draft_and_works_again_with_room(
    houses: Houses, tmp_path: Path
) -> None:
    houses.house("registry")
    disk = tmp_path / "home" / "layers"
    disk.mkdir(parents=True, mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    with ExitStack() as stack:
        stack.callback(lambda: subprocess.run(["umount", disk], check=True))
        furnish(tmp_path / "home", houses.packed, link=True)
        small = houses.open("registry", tmp_path / "home", f"{houses.line.host}/small", stack)
        told = small.refused("fills-the-home", noise=noise(2))
        assert "No space left on device" in told
        assert "ask the operator to make room on that disk" in told
        assert "mend the requirements" not in told
        told = small.refused("fetches-too-much", requirements=["six==1.16.0"])
        assert "No space left on device" in told, told
        assert "ask the operator to make room on that disk" in told
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        small.upload("fills-the-home", noise=noise(2))
        small.runs("fills-the-home")


# --- the engine


def test_an_engine_that_is_killed_in_a_build_fails_the_upload_and_the_next_one_works_when_it_is_back(
    houses: Houses, tmp_path: Path, base: str
) -> None:
    houses.house("registry")
    furnish(tmp_path / "home", houses.packed)
    with Engine() as own, ExitStack() as stack:
        own.client.images.pull(base)
        settings = {"docker_host": own.url, "registry": None, "base_image": base}
        service = houses.open("docker", tmp_path / "home", "", stack, **settings).service

        def hear(line: str) -> None:
            if line.startswith("Step 2/"):
                own.kill()

        source = MAIN.replace("{number}", "1")
        with pytest.raises(InvalidRequest, match="the image can't be built") as caught:
            service.upload_program(source, name="cut-off", requirements=REQUIREMENTS, log=hear)
        assert "ask the operator to look at the Docker Engine" in str(caught.value)
        own.start()
        with pytest.raises(NotFound):
            service.program("cut-off")
        assert not [tag for image in own.client.images.list() for tag in image.tags if "neartime.local" in tag]
        service.upload_program(source, name="cut-off", requirements=REQUIREMENTS)
        assert service.run("cut-off", {}, {"backend": "aer"}).result(timeout=120) == 42


# --- requirements


def test_requirements_that_can_not_be_had_are_told_in_the_resolvers_words(house: House) -> None:
    told = house.refused("wants-nothing-there", requirements=["there-is-no-such-package==9"])
    assert "there-is-no-such-package was not found" in told
    assert "mend the requirements and upload it again" in told
    told = house.refused("contradicts-itself", requirements=["private-thing==1.0", "private-thing==2.0"])
    assert "private-thing==1.0" in told
    assert "private-thing==2.0" in told
    assert "mend the requirements and upload it again" in told


# --- images of others


def test_an_image_that_has_no_such_name_or_is_not_there_is_refused(house: House) -> None:
    told = house.refused("on-no-name", image={"base": "a::b"}, requirements=[])
    assert "is no name of an image" in told
    told = house.refused("on-no-image", image={"base": f"{house.prefix}/nothing:1"}, requirements=[])
    assert f"{house.prefix}/nothing" in told


# --- the same content


def test_the_same_content_is_built_once_also_where_two_upload_it_at_once(house: House) -> None:
    before, folder = pushes(house, "the-same"), house.program("the-same")
    with ThreadPoolExecutor(3) as threads:
        said = list(threads.map(lambda _: house.send(folder, "the-same"), range(3)))
    assert sum(any("building" in line or "pushing program" in line for line in one) for one in said) == 1
    assert pushes(house, "the-same") - before == 1
    again = house.upload("the-same")
    assert not any(word in line for line in again for word in ("building", "pushing", "fetching", "packing"))
    assert pushes(house, "the-same") - before == 1
    assert len(house.tags("the-same")) == 1


def test_two_servers_over_one_database_that_build_the_same_at_once_have_one_program_that_runs(
    houses: Houses, house: House, postgres: Postgres, tmp_path: Path
) -> None:
    name = f"two_servers_{house.way}"
    home, prefix, database = tmp_path / "home", f"{houses.line.host}/two-{house.way}", postgres.create(name)
    furnish(home, houses.packed)
    with ExitStack() as stack:
        stack.callback(postgres.drop, name)
        first = houses.open(house.way, home, prefix, stack, database=database)
        settings = {"executor": "docker", "docker_host": houses.engine.url, "builder": house.way, "registry": prefix}
        environment = {"base_image": houses.base, "database": database, **settings}
        variables = {f"NEARTIME_{key.upper()}": value for key, value in environment.items()}
        server = ApiServer(home, 0, home / "logs" / "second.log", variables)
        asyncio.run(server.start())
        stack.callback(lambda: asyncio.run(server.stop()))
        service = stack.enter_context(RuntimeService(server.url, first.runtime.token))
        second = replace(first, service=service)
        folder = first.program("the-same")
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(lambda one: one.send(folder, "the-same"), [first, second]))
        assert len(first.tags("the-same")) == 1
        assert drafts(home / "layers") == []
        assert first.service.program("the-same").version == 1
        assert pushes(first, "the-same") <= 2  # each server may build it: they know nothing of each other
        first.runs("the-same")
        for one in (first, second):
            assert not any("building" in line or "pushing" in line for line in one.upload("the-same"))
        first.runs("the-same")


def pushes(house: House, name: str) -> int:
    """How many manifests were pushed under a tag of a program."""
    return len(
        re.findall(rf'"PUT /v2/{house.prefix.partition("/")[2]}/{name}/manifests/[0-9a-f]{{64}} ', house.hub.log)
    )


# --- secrets


def test_the_password_of_a_private_index_is_nowhere_but_in_the_servers_environment(
    house: House, index: PrivateIndex
) -> None:
    said = house.upload("keeps-a-secret", 7)
    errors = [house.refused("asks-in-vain", requirements=[*REQUIREMENTS, name]) for name in FAULTS]
    assert all(name in error for name, error in zip(FAULTS, errors, strict=True)), errors
    head = {"Authorization": f"Bearer {house.runtime.token}"}
    with httpx.Client(base_url=f"{house.runtime.url}/api/v1", headers=head, trust_env=False) as client:
        paths = [f"/programs/keeps-a-secret{what}" for what in ("", "/versions", "/sbom", "/data")]
        answers = [client.get(path).raise_for_status().content for path in paths]
    assert any(b"private-thing" in answer for answer in answers)
    home = [path for path in house.runtime.home.rglob("*") if path.is_file() and path.parent.name != "layers"]
    places: dict[str, Iterable[bytes]] = {
        "what was said of the upload": [line.encode() for line in said],
        "an error": [error.encode() for error in errors],
        "an answer of the API": answers,
        "the engine": of_engine(house, "keeps-a-secret"),
        **{f"the image's {digest}": content for digest, content in of_registry(house, "keeps-a-secret")},
        **{f"the home's {path.name}": [path.read_bytes()] for path in home},
    }
    assert [where for where, pieces in places.items() if told(pieces, index.secrets)] == []
    assert told([f"x{index.url}x".encode()], index.secrets)


def told(pieces: Iterable[bytes], words: list[bytes]) -> bool:
    """Whether one of the words is in the pieces, put together."""
    before = b""
    for piece in pieces:
        before += piece
        if any(word in before for word in words):
            return True
        before = before[-256:]
    return False


def of_engine(house: House, name: str) -> list[bytes]:
    """All that the engine says of a program's image, once it has one."""
    house.runs(name, 7)
    (digest,) = {
        one["Id"] for one in house.engine.client.api.images() if f"{house.prefix}/{name}@" in str(one["RepoDigests"])
    }
    api = house.engine.client.api
    return [json.dumps([api.inspect_image(digest), api.history(digest)]).encode()]


def of_registry(house: House, name: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Manifest, configuration and layers of a program's image; layers as what was packed."""
    repository, (tag,) = f"{house.prefix.partition('/')[2]}/{name}", house.tags(name)
    blobs = house.hub.folder / "storage/docker/registry/v2/blobs/sha256"
    link = house.hub.folder / f"storage/docker/registry/v2/repositories/{repository}/_manifests/tags/{tag}/current/link"

    def content(digest: str) -> Iterator[bytes]:
        with (blobs / digest[7:9] / digest[7:] / "data").open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            with gzip.GzipFile(fileobj=file) if packed else file as opened:
                while piece := opened.read(1 << 20):
                    yield piece

    pinned = link.read_text().strip()
    manifest = json.loads(b"".join(content(pinned)))
    for one in ({"digest": pinned}, manifest["config"], *manifest["layers"]):
        yield one["digest"], content(one["digest"])


# --- programs that take too much


FORKS = """
import os, time

def main(backend, user_messenger, forks=False):
    print("it forks", forks, flush=True)
    while forks:
        try:
            os.fork()
        except OSError:
            time.sleep(0.1)
    return forks
"""


@pytest.mark.parametrize("memory", ["2Gi", "512Mi"])
def test_a_program_whose_processes_all_fork_without_end_is_ended_with_a_true_reason_and_the_next_job_runs(
    houses: Houses, memory: str
) -> None:
    """Five hundred processes need more than half a gigabyte: then the kernel ends some, perhaps the runner's own."""
    service, name = houses.house("registry").service, f"forks-{memory.lower()}"
    declared = {"resources": {"memory": memory}, "max_execution_time": 5}
    service.upload_program(FORKS, name=name, requirements=REQUIREMENTS, **declared)
    with Session(service, backend="aer") as session:
        assert session.run(name).result(timeout=60) is False
        with pytest.raises(JobFailed) as caught:
            session.run(name, {"forks": True}).result(timeout=60)
        codes = {"2Gi": [ReasonCode.TIMED_OUT], "512Mi": [ReasonCode.TIMED_OUT, ReasonCode.OUT_OF_MEMORY]}
        assert caught.value.reason_code in codes[memory], caught.value
        assert "it forks True" in str(caught.value)
        assert session.run(name).result(timeout=60) is False
