"""Where the credential of a machine is not: wherever a program can look."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine import Engine
from gateway.lab import Lab, lab
from registries import Registry as Hub

# A program that knows the key's form and digest, and looks for it; what it was told would else be what it finds.
SEEKS = """
import hashlib, os, re
from pathlib import Path
from qiskit import QuantumCircuit

FORM = re.compile(rb"key-[0-9a-f]{32}")

def main(backend, user_messenger, digest, home, hold=()):
    held = "".join(hold)  # in this process's memory
    made = QuantumCircuit(2, name="bell")
    made.measure_all()
    backend.run(made).result()  # what there is of the gateway is there
    found, looked = [], {"environments": 0, "bytes": 0, "files": 0}

    def look(place, data):
        if any(hashlib.sha256(one).hexdigest() == digest for one in set(FORM.findall(data))):
            found.append(place)

    def open_memory(pid):
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                for line in maps:
                    span, rights = line.split()[:2]
                    if "r" not in rights or line.rstrip().endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                        continue
                    begin, end = (int(one, 16) for one in span.split("-"))
                    rest = b""
                    while begin < end:
                        memory.seek(begin)
                        try:
                            data = memory.read(min(end - begin, 16 << 20))
                        except OSError:
                            break
                        if not data:
                            break
                        look(f"memory of {pid}", rest + data)
                        rest = data[-64:]
                        begin += len(data)
                        looked["bytes"] += len(data)
        except OSError:
            return

    def parent(pid):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                data = (process / "environ").read_bytes()
            except OSError:
                continue
            looked["environments"] += 1
            look(f"environment of {process.name}", data)
            try:
                look(f"arguments of {process.name}", (process / "cmdline").read_bytes())
            except OSError:
                pass
    look("os.environ", repr(dict(os.environ)).encode())
    pid = os.getpid()
    open_memory(pid)
    while (pid := parent(pid)) > 1:  # nursery, supervisor, zygote: as far as they can be read
        if b"neartime_runner" in Path(f"/proc/{pid}/cmdline").read_bytes():
            open_memory(pid)
    for root in (home, os.getcwd()):
        for folder, inner, files in os.walk(root):
            if folder == "/":
                inner[:] = [one for one in inner if one not in ("proc", "sys", "dev")]
            for file in (Path(folder, one) for one in files):
                try:
                    if file.is_file() and file.stat().st_size < 64 << 20:
                        look(str(file), file.read_bytes())
                        looked["files"] += 1
                except OSError:
                    continue
    return found, looked, len(held)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        made.service.upload_program(SEEKS, name="seeks")
        yield made


def seek(machine: Lab, secret: str, home: str | None = None, hold: tuple[str, ...] = ()) -> tuple[list[str], Any]:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    inputs = {"digest": digest, "home": home or str(machine.runtime.home), "hold": hold}
    found, looked, _ = machine.service.run("seeks", inputs, {"backend": "machine"}).result(timeout=110)
    return found, looked


def test_a_worker_finds_no_key_in_environments_memory_and_files(machine: Lab) -> None:
    found, looked = seek(machine, machine.key)
    assert found == []
    assert looked["environments"] >= 1
    assert looked["bytes"] > 10 << 20
    assert looked["files"] > 10


def test_it_would_find_one_that_was_there(machine: Lab) -> None:
    planted = f"key-{'0123456789abcdef' * 2}"
    (machine.runtime.home / "planted").write_text(planted)
    found, _ = seek(machine, planted, hold=("key-", planted.removeprefix("key-")))
    assert str(machine.runtime.home / "planted") in found
    assert any(place.startswith("memory of") for place in found)


def test_neither_logs_nor_the_store_nor_the_launch_document_hold_the_key(machine: Lab) -> None:
    raised = machine.service.backend("machine").configuration()
    assert machine.key not in repr(raised)
    holding = [
        file
        for file in machine.runtime.home.rglob("*")
        if file.is_file() and "environments" not in file.parts and machine.key.encode() in file.read_bytes()
    ]
    assert holding == []
    launch = machine.runtime.home / "run" / "gateways" / "machine.json"
    assert str(machine.key_file) in launch.read_text()
    assert launch.stat().st_mode & 0o077 == 0


def test_the_process_that_holds_the_key_lets_no_other_of_this_user_look(machine: Lab) -> None:
    # As root nothing is hidden; that the kernel shows it as root's own says that it is hidden from everybody else.
    folder = Path(f"/proc/{machine.gateway_pid()}")
    assert (folder / "mem").stat().st_uid == 0
    status = (folder / "status").read_text()
    assert "CoreDumping:\t0" in status


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_a_worker_in_a_container_sees_neither_the_key_nor_the_gateway(
    tmp_path: Path, engine: Engine, registry: Hub, base: str
) -> None:
    settings = {"executor": "docker", "docker_host": engine.url, "registry": f"{registry.host}/gateway"}
    with lab(tmp_path, **settings, base_image=base) as made:
        made.service.upload_program(SEEKS, name="seeks")
        found, looked = seek(made, made.key, "/")
        assert found == []
        assert looked["files"] > 1000
        assert len(made.log()) == 2
