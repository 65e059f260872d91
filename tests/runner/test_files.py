"""A worker that was started before anybody knew its program: the program's files come to it over NATS."""

from __future__ import annotations

from pathlib import Path

from runner.harness import Worker, World

from neartime.contract.launch import Fetchable, Kill, Launch, Spawn
from neartime.packaging import pack

SOURCE = b"def main(backend, user_messenger):\n    from helper import NUMBER\n    return NUMBER\n"
FILES = {"program.py": SOURCE, "helper/__init__.py": b"NUMBER = 42\n", "data/big.bin": bytes(range(256)) * 5000}


def without_files(world: World, files: Fetchable, folder: Path) -> Launch:
    return world.launch("").model_copy(update={"path": str(folder), "files": files})


async def started(world: World, launch: Launch) -> Worker:
    world.zygote.say(Spawn(launch=launch))
    worker = Worker(world, launch, await world.zygote.spawned(launch.worker_id))
    world.workers.append(worker)
    return worker


async def test_its_files_are_fetched_checked_and_laid_out_before_it_says_that_it_is_ready(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "program"
    files = world.store(pack(FILES), size=200)
    assert files.chunks > 5
    worker = await started(world, without_files(world, files, folder))
    await worker.beat(lambda beat: beat.ready)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["program"]
    assert {fetch.job_id for fetch in world.fetched} == {None}
    job = await worker.run()
    assert await worker.result(job) == 42


async def test_a_folder_that_is_there_is_left_alone(world: World) -> None:
    launch = world.launch("def main(backend, user_messenger):\n    return 7\n")
    missing = Fetchable(digest="sha256:" + "0" * 64, size=3, chunks=1)
    worker = await started(world, launch.model_copy(update={"files": missing}))
    await worker.beat(lambda beat: beat.ready)
    assert await worker.result(await worker.run()) == 7
    assert world.fetched == []


async def test_files_that_are_not_what_was_asked_for_end_the_worker_before_it_is_ready(
    world: World, tmp_path: Path
) -> None:
    whole = world.store(pack(FILES))
    damaged = whole.model_copy(update={"digest": "sha256:" + "1" * 64})
    world.blobs[damaged.digest] = world.blobs[whole.digest]
    refused = whole.model_copy(update={"digest": "sha256:" + "2" * 64})
    no_archive = world.store(b"this is no zip")
    for number, files in enumerate((damaged, refused, no_archive)):
        folder = tmp_path / str(number)
        worker = await started(world, without_files(world, files, folder))
        assert (await world.zygote.exited(worker.id)) == 1
        assert not any(beat.ready for beat in world.beats if beat.worker_id == worker.id)
        assert not folder.exists()


async def test_a_worker_that_waits_for_its_files_can_be_ended(world: World, tmp_path: Path) -> None:
    files = world.store(pack(FILES))
    world.silent = True
    worker = await started(world, without_files(world, files, tmp_path / "program"))
    await worker.beat(lambda beat: not beat.ready)
    world.zygote.say(Kill(worker_id=worker.id, grace=5.0))
    assert (await world.zygote.exited(worker.id)) == 0
