"""Workers as containers of a Docker Engine, one each, made so that a program can reach NATS and nothing else.

What runs is never written down: labels say which containers are this home's, and the engine says how they are.

The engine's SDK blocks, so it is called in threads. It is an extra, `neartime[docker]`: import this module where the
executor is chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import urlsplit

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import LogConfig, Mount

from neartime.contract.launch import Launch
from neartime.contract.programs import Manifest, Resources
from neartime.contract.version import incompatible
from neartime_server.errors import ExecutorError
from neartime_server.executors import addresses, door, reasons
from neartime_server.executors.images import Images, said
from neartime_server.executors.listener import Listener
from neartime_server.executors.once import Checks, Starts
from neartime_server.executors.protocol import Exited, Observed, Place, Running, Synced

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

USER: Final = "65532:65532"
"""Nobody's number. Images may say so themselves; a custom one may not."""
PROCESSES: Final = 512
"""Processes and threads of one container. A worker has three, and Aer's threads for each core."""
TEMPORARY_SHARE: Final = 2
"""Which part of its memory a program may fill with files in /tmp: half of it. They count as memory."""
LOG_SIZE: Final = "1m"
"""Of what a worker itself says; what programs say goes to the job's log."""
INSIDE: Final = "/run/neartime"
"""Where a container has the folder of its door."""
CALL_SECONDS: Final = 60.0
"""How long the engine may take to answer a call."""
END_MARGIN: Final = 10.0
"""Seconds beyond its grace in which a worker that was ended must be gone."""
STALE_SECONDS: Final = 300.0
"""A container that was made and not started for so long never will be: who made it is gone."""
DOOR_SECONDS: Final = 2.0
"""Between two looks whether the doors of running workers are open."""
THREADS: Final = 16
_HOME, _WORKER, _NATS = "neartime.home", "neartime.worker", "neartime.nats"
"""Labels: whose container it is, which worker's, and where its door leads."""


class DockerExecutor:
    """For programs that nobody has to trust. Containers go on when the server is gone."""

    def __init__(
        self,
        home: Path,
        *,
        url: str | None = None,
        network: str | None = None,
        credentials: Callable[[str], dict[str, str] | None] = lambda host: None,
    ) -> None:
        """
        Args:
            url: of the engine, `unix:///var/run/docker.sock`; None for what the environment says, DOCKER_HOST.
            network: of the engine's, for workers. The operator has restricted it, and NATS can be reached in it under
                the URL that workers are given. None: workers have no network, and a door to NATS.
            credentials: `username` and `password` for a registry by its host; None for what Docker's own settings say.
        """
        self._home, self._url, self._network = home.resolve(), url, network
        self._mark = addresses.mark(home)
        self._images = Images(self._home, self._engine, credentials, self._powerless)
        self._threads = ThreadPoolExecutor(THREADS, "docker")
        self._client: docker.DockerClient | None = None
        self._connecting = threading.Lock()
        self._checks = Checks()
        """Of images, by reference and interpreter: whether a runner is there that this server can speak to."""
        self._exited: dict[str, Exited] = {}
        self._stopped: set[str] = set()
        """Workers that were to be ended."""
        self._starts = Starts(self._stopped)
        self._listeners: set[Listener] = set()
        self._doors: dict[str, str] = {}
        """Where the doors of running workers lead, by worker."""
        self._opening: dict[str, asyncio.Task[None]] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        """Doors that are this process's children."""
        self._keeping: asyncio.Task[None] | None = None
        self._closed = False

    # --- what an executor does

    async def start(self, launch: Launch, environment: Place) -> None:
        """Run a worker in a container of its image, which is pulled where it is not there.

        Raises:
            ExecutorError: it can't be; with what the engine, or the image's runner, says.
        """
        await self._starts(launch.worker_id, lambda: self._start(launch, environment))

    async def stop(self, worker_id: str, grace: float = 5.0) -> None:
        """SIGTERM to a container's first process, SIGKILL to all of it after `grace` seconds; returns when it is gone.

        Raises:
            ExecutorError: it is not, after some seconds more, or the engine can't be reached.
        """
        self._stopped.add(worker_id)
        await self._starts.over(worker_id)
        name, deadline = _name(worker_id), time.monotonic() + grace + END_MARGIN
        try:
            if await self._call(self._own, worker_id) is None:
                self._note(Exited(worker_id, None, None, "it was not running"))
                return
            await self._signal(name, "SIGTERM")
            if not await self._call(self._wait, name, grace):
                await self._signal(name, "SIGKILL")
                if not await self._call(self._wait, name, deadline - time.monotonic()):
                    raise ExecutorError(f"worker {worker_id} could not be ended")
            if (state := await self._call(self._own, worker_id)) is not None:
                self._note(self._exit(worker_id, state))
            else:
                self._note(Exited(worker_id, None, None, "it was stopped"))
        except APIError as error:
            raise ExecutorError(f"worker {worker_id} could not be ended: {said(error)}") from error

    async def observe(self) -> AsyncIterator[Observed]:
        """What runs and what has ended, then `Synced`, then what changes.

        Raises:
            ExecutorError: the engine can't be reached, or not any more.
        """
        listener = Listener(asyncio.get_running_loop())
        try:
            # Listening comes before looking: nothing that happens in between is missed, and nothing is said twice.
            stream = await self._call(self._listen)
            listener.follow(stream)
            self._listeners.add(listener)
            for seen in await self._call(self._look):
                self._tell(seen, [listener])
            for exited in self._exited.values():  # also those whose container is gone
                self._tell(exited, [listener])
            listener.queue.put_nowait(Synced())
            self._keep_doors()
            while True:
                heard = await listener.queue.get()
                if heard is None:
                    raise ExecutorError("the Docker Engine has ended the connection")
                if isinstance(heard, dict):
                    await self._happened(heard)
                else:
                    yield heard
        except APIError as error:
            raise ExecutorError(f"the Docker Engine can't be observed: {said(error)}") from error
        finally:
            self._listeners.discard(listener)
            listener.close()

    async def prepare(self, environment: Place) -> None:
        """Have the image there, and know that its runner can be spoken to.

        Raises:
            ExecutorError: it can't be had, or has no such runner.
        """
        await self._checked(environment)

    async def stand_by(self, environment: Place) -> None:
        await self.prepare(environment)

    async def forget(self, worker_id: str) -> None:
        """Removes its container. Where the engine is away, the end is told again later."""
        self._exited.pop(worker_id, None)
        self._stopped.discard(worker_id)
        for listener in self._listeners:
            listener.forget(worker_id)
        with contextlib.suppress(APIError, ExecutorError):  # gone already; or it runs, and will be told of
            await self._call(lambda: self._engine().api.remove_container(_name(worker_id), v=True))

    async def close(self) -> None:
        """Let go of the engine; containers and doors go on."""
        self._closed = True
        tasks = [*self._checks.tasks(), *self._starts.tasks(), *self._opening.values()]
        tasks += [self._keeping] if self._keeping is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in list(self._listeners):
            listener.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()

    # --- starting

    async def _start(self, launch: Launch, environment: Place) -> None:
        worker_id = launch.worker_id
        await self._checked(environment)
        launch, mounts, to = await self._with_door(launch)
        if worker_id in self._stopped:
            raise ExecutorError("it was stopped before it was started")
        settings = self._settings(launch, environment, mounts, to)
        document = launch.model_dump_json().encode()
        running = asyncio.ensure_future(self._call(self._run, worker_id, settings, document))
        try:
            try:
                await asyncio.shield(running)
            except ImageNotFound:  # it was there a moment ago, or when it was checked
                self._checks.forget(_key(environment))
                await self._checked(environment)
                running = asyncio.ensure_future(self._call(self._run, worker_id, settings, document))
                await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.gather(running, return_exceptions=True)
            await self._call(self._remove, _name(worker_id))
            raise
        except APIError as error:
            raise ExecutorError(f"its container can't be started: {said(error)}") from error
        if to:
            self._doors[worker_id] = to
            self._keep_doors()

    def _settings(self, launch: Launch, place: Place, mounts: list[Mount], to: str) -> dict[str, Any]:
        """Arguments for the engine's `create`. Nothing in it is secret: who may look at the engine can read it."""
        resources = Manifest.model_validate(launch.manifest).resources
        labels = {_HOME: self._mark, _WORKER: launch.worker_id, **({_NATS: to} if to else {})}
        return {
            "image": place.image,
            "command": [str(place.python), "-m", "neartime_runner", "worker", "-"],
            "entrypoint": [],
            "name": _name(launch.worker_id),
            "labels": labels,
            "stdin_open": True,
            "user": USER,
            "host_config": self._held(resources, network=self._network or "none", mounts=mounts),
        }

    def _held(self, resources: Resources, *, network: str, mounts: list[Mount]) -> dict[str, Any]:
        """What a container may do and use."""
        made: dict[str, Any] = self._engine().api.create_host_config(
            network_mode=network,
            mounts=mounts,
            read_only=True,
            tmpfs={"/tmp": f"rw,nosuid,nodev,mode=1777,size={resources.memory_bytes // TEMPORARY_SHARE}"},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=PROCESSES,
            mem_limit=resources.memory_bytes,
            memswap_limit=resources.memory_bytes,  # both together: no swap
            nano_cpus=round(resources.cpu * 1e9),
            log_config=LogConfig(type="json-file", config={"max-size": LOG_SIZE, "max-file": "1"}),
            restart_policy={"Name": "no"},
        )
        return made

    def _powerless(self) -> dict[str, Any]:
        """Arguments of a container that only says what it is."""
        held = self._held(Resources(), network="none", mounts=[])
        return {"labels": {_HOME: self._mark}, "user": USER, "host_config": held}

    def _run(self, worker_id: str, settings: dict[str, Any], document: bytes) -> None:
        """Makes a container, starts it, and gives it its launch document. Where it can't be started there is none."""
        api = self._engine().api
        try:
            made = api.create_container(**settings)["Id"]
        except APIError as error:
            if error.status_code == 409 and self._own(worker_id) is not None:
                return  # it was started before
            raise
        try:
            stream = api.attach_socket(made, params={"stdin": 1, "stream": 1})
            end = getattr(stream, "_sock", stream)  # of a Unix socket the SDK gives a file
            try:
                if worker_id in self._stopped:
                    raise ExecutorError("it was stopped before it was started")
                api.start(made)
                end.settimeout(CALL_SECONDS)
                end.sendall(document)
                end.shutdown(socket.SHUT_WR)
            finally:
                stream.close()
                end.close()
        except BaseException:
            self._remove(made)
            raise

    def _remove(self, name: str) -> None:
        with contextlib.suppress(NotFound):
            self._engine().api.remove_container(name, force=True, v=True)

    # --- images

    async def _checked(self, place: Place) -> None:
        """Returns when the image is there and its runner is known to be one of this contract; once for all who ask."""
        image = place.image
        if image is None:
            raise ExecutorError("it has no image, and the executor `docker` runs nothing else")
        await self._checks(_key(place), lambda: self._check(image, str(place.python)))

    async def _check(self, image: str, python: str) -> None:
        try:
            contract = await self._call(self._images.contract, image, python)
        except APIError as error:
            raise ExecutorError(f"the image {image} can't be used: {said(error)}") from error
        if (problem := incompatible(contract, f"the runner in {image}")) is not None:
            raise ExecutorError(problem)

    # --- doors

    async def _with_door(self, launch: Launch) -> tuple[Launch, list[Mount], str]:
        """A launch document for a container without a network, what is mounted in that, and where the door leads."""
        if self._network is not None:
            return launch, [], ""
        urls = [urlsplit(url if "://" in url else f"nats://{url}") for url in launch.nats.url.split(",")]
        to = ",".join(f"{url.hostname}:{url.port or 4222}" for url in urls)
        await self._opened(to)
        path = addresses.door(self._home, to)
        url = f"{urls[0].scheme}+unix://{urls[0].netloc}{INSIDE}/{path.name}"
        access = launch.nats.model_copy(update={"url": url})
        return (
            launch.model_copy(update={"nats": access}),
            [Mount(INSIDE, str(path.parent), type="bind", read_only=True)],
            to,
        )

    async def _opened(self, to: str) -> None:
        """Returns when the door is open; it is opened once for all who want it."""
        if (opening := self._opening.get(to)) is None:
            opening = self._opening[to] = asyncio.create_task(self._open(to))
            opening.add_done_callback(lambda _: self._opening.pop(to, None))
        await asyncio.shield(opening)

    async def _open(self, to: str) -> None:
        if (process := await door.opened(self._home, to)) is not None:
            self._processes.append(process)

    def _keep_doors(self) -> None:
        if self._keeping is None and not self._closed:
            self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Opens the doors of running workers again, where one is gone."""
        while True:
            self._processes = [one for one in self._processes if one.poll() is None]
            opening = [self._opened(to) for to in set(self._doors.values())]
            for problem in await asyncio.gather(*opening, return_exceptions=True):
                if problem is not None:
                    log.warning("%s", problem)
            await asyncio.sleep(DOOR_SECONDS)

    # --- what is seen

    def _tell(self, seen: Running | Exited, listeners: list[Listener] | None = None) -> None:
        for listener in self._listeners if listeners is None else listeners:
            listener.tell(seen)

    def _note(self, exited: Exited) -> Exited:
        """Says an end, in the words in which it was said first."""
        noted = self._exited.setdefault(exited.worker_id, exited)
        self._doors.pop(exited.worker_id, None)
        self._tell(noted)
        return noted

    async def _happened(self, event: dict[str, Any]) -> None:
        """One event of the engine's: `start` or `die`."""
        worker_id = event["Actor"]["Attributes"].get(_WORKER)
        if worker_id is None:
            return
        if event["Action"] == "start":
            self._tell(Running(worker_id))
        elif event["Action"] == "die" and worker_id not in self._exited:
            state = await self._call(self._own, worker_id)
            if state is None or state["Running"]:  # removed since
                state = {"ExitCode": int(event["Actor"]["Attributes"].get("exitCode", 1)), "OOMKilled": False}
            self._note(self._exit(worker_id, state))

    def _exit(self, worker_id: str, state: Mapping[str, Any]) -> Exited:
        code, stopped = int(state["ExitCode"]), worker_id in self._stopped
        return reasons.of_exit(
            worker_id, reasons.of_container(code), stopped=stopped, out_of_memory=bool(state["OOMKilled"])
        )

    def _look(self) -> list[Running | Exited]:
        """All workers of this home: those that run, and those that have ended. What was given up is cleared away."""
        api, seen = self._engine().api, list[Running | Exited]()
        for row in api.containers(all=True, filters={"label": [f"{_HOME}={self._mark}"]}):
            worker_id, state = row["Labels"].get(_WORKER), row["State"]
            if state == "created" or (worker_id is None and state != "running"):
                if time.time() - row["Created"] > STALE_SECONDS:
                    with contextlib.suppress(APIError):
                        self._remove(row["Id"])
            elif worker_id is None:
                continue
            elif state in ("exited", "dead"):
                if (found := self._own(worker_id)) is not None:
                    self._doors.pop(worker_id, None)
                    seen.append(self._exited.setdefault(worker_id, self._exit(worker_id, found)))
            else:
                if to := row["Labels"].get(_NATS):
                    self._doors[worker_id] = to
                seen.append(Running(worker_id))
        return seen

    def _own(self, worker_id: str) -> dict[str, Any] | None:
        """The state of a worker's container; None where this home has none."""
        try:
            found = self._engine().api.inspect_container(_name(worker_id))
        except NotFound:
            return None
        state: dict[str, Any] = found["State"]
        return state if found["Config"]["Labels"].get(_HOME) == self._mark else None

    def _listen(self) -> Any:
        labels = [f"{_HOME}={self._mark}", _WORKER]
        filters = {"type": "container", "event": ["start", "die"], "label": labels}
        return self._engine().api.events(filters=filters, decode=True)

    # --- the engine

    async def _signal(self, name: str, signal: str) -> None:
        try:
            await self._call(lambda: self._engine().api.kill(name, signal))
        except APIError as error:
            if error.status_code not in (404, 409):  # it is gone; it has ended
                raise

    def _wait(self, name: str, seconds: float) -> bool:
        """Whether a container ends within so many seconds."""
        try:
            self._engine().api.wait(name, timeout=max(seconds, 0.01))  # type: ignore[arg-type]  # requests takes fractions
        except NotFound:
            return True
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError):
            state = self._engine().api.inspect_container(name)["State"]
            return not state["Running"]
        return True

    def _engine(self) -> docker.DockerClient:
        with self._connecting:
            if self._client is None:
                options: dict[str, Any] = {"timeout": CALL_SECONDS, "max_pool_size": 2 * THREADS}
                if self._url is not None:
                    self._client = docker.DockerClient(base_url=self._url, **options)
                else:
                    self._client = docker.DockerClient.from_env(**options)
            return self._client

    async def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A call of the SDK's, in a thread.

        Raises:
            APIError: the engine refuses.
            ExecutorError: it can't be reached.
        """
        if self._closed:
            raise ExecutorError("this executor is closed")
        try:
            call = partial(function, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except APIError:
            raise
        except (DockerException, requests.exceptions.RequestException, OSError) as error:
            raise ExecutorError(f"the Docker Engine can't be reached: {error}") from error


def end_all(home: Path, grace: float, *, url: str | None = None) -> int:
    """Ends all workers of a home, as `neartime down` does: SIGTERM, and SIGKILL for those that run on after `grace`
    seconds. Containers stay, for the next server to be told how they ended. Returns how many there were.

    Raises:
        ExecutorError: the engine can't be reached, or could not end one.
    """
    try:
        client = docker.DockerClient(base_url=url) if url is not None else docker.DockerClient.from_env()
        with contextlib.closing(client):
            label = f"{_HOME}={addresses.mark(home)}"
            running = client.containers.list(filters={"label": label, "status": "running"})
            with ThreadPoolExecutor(THREADS) as threads:
                stops = [threads.submit(one.stop, timeout=math.ceil(grace)) for one in running]
            for stop in stops:
                with contextlib.suppress(NotFound):
                    stop.result()
            return len(running)
    except (DockerException, requests.exceptions.RequestException) as error:
        raise ExecutorError(f"workers in containers could not be ended: {error}") from error


def _name(worker_id: str) -> str:
    return f"neartime-{worker_id}"


def _key(place: Place) -> tuple[str, str]:
    return place.image or "", str(place.python)
