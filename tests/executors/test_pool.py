"""Pods that wait for a session, on a real Kubernetes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from clusters import until as until_now
from executors.harness import Lab, Pods, Watcher, Where, Worker, watching
from executors.test_docker import MAIN
from kubernetes import client

from neartime.contract.backends import Placement
from neartime.contract.launch import Fetch, Fetchable, Launch
from neartime.packaging import pack
from neartime_server.executors import Running, manifests
from neartime_server.executors.kubernetes import KubernetesExecutor

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

PLAIN = "sha256:" + "11" * 32
"""The digest of what programs without requirements run in."""
SPARE, WORKER = manifests.SPARE, manifests.WORKER


class Room:
    """A namespace with a pool, and who stores programs."""

    def __init__(self, lab: Lab, pods: Pods) -> None:
        self.lab, self.pods = lab, pods
        self.plain = Where(PLAIN, pods.PYTHON, pods.environment.image)
        self.archives: dict[str, bytes] = {}
        lab.bus.on_fetch(self._give)

    async def _give(self, instance_id: str, worker_id: str, fetch: Fetch) -> bytes:
        return self.archives.get(fetch.digest, b"") if fetch.job_id is None else b""

    def launch(self, program: str = MAIN, **manifest: Any) -> Launch:
        launch = self.lab.launch(program)
        archive = pack({"program.py": program.encode()})
        digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
        self.archives[digest] = archive
        access = launch.nats.model_copy(update={"url": self.pods.reachable(launch.nats.url)})
        update = {
            "files": Fetchable(digest=digest, size=len(archive), chunks=1),
            "nats": access,
            "path": "/opt/neartime/program",
            "manifest": launch.manifest | manifest,
        }
        return launch.model_copy(update=update)

    async def begin(self, executor: KubernetesExecutor) -> Worker:
        """A worker of a program that needs no more than a spare has. Its own image has the program, too."""
        return await self.lab.begin(
            executor, self.launch(), replace(self.pods.carry(self.lab.launch(MAIN))[1], digest=PLAIN)
        )

    def found(self) -> list[Any]:
        return list(self.pods.cluster.core.list_namespaced_pod(self.pods.namespace).items)

    def make(self, name: str, like: str, labels: dict[str, str], command: list[str] | None = None) -> None:
        """A pod that this executor has not made."""
        pod = self.pods.cluster.pod(self.pods.namespace, like)
        pod.spec.node_name = None
        pod.spec.containers[0].command = command or pod.spec.containers[0].command
        made = client.V1Pod(metadata=client.V1ObjectMeta(name=name, labels=labels), spec=pod.spec)
        self.pods.cluster.core.create_namespaced_pod(self.pods.namespace, made)

    def labelled(self, label: str) -> dict[str, str]:
        """Label by name, of pods that have it and were not told to end."""
        return {
            pod.metadata.name: pod.metadata.labels[label]
            for pod in self.found()
            if label in pod.metadata.labels and pod.metadata.deletion_timestamp is None
        }

    async def spares(self, count: int, *, besides: Collection[str] = ()) -> set[str]:
        """Names of those that run, as soon as there are so many."""

        def holds() -> bool:
            names = [pod for pod in self.found() if SPARE in pod.metadata.labels and pod.status.phase == "Running"]
            return len([pod for pod in names if pod.metadata.name not in besides]) == count

        await asyncio.to_thread(until_now, holds)
        return set(self.labelled(SPARE)) - set(besides)

    @asynccontextmanager
    async def open(self, size: int = 1, **options: Any) -> AsyncIterator[tuple[KubernetesExecutor, Watcher]]:
        executor = self.pods.executor(spares=size, **options)
        async with watching(executor) as watcher:
            await executor.stand_by(self.plain)
            yield executor, watcher
        await executor.close()


@pytest.fixture
def room(lab: Lab, pods: Pods) -> Room:
    return Room(lab, pods)


async def test_a_worker_takes_a_pod_that_waits_keeps_it_to_its_end_and_another_one_takes_its_place(room: Room) -> None:
    async with room.open() as (executor, watcher):
        (spare,) = await room.spares(1)
        launch = room.launch()
        worker = await room.lab.begin(executor, launch, room.plain)
        assert await worker.run() == 42
        assert Running(worker.id) in watcher.said
        pod = room.pods.cluster.pod(room.pods.namespace, spare)
        assert pod.metadata.labels[WORKER] == worker.id
        assert SPARE not in pod.metadata.labels
        assert pod.metadata.labels["neartime.io/session"] == launch.session_id
        assert pod.spec.active_deadline_seconds >= 9 * 3600  # Kubernetes ends it, too
        assert launch.control_key not in str(pod)
        (second,) = await room.spares(1, besides={spare})
        await executor.stop(worker.id)
        assert (await watcher.exit(worker.id)).reason_code is None
        await asyncio.to_thread(until_now, lambda: spare not in [pod.metadata.name for pod in room.found()])
        assert set(room.labelled(SPARE)) == {second}  # a session's pod is nobody's after it


async def test_what_needs_more_than_a_spare_has_runs_in_a_pod_of_its_own(room: Room) -> None:
    async with room.open() as (executor, _):
        (spare,) = await room.spares(1)
        for needs in ("packages", "resources", "files"):
            launch, place = room.pods.carry(room.lab.launch(MAIN))
            digest = "sha256:" + "22" * 32 if needs == "packages" else PLAIN
            update: dict[str, Any] = {} if needs == "resources" else {"manifest": {"name": "program"}}
            if needs != "files":  # of a program that nobody says of how its files are to be had
                update["files"] = room.launch().files
            worker = await room.lab.begin(executor, launch.model_copy(update=update), replace(place, digest=digest))
            assert await worker.run() == 42
            assert spare in room.labelled(SPARE), needs
            await executor.stop(worker.id)


async def test_more_sessions_than_spares_all_get_a_pod(room: Room) -> None:
    async with room.open(2) as (executor, _):
        spares = await room.spares(2)
        workers = await asyncio.gather(*(room.begin(executor) for _ in range(3)))
        assert [await worker.run() for worker in workers] == [42, 42, 42]
        names = room.labelled(WORKER)
        assert len(names) == 3
        assert spares < set(names)
        for worker in workers:
            await executor.stop(worker.id)


async def test_the_next_server_finds_the_spares_and_the_workers_that_took_one(room: Room) -> None:
    async with room.open() as (executor, _):
        (spare,) = await room.spares(1)
        worker = await room.lab.begin(executor, room.launch(), room.plain)
        (waiting,) = await room.spares(1, besides={spare})
    async with room.open() as (executor, watcher):
        assert Running(worker.id) in watcher.said
        assert await worker.run() == 42
        second = await room.begin(executor)
        assert room.labelled(WORKER)[waiting] == second.id
        await executor.stop(worker.id)
        await executor.stop(second.id)
        assert (await watcher.exit(worker.id)).reason_code is None
    async with room.open(0):  # the operator wants none any more
        await room.spares(0)


async def test_spares_of_another_image_or_placement_are_replaced_and_those_of_others_are_not_touched(
    room: Room,
) -> None:
    async with room.open() as _:
        (old,) = await room.spares(1)
    labels = room.pods.cluster.pod(room.pods.namespace, old).metadata.labels | {manifests.INSTALLATION: "another"}
    room.make("stranger", old, labels)
    async with room.open(placements={"none": Placement(promised=0.06)}):
        await asyncio.to_thread(until_now, lambda: old not in room.labelled(SPARE))
        (new,) = await room.spares(1, besides={old, "stranger"})
    async with room.open(0):
        await asyncio.to_thread(until_now, lambda: new not in room.labelled(SPARE))
    assert "stranger" in room.labelled(SPARE)


async def test_a_spare_that_ends_or_is_taken_away_is_replaced(room: Room) -> None:
    async with room.open() as _:
        (first,) = await room.spares(1)
        room.pods.cluster.core.delete_namespaced_pod(first, room.pods.namespace, grace_period_seconds=0)
        (second,) = await room.spares(1, besides={first})
        assert first != second


async def test_spares_make_room_for_a_worker_that_finds_none(room: Room) -> None:
    """By a quota here; where no node has room it is the same."""
    quota = {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "2"}}}
    async with room.open(2) as (executor, _):
        await room.spares(2)
        room.pods.cluster.core.create_namespaced_resource_quota(room.pods.namespace, quota)
        read = room.pods.cluster.core.read_namespaced_resource_quota
        await asyncio.to_thread(until_now, lambda: read("few", room.pods.namespace).status.used)
        launch, place = room.pods.carry(room.lab.launch(MAIN))  # needs a pod of its own
        worker = await room.lab.begin(executor, launch, place)
        assert await worker.run() == 42
        assert room.labelled(SPARE) == {}
        await executor.stop(worker.id)


async def test_a_spare_that_does_not_take_the_document_is_let_go_and_the_worker_has_a_pod_of_its_own(
    room: Room,
) -> None:
    async with room.open() as (executor, watcher):
        (spare,) = await room.spares(1)
        command = [str(room.plain.python), "-c", "import time; time.sleep(600)"]
        room.make("deaf", spare, room.pods.cluster.pod(room.pods.namespace, spare).metadata.labels, command)
        room.pods.cluster.core.delete_namespaced_pod(spare, room.pods.namespace, grace_period_seconds=0)
        await room.spares(1)
        worker = await room.begin(executor)
        assert await worker.run() == 42
        assert list(room.labelled(WORKER)) == [manifests.pod_name(worker.id)]
        assert watcher.exits(worker.id) == []
        await executor.stop(worker.id)


async def test_a_worker_whose_files_are_not_to_be_had_ends_before_it_is_ready(room: Room) -> None:
    async with room.open() as (executor, watcher):
        await room.spares(1)
        launch = room.launch()
        room.archives.clear()
        await executor.start(launch, room.plain)
        exited = await watcher.exit(launch.worker_id)
        assert exited.exit_code == 1
        assert not any(beat.ready for beat in room.lab.beats if beat.worker_id == launch.worker_id)
        await executor.forget(launch.worker_id)
