"""An instance's account: made, restarted with the server, ended."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bus.conftest import World

from neartime.contract import subjects
from neartime.contract.events import Envelope
from neartime.contract.ids import new_id
from neartime_server.bus import Keys


async def test_an_instance_that_is_removed_lets_nobody_in(world: World) -> None:
    access = world.bus.reader_access(world.instance, 60)
    assert await world.enters(access.credential, access.inbox)
    await world.bus.remove_instance(world.instance)
    assert not await world.enters(access.credential, access.inbox)


async def test_events_and_accounts_outlive_a_killed_server(world: World) -> None:
    envelope = Envelope(world.worker_id, 1, 1)
    await world.bus.publish(world.instance, world.session, world.job, "interim", envelope, b"1")
    events = world.bus.events(world.instance, subjects.JOBS)
    assert (await anext(events)).body == b"1"
    world.server.kill()
    await world.server.start()
    async with asyncio.timeout(20):
        stored = await world.bus.publish(
            world.instance, world.session, world.job, "interim", Envelope(world.worker_id, 1, 2), b"2"
        )
        assert stored == 2
        assert (await anext(events)).body == b"2"
    await events.aclose()
    assert world.bus.connected


async def test_a_stream_that_is_nearly_full_keeps_what_is_needed_and_no_more(world: World) -> None:
    worker, _ = await world.worker()
    stream = worker.jetstream(timeout=3)
    old, running = new_id(), new_id()
    for job in (old, old, running, running):
        assert not await world.bus.nearly_full(world.instance)
        for _ in range(3):
            await stream.publish(subjects.blob(world.session, job, "1"), bytes(500 << 10))
    assert await world.bus.nearly_full(world.instance)
    assert await world.bus.make_room(world.instance, [(world.session, running), (world.session, new_id())]) == 6
    assert not await world.bus.nearly_full(world.instance)
    assert await world.bus.make_room(world.instance, [(world.session, running)]) == 0
    for _ in range(6):
        await stream.publish(subjects.blob(world.session, old, "2"), bytes(500 << 10))
    assert await world.bus.make_room(world.instance, [(world.session, running)]) == 6
    assert await world.bus.make_room(world.instance, []) == 6


def test_a_server_that_died_while_it_made_the_secret_does_not_stand_in_the_way(tmp_path: Path) -> None:
    """In a container, the next one may have the same process id."""
    (tmp_path / f"secret.{os.getpid()}").touch()
    made = Keys.load(tmp_path / "secret", create=True)
    assert Keys.load(tmp_path / "secret").operator.public == made.operator.public
