"""What the suite of executors asks of each of them, and what it has of the process executor."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import secrets
import shutil
import socket
import sys
import tarfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from clusters import Cluster as KubernetesCluster
from clusters import ClusterImages
from docker.errors import ImageNotFound
from docker.models.containers import Container
from engine import Engine
from images import runner_image

from neartime.codec import decode, encode
from neartime.contract.backends import BackendSpec, Placement
from neartime.contract.events import StatusEvent
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.contract.launch import Beat, Drain, Fetch, Launch, Limits, Start
from neartime.contract.programs import Manifest
from neartime_server.bus import Bus, Keys, NatsServer
from neartime_server.embedded import processes
from neartime_server.executors import (
    Executor,
    Exited,
    Observed,
    Place,
    ProcessExecutor,
    Running,
    Synced,
    addresses,
)
from neartime_server.executors.cluster import Cluster
from neartime_server.executors.docker import DockerExecutor
from neartime_server.executors.kubernetes import KubernetesExecutor
from neartime_server.settings import Settings


async def until(holds: Callable[[], object], timeout: float = 30) -> None:
    """Until something holds that nothing here announces."""
    async with asyncio.timeout(timeout):
        while True:
            if holds():
                return
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Where:
    """An environment."""

    digest: str | None
    python: Path
    image: str | None = None


OWN = Where(None, Path(sys.executable))


class Kind(Protocol):
    """One kind of executor, on one machine."""

    environment: Place
    """One in which workers run."""
    broken: Place
    """One in which none can be started."""
    words: str
    """What it says when none can be started there."""

    def executor(self) -> Executor:
        """A new one, as a server that starts has it: it finds what others have started here."""

    def carry(self, launch: Launch) -> tuple[Launch, Place]:
        """What to start a worker with and in, so that it finds the program that is in the launch document's folder."""

    def pid(self, worker_id: str, said: int) -> int:
        """The pid on this machine of a process that a worker calls by another, perhaps."""

    def close(self) -> None:
        """End all that runs."""


class Processes:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = OWN
        self.broken = Where("sha256:" + "0" * 64, home / "no-neartime")
        self.words = "No module named neartime_runner"
        self.broken.python.parent.mkdir(parents=True, exist_ok=True)
        # Isolated, and without site-packages.
        self.broken.python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        self.broken.python.chmod(0o755)

    def executor(self) -> ProcessExecutor:
        return ProcessExecutor(self.home)

    def carry(self, launch: Launch) -> tuple[Launch, Place]:
        return launch, self.environment

    def pid(self, worker_id: str, said: int) -> int:
        return said

    def close(self) -> None:
        processes.end_runners(self.home, 2.0)
        shutil.rmtree(addresses.folder(self.home))  # in the folder for temporary files, where the home's path is long


class Containers:
    """Of an engine that has two images: of the base, and of the runner on top of it."""

    PYTHON = Path("/opt/neartime/bin/python")

    def __init__(self, home: Path, engine: Engine, base: str, runner: str) -> None:
        self.home, self.engine = home, engine
        self.environment = Where(None, self.PYTHON, runner)
        self.broken = Where(None, Path("/usr/bin/python3"), base)
        self.words = "No module named neartime_runner"

    def executor(self, **options: Any) -> DockerExecutor:
        return DockerExecutor(self.home, url=self.engine.url, **options)

    def carry(self, launch: Launch) -> tuple[Launch, Place]:
        image = self.image(Path(launch.path))
        return launch.model_copy(update={"path": "/opt/neartime/program"}), Where(None, self.PYTHON, image)

    def image(self, program: Path) -> str:
        """The id of an image with a program's folder on top of the runner."""
        packed = self.packed(program, "program")
        client, digest = self.engine.client, hashlib.sha256(packed).hexdigest()
        with suppress(ImageNotFound):
            return str(client.images.get(f"program:{digest}").id)
        made = client.containers.create(self.environment.image or "")
        try:
            made.put_archive("/opt/neartime", packed)
            return str(made.commit("program", digest).id)
        finally:
            made.remove()

    @staticmethod
    def packed(folder: Path, name: str) -> bytes:
        """An archive of a folder, under a name."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as layer:
            layer.add(folder, name, filter=_anybodys)
        return packed.getvalue()

    def container(self, worker_id: str) -> Container:
        return self.engine.client.containers.get(f"neartime-{worker_id}")

    def pid(self, worker_id: str, said: int) -> int:
        for row in self.container(worker_id).top(ps_args="-eo pid")["Processes"]:
            # Source: proc(5), `NSpid`: the pid in each namespace, the innermost last.
            text = Path(f"/proc/{row[0]}/status").read_text()
            if f"NSpid:\t{row[0]}\t{said}\n" in text:
                return int(row[0])
        raise AssertionError(f"worker {worker_id} has no process {said}")

    def containers(self) -> list[Container]:
        """All that there is of this home."""
        return self.engine.client.containers.list(all=True, filters={"label": f"neartime.home={self.mark}"})

    @property
    def mark(self) -> str:
        """What its containers' labels say."""
        return hashlib.sha256(os.fsencode(self.home.resolve())).hexdigest()[:16]

    def close(self) -> None:
        for container in self.containers():
            container.remove(force=True)
        processes.end_runners(self.home, 2.0)
        shutil.rmtree(addresses.folder(self.home))


class Pods:
    """Of a namespace of a cluster."""

    PYTHON = Path("/opt/neartime/bin/python")

    def __init__(self, cluster: KubernetesCluster, namespace: str, images: ClusterImages) -> None:
        self.cluster, self.namespace, self._images = cluster, namespace, images
        self.environment = Where(None, self.PYTHON, images.runner)
        self.broken = Where(None, Path("/usr/bin/python3"), images.base)
        self.words = "No module named neartime_runner"
        self.installation = secrets.token_hex(8)
        self._runner = runner_image()
        self._doors: dict[str, Door] = {}

    def executor(self, **options: Any) -> KubernetesExecutor:
        placements = options.pop("placements", {"none": Placement(promised=0.05)})
        cluster = Cluster(self.namespace, options.pop("kubeconfig", self.cluster.kubeconfig))
        return KubernetesExecutor(cluster, self.installation, placements, **options)

    def carry(self, launch: Launch) -> tuple[Launch, Place]:
        folder = Path(launch.path)
        digest = self._runner.with_folder(folder, "opt/neartime/program").push(
            self.cluster.registry_url, "neartime/program", launch.worker_id
        )
        access = launch.nats.model_copy(update={"url": self.reachable(launch.nats.url)})
        update = {"path": "/opt/neartime/program", "nats": access, "manifest": small(launch.manifest)}
        carried = launch.model_copy(update=update)
        return carried, Where(None, self.PYTHON, f"{self.cluster.registry}/neartime/program@{digest}")

    def reachable(self, url: str) -> str:
        """The URL under which pods reach a NATS server that listens on loopback."""
        port = int(url.rpartition(":")[2])
        if url not in self._doors:
            self._doors[url] = Door(self.cluster.machine, port)
        return f"nats://{self.cluster.machine}:{self._doors[url].port}"

    def pid(self, worker_id: str, said: int) -> int:
        if not self.cluster.own:
            pytest.skip("this machine has not started that cluster, and sees none of its processes")
        uid = self.cluster.pod(self.namespace, f"neartime-{worker_id}").metadata.uid
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    # Source: proc(5), `NSpid`: the pid in each namespace, the innermost last.
                    status = (entry / "status").read_text()
                    names = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
                    own = b"neartime_runner" in (entry / "cmdline").read_bytes() or said != 1  # each has a sandbox, too
                    if own and names[-1] == str(said) and uid in (entry / "cgroup").read_text():
                        return int(entry.name)
        raise AssertionError(f"worker {worker_id} has no process {said}")

    def close(self) -> None:
        for door in self._doors.values():
            door.close()


def small(manifest: dict[str, Any]) -> dict[str, Any]:
    """So that a node holds many."""
    return {**manifest, "resources": {"cpu": 1.0, "memory": "512Mi"}}


class Door:
    """An address of this machine that leads to a port of its loopback."""

    def __init__(self, address: str, to: int) -> None:
        self._to = to
        self._server = socket.create_server((address, 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._let_in(self._server.accept()[0])

    def _let_in(self, theirs: socket.socket) -> None:
        try:
            ours = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # nobody is there now
            theirs.close()
            return
        for end in (theirs, ours):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for ends in ((theirs, ours), (ours, theirs)):
            threading.Thread(target=self._pump, args=ends, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.close()


def _anybodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755
    return entry


class Watcher:
    """What an executor says."""

    def __init__(self) -> None:
        self.said: list[Observed] = []

    @property
    def running(self) -> set[str]:
        return {one.worker_id for one in self.said if isinstance(one, Running)}

    def exits(self, worker_id: str) -> list[Exited]:
        return [one for one in self.said if isinstance(one, Exited) and one.worker_id == worker_id]

    async def exit(self, worker_id: str) -> Exited:
        await until(lambda: self.exits(worker_id))
        (one,) = self.exits(worker_id)
        return one


@asynccontextmanager
async def watching(executor: Executor) -> AsyncIterator[Watcher]:
    """Follows an executor meanwhile."""
    watcher = Watcher()

    async def watch() -> None:
        async for seen in executor.observe():
            watcher.said.append(seen)

    task = asyncio.create_task(watch())
    try:
        await until(lambda: Synced() in watcher.said)
        yield watcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- what the control plane says to workers


class Lab:
    """A NATS server, and an instance in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.instance = folder, new_id()
        self.beats: list[Beat] = []

    async def open(self) -> None:
        settings = Settings(home=self.folder, jobs_stream_bytes=16 << 20, bulk_stream_bytes=16 << 20)
        self.keys = Keys.load(settings.secret_path, create=True)
        self.server = NatsServer(self.folder / "nats", self.keys)
        await self.server.start()
        self.bus = Bus(settings, self.keys)
        self.bus.on_beat(self._hear)
        self.bus.on_fetch(self._give_nothing)
        await self.bus.connect(self.server.url)
        await self.bus.add_instance(self.instance)

    async def close(self) -> None:
        await self.bus.close()
        await self.server.stop()

    async def _hear(self, instance_id: str, beat: Beat) -> None:
        self.beats.append(beat)

    async def _give_nothing(self, instance_id: str, worker_id: str, fetch: Fetch) -> bytes:
        return b""

    def launch(self, program: str) -> Launch:
        """Of a new worker, for a program of one module."""
        worker_id, session_id = new_id(), new_id()
        folder = self.folder / "programs" / worker_id
        folder.mkdir(parents=True)
        (folder / "program.py").write_text(program)
        access, _ = self.bus.worker_credential(self.instance, worker_id, session_id, 3600)
        return Launch(
            worker_id=worker_id,
            session_id=session_id,
            program_id=new_id(),
            version_id=new_id(),
            manifest=Manifest(name="program").model_dump(mode="json"),
            path=str(folder),
            backend=BackendSpec(name="none", factory="types:SimpleNamespace", options={"name": "none"}),
            nats=access,
            control_key=self.keys.control_key(worker_id),
            limits=Limits(cancel_grace=0.4, heartbeat=0.2),
        )

    async def start(self, executor: Executor, place: Place, program: str) -> Worker:
        """A worker that was started and is ready."""
        return await self.begin(executor, self.launch(program), place)

    async def begin(self, executor: Executor, launch: Launch, place: Place) -> Worker:
        worker = Worker(self, launch)
        await executor.start(launch, place)
        await worker.ready()
        return worker


class Worker:
    def __init__(self, lab: Lab, launch: Launch) -> None:
        self.lab, self.launch, self.id = lab, launch, launch.worker_id

    async def ready(self) -> None:
        await until(lambda: any(beat.worker_id == self.id and beat.ready for beat in self.lab.beats))

    async def begin(self, **inputs: Any) -> str:
        job_id = new_id()
        body = encode(inputs)
        answer = await self.lab.bus.command(
            self.lab.instance, self.id, Start(job_id=job_id, max_execution_time=300), body
        )
        assert answer.ok, answer.error
        return job_id

    async def drain(self) -> None:
        assert (await self.lab.bus.command(self.lab.instance, self.id, Drain())).ok

    async def said(self, job_id: str, kind: str) -> Any:
        """The first of what a job says, `interim` or `result`."""
        bus, session = self.lab.bus, self.launch.session_id
        source = bus.job_events(self.lab.instance, session, job_id, logs=False)
        async with asyncio.timeout(60), aclosing(source) as events:
            async for event in events:
                if event.kind == kind:
                    return decode(b"".join([part async for part in bus.value(self.lab.instance, event)]))
        raise AssertionError(f"the job said no {kind}")

    async def run(self, **inputs: Any) -> Any:
        """A job's result, once it has ended."""
        value, status = await self.end(await self.begin(**inputs))
        assert status.status is JobStatus.COMPLETED, status
        return value

    async def end(self, job_id: str) -> tuple[Any, StatusEvent]:
        """A job's result, or None, and how it ended."""
        bus, session, value, status = self.lab.bus, self.launch.session_id, None, None
        source = bus.job_events(self.lab.instance, session, job_id, logs=False)
        async with asyncio.timeout(60), aclosing(source) as events:
            async for event in events:
                if event.kind == "result":
                    value = decode(b"".join([part async for part in bus.value(self.lab.instance, event)]))
                elif event.kind == "status" and event.status().status.final:
                    status = event.status()
        assert status is not None
        return value, status
