"""Workers as processes of this machine, each forked from the zygote of its environment.

A zygote is a process that has imported everything already; it and its workers outlive the server. What runs is never
written down: the sockets in the home say which zygotes there are, and each zygote says which workers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final

from neartime.contract.launch import Launch, Spawned, WorkerExit
from neartime_server.errors import ExecutorError
from neartime_server.executors import addresses, reasons, zygote
from neartime_server.executors.protocol import Exited, Observed, Place, Running, Synced
from neartime_server.executors.zygote import Connection, Zygote, ZygoteLost

log = logging.getLogger(__name__)

IDLE_SECONDS: Final = 1800.0
"""How long a zygote without workers is kept; some 150 MB, most of which it shares with nobody then."""
IDLE_ZYGOTES: Final = 3
"""How many are kept beside the one of the server's own environment."""
TIDY_SECONDS: Final = 30.0
END_MARGIN: Final = 10.0
"""Seconds beyond its grace in which a worker that was ended must be gone."""
ZYGOTE_GRACE: Final = 5.0


class ProcessExecutor:
    """For trusted programs: they run as the server's own user, and see what it sees."""

    def __init__(self, home: Path, *, idle: float = IDLE_SECONDS, tidy: float = TIDY_SECONDS) -> None:
        """
        Args:
            idle: seconds that a zygote without workers is kept.
            tidy: seconds between two looks for those that nobody needs.
        """
        self._home = home.resolve()
        self._idle_seconds, self._tidy_seconds = idle, tidy
        self._zygotes: dict[str, Zygote] = {}
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Held while a zygote is met, started or ended, by name."""
        self._making: dict[str, asyncio.Task[Zygote]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        """Those zygotes that are this process's children."""
        self._used: dict[str, float] = {}
        """When each zygote was last asked for; loop time."""
        self._exited: dict[str, Exited] = {}
        self._stopped: set[str] = set()
        """Workers that were to be ended."""
        self._ends: dict[str, asyncio.Event] = {}
        self._listeners: set[asyncio.Queue[Observed]] = set()
        self._memory_kills = reasons.memory_kills()
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_look: asyncio.Task[bool] | None = None
        self._closed = False

    # --- what an executor does

    async def start(self, launch: Launch, environment: Place) -> None:
        """Fork a worker from its environment's zygote; that is started where there is none.

        Raises:
            ExecutorError: it can't be; with the end of the zygote's log where that did not come up.
        """
        if self._holder(launch.worker_id) is not None:
            return
        try:
            await self._spawn(launch, environment)
        except ZygoteLost:
            log.warning("a zygote ended just when it was to start worker %s: another one does", launch.worker_id)
            try:
                await self._spawn(launch, environment)
            except ZygoteLost as error:
                raise ExecutorError("its zygote ended, twice, when it was to be started") from error

    async def _spawn(self, launch: Launch, environment: Place) -> None:
        found = await self._zygote(environment)
        if launch.worker_id in self._stopped:
            raise ExecutorError("it was stopped before it was started")
        await found.spawn(launch)

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        """SIGTERM to a worker's supervisor, SIGKILL to all of it after `grace` seconds; returns when it is gone.

        Raises:
            ExecutorError: it is not, after some seconds more.
        """
        await self._looked()
        self._stopped.add(worker_id)
        holder = self._holder(worker_id)
        if holder is None:
            self._note(Exited(worker_id, None, None, "it was not running"))
            return
        ended = self._ends.setdefault(worker_id, asyncio.Event())
        try:
            await holder.kill(worker_id, grace)
        except ZygoteLost:
            pass  # then it is gone, too, and that will be said
        try:
            await asyncio.wait_for(ended.wait(), grace + END_MARGIN)
        except asyncio.TimeoutError as error:
            raise ExecutorError(f"worker {worker_id} could not be ended") from error

    async def observe(self) -> AsyncIterator[Observed]:
        """What runs and what has ended, then `Synced`, then what changes.

        Raises:
            ExecutorError: there can be no folder for sockets.
        """
        complete = await self._look()
        queue: asyncio.Queue[Observed] = asyncio.Queue()
        known: list[Observed] = [Running(worker) for one in self._zygotes.values() for worker in one.running]
        known += self._exited.values()
        self._listeners.add(queue)
        try:
            for seen in known:
                yield seen
            yield Synced(complete)
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def prepare(self, environment: Place) -> None:
        """Have the environment's zygote ready.

        Raises:
            ExecutorError: it does not come up; with the end of its log.
        """
        await self._zygote(environment)

    async def stand_by(self, environment: Place) -> None:
        await self.prepare(environment)

    async def forget(self, worker_id: str) -> None:
        self._exited.pop(worker_id, None)
        self._stopped.discard(worker_id)
        zygotes = list(self._zygotes.values())  # one that is lost has nothing to forget
        await asyncio.gather(*(one.forget(worker_id) for one in zygotes), return_exceptions=True)

    async def close(self) -> None:
        """Let go of the zygotes; they and their workers go on."""
        self._closed = True
        tasks: list[asyncio.Task[Any]] = [*self._tasks, *self._making.values()]
        tasks += [self._first_look] if self._first_look is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        zygotes, self._zygotes = self._zygotes, {}
        await asyncio.gather(*(one.close() for one in zygotes.values()))

    # --- what is heard

    def _holder(self, worker_id: str) -> Zygote | None:
        return next((one for one in self._zygotes.values() if one.has(worker_id)), None)

    def _heard(self, event: Spawned | WorkerExit) -> None:
        if isinstance(event, Spawned):
            self._tell(Running(event.worker_id))
        else:
            self._note_exit(event)

    def _note_exit(self, event: WorkerExit) -> None:
        kills = reasons.memory_kills()
        killed, self._memory_kills = kills > self._memory_kills, kills
        stopped = event.worker_id in self._stopped
        self._note(reasons.of_exit(event.worker_id, event.exit_code, stopped=stopped, out_of_memory=killed))

    def _note(self, exited: Exited) -> None:
        if exited.worker_id not in self._exited:
            self._exited[exited.worker_id] = exited
            self._tell(exited)
        if (ended := self._ends.pop(exited.worker_id, None)) is not None:
            ended.set()

    def _tell(self, seen: Observed) -> None:
        for queue in self._listeners:
            queue.put_nowait(seen)

    # --- which zygotes there are

    async def _looked(self) -> None:
        """Returns when those that run already are known."""
        if self._first_look is None:
            self._first_look = asyncio.create_task(self._look())
        try:
            await asyncio.shield(self._first_look)
        except ExecutorError:
            self._first_look = None
            raise

    async def _look(self) -> bool:
        """Meet the zygotes that run and are not known yet. Whether all of them said what they have."""
        folder = addresses.folder(self._home)
        names = [path.name.removesuffix(addresses.SUFFIX) for path in folder.glob(f"*{addresses.SUFFIX}")]
        there = await asyncio.gather(*(self._meet(name) for name in names))
        self._keep_tidy()
        return all(name in self._zygotes for name, lives in zip(names, there, strict=True) if lives)

    def _path(self, name: str) -> Path:
        return addresses.folder(self._home) / f"{name}{addresses.SUFFIX}"

    async def _meet(self, name: str) -> bool:
        """Connect to a zygote that is not known yet. False where it is gone; one that is silent is met later."""
        path = self._path(name)
        async with self._changing[name]:
            if name in self._zygotes:
                return True
            try:
                self._take(name, await Connection.open(path))
            except (OSError, ExecutorError) as error:
                if not zygote.lives(path):
                    path.unlink(missing_ok=True)
                    return False
                log.warning("the zygote %s can't be spoken to: %s", name, error or "it is silent")
            return True

    def _take(self, name: str, connection: Connection) -> Zygote:
        taken = self._zygotes[name] = Zygote(name, connection, self._heard, self._lost)
        self._used[name] = asyncio.get_running_loop().time()
        for worker_id in taken.running:
            self._tell(Running(worker_id))
        for event in connection.state.exited:
            self._note_exit(event)
        return taken

    async def _zygote(self, place: Place) -> Zygote:
        """The zygote of an environment, started where there is none; once for all who want it."""
        name = await asyncio.to_thread(addresses.name, place)  # the first time, it looks at files
        if (found := self._zygotes.get(name)) is None:
            if (making := self._making.get(name)) is None:
                making = self._making[name] = asyncio.create_task(self._make(name, place))
                making.add_done_callback(lambda task: self._made(name, task))
            found = await asyncio.shield(making)  # whoever gives up leaves it to the others
        self._used[name] = asyncio.get_running_loop().time()
        return found

    async def _make(self, name: str, place: Place) -> Zygote:
        async with self._changing[name]:
            if (found := self._zygotes.get(name)) is None:
                path, logged = self._path(name), self._home / "logs" / f"zygote-{name}.log"
                connection, process = await zygote.started(place, path, self._home, logged)
                if process is not None:
                    self._processes[name] = process
                found = self._take(name, connection)
        self._keep_tidy()
        return found

    def _made(self, name: str, task: asyncio.Task[Zygote]) -> None:
        del self._making[name]
        if not task.cancelled():
            task.exception()  # perhaps nobody waits any more

    def _lost(self, old: Zygote) -> None:
        if self._zygotes.get(old.name) is old:
            del self._zygotes[old.name]
        if not self._closed:
            self._background(self._after(old, self._processes.pop(old.name, None)), f"after {old.name}")

    async def _after(self, old: Zygote, process: subprocess.Popen[bytes] | None) -> None:
        """A connection has ended: either it is taken up again, or the zygote is gone with its workers."""
        while await self._meet(old.name):
            if old.name in self._zygotes:
                break
            await asyncio.sleep(1.0)
        current = self._zygotes.get(old.name)
        if current is not None and current.pid == old.pid:
            if process is not None:
                self._processes[old.name] = process
            left = [worker_id for worker_id in old.running if not current.has(worker_id)]
        else:
            left = list(old.running)
        exit_code = await _reap(process) if left else None
        for worker_id in left:
            if worker_id not in self._exited:
                _kill_group(old.running[worker_id])  # where the system does not do so by itself
                self._note(reasons.of_zygote(worker_id, exit_code))
        for worker_id in old.unanswered & self._ends.keys():  # asked for and given up; whoever did not asks again
            if self._holder(worker_id) is None:
                self._note(Exited(worker_id, None, None, "it was not running"))

    # --- those that nobody needs

    def _keep_tidy(self) -> None:
        if not self._closed and not any(task.get_name() == "tidy" for task in self._tasks):
            self._background(self._tidy(), "tidy")

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(self._tidy_seconds)
            try:
                await self._look()  # one may have been silent, or started by another server
                for one in self._needless(asyncio.get_running_loop().time()):
                    await self._end(one)
            except ExecutorError as error:
                log.warning("zygotes can't be looked after for now: %s", error)

    def _needless(self, now: float) -> list[Zygote]:
        idle = [one for one in self._zygotes.values() if not one.busy and not self._changing[one.name].locked()]
        idle.sort(key=lambda one: self._used[one.name], reverse=True)
        needless = [one for one in idle if not addresses.of_this_build(one.name)]
        spare = [one for one in idle if one not in needless and not addresses.of_own_place(one.name)]
        late = [one for one in spare[:IDLE_ZYGOTES] if now - self._used[one.name] > self._idle_seconds]
        return needless + spare[IDLE_ZYGOTES:] + late

    async def _end(self, one: Zygote) -> None:
        async with self._changing[one.name]:
            if one.busy or one.pid is None or self._zygotes.get(one.name) is not one:
                return
            try:
                state = await zygote.look(self._path(one.name))  # another server may have used it
            except (OSError, TimeoutError, ExecutorError):
                return
            if state.running or state.exited or one.busy:
                return
            log.info("the zygote %s is ended: nobody needs it", one.name)
            del self._zygotes[one.name]
            await one.close()
            process = self._processes.pop(one.name, None)
            await zygote.end(one.pid, process, ZYGOTE_GRACE)
            await _reap(process)

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of the executor failed", exc_info=error)


async def _reap(process: subprocess.Popen[bytes] | None) -> int | None:
    """How a zygote ended, if it was a child of this process and has."""
    if process is None:
        return None
    try:
        return await asyncio.to_thread(process.wait, ZYGOTE_GRACE)
    except subprocess.TimeoutExpired:
        return None


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
