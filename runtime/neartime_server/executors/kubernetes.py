"""Workers as pods beside their backend, one each.

What runs is never written down: labels say which pods are this installation's, and the cluster says how they are.
Servers of one installation share its pods; the one that reigns starts and ends them.

A pod gets its launch document over its standard input, once it runs. So no Secret holds a credential, and a server
needs no right on Secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from kubernetes.client.exceptions import ApiException

from neartime.contract.backends import Placement
from neartime.contract.launch import Launch
from neartime.contract.version import incompatible
from neartime_server.errors import ExecutorError
from neartime_server.executors import manifests, pods
from neartime_server.executors.cluster import AWAY, Cluster, Object, words
from neartime_server.executors.following import Pods
from neartime_server.executors.listener import Listener
from neartime_server.executors.once import Checks, Starts
from neartime_server.executors.pool import Pool
from neartime_server.executors.protocol import Exited, Observed, Place, Running, Synced

log = logging.getLogger(__name__)

T = TypeVar("T")

THREADS: Final = 32
TAKEN_SECONDS: Final = 60.0
"""How long a worker may take from its start until it has its launch document: an import, on a busy node."""
SPARE_SECONDS: Final = 15.0
"""The same of a pod that has waited for it. After that the worker gets a pod of its own."""
EAGER: Final = (0.15, 0.05, 0.05, 0.1, 0.1, 0.2, 0.5)
"""Seconds before each try to give a pod that has a node its launch document; the last for all that follow."""
ANSWER_SECONDS: Final = 2.0
"""How long an answer is waited for, before the document is given again."""
CHECK_SECONDS: Final = 300.0
"""How long it may take to pull an image and ask its runner for its version."""
END_MARGIN: Final = 30.0
"""Seconds beyond its grace in which a pod that was ended must be gone."""
ABANDONED_SECONDS: Final = 15.0
"""A pod that does not run, and that nobody has started here for so long, is of a server that is gone."""
CREATE_SECONDS: Final = 10.0
"""How long a pod is asked for again while the API server is away: it is when a control plane is upgraded."""
STALE_SECONDS: Final = 900.0
"""A pod that checks an image, and is so old, is of a server that is gone."""


class KubernetesExecutor:
    """In one namespace. Pods go on when the server is gone."""

    def __init__(
        self,
        cluster: Cluster,
        installation: str,
        placements: Mapping[str, Placement],
        *,
        nats: str | None = None,
        pending: float = 300.0,
        longest: float = 9 * 3600.0,
        spares: int = 0,
    ) -> None:
        """
        Args:
            installation: stands for the servers whose pods these are; a label's value.
            placements: of backends, by name.
            nats: where workers reach NATS, as `manifests.network_policy` takes it; None has no policy made: somebody
                else sees to it.
            pending: seconds that a pod may wait for an image that can't be had, or for a place that no node has. For
                a place that others have now, and an image that is being pulled, it waits as long as it takes.
            longest: seconds that a worker may live.
            spares: pods that wait for a session, for each kind of placement.
        """
        self._cluster, self._installation, self._placements = cluster, installation, placements
        self._pending, self._longest = pending, longest
        self._policy = manifests.network_policy(installation, nats) if nats is not None else None
        self._threads = ThreadPoolExecutor(THREADS, "kubernetes")
        self._pods = Pods(cluster, f"{manifests.INSTALLATION}={installation}", self._changed, self._lost)
        self._pool = Pool(
            self._pods, installation, placements.values(), spares,
            create=self._create, remove=self._clear, adopt=self._adopt,
        )  # fmt: skip
        self._checks = Checks()
        self._exited: dict[str, Exited] = {}
        self._stopped: set[str] = set()
        self._forgotten: set[str] = set()
        """Workers whose pods are being removed, and whose ends nobody wants to hear."""
        self._starts = Starts(self._stopped, self._started)
        self._listeners: set[Listener] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._tended: dict[str, asyncio.Task[None]] = {}
        """What is done about pods that nobody else looks after, by name."""
        self._closed = False

    # --- what an executor does

    async def start(self, launch: Launch, environment: Place) -> None:
        """Run a worker in a pod of its image; returns when it has its launch document.

        Raises:
            ExecutorError: it can't be; with the cluster's own words, or the end of the pod's log.
        """
        await self._starts(launch.worker_id, lambda: self._start(launch, environment))

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        """Delete a pod: SIGTERM, SIGKILL to all of it after `grace` seconds, rounded up; returns when it is gone.

        Raises:
            ExecutorError: it is not, after some seconds more, or the API server can't be reached.
        """
        again = worker_id in self._stopped
        self._stopped.add(worker_id)
        await self._starts.over(worker_id)
        await self._pods.open()
        name = self._name(worker_id)
        if not again and pods.leaves(self._pods.get(name)):  # somebody else had a reason before, and it counts
            self._stopped.discard(worker_id)
        uid = self._uid(name)
        if uid is None or not await self._call(self._cluster.delete, name, max(1, math.ceil(grace)), uid):
            self._note(Exited(worker_id, None, None, "it was not running"))
            return
        if not await self._gone(name, grace + END_MARGIN):
            await self._call(self._cluster.delete, name, 0, uid)
            if not await self._gone(name, END_MARGIN):
                raise ExecutorError(f"the pod of worker {worker_id} does not go; its node may be lost")
        self._note(Exited(worker_id, None, None, "it was stopped"))  # where its end was not seen

    async def observe(self) -> AsyncIterator[Observed]:
        """What runs and what has ended, then `Synced`, then what changes.

        Raises:
            ExecutorError: the API server can't be reached, or not any more.
        """
        listener = Listener(asyncio.get_running_loop())
        try:
            await self._pods.open()
            self._listeners.add(listener)
            self._sweep()
            self._pool.keep()
            for pod in self._pods.all():
                self._look(pod)
            for exited in list(self._exited.values()):  # also those whose pod is gone
                listener.tell(exited)
            listener.queue.put_nowait(Synced())
            while True:
                heard = await listener.queue.get()
                if heard is None:
                    raise ExecutorError("the Kubernetes API can't be reached any more")
                if not isinstance(heard, dict):
                    yield heard
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                await self._pool.rest()

    async def prepare(self, environment: Place) -> None:
        """Have the image on a node, and know that its runner can be spoken to; a pod finds out, once for each image.

        Raises:
            ExecutorError: it can't be had, or has no such runner.
        """
        if environment.image is None:
            raise ExecutorError("it has no image, and the executor `kubernetes` runs nothing else")
        await self._checks((environment.image, str(environment.python)), lambda: self._check(environment))

    async def stand_by(self, environment: Place) -> None:
        await self.prepare(environment)
        self._pool.serve(environment)

    async def forget(self, worker_id: str) -> None:
        """Removes its pod. Where the API server is away, the end is told again later."""
        self._exited.pop(worker_id, None)
        self._stopped.discard(worker_id)
        name = self._name(worker_id)
        for listener in self._listeners:
            listener.forget(worker_id)
        if (uid := self._uid(name)) is None:
            return
        self._forgotten.add(worker_id)  # until it is gone
        try:
            await self._call(self._cluster.delete, name, 1, uid)
        except ExecutorError as error:
            log.warning("the pod of worker %s could not be removed: %s", worker_id, error)
            self._forgotten.discard(worker_id)

    async def close(self) -> None:
        """Let go of the cluster; pods go on."""
        self._closed = True
        tasks = [*self._checks.tasks(), *self._starts.tasks(), *self._tended.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.rest()
        self._pods.close()
        self._lost()
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._cluster.close)

    # --- starting

    def _started(self, worker_id: str) -> None:
        """It has its launch document, so it runs: the cluster may say so later."""
        for listener in self._listeners:
            listener.tell(Running(worker_id))
        if (pod := self._pods.get(self._name(worker_id))) is not None and pods.runs(pod):
            self._look(pod)

    async def _start(self, launch: Launch, environment: Place) -> None:
        if environment.image is None:
            raise ExecutorError("it has no image, and the executor `kubernetes` runs nothing else")
        name = manifests.pod_name(launch.worker_id)
        await self._pods.open()
        if launch.worker_id in self._stopped:
            raise ExecutorError("it was stopped before it was started")
        await self._ensure_policy()
        placement = self._placements.get(launch.backend.name) or Placement()
        if await self._take_spare(launch, environment, placement):
            return
        made = asyncio.ensure_future(
            self._make(
                manifests.pod(
                    launch, environment,
                    installation=self._installation, longest=self._longest, placement=placement,
                )
            )
        )  # fmt: skip
        try:
            if not await asyncio.shield(made):
                return  # it was started before
            await self._begin(name, launch)
            if launch.worker_id in self._stopped:
                raise ExecutorError("it was stopped before it was started")
        except BaseException:
            await asyncio.gather(made, return_exceptions=True)
            await asyncio.shield(self._remove(name))
            raise

    async def _make(self, pod: Object) -> bool:
        """Whether it had to be made. Where a quota is used up by spares, they make room."""
        deadline = 0.0
        while True:
            try:
                return await self._create(pod)
            except ExecutorError as error:
                if "exceeded quota" not in str(error):
                    raise
                if not deadline and await self._pool.give_way():
                    deadline = time.monotonic() + CREATE_SECONDS  # it counts them until they are gone
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.5)

    async def _take_spare(self, launch: Launch, environment: Place, placement: Placement) -> bool:
        """Whether a pod that waits for a session is this worker now, and has its launch document."""
        worker_id = launch.worker_id
        taking = asyncio.ensure_future(self._pool.take(launch, environment, placement, self._longest))
        try:
            if (name := await asyncio.shield(taking)) is None:
                return False
            await self._begin(name, launch.model_copy(update={"path": manifests.PROGRAM}), (0.0, *EAGER), SPARE_SECONDS)
            await self._pods.until(
                name, lambda pod: pod is None or pods.worker_of(pod) == worker_id or None, END_MARGIN
            )
            if worker_id in self._stopped:
                raise ExecutorError("it was stopped before it was started")
            return True
        except BaseException as error:
            (taken,) = await asyncio.gather(taking, return_exceptions=True)
            if isinstance(taken, str):
                await asyncio.shield(self._remove(taken))
                if isinstance(error, ExecutorError) and worker_id not in self._stopped:
                    log.warning("a spare pod does not become worker %s: %s", worker_id, error)
                    return not await self._gone(taken, END_MARGIN)
            raise

    async def _adopt(self, name: str, changes: list[Object]) -> None:
        await self._call(self._cluster.patch, name, changes)

    async def _create(self, pod: Object) -> bool:
        """Whether it had to be made."""
        deadline, again = time.monotonic() + CREATE_SECONDS, False
        while True:
            try:
                await self._call(self._cluster.create, pod, refused="the cluster refuses its pod")
                return True
            except _There:
                return again  # what was answered the first time was lost
            except _Away:
                if time.monotonic() > deadline:
                    raise
            again = True
            await asyncio.sleep(0.5)

    async def _run(self, name: str) -> None:
        """Waits until a pod runs.

        Raises:
            ExecutorError: it does not, or has ended; with the reason.
        """
        on_its_way = pods.Obstacle("", hopeless=False)
        seen, met = on_its_way, False

        def decide(pod: Object | None) -> pods.Obstacle | bool | None:
            nonlocal seen, met
            if pod is None:
                return pods.Obstacle("its pod was deleted before it ran", hopeless=True) if met else None
            met = True
            if pods.runs(pod) or pods.exited(pod, stopped=False) is not None:
                return True
            if (found := pods.obstacle(pod)) is not None:
                if found.words != seen.words:
                    log.info("pod %s waits: %s", name, found.words)
                    if found.crowded:
                        self._spawn(self._pool.give_way())
                seen = found
                return found if found.hopeless else None
            # what stood in its way before does not any more
            seen = on_its_way
            return None

        while (found := await self._decided(name, decide)) is None:
            if seen.crowded:
                continue  # there is room when others have ended
            events = await self._told(name)
            if not seen.words and pods.pulls(events):
                log.info("pod %s waits: its image is still being pulled", name)
                continue
            said = seen.words or pods.told(events) or "nobody says why"
            raise ExecutorError(f"its pod did not run within {self._pending:g} s: {said}")
        if isinstance(found, pods.Obstacle):
            raise ExecutorError(found.words)

    async def _told(self, name: str) -> list[Object]:
        try:
            return await self._call(self._cluster.events, name)
        except ExecutorError as error:  # a server may lack the right to read them
            log.debug("what is said of pod %s can't be read: %s", name, error)
            return []

    async def _decided(self, name: str, decide: Callable[[Object | None], T | None]) -> T | None:
        with contextlib.suppress(asyncio.TimeoutError):
            return await self._pods.until(name, decide, self._pending)
        return None

    async def _begin(
        self, name: str, launch: Launch, pauses: Sequence[float] = EAGER, seconds: float = TAKEN_SECONDS
    ) -> None:
        """Waits until a pod's worker runs, and gives it its launch document.

        A kubelet tells of a container's start up to a second late, so it is tried as soon as the pod has a node.

        Raises:
            ExecutorError: it does not run, or does not take it; with the reason, and the end of its log.
        """
        document, running = launch.model_dump_json(), asyncio.ensure_future(self._run(name))
        placed = asyncio.ensure_future(self._pods.until(name, _placed, math.inf))
        try:
            await asyncio.wait({running, placed}, return_when=asyncio.FIRST_COMPLETED)
            problem, deadline = "", math.inf
            for pause in itertools.chain(pauses, itertools.repeat(pauses[-1])):
                await asyncio.sleep(pause)
                if running.done():
                    await running
                try:
                    if await self._taken(name, launch.worker_id, document):
                        return
                except ExecutorError as error:
                    problem = str(error)
                if running.done():
                    if (ended := _ended(self._pods.get(name))) is not None:
                        tail = await self._call(self._cluster.log, name)
                        raise ExecutorError(f"{ended.reason or 'its worker ended at once'}: {tail}".rstrip(": "))
                    deadline = min(deadline, time.monotonic() + seconds)
                if time.monotonic() > deadline:
                    said = problem or "it says nothing"
                    raise ExecutorError(f"its worker does not take its launch document: {said}")
        finally:
            for task in (running, placed):
                task.cancel()
            await asyncio.gather(running, placed, return_exceptions=True)

    async def _taken(self, name: str, worker_id: str, document: str) -> bool:
        """Gives a worker its launch document; whether it says that it has it. It reads one, however often it is given.

        What it says just when somebody attaches may be in its log alone.
        """
        said = await self._call(self._cluster.say, name, document, ANSWER_SECONDS)
        return worker_id in said or worker_id in await self._call(self._cluster.log, name)

    async def _clear(self, names: Iterable[str]) -> None:
        await asyncio.gather(*(self._call(self._cluster.delete, name, 0) for name in names))

    async def _remove(self, name: str) -> None:
        """At once: it has nothing to lose."""
        with contextlib.suppress(ExecutorError):
            await self._call(self._cluster.delete, name, 0)

    async def _ensure_policy(self) -> None:
        if self._policy is not None:
            await self._call(self._cluster.ensure_policy, self._policy, refused="workers can't be kept to NATS")
            self._policy = None

    # --- images

    async def _check(self, place: Place) -> None:
        digest = hashlib.sha256(f"{place.image} {place.python}".encode()).hexdigest()[:12]
        name = f"neartime-check-{digest}-{secrets.token_hex(3)}"
        await self._pods.open()
        pod = manifests.check(
            place, name, installation=self._installation, seconds=CHECK_SECONDS,
            placement=next(iter(self._placements.values()), Placement()),
        )  # fmt: skip
        try:
            await self._call(self._cluster.create, pod, refused="the cluster refuses a pod of it")
            await self._run(name)
            ended = await self._pods.until(name, _ended, CHECK_SECONDS)
            said = await self._call(self._cluster.log, name)
        except asyncio.TimeoutError:
            raise ExecutorError(f"the image {place.image} does not say which runner it has") from None
        finally:
            await asyncio.shield(self._remove(name))
        contract = _contract(said)
        if ended.exit_code != 0 or contract is None:
            reason = said or ended.reason or f"exit code {ended.exit_code}"
            raise ExecutorError(f"the image {place.image} does not carry a runner that works: {reason}")
        if (problem := incompatible(contract, f"the runner in {place.image}")) is not None:
            raise ExecutorError(problem)

    # --- what is seen

    def _changed(self, before: Object | None, pod: Object | None) -> None:
        if pods.spare_of(pod or before or {}) is not None:
            self._pool.look_again(pod)
        elif pod is not None:
            self._look(pod)
        elif before is not None and (worker_id := pods.worker_of(before)) is not None:
            if worker_id in self._forgotten:
                self._forgotten.discard(worker_id)
                return
            if worker_id in self._starts:
                return  # who starts it tells
            if not pods.runs(before) and pods.exited(before, stopped=False) is None:
                return  # it never ran, and nobody starts it
            ended = pods.exited(before, stopped=worker_id in self._stopped, deleted=True)
            assert ended is not None
            self._note(ended)

    def _look(self, pod: Object) -> None:
        worker_id = pods.worker_of(pod)
        if worker_id is None or worker_id in self._starts or worker_id in self._forgotten:
            return
        if (ended := pods.exited(pod, stopped=worker_id in self._stopped)) is not None:
            self._note(ended)
        elif not pods.runs(pod):
            self._tend(pod, self._abandon)
        elif "deletionTimestamp" in pod["metadata"]:
            self._tend(pod, self._outlast)
        else:
            for listener in self._listeners:
                listener.tell(Running(worker_id))

    def _tend(self, pod: Object, work: Callable[[Object], Coroutine[Any, Any, None]]) -> None:
        """The server that observes looks after pods that nobody starts or stops."""
        name = pod["metadata"]["name"]
        if self._listeners and not self._closed and name not in self._tended:
            self._tended[name] = asyncio.create_task(work(pod))
            self._tended[name].add_done_callback(lambda _: self._tended.pop(name, None))

    async def _abandon(self, pod: Object) -> None:
        """Removes a pod that a server before this one has made, and not started."""
        await asyncio.sleep(ABANDONED_SECONDS)
        name, worker_id = pod["metadata"]["name"], pods.worker_of(pod)
        now = self._pods.get(name)
        cared_for = worker_id in self._starts or worker_id in self._stopped
        if now is not None and not pods.runs(now) and not cared_for:
            log.warning("pod %s is removed: who made it is gone", name)
            await self._remove(name)

    async def _outlast(self, pod: Object) -> None:
        """A pod was told to end, and has not: its node is lost, and would say so for ever."""
        metadata = pod["metadata"]
        await asyncio.sleep((metadata.get("deletionGracePeriodSeconds") or 0) + END_MARGIN)
        now = self._pods.get(metadata["name"])
        if now is None or now["metadata"]["uid"] != metadata["uid"]:
            return
        stopped = pods.worker_of(pod) in self._stopped
        if (ended := pods.exited(now, stopped=stopped, deleted=True)) is not None:
            log.warning("pod %s was told to end, and does not: it counts as gone", metadata["name"])
            self._note(ended)
        await self._remove(metadata["name"])

    def _name(self, worker_id: str) -> str:
        """Of its pod: one that was made for it, or a spare that it took."""
        made = manifests.pod_name(worker_id)
        if self._pods.get(made) is None:
            for pod in self._pods.all():
                if pods.worker_of(pod) == worker_id:
                    return str(pod["metadata"]["name"])
        return made

    def _uid(self, name: str) -> str | None:
        """Of a pod of this installation; of those of others it is never known."""
        pod = self._pods.get(name)
        return None if pod is None else str(pod["metadata"]["uid"])

    def _note(self, exited: Exited) -> None:
        """Says an end, in the words in which it was said first."""
        noted = self._exited.setdefault(exited.worker_id, exited)
        for listener in self._listeners:
            listener.tell(noted)

    def _lost(self) -> None:
        for listener in self._listeners:
            listener.queue.put_nowait(None)

    def _sweep(self) -> None:
        """Pods that checked images for servers that are gone."""
        for pod in self._pods.all():
            made = pods.moment(pod["metadata"]["creationTimestamp"])
            nobodys = pods.worker_of(pod) is None and pods.spare_of(pod) is None
            if nobodys and time.time() - made > STALE_SECONDS:
                self._spawn(self._remove(pod["metadata"]["name"]))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _gone(self, name: str, seconds: float) -> bool:
        try:
            return await self._pods.until(name, lambda pod: True if pod is None else None, seconds)
        except asyncio.TimeoutError:
            return False

    # --- the cluster

    async def _call(self, function: Callable[..., T], *arguments: Any, refused: str = "the cluster refuses") -> T:
        """A call of the client's, in a thread.

        Raises:
            ExecutorError: the cluster refuses, or can't be reached.
        """
        if self._closed:
            raise ExecutorError("this executor is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
        except ApiException as error:
            if error.status == 409 and "AlreadyExists" in str(error.body):
                raise _There("it is there already") from error
            raise ExecutorError(f"{refused}: {words(error)}") from error
        except AWAY as error:
            raise _Away(f"the Kubernetes API can't be reached: {error}") from error


class _Away(ExecutorError):
    """The API server did not answer."""


class _There(ExecutorError):
    """What was to be made is there."""


def _ended(pod: Object | None) -> Exited | None:
    if pod is None:
        return Exited("", None, None, "its pod was deleted")
    return pods.exited(pod, stopped=False)


def _placed(pod: Object | None) -> bool | None:
    """True once it has a node."""
    return True if pod is not None and "nodeName" in pod["spec"] else None


def _contract(said: str) -> int | None:
    for line in reversed(said.splitlines()):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["contract"])
    return None
