"""The pods of this installation as the cluster has them: listed once, then followed by one watch for all who ask."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kubernetes.client.exceptions import ApiException

from neartime_server.errors import ExecutorError
from neartime_server.executors.cluster import AWAY, Cluster, Gone, Object, words

log = logging.getLogger(__name__)
T = TypeVar("T")

LOST_SECONDS: Final = 10.0
"""How long the API server may be away before that is told."""
PAUSES: Final = (0.1, 3.0)
"""Seconds before it is asked again, the first and the longest."""
Change = Callable[[Object | None, Object | None], None]
"""Hears of a pod: as it was, and as it is; None where it was not there, or is not any more."""


class Pods:
    """On one event loop. A thread lists and watches."""

    def __init__(self, cluster: Cluster, selector: str, change: Change, lost: Callable[[], None]) -> None:
        """
        Args:
            lost: called when they can't be followed any more, until somebody opens them again.
        """
        self._cluster, self._selector, self._change, self._lost = cluster, selector, change, lost
        self._known: dict[str, Object] = {}
        self._opened: asyncio.Future[None] | None = None
        self._moved = asyncio.Event()
        self._closed = threading.Event()
        self._version = ""
        """Of what was seen, from which a watch goes on."""
        self._away = 0.0
        """When the API server was last heard; monotonic clock."""

    async def open(self) -> None:
        """Returns when they are known.

        Raises:
            ExecutorError: the API server can't be reached, or refuses.
        """
        if self._closed.is_set():
            raise ExecutorError("this executor is closed")
        if self._opened is None:
            loop = asyncio.get_running_loop()
            self._opened = loop.create_future()
            threading.Thread(target=self._follow, args=(loop,), name="pods", daemon=True).start()
        await asyncio.shield(self._opened)

    def close(self) -> None:
        self._closed.set()
        if self._opened is not None and not self._opened.done():
            self._opened.cancel()
        self._wake()

    def get(self, name: str) -> Object | None:
        return self._known.get(name)

    def all(self) -> list[Object]:
        return list(self._known.values())

    async def until(self, name: str, decide: Callable[[Object | None], T | None], seconds: float) -> T:
        """Waits until `decide` has an answer of a pod as it is (None: there is none), and returns it.

        Raises:
            TimeoutError: there is none within so many seconds.
            ExecutorError: the API server can't be reached.
        """
        deadline = time.monotonic() + seconds
        while True:
            await self.open()
            moved = self._moved
            if (answer := decide(self._known.get(name))) is not None:
                return answer
            left = None if seconds == math.inf else max(0.0, deadline - time.monotonic())
            await asyncio.wait_for(moved.wait(), left)

    # --- in the loop

    def _take(self, pods: list[Object]) -> None:
        """All that there are: what is missing went while nobody looked."""
        names = {pod["metadata"]["name"] for pod in pods}
        for name in self._known.keys() - names:
            self._put(name, None)
        for pod in pods:
            self._put(pod["metadata"]["name"], pod)
        if self._opened is not None and not self._opened.done():
            self._opened.set_result(None)

    def _put(self, name: str, pod: Object | None) -> None:
        before = self._known.pop(name, None)
        if pod is not None:
            self._known[name] = pod
        if before is not None or pod is not None:
            self._change(before, pod)
        self._wake()

    def _lose(self, problem: str) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and not opened.done():
            opened.set_exception(ExecutorError(f"the Kubernetes API can't be reached: {problem}"))
            opened.exception()  # perhaps nobody waits
        self._wake()
        self._lost()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # --- in the thread

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        self._version, self._away = "", time.monotonic()
        pause = PAUSES[0]
        while not self._closed.is_set():
            since = self._away
            problem = self._watch(loop)
            if problem is None or self._away > since:
                pause = PAUSES[0]
            if problem is None:
                continue
            if self._closed.is_set():
                return
            if time.monotonic() - self._away > LOST_SECONDS:
                _in(loop, self._lose, problem)
                return
            log.debug("pods can't be followed: %s", problem)
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSES[1])

    def _watch(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Follows them until the API server ends it. Returns what is wrong, where something is."""
        try:
            if not self._version:
                pods, self._version = self._cluster.pods(self._selector)
                _in(loop, self._take, pods)
            for event in self._cluster.watch(self._selector, self._version):
                self._version, self._away = event["object"]["metadata"]["resourceVersion"], time.monotonic()
                if event["type"] != "BOOKMARK":
                    _in(loop, self._event, event["object"], event["type"] == "DELETED")
            self._away = time.monotonic()
        except Gone:
            self._version = ""
        except ApiException as error:
            if error.status in (401, 403, 404):
                self._away = -math.inf  # it will say so again
            return words(error)
        except (*AWAY, ValueError, AttributeError) as error:  # the last where it is closed meanwhile
            return str(error)
        return None

    def _event(self, pod: Object, gone: bool) -> None:
        name = pod["metadata"]["name"]
        if gone:
            self._known[name] = pod  # as it was at its end
        self._put(name, None if gone else pod)


def _in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(call, *arguments)
