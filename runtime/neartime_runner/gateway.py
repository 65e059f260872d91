"""The gateway of one backend: holds it, with its credential, and runs circuits for workers whose job has the lease.

It hears workers over NATS, whose subjects say who asks: NATS lets each speak for its own session alone. Whether that
has the backend is for the server to say: asked before each call, and again and again while one runs, so that a call
whose job has ended is cancelled at the provider. Calls of other sessions have ended before one begins, where it must
have the backend alone; that holds whatever the server says.

It knows nothing of jobs, and runs nobody's code but the provider's: circuits come as QPY, options as plain values.
"""

from __future__ import annotations

import asyncio
import faulthandler
import fcntl
import hashlib
import logging
import math
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from pydantic import ValidationError

from neartime.contract import gateways as protocol
from neartime.contract import subjects
from neartime.contract.gateways import (
    Asked,
    DescribeAsked,
    Described,
    GatewayLaunch,
    Lease,
    LeaseAsked,
    Step,
    Told,
    Verb,
    pack,
    unpack,
)
from neartime.contract.ids import new_id
from neartime.contract.launch import NatsAccess
from neartime.contract.version import incompatible
from neartime.errors import DecodeError, NeartimeError
from neartime.stream import Line, Link
from neartime.stream.link import AWAY
from neartime_runner import processes
from neartime_runner.backend import BackendFailed
from neartime_runner.provider import Provider, cancel
from neartime_runner.turns import Turns

log = logging.getLogger(__name__)
T = TypeVar("T")

LEASE_SECONDS: Final = 3.0
"""How long the server may take to say who has the lease, before it is asked again."""
LEASE_PATIENCE: Final = 60.0
"""How long a server is waited for that does not say it: one that is started again takes seconds."""
LOOK_SECONDS: Final = 2.0
"""Between two looks whether those whose calls run still have the lease."""
KEPT_SECONDS: Final = 600.0
"""How long the result of a call is kept for who does not take it."""
CALLS: Final = 64
"""Calls that one worker may have under way."""
BODY_BYTES: Final = 256 << 20
"""Of one call's circuits."""
PUT_BYTES: Final = 2 * BODY_BYTES
"""Of circuits that were put and not asked for yet, of all workers; the oldest go."""
RESULT_BYTES: Final = 1 << 30
"""Of results that are kept for who does not take them; the oldest go."""
SAY_SECONDS: Final = 2.0
"""How long a gateway that gives up still answers: who waits for a result is told at once, and who asks again just
then, too."""
UNKNOWN: Final = "its gateway was started again while the circuits ran, and does not know what became of them"
ALONE_SECONDS: Final = 900.0
"""How long one that a server has started goes on without NATS: both may have been killed for good."""
HUNG, TAKEN, INCOMPATIBLE = 75, 4, 1
"""Exit codes: the provider does not come back (EX_TEMPFAIL); another gateway serves the backend; another contract."""


def serve(file: Path, lock: Path | None = None) -> int:
    """Runs the gateway that a launch document tells of, until SIGTERM; its exit code. With `lock`, that file is held
    and says which process it is."""
    processes.keep_private(True)
    faulthandler.enable()  # a crash in a provider's native code says where
    logging.basicConfig(format="%(asctime)s gateway %(levelname)s %(message)s")
    log.setLevel(logging.INFO)
    held = _hold(lock) if lock is not None else None
    if lock is not None and held is None:
        log.error("another gateway holds %s", lock)
        return TAKEN
    launch = GatewayLaunch.model_validate_json(file.read_text())
    if (problem := incompatible(launch.contract_version, "the server")) is not None:
        log.error("%s", problem)
        return INCOMPATIBLE
    provider = Provider(launch.backend, launch.gateway)
    try:
        provider.describe()
    except BackendFailed as error:  # the credential may come yet
        log.error("%s", provider.clean(str(error)))
    return asyncio.run(Gateway(launch, file, provider, ALONE_SECONDS if lock is not None else None).run())


def _hold(lock: Path) -> int | None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


@dataclass
class Call:
    """One call of run(), from when it was asked for until who asked has its result."""

    owner: tuple[str, str, str]
    """Instance, session and worker."""
    name: str
    alone: bool = True
    step: Step = Step.WAITING
    error: str | None = None
    result: bytes = b""
    job: Any = None
    """The provider's own."""
    ended: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    admitted: asyncio.Future[Told] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """What who asked is told: that it waits for its turn, or why it was refused."""
    task: asyncio.Task[None] | None = None

    @property
    def over(self) -> bool:
        return self.step not in (Step.WAITING, Step.RUNNING)

    @property
    def finished(self) -> bool:
        """Whether the provider has come back, too."""
        return self.over and (self.task is None or self.task.done())

    def become(self, step: Step, error: str | None = None) -> None:
        """The first end counts: a call that was cancelled stays so, whatever the provider says of it later."""
        if self.over:
            return
        self.step, self.error = step, error
        self.ended = time.monotonic()
        self.changed.set()
        self.changed = asyncio.Event()


class Gateway:
    """`file` is where its launch document is; with `alone`, seconds, it ends where NATS is away for so long."""

    def __init__(self, launch: GatewayLaunch, file: Path, provider: Provider, alone: float | None = None) -> None:
        self._launch, self._file, self._provider, self._alone = launch, file, provider, alone
        self._name = launch.backend.name
        self._id = new_id()
        self._turns = Turns(launch.parallelism)
        self._calls: dict[tuple[tuple[str, str, str], str], Call] = {}
        self._parts: OrderedDict[tuple[tuple[str, str, str], str], dict[int, bytes]] = OrderedDict()
        """Of calls that were not asked for yet."""
        self._targets: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        """What workers were told of the backend, of which they may want further parts."""
        self._giving_up: str | None = None
        self._exit_code = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        line = Line(self._access, name=f"neartime gateway {self._name}", opened=self._opened)
        self._line = line
        self._first = True
        opening = asyncio.ensure_future(line.link())
        looking = asyncio.ensure_future(self._look())
        try:
            await self._ending.wait()
        finally:
            for call in self._calls.values():
                if not call.over and call.job is not None:
                    await asyncio.wait({_blocking(partial(cancel, call.job))}, timeout=LEASE_SECONDS)
            for task in (opening, looking, *self._tasks):
                task.cancel()
            await line.close()
        return self._exit_code

    # --- the connection

    async def _access(self) -> NatsAccess:
        return GatewayLaunch.model_validate_json(self._file.read_text()).nats

    async def _opened(self, link: Link) -> None:
        if self._first and await self._served(link):
            log.error(
                "another gateway serves the backend %r: one is enough, and two would not know of each other", self._name
            )
            self._end(TAKEN)
            return
        self._first = False
        token = subjects.backend_token(self._name)
        await link.client.subscribe(f"gateway.*.{token}.*.*.*", cb=self._hear)
        await link.client.subscribe(subjects.describe(self._name), cb=self._hear_describe)
        await link.client.flush()
        log.info("serves the backend %r", self._name)

    async def _served(self, link: Link) -> bool:
        try:
            await link.client.request(subjects.describe(self._name), pack(DescribeAsked()), timeout=LEASE_SECONDS)
        except NoRespondersError:
            return False
        except asyncio.TimeoutError:
            return True
        return True

    # --- what the backend is

    async def _hear_describe(self, message: Msg) -> None:
        self._spawn(self._describe(message))

    async def _describe(self, message: Msg) -> None:
        try:
            question, _ = unpack(DescribeAsked, message.data)
            body, _ = await _blocking(self._provider.describe)
            digest = hashlib.sha256(body).hexdigest()
            if question.digest not in (None, digest):
                answer, part = Described(fault="the description changed while it was read; ask again"), b""
            else:
                answer = Described(digest=digest, parts=protocol.parts_of(len(body)))
                part = protocol.part_of(body, question.part)
        except (BackendFailed, ValueError) as error:
            answer, part = Described(fault=self._provider.clean(str(error))), b""
        with suppress(*AWAY):
            await message.respond(pack(answer, part))

    # --- what workers ask

    async def _hear(self, message: Msg) -> None:
        known = subjects.asked(message.subject)
        if known is not None:
            *owner, verb = known
            self._spawn(self._answer(message, (owner[0], owner[1], owner[2]), verb))

    async def _answer(self, message: Msg, owner: tuple[str, str, str], verb: str) -> None:
        try:
            asked, body = unpack(Asked, message.data)
            told, part = await self._do(Verb(verb), owner, asked, body)
        except (ValueError, ValidationError) as error:
            told, part = Told(refused=f"what was asked of the gateway is not understood: {error}"), b""
        except BackendFailed as error:
            told, part = Told(refused=self._provider.clean(str(error))), b""
        except Exception:
            log.exception("a question could not be answered")
            told, part = Told(refused=f"the gateway of {self._name!r} failed at this; its log says more"), b""
        with suppress(*AWAY):
            await message.respond(pack(told.model_copy(update={"gateway": self._id}), part))

    async def _do(self, verb: Verb, owner: tuple[str, str, str], asked: Asked, body: bytes) -> tuple[Told, bytes]:
        key = (owner, asked.call)
        call = self._calls.get(key)
        if verb is Verb.TARGET:
            return await self._tell_target(owner)
        if verb is Verb.PUT:
            return self._put(key, asked, body), b""
        if verb is Verb.RUN:
            if call is None and (refused := self._begin(key, asked, body)) is not None:
                return refused, b""
            return await asyncio.shield(self._calls[key].admitted), b""
        if verb is Verb.TAKE:
            whole = self._targets.get(owner, b"") if not asked.call else call.result if call is not None else b""
            return Told(), protocol.part_of(whole, asked.part)
        if verb is Verb.CANCEL:
            return self._cancel_of(owner, asked.call), b""
        if call is None:
            return Told(refused=UNKNOWN), b""
        return await self._wait(call, min(asked.seconds, protocol.LONGEST))

    async def _tell_target(self, owner: tuple[str, str, str]) -> tuple[Told, bytes]:
        _, body = await _blocking(self._provider.describe)
        self._targets[owner] = body
        while len(self._targets) > CALLS:
            self._targets.popitem(last=False)
        return Told(parts=protocol.parts_of(len(body))), protocol.part_of(body, 0)

    def _put(self, key: tuple[tuple[str, str, str], str], asked: Asked, body: bytes) -> Told:
        parts = self._parts.setdefault(key, {})
        parts[asked.part] = body
        if sum(map(len, parts.values())) > BODY_BYTES:
            del self._parts[key]
            return Told(refused=f"the circuits of one call are more than {BODY_BYTES >> 20} MiB; send fewer at a time")
        while len(self._parts) > 1 and (len(self._parts) > CALLS or self._held() > PUT_BYTES):
            self._parts.popitem(last=False)
        return Told()

    def _held(self) -> int:
        return sum(len(body) for parts in self._parts.values() for body in parts.values())

    async def _wait(self, call: Call, seconds: float) -> tuple[Told, bytes]:
        if not call.over and seconds:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(call.changed.wait(), seconds)
        told = Told(step=call.step, error=call.error, parts=protocol.parts_of(len(call.result)))
        return told, protocol.part_of(call.result, 0)

    # --- calls

    def _begin(self, key: tuple[tuple[str, str, str], str], asked: Asked, body: bytes) -> Told | None:
        """Takes a call; what to answer where it does not."""
        owner, name = key
        if self._giving_up is not None:
            return Told(refused=self._giving_up, again=True)
        if asked.parts:
            parts = self._parts.pop(key, {})
            if sorted(parts) != list(range(asked.parts)):
                return Told(refused="parts of the call are missing; send it again")
            body = b"".join(parts[number] for number in range(asked.parts))
        if sum(not call.over for call in self._calls.values() if call.owner == owner) >= CALLS:
            return Told(refused=f"{CALLS} calls of this worker are under way; wait for one")
        call = self._calls[key] = Call(owner, name)
        call.task = asyncio.create_task(self._run(call, body))
        self._keep(call.task)
        return None

    async def _run(self, call: Call, body: bytes) -> None:
        lease = await self._lease(call.owner)
        if not lease.held:
            del self._calls[call.owner, call.name]
            call.admitted.set_result(Told(refused=lease.reason))
            return
        call.alone = lease.alone
        call.admitted.set_result(Told(step=call.step))
        began = time.monotonic()
        async with self._turns.turn(call.owner[1], alone=call.alone):
            if time.monotonic() - began > LEASE_SECONDS and not (lease := await self._lease(call.owner)).held:
                call.become(Step.FAILED, lease.reason)
            if call.over or self._giving_up is not None:
                call.become(Step.FAILED, self._giving_up)
                return
            call.step = Step.RUNNING
            loop = asyncio.get_running_loop()

            def begun(job: Any) -> None:
                loop.call_soon_threadsafe(self._note_begun, call, job)

            running = _blocking(partial(self._provider.run, body, begun))
            await self._come_back(call, running)

    def _note_begun(self, call: Call, job: Any) -> None:
        call.job = job
        if call.over:  # it was cancelled while it was handed over
            _blocking(partial(cancel, job))

    async def _come_back(self, call: Call, running: asyncio.Future[bytes]) -> None:
        """Until the provider has come back, also from a call that was cancelled: the next one must not overtake it."""
        seconds = self._launch.gateway.timeout
        await asyncio.wait({running}, timeout=seconds)
        if not running.done():
            reason = f"the provider of {self._name!r} has not come back within {seconds:g} s"
            log.error("%s; this gateway ends, for another one to begin", reason)
            self._give_up(call, reason)
            return
        try:
            call.result = running.result()
        except DecodeError as error:
            call.become(Step.FAILED, f"the circuits can't be read by the gateway of {self._name!r}: {error}")
        except BackendFailed as error:
            call.become(Step.FAILED, self._provider.clean(str(error)))
        except BaseException as error:
            call.become(Step.RAISED, self._provider.words(error))
        else:
            call.become(Step.DONE)

    def _give_up(self, call: Call, reason: str) -> None:
        call.become(Step.FAILED, reason)
        if call.job is not None:
            _blocking(partial(cancel, call.job))
        if self._giving_up is None:
            self._giving_up = f"{reason}, and its gateway is being started again"
            for other in self._calls.values():
                other.become(Step.FAILED, self._giving_up)
            asyncio.get_running_loop().call_later(SAY_SECONDS, self._end, HUNG)

    def _cancel_of(self, owner: tuple[str, str, str], name: str) -> Told:
        step = None
        for call in list(self._calls.values()):
            if call.owner == owner and name in ("", call.name):
                self._cancel(call, "it was cancelled")
                step = call.step
                if not name:  # the job has ended: nobody asks for these again
                    call.ended = -math.inf
        return Told(step=step)

    def _cancel(self, call: Call, why: str) -> None:
        if call.over:
            return
        call.become(Step.CANCELLED, why)
        if call.job is not None:
            _blocking(partial(cancel, call.job))

    # --- who has the lease

    async def _lease(self, owner: tuple[str, str, str]) -> Lease:
        """Whether a worker may use the backend now; waits for a server that is away."""
        deadline = time.monotonic() + LEASE_PATIENCE
        while (lease := await self._ask(owner)) is None:
            if time.monotonic() > deadline:
                reason = f"no server says who has the backend {self._name!r}, after {LEASE_PATIENCE:g} s"
                return Lease(held=False, reason=reason)
            await asyncio.sleep(0.2)
        return lease

    async def _ask(self, owner: tuple[str, str, str]) -> Lease | None:
        instance_id, session_id, worker_id = owner
        question = LeaseAsked(instance_id=instance_id, session_id=session_id, worker_id=worker_id)
        try:
            link = await self._line.link()
            answer = await link.client.request(subjects.lease(self._name), pack(question), timeout=LEASE_SECONDS)
            return unpack(Lease, answer.data)[0]
        except (*AWAY, NeartimeError, ValueError):
            return None

    async def _look(self) -> None:
        """Cancels the calls of those who no longer have the lease, and lets go of what nobody took."""
        connected = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            connected = now if self._line.connected else connected
            if self._alone is not None and now - connected > self._alone:
                log.info("NATS has been away for %.0f s", self._alone)
                self._end(0)
            ended = sorted((call for call in self._calls.values() if call.finished), key=lambda call: call.ended)
            kept = sum(len(call.result) for call in ended)
            for call in ended:
                if now - call.ended > KEPT_SECONDS or kept > RESULT_BYTES:
                    kept -= len(call.result)
                    del self._calls[call.owner, call.name]
            for owner in {call.owner for call in self._calls.values() if not call.over}:
                lease = await self._ask(owner)
                if lease is None or lease.held:
                    continue
                for call in list(self._calls.values()):
                    if call.owner == owner:
                        self._cancel(call, lease.reason or "its session no longer has the backend")

    # --- the end

    def _end(self, code: int) -> None:
        self._exit_code = code
        self._ending.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._keep(asyncio.create_task(work))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _blocking(work: Callable[[], T]) -> asyncio.Future[T]:
    """Runs what may block for ever in another thread. They stay for the next one: native code may not like it when a
    thread ends that has called it."""
    future = asyncio.get_running_loop().run_in_executor(_THREADS, work)
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps nobody waits any more
    return future


_THREADS: Final = ThreadPoolExecutor(4 * CALLS, thread_name_prefix="neartime-provider")
