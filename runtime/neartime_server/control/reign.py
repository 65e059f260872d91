"""Everything that one server does for all of them while it holds the lease, begun from what the store says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection

from neartime.contract.jobs import JobStatus
from neartime_server.bus import Bus
from neartime_server.control.archive import AFTER, Archive
from neartime_server.control.patience import end, patiently
from neartime_server.control.projector import Change, Projector
from neartime_server.control.reconciler import Reconciler
from neartime_server.control.workers import Workers
from neartime_server.settings import Settings
from neartime_server.store import Store, blobs, idempotency, instances, jobs, workers
from neartime_server.store.engine import utc_now
from neartime_server.store.instances import Instance
from neartime_server.store.tokens import ended_since

log = logging.getLogger(__name__)

LOOK_FOR_INSTANCES: Final = 1.0
"""Seconds between two looks for instances that were made elsewhere."""
ROOM: Final = 2.0
"""Seconds between two looks at how full the streams are."""
TIDY: Final = 600.0
"""Seconds between two sweeps of what nothing refers to."""


class Reign:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        bus: Bus,
        fleet: Workers,
        reconciler: Reconciler,
        guard: Callable[[Connection], None],
    ) -> None:
        self._settings, self._store, self._bus, self._guard = settings, store, bus, guard
        self._archive = Archive(store, bus)
        self.workers = fleet
        self.reconciler = reconciler
        self.projectors: dict[str, Projector] = {}
        self._folding: dict[str, asyncio.Task[None]] = {}
        self._ended_tokens: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled, or a part of it fails as it must not: then what that part raised."""
        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._spawn(failed, self.workers.observe())
            self._spawn(failed, self.reconciler.run())
            self._spawn(failed, self._keep_instances(failed))
            self._spawn(failed, self._repeat("archiving", AFTER, self._archive_due))
            self._spawn(failed, self._repeat("making room", ROOM, self._make_room))
            self._spawn(failed, self._repeat("tidying", TIDY, self._tidy))
            await failed
        finally:
            await end(self._tasks)
            await self.workers.close()

    def _spawn(self, failed: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        def done(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None and not failed.done():
                failed.set_exception(error)

        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(done)
        return task

    # --- a projector for each instance, also for those that are made or ended meanwhile

    async def _keep_instances(self, failed: asyncio.Future[None]) -> None:
        while True:
            found = await patiently("reading the instances", lambda: self._store.read(instances.unfinished))
            for one in found:
                if one.id not in self.projectors:
                    await self._begin(failed, one)
            for instance_id in self.projectors.keys() - {one.id for one in found}:
                await self._end(instance_id)
            await self._revoke_tokens()
            await asyncio.sleep(LOOK_FOR_INSTANCES)

    async def _begin(self, failed: asyncio.Future[None], one: Instance) -> None:
        await patiently(f"connecting to instance {one.name}", lambda: self._bus.add_instance(one.id))
        await patiently(f"revoking credentials of instance {one.name}", lambda: self.workers.revoke(one.id))
        projector = Projector(
            self._store,
            self._bus,
            one.id,
            guard=self._guard,
            heard=self.workers.heard,
            folded=self._folded,
            broken=self.reconciler.close,
        )
        self.projectors[one.id] = projector
        self._folding[one.id] = self._spawn(failed, projector.run())

    async def _revoke_tokens(self) -> None:
        """What was given out for tokens that have ended meanwhile is void."""
        since = utc_now() - timedelta(seconds=self._settings.stream_token_ttl)
        found = await patiently("reading the tokens", lambda: self._store.read(lambda one: ended_since(one, since)))
        fresh = {one.instance_id for one in found if one.id not in self._ended_tokens}
        for instance_id in fresh & self.projectors.keys():
            await patiently("revoking what tokens were given", partial(self.workers.revoke, instance_id))
        self._ended_tokens = {one.id for one in found}

    async def _end(self, instance_id: str) -> None:
        """Nothing of an instance that was ended runs any more, and what its jobs left is in the store."""
        del self.projectors[instance_id]
        await end([self._folding.pop(instance_id)])
        await patiently(f"removing instance {instance_id}", lambda: self._bus.remove_instance(instance_id))

    def _folded(self, changes: list[Change]) -> None:
        """Jobs are in the store as they are now: one that ended frees its worker, and may let another begin."""
        fleet = self.workers.fleet
        ended, again = set(), False
        for change in changes:
            worker = fleet.jobs.get(change.row.id)
            if change.state.status.final:
                fleet.finish(change.row.id)
                ended.add(change.row.session_id)
            elif change.state.attempt != change.row.attempt:
                again = True
                if worker is not None:
                    fleet.release(worker, change.row.id)
            elif change.state.status is JobStatus.RUNNING and worker is not None and worker.assignment is not None:
                worker.assignment.taken = True
        if again or (ended and not fleet.quiet(ended)):
            self.reconciler.wake()

    # --- what can wait

    async def _archive_due(self) -> None:
        while await self._archive.write_due():
            pass

    async def _make_room(self) -> None:
        """What is in the store leaves the streams before they are full, so that no job is refused for old ones."""
        for instance_id in list(self.projectors):
            if not await self._bus.nearly_full(instance_id):
                continue
            needed = await self._store.read(partial(jobs.in_streams, instance_id=instance_id))
            if purged := await self._bus.make_room(instance_id, needed):
                log.info("instance %s: %d old messages of logs and large values let go", instance_id, purged)

    async def _tidy(self) -> None:
        def work(connection: Connection) -> None:
            self._guard(connection)
            workers.prune(connection)
            idempotency.prune(connection, self._settings.idempotency_ttl)
            blobs.sweep(connection)

        await self._store.run(work)

    async def _repeat(self, what: str, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await patiently(what, work)
