"""The supervisor of one worker: its connection to NATS, the commands that it hears, its heartbeats and its end.

It runs jobs one after the other, each as an `Attempt` in a child; it goes on whatever happens to that child.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from nats.aio.msg import Msg
from pydantic import BaseModel, ValidationError

from neartime.contract import launch as protocol
from neartime.contract import subjects
from neartime.contract.backends import BackendHome
from neartime.contract.gateways import Asked, Verb, pack
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.contract.launch import Answer, Beat, Cancel, Drain, Fetch, Fetchable, Launch, NatsAccess, Start
from neartime.contract.version import incompatible
from neartime.errors import NeartimeError
from neartime.packaging import archive
from neartime.stream import Line, Link
from neartime.stream.link import AWAY
from neartime_runner import processes
from neartime_runner.attempt import Attempt, Stopping
from neartime_runner.events import JobEvents
from neartime_runner.fetch import fetch
from neartime_runner.frames import Frame, Logged, Setup
from neartime_runner.logs import LogBook
from neartime_runner.nursery import Child, Nursery, NurseryLost
from neartime_runner.outbox import Outbox
from neartime_runner.relay import GatewayAway, Relay

log = logging.getLogger(__name__)

GARBAGE: Final = (20_000, 20, 100)
"""Thresholds of the garbage collector. Tens of thousands of events may wait for the broker, and looking through all of
them again and again, as its own ones make it do, takes half of the time that they take."""
REMEMBERED: Final = 1000
"""Attempts that were run, of which a repeated command is answered `ok`."""
FAREWELL_SECONDS: Final = 60.0
"""How long a worker that ends waits for the broker to store what it has said."""
GATEWAY_SECONDS: Final = 5.0
"""How long a gateway may take to answer: longer than it takes for who waits there."""
GATEWAY_PATIENCE: Final = 40.0
"""How long a gateway is asked that does not answer: one that is started again has to import Qiskit and a provider."""
RELEASE_SECONDS: Final = 1.0
TERMINATED: Final = 128 + signal.SIGTERM
"""Exit code of a worker that was told to end in the middle of a job."""


def supervise(take: Callable[[], Launch], forget: Callable[[], None] = lambda: None) -> int:
    """Runs one worker to its end; returns its exit code.

    Args:
        take: gives the launch document, once the process that forks children has been made.
        forget: drops what is known of it already, in that process.
    """
    processes.adopt_orphans()
    nursery = Nursery(forget)
    processes.keep_private(True)
    processes.give_way()
    gc.set_threshold(*GARBAGE)
    launch = take()
    logging.basicConfig(format=f"%(asctime)s worker {launch.worker_id} %(levelname)s %(message)s")
    if (problem := incompatible(launch.contract_version, "the server")) is not None:
        log.error("%s", problem)
        return 1
    return asyncio.run(Worker(launch, nursery).run())


class Worker:
    def __init__(self, launch: Launch, nursery: Nursery) -> None:
        self._launch, self._nursery = launch, nursery
        self._id = launch.worker_id
        self._folder = str(Path(launch.path).absolute())
        self._outbox = Outbox(launch.limits.buffer)
        self._book = LogBook(self._folder)
        self._link: Link | None = None
        self._child: Child | None = None
        self._attempt: Attempt | None = None
        self._running: asyncio.Task[None] | None = None
        self._ran: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._counter = time.time_ns()
        self._heard = 0
        """Counter of the newest command that was taken."""
        self._contact = time.monotonic()
        """When the control plane was heard last, or a job ended."""
        self._draining = False
        self._exit_code = 0
        self._forking = asyncio.Lock()
        self._missing = None if Path(self._folder).exists() else launch.files
        self._has_files = asyncio.Event()
        """Set when the program's files are in its folder."""
        self._tasks: set[asyncio.Task[None]] = set()
        remote = launch.backend.home is BackendHome.GATEWAY
        self._relay = Relay(self._ask_gateway) if remote else None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._news, self._ending = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._terminate)
        self._nursery.attach(self._nursery_lost)
        line = Line(self._access, name=f"neartime worker {self._id}", opened=self._opened)
        opening = asyncio.ensure_future(line.link())
        chores = [asyncio.ensure_future(work) for work in (self._outbox.keep_trying(), self._beats(), self._idle())]
        self._spawn(self._begin(opening))
        try:
            await self._ending.wait()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._outbox.empty(), FAREWELL_SECONDS)
        finally:
            for task in (opening, *chores):
                task.cancel()
            await line.close()
            if self._relay is not None:
                self._relay.close()
            self._nursery.close()
            processes.kill_children()
        return self._exit_code

    async def _begin(self, opening: Awaitable[Link]) -> None:
        if self._missing is not None:
            try:
                await opening
                await _lay_out(fetch(self._ask, None, self._missing), Path(self._folder))
            except (NeartimeError, OSError) as error:
                log.error("the program's files can't be had: %s", error)
                self._exit_code = 1
                self._drain()
                return
        self._has_files.set()
        self._news.set()
        await self._replace_child()

    # --- the connection

    async def _access(self) -> NatsAccess:
        return self._launch.nats

    async def _opened(self, link: Link) -> None:
        # The answer to a command is allowed on the connection on which it came, and on no other.
        await link.client.subscribe(subjects.control(self._id), cb=partial(self._hear, link))
        await self._outbox.attach(link)
        await link.client.flush()
        link.listen(lambda: self._returned(link))
        self._link = link
        self._news.set()

    def _returned(self, link: Link) -> None:
        """The connection was away and is back, or is closed for good."""
        if link is self._link and link.client.is_connected:
            self._spawn(self._outbox.again())
            self._news.set()

    def _signed(self, subject: str, message: BaseModel) -> dict[str, str]:
        self._counter += 1
        return protocol.signed_headers(
            self._launch.control_key, subject, self._counter, protocol.encode_command(message)
        )

    async def _beats(self) -> None:
        while True:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), self._launch.limits.heartbeat)
            self._news.clear()
            if self._link is not None and self._link.client.is_connected:
                job_id = self._attempt.start.job_id if self._attempt is not None else None
                ready = self._has_files.is_set()
                beat = Beat(worker_id=self._id, job_id=job_id, ready=ready, draining=self._draining)
                subject = subjects.beat(self._id)
                with suppress(*AWAY):
                    await self._link.client.publish(subject, headers=self._signed(subject, beat))

    def _fetch(self, job_id: str, wanted: Fetchable) -> AsyncGenerator[bytes, None]:
        return fetch(self._ask, job_id, wanted)

    async def _ask(self, request: Fetch, timeout: float) -> bytes:
        if self._link is None:
            raise OSError("not connected")
        subject = subjects.fetch(self._id)
        answer = await self._link.client.request(subject, headers=self._signed(subject, request), timeout=timeout)
        return bytes(answer.data)

    # --- the gateway

    async def _ask_gateway(self, verb: Verb, message: bytes) -> bytes:
        """Asks until it answers: the connection, or the gateway, may be on its way back."""
        launch = self._launch
        subject = subjects.gateway(launch.backend.name, launch.session_id, self._id, verb.value)
        deadline = time.monotonic() + GATEWAY_PATIENCE
        while True:
            if self._link is not None and self._link.client.is_connected:
                with suppress(*AWAY):
                    answer = await self._link.client.request(subject, message, timeout=GATEWAY_SECONDS)
                    return bytes(answer.data)
            if time.monotonic() > deadline:
                raise GatewayAway(f"its gateway does not answer, for {GATEWAY_PATIENCE:g} s")
            await asyncio.sleep(0.2)

    async def _release(self) -> None:
        """The job has ended: what it still runs at the gateway is cancelled."""
        if self._relay is not None and self._relay.used and self._link is not None:
            self._relay.used = False
            subject = subjects.gateway(self._launch.backend.name, self._launch.session_id, self._id, Verb.CANCEL.value)
            with suppress(*AWAY):  # the gateway sees that the lease is gone, a moment later
                await self._link.client.request(subject, pack(Asked()), timeout=RELEASE_SECONDS)

    # --- commands

    async def _hear(self, link: Link, message: Msg) -> None:
        key, subject = self._launch.control_key, message.subject
        valid = protocol.verify(key, subject, message.headers, message.data, self._heard)
        if valid is None:
            log.warning("a command was not signed by the control plane, or not new")
            return
        text, self._heard = valid
        self._contact = time.monotonic()
        try:
            answer = self._obey(protocol.COMMAND.validate_json(text), message.data)
        except ValidationError as error:
            answer = Answer(ok=False, error=f"this worker does not know that command: {error}")
        headers = protocol.signed_headers(key, subject, valid[1], protocol.encode_command(answer))
        with suppress(*AWAY):
            await link.client.publish(message.reply, headers=headers)

    def _obey(self, command: Start | Cancel | Drain, body: bytes) -> Answer:
        if isinstance(command, Start):
            return self._start(command, body)
        if isinstance(command, Cancel):
            if self._attempt is None or self._attempt.start.job_id != command.job_id:
                return Answer(ok=False, error=f"job {command.job_id} does not run here")
            self._attempt.stop(Stopping(JobStatus.CANCELLED, command.reason_code, command.reason))
        else:
            self._drain()
        return Answer(ok=True)

    def _start(self, start: Start, body: bytes) -> Answer:
        asked = (start.job_id, start.attempt)
        if asked in self._ran:
            return Answer(ok=True)
        if self._attempt is not None:
            return Answer(ok=False, error=f"job {self._attempt.start.job_id} runs here")
        if self._draining:
            return Answer(ok=False, error="this worker is about to end")
        self._ran[asked] = None
        if len(self._ran) > REMEMBERED:
            self._ran.popitem(last=False)
        events = JobEvents(self._outbox, self._id, self._launch.session_id, start.job_id, start.attempt, start.interims)
        self._attempt = Attempt(
            start,
            body,
            events=events,
            book=self._book,
            limits=self._launch.limits,
            fetch=self._fetch,
            child=self._ready_child,
        )
        self._running = asyncio.create_task(self._run(self._attempt))
        self._news.set()
        return Answer(ok=True)

    async def _run(self, attempt: Attempt) -> None:
        try:
            await attempt.run()
        except Exception:  # the control plane closes the job when this worker is gone
            log.exception("a job could not be run to its end")
            self._exit_code = 1
            self._draining = True
        await self._release()
        if attempt.abandoned:
            self._exit_code = TERMINATED
        self._contact = time.monotonic()
        self._attempt = None
        self._news.set()
        if self._draining:
            self._ending.set()

    # --- the child

    async def _ready_child(self) -> Child:
        """The child, or a new one in place of one that is gone.

        Raises:
            NurseryLost: there can't be one.
        """
        async with self._forking:
            if self._child is not None and self._child.gone:
                await self._child.exited
                self._child = None
            if self._child is None:
                launch = self._launch
                setup = Setup(
                    manifest=launch.manifest,
                    path=self._folder,
                    backend=launch.backend,
                    memory=launch.limits.memory,
                    supervisor=os.getpid(),
                )
                way = None if self._relay is None else self._relay.pair()
                self._child = child = await self._nursery.child(setup, self._book, way)
                self._spawn(self._listen(child))
            return self._child

    async def _replace_child(self) -> None:
        with suppress(NurseryLost):
            await self._ready_child()

    async def _listen(self, child: Child) -> None:
        try:
            async for kind, body in child.frames():
                await self._take(child, kind, body)
        except ValueError as error:
            log.error("a child does not keep to the protocol: %s", error)
            child.kill(signal.SIGKILL)
        child.gone = True
        if self._attempt is not None and self._attempt.runs_in(child):
            self._attempt.lost()
        await child.exited
        if child.used and not self._draining:  # else it would die again and again
            await self._replace_child()

    async def _take(self, child: Child, kind: Frame, body: bytes) -> None:
        if kind is Frame.LOG:
            logged = Logged.model_validate_json(body)
            for line in logged.text.split("\n"):
                self._book.write("logging", line, logged.level, logged.time)
            await self._book.room()
        elif self._attempt is not None and self._attempt.runs_in(child):
            await self._attempt.take(kind, body)

    def _nursery_lost(self) -> None:
        log.error("the process that forks children is gone")
        self._exit_code = 1
        self._drain()

    # --- the end

    def _drain(self) -> None:
        self._draining = True
        self._news.set()
        if self._attempt is None:
            self._ending.set()

    def _terminate(self) -> None:
        if self._attempt is not None:
            self._attempt.stop(Stopping(None, ReasonCode.WORKER_LOST, "its worker was told to end"))
        self._drain()

    async def _idle(self) -> None:
        limit = self._launch.limits.idle
        while True:
            left = self._contact + limit - time.monotonic()
            if left <= 0 and (self._attempt is None or self._attempt.over):
                log.info("nothing was heard of the control plane for %.0f s", limit)
                self._draining = True
                self._ending.set()
            await asyncio.sleep(max(left, limit / 10, 0.01))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _lay_out(chunks: AsyncGenerator[bytes, None], folder: Path) -> None:
    """Unpacks an archive that comes in chunks; the folder is there with all of its files, or not at all.

    Raises:
        NeartimeError: it is refused, damaged, or none.
        OSError: there is no room for it.
    """
    data = b"".join([chunk async for chunk in chunks])
    draft = folder.with_name(f".{folder.name}-{os.getpid()}")
    draft.mkdir(parents=True)
    await asyncio.to_thread(archive.unpack, data, draft)
    draft.rename(folder)
