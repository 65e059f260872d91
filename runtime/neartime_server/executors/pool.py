"""Pods that wait for a session: a runner with Qiskit imported in what programs without requirements run in.

A session's worker takes one where its program needs no more than that; the program's files come to it over NATS. It is
that worker's to its end, and another one takes its place. Spares are what is given up first where there is no room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from neartime.contract.backends import Placement
from neartime.contract.launch import Launch
from neartime.contract.programs import Manifest, Resources
from neartime_server.errors import ExecutorError
from neartime_server.executors import manifests, pods
from neartime_server.executors.cluster import Object
from neartime_server.executors.following import Pods
from neartime_server.executors.protocol import Place

log = logging.getLogger(__name__)

LARGEST: Final = 16 << 20
"""Bytes of an archive that a spare takes. Its files count as the worker's memory there."""
OLDEST: Final = 1800.0
"""Seconds after which a spare is replaced: it ends by itself an hour after its start."""
PATIENCE: Final = 3600
LOOK_SECONDS: Final = 60.0
"""Between two looks at all spares; they are looked at when one is taken, too."""
REFILL_SECONDS: Final = 2.0
"""After one was taken: its session's first job has the node for itself so long."""
HOLD_SECONDS: Final = 60.0
"""Before there are spares again where they were given up, or can't be had."""

Create = Callable[[Object], Awaitable[bool]]
Remove = Callable[[Iterable[str]], Awaitable[None]]
Adopt = Callable[[str, list[Object]], Awaitable[None]]


class Pool:
    """Of one installation. The server that observes keeps it; whoever starts a worker may take from it."""

    def __init__(
        self,
        followed: Pods,
        installation: str,
        placements: Iterable[Placement],
        size: int,
        *,
        create: Create,
        remove: Remove,
        adopt: Adopt,
    ) -> None:
        """
        Args:
            placements: of backends; those that are placed alike share their spares.
            size: spares for each kind of placement.
            create, remove, adopt: make a pod, delete pods at once, and change one that is there. They raise
                ExecutorError.
        """
        self._pods, self._installation = followed, installation
        self._placements, self._size = list(placements) or [Placement()], size
        self._create, self._remove, self._adopt = create, remove, adopt
        self._place: Place | None = None
        self._kinds: dict[str, Placement] = {}
        self._taken: set[str] = set()
        self._due = asyncio.Event()
        self._not_before = 0.0
        self._keeping: asyncio.Task[None] | None = None

    def serve(self, place: Place) -> None:
        """Spares of this image from now on."""
        self._place = place
        self._kinds = {manifests.kind(place, placement, Resources()): placement for placement in self._placements}
        self._due.set()

    def keep(self) -> None:
        """Have as many as there should be, from now on."""
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())

    def look_again(self, pod: Object | None) -> None:
        """One of them has changed; None: it is gone."""
        if pod is None or pods.exited(pod, stopped=False) is not None:
            self._due.set()

    async def rest(self) -> None:
        """Those that are there stay."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def take(self, launch: Launch, place: Place, placement: Placement, longest: float) -> str | None:
        """The name of a pod that is this worker's now; None where none fits, or is free."""
        own, files = self._place, launch.files
        if own is None or (place.digest, place.python) != (own.digest, own.python):
            return None
        if files is None or files.size > LARGEST:
            return None
        kind = manifests.kind(own, placement, Manifest.model_validate(launch.manifest).resources)
        free = [pod for pod in self._spares() if pods.spare_of(pod) == kind and pods.runs(pod)]
        for pod in sorted(free, key=_started):  # the longest there has most surely imported all
            name = pod["metadata"]["name"]
            self._taken.add(name)
            self._not_before = max(self._not_before, time.monotonic() + REFILL_SECONDS)
            self._due.set()
            lived = time.time() - _started(pod)
            with contextlib.suppress(ExecutorError):  # it is gone, or another server's worker has it
                await self._adopt(name, manifests.claim(launch, kind, lived + longest))
                return str(name)
        return None

    async def give_way(self) -> bool:
        """Ends those that nobody has taken, since a worker finds no room. Whether there were any."""
        names = [pod["metadata"]["name"] for pod in self._spares()]
        if names:
            log.info("%d spare pods make room", len(names))
            self._not_before = time.monotonic() + HOLD_SECONDS
            self._taken.update(names)
            await self._remove(names)
        return bool(names)

    def _spares(self) -> list[Object]:
        """That live, and were not taken."""
        return [
            pod
            for pod in self._pods.all()
            if pods.spare_of(pod) is not None
            and pod["metadata"]["name"] not in self._taken
            and "deletionTimestamp" not in pod["metadata"]
        ]

    async def _keep(self) -> None:
        while True:
            self._due.clear()
            try:
                pause = await self._look()
            except ExecutorError as error:
                log.warning("there are no spare pods: %s", error)
                self._not_before = time.monotonic() + HOLD_SECONDS
                pause = HOLD_SECONDS
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._due.wait(), pause)

    async def _look(self) -> float:
        """Removes those that are of no use, and makes those that are missing; returns when to look again."""
        await self._pods.open()
        everyone = self._pods.all()
        self._taken &= {pod["metadata"]["name"] for pod in everyone}
        if self._size and self._place is None:
            return LOOK_SECONDS  # nobody has said yet what they are to be
        counted = dict.fromkeys(self._kinds, 0)
        useless = []
        for pod in self._spares():
            kind, now = pods.spare_of(pod), time.time()
            ended = pods.exited(pod, stopped=False) is not None
            if ended and now - _started(pod) < OLDEST:  # it can't wait, or not here: the next one won't either
                self._not_before = max(self._not_before, time.monotonic() + HOLD_SECONDS)
            if kind not in counted or ended or now - _started(pod) > OLDEST or counted[kind] >= self._size:
                useless.append(pod["metadata"]["name"])
            else:
                counted[kind] += 1
        if useless:
            await self._remove(useless)
        if not self._size:
            return LOOK_SECONDS
        if any(pods.worker_of(pod) and pods.obstacle(pod) for pod in everyone):  # they come first
            self._not_before = max(self._not_before, time.monotonic() + HOLD_SECONDS)
        if (wait := self._not_before - time.monotonic()) > 0:
            return wait
        assert self._place is not None
        for kind, placement in self._kinds.items():
            for _ in range(self._size - counted[kind]):
                name = f"neartime-spare-{secrets.token_hex(6)}"
                await self._create(
                    manifests.spare(
                        name, self._place, kind,
                        installation=self._installation, placement=placement, patience=PATIENCE,
                    )
                )  # fmt: skip
        return LOOK_SECONDS


def _started(pod: Object) -> float:
    """Seconds since the epoch; what Kubernetes counts a pod's deadline from, where it has a node."""
    return pods.moment((pod.get("status") or {}).get("startTime") or pod["metadata"]["creationTimestamp"])
