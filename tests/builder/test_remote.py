"""Layers of packages that are made elsewhere: what is asked for, what makes them, and what of that is believed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import platform
import shutil
import socket
import sys
import tarfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from indexes import PrivateIndex

from neartime_server.builder import uv
from neartime_server.builder.images import archive, workbench
from neartime_server.builder.images.layers import Layer, Layers
from neartime_server.builder.images.recipe import Base
from neartime_server.builder.images.remote import Remote
from neartime_server.builder.protocol import Tell
from neartime_server.builder.uv import Target
from neartime_server.errors import BuildFailed

BASE = Base("lab.example/base@sha256:12", "/usr/bin/python3", uv.this_python().minor)
TARGET = Target(BASE.minor, f"{platform.machine()}-manylinux_2_28")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateIndex]:
    with PrivateIndex(tmp_path / "packages") as index:
        index.wheel("lab_tool", "1.0", source="TOOL = 41\n")
        monkeypatch.setenv("UV_DEFAULT_INDEX", index.url)
        yield index


def lock_of(index: PrivateIndex, digest: str | None = None) -> str:
    wheel = index.folder / "lab_tool-1.0-py3-none-any.whl"
    return f"lab-tool==1.0 --hash=sha256:{digest or hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"


class Here:
    """A bench that is a process of this machine, of the same program as a Job's pod runs."""

    def __init__(self, folder: Path) -> None:
        self._tools, self._work = folder / "tools", folder / "work"
        self.orders: list[Mapping[str, Any]] = []
        self._tools.mkdir()
        for file in (uv.binary(), workbench.__file__, archive.__file__):
            shutil.copy(file, self._tools)

    async def __call__(
        self, image: str, command: Sequence[str], order: Mapping[str, Any], file: Path, tell: Tell
    ) -> dict[str, Any]:
        self.orders.append(order)
        async with self.running() as client:
            (await client.post("/order", json=order)).raise_for_status()
            count = 0
            while "made" not in (news := (await client.get(f"/progress/{count}")).json()):
                count = told(news["lines"], count, tell)
            told(news["lines"], count, tell)
            if news["made"] is None:
                raise BuildFailed(news["reason"], "")
            half = news["made"]["size"] // 2
            with file.open("wb") as parts:
                parts.write((await client.get("/layer/0")).content[:half])
                parts.write((await client.get(f"/layer/{half}")).content)
            made: dict[str, Any] = news["made"]
            return made

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[httpx.AsyncClient]:
        self._work.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        program = [sys.executable, "-E", "-s", str(self._tools / "workbench.py"), str(self._work), str(port)]
        process = await asyncio.create_subprocess_exec(*program, cwd="/")
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
                async with asyncio.timeout(20):
                    while True:
                        with contextlib.suppress(httpx.ConnectError):
                            await client.get("/progress/0")
                            break
                        await asyncio.sleep(0.1)
                yield client
        finally:
            process.kill()
            await process.wait()
            shutil.rmtree(self._work)

    async def extend(self, base: Base, layer: Layer, tell: Tell) -> str:
        return "lab.example/tools@sha256:34"

    async def close(self) -> None:
        return None


def told(lines: list[str], count: int, tell: Tell) -> int:
    for line in lines:
        tell(line)
    return count + len(lines)


class Liar(Here):
    """One whose file is not what it says."""

    async def __call__(
        self, image: str, command: Sequence[str], order: Mapping[str, Any], file: Path, tell: Tell
    ) -> dict[str, Any]:
        made = await super().__call__(image, command, order, file, tell)
        with file.open("ab") as more:
            more.write(b"x")
        return made


async def make(bench: Here, folder: Path, lock: str, said: list[str]) -> Layer:
    return await Remote(bench, bench, Layers(folder / "layers")).packages(BASE, lock, "lock", TARGET, said.append)


async def test_a_layer_has_the_packages_of_the_lock_and_nothing_that_is_secret(
    index: PrivateIndex, tmp_path: Path
) -> None:
    said: list[str] = []
    bench = Here(tmp_path)
    layer = await make(bench, tmp_path, lock_of(index), said)
    with tarfile.open(layer.file) as packed:
        names = packed.getnames()
        file = packed.extractfile("opt/neartime/packages/lab_tool.py")
        assert file is not None
        assert file.read() == b"TOOL = 41\n"
    assert names[:3] == ["opt", "opt/neartime", "opt/neartime/packages"]
    assert all(name.startswith("opt/neartime/packages") for name in names[2:])
    assert any(name.endswith(f"lab_tool.cpython-{BASE.minor.replace('.', '')}.pyc") for name in names)
    assert " + lab-tool==1.0" in said
    content = gzip.decompress(layer.file.read_bytes())
    assert layer.diff_id == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert not any(word in content + "\n".join(said).encode() for word in index.secrets)
    [order] = bench.orders
    assert index.password in order["secrets"], "so it is hidden where it is said"


async def test_what_an_index_refuses_is_said_without_its_password(index: PrivateIndex, tmp_path: Path) -> None:
    said: list[str] = []
    index.faults["lab_tool"] = 404
    with pytest.raises(BuildFailed, match="tool"):
        await make(Here(tmp_path), tmp_path, lock_of(index), said)
    assert any("lab-tool" in line or "lab_tool" in line for line in said)
    assert index.password not in "\n".join(said)


async def test_a_layer_that_is_not_what_was_said_of_it_is_not_kept(index: PrivateIndex, tmp_path: Path) -> None:
    with pytest.raises(BuildFailed, match="arrived broken"):
        await make(Liar(tmp_path), tmp_path, lock_of(index), [])
    assert [path.name for path in (tmp_path / "layers").iterdir() if "tools" not in path.name] == []


async def test_an_order_is_carried_out_once(index: PrivateIndex, tmp_path: Path) -> None:
    bench = Here(tmp_path)
    await make(bench, tmp_path, lock_of(index), [])
    [order] = bench.orders
    async with bench.running() as client:
        for _ in range(2):
            (await client.post("/order", json=order)).raise_for_status()
        deadline, lines = time.monotonic() + 60, list[str]()
        while "made" not in (news := (await client.get("/progress/0")).json()) and time.monotonic() < deadline:
            lines = news["lines"]
        lines = news["lines"] or lines
        assert lines.count(" + lab-tool==1.0") == 1


def test_what_runs_in_the_pod_needs_nothing_but_python(tmp_path: Path) -> None:
    for module in (workbench, archive):
        text = Path(str(module.__file__)).read_text()
        found = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        names = {line.split()[1].partition(".")[0] for line in found}
        assert names <= sys.stdlib_module_names | {"__future__"}, module
