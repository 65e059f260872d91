"""One attempt of one job, as its supervisor sees it: from the command that starts it to its final status.

What the child says is published in its order. Whatever ends the job (main() itself, a cancel, its time, a full quota, a
crash), the order is the same: interim results, result, the rest of the log, final status.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final

from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime.contract.launch import Fetchable, Limits, Start
from neartime_runner import frames, processes, tracebacks
from neartime_runner.events import JobEvents, LargeValue
from neartime_runner.fetch import FetchFailed
from neartime_runner.frames import STOP_SIGNAL, Begin, Done, Frame
from neartime_runner.logs import LogBook
from neartime_runner.nursery import Child
from neartime_runner.outbox import Refused

log = logging.getLogger(__name__)

DEATH_SECONDS: Final = 5.0
"""How long a child that closed its pipe has to end, and what a dead one left in its pipes to be read."""

Fetching = Callable[[str, Fetchable], AsyncGenerator[bytes, None]]


@dataclass(frozen=True)
class Stopping:
    """Why a job is ended from outside. `status` None: the control plane says how it ended, unless it has a result."""

    status: JobStatus | None
    code: ReasonCode
    reason: str


class Attempt:
    """`child` gives the process to run it in."""

    def __init__(
        self,
        start: Start,
        inputs: bytes,
        *,
        events: JobEvents,
        book: LogBook,
        limits: Limits,
        fetch: Fetching,
        child: Callable[[], Awaitable[Child]],
    ) -> None:
        self.start = start
        self._inputs, self._events, self._book, self._limits = inputs, events, book, limits
        self._fetch, self._new_child = fetch, child
        self._child: asyncio.Future[Child] = asyncio.get_running_loop().create_future()
        self._ended: asyncio.Future[Done | None] = asyncio.get_running_loop().create_future()
        """How the child says that it ended, or None where the child is gone."""
        self._stopping: Stopping | None = None
        self._value: LargeValue | None = None
        self._has_result = False
        self._feeding: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.abandoned = False
        """Whether it has ended without a final status."""

    @property
    def over(self) -> bool:
        """Whether main() has ended; what it said may still be on its way."""
        return self._ended.done()

    def runs_in(self, child: Child) -> bool:
        return self._child.done() and self._child.result() is child

    async def run(self) -> None:
        """Runs it to its end; its final status is published then, unless the control plane is to say it.

        Raises:
            NurseryLost: there is no process to run it in.
        """
        start, loop = self.start, asyncio.get_running_loop()
        self._book.begin(self._events)
        await self._events.status(JobStatus.RUNNING)
        self._events.refused.add_done_callback(self._note_refused)
        kills, began = processes.out_of_memory_kills(), time.monotonic()
        limit = loop.call_later(start.max_execution_time, self._time_is_up)
        try:
            child = await self._new_child()
            child.used = True
            mark = secrets.token_hex(16)
            marked = child.expect(frames.mark_bytes(mark))
            self._begin(child, mark)
            self._feeding = asyncio.create_task(self._feed(child))
            self._child.set_result(child)
            done = await self._ended
            seconds = time.monotonic() - began
            if done is None:
                done = await self._dead(child, kills)
                done.seconds = seconds
            else:
                await asyncio.wait(marked)
        finally:
            limit.cancel()
            for task in (self._feeding, *self._tasks):
                if task is not None:
                    task.cancel()
        await self._say_the_end(done)

    def stop(self, stopping: Stopping) -> None:
        """Ends it: an exception in main(), then SIGTERM, then SIGKILL. The first reason counts."""
        if self._stopping is None and not self._ended.done():
            self._stopping = stopping
            self._spawn(self._stop(stopping))

    # --- what the child says

    async def take(self, kind: Frame, body: bytes) -> None:
        """A frame of the child's."""
        if kind is Frame.CHUNK:
            if self._value is None:
                self._value = self._events.large_value()
            await self._value.add(body)
        elif kind is Frame.DISCARD:
            self._value = None
        elif kind is Frame.DONE:
            if not self._ended.done():
                self._ended.set_result(Done.model_validate_json(body))
        else:
            await self._publish(kind, body)

    def lost(self) -> None:
        """The child has gone."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def _publish(self, kind: Frame, body: bytes) -> None:
        value, self._value = self._value, None
        reference = None
        if value is not None and not body:
            try:
                reference = await value.reference()
            except Refused as refused:
                self._quota_is_full(refused)
                return
        if kind is Frame.INTERIM:
            await self._events.interim(body, reference)
        elif kind is Frame.CHECKPOINT:
            await self._events.checkpoint(body, reference)
        elif kind is Frame.RESULT and (self._stopping is None or self._stopping.status is None):
            self._has_result = True
            await self._events.result(body, reference)

    # --- what the child is told

    def _begin(self, child: Child, mark: str) -> None:
        start = self.start
        begin = Begin(
            job_id=start.job_id,
            log_level=start.log_level,
            qpy_version=start.qpy_version,
            resumed=start.checkpoint is not None,
            mark=mark,
        )
        child.say(Frame.START, begin.model_dump_json().encode())

    async def _feed(self, child: Child) -> None:
        start = self.start
        try:
            if start.inputs is None:
                child.say(Frame.INPUT, self._inputs)
            else:
                await self._hand_on(child, Frame.INPUT, start.inputs)
            if start.checkpoint is not None:
                await self._hand_on(child, Frame.STATE, start.checkpoint)
        except FetchFailed as error:
            self.stop(Stopping(JobStatus.FAILED, ReasonCode.INTERNAL_ERROR, f"its inputs could not be had: {error}"))
            return
        child.say(Frame.GO)

    async def _hand_on(self, child: Child, kind: Frame, wanted: Fetchable) -> None:
        async with aclosing(self._fetch(self.start.job_id, wanted)) as chunks:
            async for chunk in chunks:
                child.say(kind, chunk)
                await child.flushed()

    # --- ending it

    def _time_is_up(self) -> None:
        seconds = self.start.max_execution_time
        reason = f"it ran for longer than its max_execution_time of {seconds:g} s"
        self.stop(Stopping(JobStatus.FAILED, ReasonCode.TIMED_OUT, reason))

    def _note_refused(self, refused: asyncio.Future[Refused]) -> None:
        if not refused.cancelled():
            self._quota_is_full(refused.result())

    def _quota_is_full(self, refused: Refused) -> None:
        reason = f"the instance's storage for logs and large values is full: {refused}"
        self.stop(Stopping(JobStatus.FAILED, ReasonCode.QUOTA_EXCEEDED, reason))

    async def _stop(self, stopping: Stopping) -> None:
        child, grace = await self._child, self._limits.cancel_grace
        if self._feeding is not None:
            self._feeding.cancel()
            await asyncio.wait({self._feeding})
        child.say(Frame.STOP, frames.Stop(code=stopping.code, reason=stopping.reason).model_dump_json().encode())
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(child.flushed(), grace)
        child.interrupt(STOP_SIGNAL)
        for number in (signal.SIGTERM, signal.SIGKILL):
            await asyncio.wait({self._ended}, timeout=grace)
            if self._ended.done():
                return
            self._book.write("runner", f"main() goes on {grace:g} s after it was told to stop: {number.name}")
            child.kill(number)

    async def _dead(self, child: Child, kills: int) -> Done:
        """Why a child is gone."""
        await asyncio.wait({child.exited}, timeout=DEATH_SECONDS)
        child.kill(signal.SIGKILL)  # one that has only closed its pipe
        exit_code = await child.exited
        await child.read_out(DEATH_SECONDS)
        if exit_code >= 0:
            code = ReasonCode.PROCESS_DIED
            reason = f"the process that ran main() ended by itself, with exit code {exit_code}"
        elif exit_code == -signal.SIGKILL and processes.out_of_memory_kills() > kills:
            code = ReasonCode.OUT_OF_MEMORY
            reason = "the process that ran main() was killed since it used more memory than there is (SIGKILL)"
        else:
            code = ReasonCode.PROCESS_DIED
            reason = f"the process that ran main() was killed by {processes.signal_name(-exit_code)}"
        if self._stopping is None:
            tail = "\n".join(self._book.tail).rstrip()
            reason = f"{reason}\nlast lines of its log:\n{tail}" if tail else reason
        return Done(code=code, reason=tracebacks.shortened(reason))

    async def _say_the_end(self, done: Done) -> None:
        stopping = self._stopping
        more: dict[str, Any] = {}
        if self._has_result or (done.code is None and stopping is None):
            status: JobStatus | None = JobStatus.COMPLETED
        elif stopping is not None:
            status, more = stopping.status, {"reason": stopping.reason, "reason_code": stopping.code}
        else:
            status, more = JobStatus.FAILED, {"reason": done.reason, "reason_code": done.code}
        self.abandoned = status is None
        await self._book.end()
        if status is not None:
            usage = Usage(seconds=done.seconds, quantum_seconds=done.quantum_seconds)
            await self._events.status(status, usage=usage, interims=self._events.interims, **more)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
