"""An executor whose workers are tasks of the test: they speak the whole protocol over the real NATS, and run no Python.

What a job does is in its inputs, JSON: {"say": [interim, …], "wait": true, "die": attempts, "result": value}.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from nats.aio.client import Client, RawCredentials
from nats.aio.msg import Msg

from neartime.contract import launch as protocol
from neartime.contract import subjects
from neartime.contract.events import (
    CHUNK_SIZE,
    INDEX_HEADER,
    INLINE_LIMIT,
    Envelope,
    LogRecord,
    Reference,
    StatusEvent,
    encode_log,
)
from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime.contract.launch import Answer, Beat, Cancel, Drain, Fetch, Launch, Start
from neartime_server.executors import Exited, Observed, Running, Synced


class TinyWorker:
    def __init__(self, launch: Launch, executor: TinyExecutor) -> None:
        self.launch, self.executor = launch, executor
        self.id = launch.worker_id
        self.nc = Client()
        self.counter = time.time_ns()
        self.heard = 0
        self.job: asyncio.Task[None] | None = None
        self.start: Start | None = None
        self.cancelled: Cancel | None = None
        self.go_on = asyncio.Event()
        self.sequences: dict[tuple[str, int, str], int] = {}
        self.done: set[tuple[str, int]] = set()
        self.fetched: list[bytes] = []

    async def run(self) -> None:
        access = self.launch.nats
        await self.nc.connect(
            access.url, user_credentials=RawCredentials(access.credential), inbox_prefix=access.inbox.encode(),
            allow_reconnect=False,
        )  # fmt: skip
        self.js = self.nc.jetstream()
        await self.nc.subscribe(subjects.control(self.id), cb=self.hear)
        await self.nc.flush()
        while True:
            await self.beat()
            await asyncio.sleep(self.launch.limits.heartbeat)

    def sign(self, subject: str, message: Any) -> dict[str, str]:
        self.counter += 1
        return protocol.signed_headers(self.launch.control_key, subject, self.counter, protocol.encode_command(message))

    async def beat(self, draining: bool = False) -> None:
        subject = subjects.beat(self.id)
        beat = Beat(worker_id=self.id, job_id=self.start.job_id if self.start else None, draining=draining)
        await self.nc.publish(subject, headers=self.sign(subject, beat))

    async def hear(self, message: Msg) -> None:
        key, headers = self.launch.control_key, dict(message.headers or {})
        valid = protocol.verify(key, message.subject, headers, message.data, self.heard)
        if valid is None:
            return
        text, self.heard = valid
        command = protocol.COMMAND.validate_json(text)
        self.executor.commands.append(command)
        answer = Answer(ok=True)
        if isinstance(command, Start):
            if (command.job_id, command.attempt) in self.done:
                pass
            elif self.start is not None and self.start.job_id != command.job_id:
                answer = Answer(ok=False, error="busy")
            elif self.start is None:
                self.start = command
                self.executor.starts.append((self.id, command.job_id, command.attempt))
                self.job = asyncio.create_task(self.work(command, message.data))
        elif isinstance(command, Cancel):
            if self.start is None or self.start.job_id != command.job_id:
                answer = Answer(ok=False, error="not this job")
            self.cancelled = command
            self.go_on.set()
        reply = protocol.signed_headers(key, message.subject, self.heard, protocol.encode_command(answer))
        await self.nc.publish(message.reply, headers=reply)
        if isinstance(command, Drain) and self.id not in self.executor.deaf:
            if self.job is not None:
                await asyncio.gather(self.job, return_exceptions=True)
            self.executor.exit(self.id, 0)

    async def publish(
        self, kind: str, body: bytes, *, index: int = 0, interims: int = 0, reference: Reference | None = None,
        source: str | None = None,
    ) -> None:  # fmt: skip
        start = self.start
        assert start is not None
        stream = subjects.BULK if kind == "log" else subjects.JOBS
        key = (start.job_id, start.attempt, stream)
        self.sequences[key] = self.sequences.get(key, 0) + 1
        envelope = Envelope(source or self.id, start.attempt, self.sequences[key], index, interims, reference)
        await self.js.publish(
            subjects.event(self.launch.session_id, start.job_id, kind), body,
            headers=envelope.headers(start.job_id, stream),
        )  # fmt: skip

    async def value(self, kind: str, body: bytes, **more: int) -> None:
        start = self.start
        assert start is not None
        if len(body) <= INLINE_LIMIT:
            await self.publish(kind, body, **more)
            return
        subject = subjects.blob(self.launch.session_id, start.job_id, f"{start.attempt}-{kind}")
        at = []
        for number in range(0, len(body), CHUNK_SIZE):
            acknowledged = await self.js.publish(
                subject, body[number : number + CHUNK_SIZE], headers={INDEX_HEADER: str(number // CHUNK_SIZE)}
            )
            at.append(acknowledged.seq)
        reference = Reference(
            subject=subject, first=min(at), last=max(at), chunks=len(at), size=len(body),
            digest=hashlib.sha256(body).hexdigest(),
        )  # fmt: skip
        await self.publish(kind, b"", reference=reference, **more)

    async def status(self, status: JobStatus, **more: Any) -> None:
        event = StatusEvent(status=status, time=datetime.now(timezone.utc), worker_id=self.id, **more)
        await self.publish("status", event.model_dump_json().encode())

    async def fetch(self, job_id: str, digest: str, chunk: int) -> bytes:
        subject = subjects.fetch(self.id)
        headers = self.sign(subject, Fetch(job_id=job_id, digest=digest, chunk=chunk))
        return (await self.nc.request(subject, headers=headers, timeout=5)).data

    async def inputs(self, start: Start, body: bytes) -> bytes:
        wanted = start.inputs
        if wanted is None:
            return body
        return b"".join([await self.fetch(start.job_id, wanted.digest, number) for number in range(wanted.chunks)])

    async def work(self, start: Start, body: bytes) -> None:
        await self.status(JobStatus.RUNNING)
        text = await self.inputs(start, body)
        script = json.loads(text)
        self.executor.inputs.append(text)
        now = datetime.now(timezone.utc)
        await self.publish("log", encode_log([LogRecord(time=now, stream="stdout", text=f"running in {self.id}")]))
        said = start.interims
        if start.checkpoint is not None:
            held = await self.fetch(start.job_id, start.checkpoint.digest, 0)
            script["say"] = script["say"][len(json.loads(held)) :]
        for value in script.get("say", []):
            said += 1
            await self.value("interim", json.dumps(value).encode(), index=said)
        if "save" in script and start.attempt == 1:
            await self.value("checkpoint", json.dumps(script["save"]).encode(), interims=said)
        self.executor.running.set()
        if script.get("die", 0) >= start.attempt:
            await self.nc.flush()
            self.executor.exit(self.id, -9, ReasonCode.WORKER_LOST, "its worker was killed by SIGKILL")
            return
        if script.get("wait"):
            await self.go_on.wait()
        await asyncio.sleep(script.get("sleep", 0))
        usage = Usage(seconds=0.5)
        if self.cancelled is not None:
            reason = {"reason": self.cancelled.reason, "reason_code": self.cancelled.reason_code}
            await self.status(JobStatus.CANCELLED, usage=usage, interims=said, **reason)
        elif script.get("fail"):
            code = ReasonCode.PROGRAM_ERROR
            await self.status(JobStatus.FAILED, usage=usage, interims=said, reason=script["fail"], reason_code=code)
        else:
            await self.value("result", json.dumps(script.get("result")).encode())
            await self.status(JobStatus.COMPLETED, usage=usage, interims=said)
        self.done.add((start.job_id, start.attempt))
        self.start, self.cancelled = None, None
        self.go_on.clear()
        await self.beat()


class TinyExecutor:
    """Outlives a control plane, as a zygote does: another one observes what it finds."""

    def __init__(self) -> None:
        self.workers: dict[str, TinyWorker] = {}
        self.exited: dict[str, Exited] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.closing: list[asyncio.Future[None]] = []
        self.listeners: set[asyncio.Queue[Observed]] = set()
        self.commands: list[Any] = []
        self.starts: list[tuple[str, str, int]] = []
        self.inputs: list[bytes] = []
        self.running = asyncio.Event()
        """A job has said all that it says before it waits or dies."""
        self.refuse = 0
        """How many starts fail."""
        self.hang: asyncio.Event | None = None
        """Set by a start, which then never comes to its end."""
        self.deaf: set[str] = set()
        """Workers that do not end, whatever they are told."""
        self.overlooks = False
        """Whether it can't see what runs, and knows that."""

    async def start(self, launch: Launch, environment: object) -> None:
        from neartime_server.errors import ExecutorError

        if self.hang is not None:
            self.hang.set()
            await asyncio.Event().wait()
        if self.refuse:
            self.refuse -= 1
            raise ExecutorError("no room")
        worker = TinyWorker(launch, self)
        self.workers[launch.worker_id] = worker
        self.tasks[launch.worker_id] = asyncio.create_task(worker.run())
        self.tell(Running(launch.worker_id))

    def tell(self, seen: Observed) -> None:
        for queue in self.listeners:
            queue.put_nowait(seen)

    def exit(
        self, worker_id: str, exit_code: int, reason_code: ReasonCode | None = None, reason: str | None = None
    ) -> None:
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return
        self.tasks[worker_id].cancel()
        if worker.job is not None and worker.job is not asyncio.current_task():
            worker.job.cancel()
        self.closing.append(asyncio.ensure_future(worker.nc.close()))
        self.exited[worker_id] = Exited(worker_id, exit_code, reason_code, reason)
        self.tell(self.exited[worker_id])

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        """As a SIGKILL: the executor's word stands, whatever the worker does."""
        if worker_id in self.deaf:
            self.exited[worker_id] = Exited(worker_id, -9, None, None)
            self.tell(self.exited[worker_id])
        self.exit(worker_id, -15)

    async def observe(self) -> AsyncIterator[Observed]:
        queue: asyncio.Queue[Observed] = asyncio.Queue()
        self.listeners.add(queue)
        try:
            for worker_id in list(self.workers) if not self.overlooks else []:
                yield Running(worker_id)
            for exited in list(self.exited.values()):
                yield exited
            yield Synced(complete=not self.overlooks)
            while True:
                yield await queue.get()
        finally:
            self.listeners.discard(queue)

    async def prepare(self, environment: object) -> None:
        pass

    async def stand_by(self, environment: object) -> None:
        pass

    async def forget(self, worker_id: str) -> None:
        self.exited.pop(worker_id, None)

    async def close(self) -> None:
        for worker_id in list(self.workers):
            self.exit(worker_id, 0)
        await asyncio.gather(*self.tasks.values(), *self.closing, return_exceptions=True)
