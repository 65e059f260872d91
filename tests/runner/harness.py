"""What a test of workers holds: a real NATS server, a real zygote, and the words in which the control plane speaks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neartime.codec import decode, encode
from neartime.contract import subjects
from neartime.contract.backends import BackendSpec
from neartime.contract.events import LogRecord, StatusEvent, decode_log
from neartime.contract.ids import new_id
from neartime.contract.launch import (
    Answer,
    Beat,
    Cancel,
    Drain,
    Fetch,
    Fetchable,
    Forget,
    Kill,
    Launch,
    Limits,
    Spawn,
    Spawned,
    Start,
    WorkerExit,
    ZygoteEvent,
    ZygoteState,
)
from neartime.contract.programs import Manifest
from neartime.stream import Event
from neartime_server.bus import Bus, Keys, NatsServer
from neartime_server.settings import Settings

PYTHON = os.environ.get("NEARTIME_RUNNER_PYTHON", sys.executable)
"""Of the environment that workers run in; another one than the tests' own may hold another Python and Qiskit."""
NO_BACKEND = BackendSpec(name="none", factory="types:SimpleNamespace", options={"name": "none"})
AER = BackendSpec(name="aer", factory="qiskit_aer:AerSimulator")


async def until(holds: Callable[[], Any], timeout: float = 20) -> Any:
    """What it gives, once it holds: something that nothing here announces."""
    async with asyncio.timeout(timeout):
        while True:
            if found := holds():
                return found
            await asyncio.sleep(0.01)


class Zygote:
    """A zygote process, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "run" / "zygote.sock"
        self.log = folder / "zygote.log"
        self.process: subprocess.Popen[bytes]
        self.state: ZygoteState
        self.events: list[Spawned | WorkerExit] = []

    def start(self) -> None:
        arguments = [PYTHON, "-m", "neartime_runner", "zygote"]
        arguments += ["--socket", str(self.socket), "--home", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()

    async def connect(self) -> None:
        async with asyncio.timeout(60):
            while True:
                try:
                    self._reader, self._writer = await asyncio.open_unix_connection(str(self.socket), limit=1 << 24)
                    break
                except OSError:
                    assert self.process.poll() is None, self.log.read_text()
                    await asyncio.sleep(0.01)
        state = ZygoteEvent.validate_json(await self._reader.readline())
        assert isinstance(state, ZygoteState)
        self.state = state
        self._changed = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen(self._reader))

    async def disconnect(self) -> None:
        self._listening.cancel()
        self._writer.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            event = ZygoteEvent.validate_json(line)
            assert not isinstance(event, ZygoteState)
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    def say(self, request: Spawn | Kill | Forget) -> None:
        self._writer.write(request.model_dump_json().encode() + b"\n")

    async def spawned(self, worker_id: str) -> int:
        return (await self._heard(Spawned, worker_id)).pid

    async def exited(self, worker_id: str, timeout: float = 30) -> int:
        return (await self._heard(WorkerExit, worker_id, timeout)).exit_code

    async def _heard(self, kind: Any, worker_id: str, timeout: float = 30) -> Any:
        def found() -> Any:
            return next((one for one in self.events if isinstance(one, kind) and one.worker_id == worker_id), None)

        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(found)
            return found()


@dataclass
class Job:
    """What a job has said so far. `log` is filled by `World.logs`."""

    id: str
    session_id: str
    events: list[Event] = field(default_factory=list)

    @property
    def statuses(self) -> list[StatusEvent]:
        return [event.status() for event in self.events if event.kind == "status"]

    @property
    def end(self) -> StatusEvent:
        (final,) = (status for status in self.statuses if status.status.final)
        return final

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]


class World:
    """A NATS server, one instance in it, a zygote, and programs in a folder."""

    def __init__(self, folder: Path, zygote: Zygote) -> None:
        self.folder, self.zygote = folder, zygote
        self.instance = new_id()
        self.beats: list[Beat] = []
        self.blobs: dict[str, list[bytes]] = {}
        self.fetched: list[Fetch] = []
        self.silent = False
        """Whether it never answers who fetches."""
        self.workers: list[Worker] = []
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self.settings = Settings(home=self.folder, jobs_stream_bytes=64 << 20, bulk_stream_bytes=128 << 20)
        self.keys = Keys.load(self.settings.secret_path, create=True)
        self.server = NatsServer(self.folder / "nats", self.keys)
        await self.server.start()
        self._stack.push_async_callback(self.server.stop)
        self.bus = Bus(self.settings, self.keys)
        self.bus.on_beat(self._hear_beat)
        self.bus.on_fetch(self._give)
        await self.bus.connect(self.server.url)
        self._stack.push_async_callback(self.bus.close)
        await self.bus.add_instance(self.instance)

    async def close(self) -> None:
        for worker in self.workers:
            self.zygote.say(Kill(worker_id=worker.id, grace=0.2))
        for worker in self.workers:
            await self.zygote.exited(worker.id)
            self.zygote.say(Forget(worker_id=worker.id))
        await self._stack.aclose()

    async def _hear_beat(self, instance_id: str, beat: Beat) -> None:
        assert instance_id == self.instance
        self.beats.append(beat)

    async def _give(self, instance_id: str, worker_id: str, fetch: Fetch) -> bytes:
        self.fetched.append(fetch)
        if self.silent:
            await asyncio.sleep(3600)
        return self.blobs[fetch.digest][fetch.chunk] if fetch.digest in self.blobs else b""

    # --- programs and workers

    def program(self, source: str, **files: str) -> Path:
        folder = self.folder / "programs" / new_id()
        folder.mkdir(parents=True)
        (folder / "program.py").write_text(source)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return folder

    def launch(
        self, program: Path | str, *, backend: BackendSpec = NO_BACKEND, limits: dict[str, Any] | None = None,
        lifetime: float = 3600, **manifest: Any,
    ) -> Launch:  # fmt: skip
        folder = self.program(program) if isinstance(program, str) else program
        worker_id, session_id = new_id(), new_id()
        access, _ = self.bus.worker_credential(self.instance, worker_id, session_id, lifetime)
        return Launch(
            worker_id=worker_id,
            session_id=session_id,
            program_id=new_id(),
            version_id=new_id(),
            manifest=Manifest(name="program", **manifest).model_dump(mode="json"),
            path=str(folder),
            backend=backend,
            nats=access,
            control_key=self.keys.control_key(worker_id),
            limits=Limits(**{"cancel_grace": 0.4, "heartbeat": 0.2, **(limits or {})}),
        )

    async def worker(self, program: Path | str, **more: Any) -> Worker:
        """A worker that is ready."""
        launch = self.launch(program, **more)
        self.zygote.say(Spawn(launch=launch))
        worker = Worker(self, launch, await self.zygote.spawned(launch.worker_id))
        self.workers.append(worker)
        await worker.beat(lambda beat: beat.ready)
        return worker

    def store(self, value: bytes, size: int = 512 << 10) -> Fetchable:
        import hashlib

        digest = hashlib.sha256(value).hexdigest()
        self.blobs[digest] = [value[at : at + size] for at in range(0, len(value), size)]
        return Fetchable(digest=digest, size=len(value), chunks=len(self.blobs[digest]))


@dataclass
class Worker:
    world: World
    launch: Launch
    pid: int
    counter: int = field(default_factory=time.time_ns)

    @property
    def id(self) -> str:
        return self.launch.worker_id

    async def beat(self, fits: Callable[[Beat], Any]) -> Beat:
        def found() -> Beat | None:
            return next((one for one in self.world.beats if one.worker_id == self.id and fits(one)), None)

        beat: Beat = await until(found)
        return beat

    async def command(self, command: Start | Cancel | Drain, body: bytes = b"") -> Answer:
        return await self.world.bus.command(self.world.instance, self.id, command, body)

    async def start(self, values: dict[str, Any] | bytes | None = None, /, **more: Any) -> Job:
        body = values if isinstance(values, bytes) else encode(values or {})
        start = Start(
            job_id=more.pop("job_id", new_id()), max_execution_time=more.pop("max_execution_time", 60), **more
        )
        answer = await self.command(start, b"" if start.inputs else body)
        assert answer.ok, answer.error
        return Job(start.job_id, self.launch.session_id)

    async def run(self, values: dict[str, Any] | bytes | None = None, /, **more: Any) -> Job:
        job = await self.start(values, **more)
        await self.follow(job)
        return job

    async def cancel(self, job: Job) -> Answer:
        return await self.command(Cancel(job_id=job.id))

    # --- what a job says

    async def events(self, job: Job, *, after: int = 0, logs: bool = False) -> AsyncIterator[Event]:
        bus, instance = self.world.bus, self.world.instance
        source = bus.job_events(instance, job.session_id, job.id, logs=logs, after=after)
        async with aclosing(source) as events:
            async for event in events:
                yield event

    async def follow(
        self, job: Job, enough: Callable[[Event], Any] = lambda event: False, timeout: float = 60
    ) -> Event:
        """Collects its events up to the one that is enough, or the last."""
        after = job.events[-1].sequence if job.events else 0
        async with asyncio.timeout(timeout), aclosing(self.events(job, after=after)) as events:
            async for event in events:
                job.events.append(event)
                if enough(event):
                    return event
        return job.events[-1]

    async def value(self, event: Event) -> Any:
        parts = [part async for part in self.world.bus.value(self.world.instance, event)]
        return decode(b"".join(parts))

    async def values(self, job: Job, kind: str = "interim") -> list[Any]:
        return [await self.value(event) for event in job.of(kind)]

    async def result(self, job: Job) -> Any:
        (event,) = job.of("result")
        return await self.value(event)

    async def logs(self, job: Job) -> list[LogRecord]:
        """The log so far."""
        bus, instance = self.world.bus, self.world.instance
        source = bus.job_events(instance, job.session_id, job.id, logs=True, follow=False)
        records: list[LogRecord] = []
        async with aclosing(source) as events:
            async for event in events:
                records += decode_log(event.body)
        return records

    async def log_text(self, job: Job) -> str:
        return "\n".join(record.text for record in await self.logs(job))

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pid, number)


__all__ = ["AER", "NO_BACKEND", "Job", "Worker", "World", "Zygote", "subjects", "until"]
