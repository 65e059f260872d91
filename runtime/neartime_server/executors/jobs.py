"""Jobs that fetch packages: one for each layer, in the namespace of workers. Nothing is written down of them: who made
one removes it.

A Job's pod takes its order, and gives its layer, over the API server's port forwarding. So no Secret holds an index's
password, and the pod needs no right to push. A pod whose server is gone ends by itself, and the cluster removes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from kubernetes.client.exceptions import ApiException

from neartime.contract.backends import Placement
from neartime_server.errors import BuildFailed
from neartime_server.executors import manifests, pods
from neartime_server.executors.cluster import AWAY, Cluster, Object, words
from neartime_server.executors.manifests import BUILDER, Bounds

log = logging.getLogger(__name__)

Tell = Callable[[str], None]

AT_ONCE: Final = 4
"""Jobs of one server."""
LOOK_SECONDS: Final = 0.3
"""Between two looks at a pod that does not run yet."""
OPEN_SECONDS: Final = 15.0
"""How long a pod that runs may take until it takes its order, and how long it may be away."""
SETTLED_SECONDS: Final = 5.0
"""How long it may take until the cluster says why it has deleted a Job's pod."""
PORT: Final = 8000
PIECE: Final = 1 << 20
TAIL: Final = 4000
"""Characters of what was said that an error carries."""
ABANDONED_SECONDS: Final = 60.0
"""Beyond the longest wait of a server's for its pod: a Job that does not run after that is of a server that is gone."""
CLUSTER: Final = "upload it again; where it stays so, ask the operator to look at the namespace of workers"
INDEX: Final = "upload it again when the package index answers; else look whether there is a wheel for each requirement"


class Jobs:
    """Those of one installation."""

    def __init__(
        self,
        cluster: Cluster,
        installation: str,
        placement: Placement,
        *,
        bounds: Bounds,
        pending: float,
        index: str | None = None,
    ) -> None:
        """
        Args:
            placement: which nodes they run on, and how their image is pulled.
            pending: seconds that a pod may wait for its image and for a place.
            index: where they reach the package index, as `manifests.packages_policy` takes it; None has no policy made.
        """
        self._cluster, self._installation, self._placement = cluster, installation, placement
        self._bounds, self._pending = bounds, pending
        self._policy = manifests.packages_policy(installation, index) if index is not None else None
        self._threads = ThreadPoolExecutor(AT_ONCE, "jobs")

    async def __call__(
        self, image: str, command: Sequence[str], order: Mapping[str, Any], file: Path, tell: Tell
    ) -> dict[str, Any]:
        """Has a Job of an image carry out an order, and write a file. Returns what it says of that.

        Raises:
            BuildFailed: it could not; with the cluster's words, or the end of what it said.
        """
        loop, given_up = asyncio.get_running_loop(), threading.Event()

        def told(line: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, line)

        work = loop.run_in_executor(self._threads, self._work, image, command, order, file, told, given_up)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.wait({work})  # its Job is gone then
            raise

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._cluster.close)

    # --- in a thread

    def _work(
        self, image: str, command: Sequence[str], order: Mapping[str, Any], file: Path, tell: Tell,
        given_up: threading.Event,
    ) -> dict[str, Any]:  # fmt: skip
        name = f"neartime-packages-{secrets.token_hex(6)}"
        job = manifests.job(
            name, image, command,
            installation=self._installation, bounds=self._bounds, placement=self._placement,
        )  # fmt: skip
        try:
            if self._policy is not None:
                self._cluster.ensure_policy(self._policy)
                self._policy = None
            self._sweep()
            self._cluster.create_job(job)
        except ApiException as error:
            raise _failed(f"the cluster refuses the Job: {words(error)}") from error
        except AWAY as error:
            raise _failed(f"the Kubernetes API can't be reached: {error}") from error
        try:
            return _One(self._cluster, name, self._bounds, self._pending, tell, given_up).run(order, file)
        except ApiException as error:
            raise _failed(f"the cluster refuses: {words(error)}") from error
        except AWAY as error:
            raise _failed(f"the Kubernetes API can't be reached: {error}") from error
        finally:
            self._remove(name)

    def _sweep(self) -> None:
        """Jobs that servers have left which are gone: those that run end by themselves."""
        for job in self._cluster.jobs(f"{BUILDER}={self._installation}"):
            made = pods.moment(job["metadata"]["creationTimestamp"])
            waits = (job.get("status") or {}).get("ready", 0) == 0
            if waits and time.time() - made > self._pending + ABANDONED_SECONDS:
                log.warning("the Job %s is removed: who made it is gone", job["metadata"]["name"])
                self._remove(job["metadata"]["name"])

    def _remove(self, name: str) -> None:
        try:
            self._cluster.delete_job(name)
        except (ApiException, *AWAY) as error:
            log.warning("the Job %s could not be removed, and ends by itself: %s", name, error)


class _One:
    """One Job."""

    def __init__(
        self, cluster: Cluster, name: str, bounds: Bounds, pending: float, tell: Tell, given_up: threading.Event
    ) -> None:
        self._cluster, self._name, self._bounds, self._pending = cluster, name, bounds, pending
        self._tell, self._given_up = tell, given_up
        self._said: list[str] = []
        self._pod = ""
        self._line = contextlib.ExitStack()
        """What is open towards its pod."""
        self._connection: http.client.HTTPConnection | None = None

    def run(self, order: Mapping[str, Any], file: Path) -> dict[str, Any]:
        with contextlib.closing(self):
            return self._run(order, file)

    def close(self) -> None:
        self._connection = None
        self._line.close()

    def _run(self, order: Mapping[str, Any], file: Path) -> dict[str, Any]:
        self._await_pod()
        self._patiently(lambda: self._ask("POST", "/order", json.dumps(order).encode()))
        while "made" not in (news := self._patiently(self._progress)):
            pass
        if news["made"] is None:
            raise self._unmade(news)
        self._patiently(lambda: self._fetch(file, news["made"]["size"]))
        made: dict[str, Any] = news["made"]
        return made

    def _await_pod(self) -> None:
        deadline, seen = time.monotonic() + self._pending, ""
        while True:
            pod = self._found()
            if pod is not None and (pods.runs(pod) or _ended(pod)):
                self._pod = pod["metadata"]["name"]
                return
            obstacle = pods.obstacle(pod) if pod is not None else None
            if obstacle is not None and obstacle.words != seen:
                seen = obstacle.words
                self._tell(f"waiting: {seen}")
            if obstacle is not None and obstacle.hopeless:
                raise _failed(obstacle.words)
            if (reason := self._reason(pod)) is not None:
                raise _failed(reason)
            if time.monotonic() > deadline:
                events = self._cluster.events(pod["metadata"]["name"]) if pod else []
                if not (obstacle is None and pods.pulls(events)):
                    said = seen or pods.told(self._cluster.events(self._name, "Job")) or "nobody says why"
                    raise _failed(f"it did not run within {self._pending:g} s: {said}")
                deadline += self._pending
            self._pause(LOOK_SECONDS)

    def _found(self) -> Object | None:
        found, _ = self._cluster.pods(f"batch.kubernetes.io/job-name={self._name}")
        return found[-1] if found else None

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """Asks again, while its pod runs and can't be reached."""
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                return ask()
            except (http.client.HTTPException, OSError) as error:
                self.close()
                pod = self._found()
                if (reason := self._reason(pod)) is not None:
                    raise _failed(reason, self._tail) from error
                if time.monotonic() > deadline:
                    raise _failed(f"its pod can't be reached: {error}", self._tail) from error
            self._pause(LOOK_SECONDS)

    def _progress(self) -> dict[str, Any]:
        if self._given_up.is_set():
            raise _failed("nobody waits for it any more")
        news: dict[str, Any] = json.loads(self._ask("GET", f"/progress/{len(self._said)}"))
        for line in news["lines"]:
            self._said.append(line)
            self._tell(line)
        return news

    def _fetch(self, file: Path, size: int) -> None:
        """Goes on where it was broken off."""
        with file.open("ab") as target:
            answer = self._answer("GET", f"/layer/{target.tell()}")
            while piece := answer.read(PIECE):
                target.write(piece)
                if self._given_up.is_set():
                    raise _failed("nobody waits for it any more")
        if file.stat().st_size != size:
            raise ConnectionError("it was broken off")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return self._answer(method, path, body).read()

    def _answer(self, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        if self._connection is None:
            connection = http.client.HTTPConnection("localhost", PORT)
            connection.sock = self._line.enter_context(self._cluster.forwarded(self._pod, PORT))
            self._connection = connection
        self._connection.request(method, path, body)
        return self._connection.getresponse()

    # --- why it failed

    @property
    def _tail(self) -> str:
        return "\n".join(self._said)[-TAIL:]

    def _unmade(self, news: Mapping[str, Any]) -> BuildFailed:
        if news["reason"] == "memory":
            return self._too_large()
        if news["reason"] == "tool":
            return BuildFailed("the program's packages can't be had", self._tail, INDEX)
        return _failed(str(news["reason"]), self._tail)

    def _too_large(self) -> BuildFailed:
        message = f"fetching the program's packages took more than {self._bounds.memory} of memory"
        return BuildFailed(message, self._tail, "ask the operator to raise NEARTIME_PACKAGES_MEMORY")

    def _reason(self, pod: Object | None) -> str | None:
        """Why it has ended, where it has."""
        deadline = time.monotonic() + SETTLED_SECONDS
        while (told := self._told()) is None and self._pod and _deleted(pod) and time.monotonic() < deadline:
            self._pause(LOOK_SECONDS)
        if told is not None and (told.get("reason") == "DeadlineExceeded" or _deleted(pod)):
            late = f"it took longer than {self._bounds.seconds:g} s"
            return late if told.get("reason") == "DeadlineExceeded" else str(told.get("message"))
        if pod is None:
            return "its pod was deleted from outside" if self._pod else None
        if "OOMKilled" in str(pod.get("status")):
            raise self._too_large()
        ended = pods.exited(pod, stopped=False)
        if ended is None:
            return None
        said = self._cluster.log(pod["metadata"]["name"])
        return f"{ended.reason or 'its pod ended'}: {said}".rstrip(": ")

    def _told(self) -> Object | None:
        """What is said of its failure. Its pod is deleted before that is said."""
        job = self._cluster.job(self._name)
        if job is None:
            raise _failed("its Job was deleted from outside", self._tail)
        for condition in (job.get("status") or {}).get("conditions") or []:
            if condition["type"] in ("Failed", "FailureTarget") and condition["status"] == "True":
                found: Object = condition
                return found
        return None

    def _pause(self, seconds: float) -> None:
        if self._given_up.wait(seconds):
            raise _failed("nobody waits for it any more")


def _deleted(pod: Object | None) -> bool:
    return pod is None or "deletionTimestamp" in pod["metadata"]


def _ended(pod: Object) -> bool:
    return pods.exited(pod, stopped=False) is not None


def _failed(reason: str, tail: str = "") -> BuildFailed:
    return BuildFailed(f"the program's packages can't be fetched: {reason}", tail, CLUSTER)
