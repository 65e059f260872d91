"""An instance's account: made, restarted with the server, ended."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import time
from pathlib import Path

from bus.conftest import World, until

from neartime.contract import subjects
from neartime.contract.events import Envelope
from neartime.contract.ids import new_id
from neartime_server.bus import Bus, Keys
from neartime_server.bus.keys import KeyPair
from neartime_server.errors import BusError


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


async def test_a_nats_server_that_has_lost_all_that_it_had_is_told_it_again(world: World) -> None:
    """As one that becomes a cluster: whoever was connected finds another in its place."""

    async def say(number: int) -> int:
        envelope = Envelope(world.worker_id, 1, number)
        return await world.bus.publish(world.instance, world.session, world.job, "interim", envelope, b"1")

    assert await say(1) == 1
    world.server.kill()
    for name in ("js", "jwt"):
        shutil.rmtree(world.settings.home / "nats" / name)
    await world.server.start()
    async with asyncio.timeout(30):
        while True:
            try:
                assert await say(2) == 1
                break
            except BusError:
                await asyncio.sleep(0.2)
    access = world.bus.reader_access(world.other, 60)
    assert await world.enters(access.credential, access.inbox), "the other instance, which says nothing, is there, too"


async def test_what_another_server_has_revoked_stays_so_when_nats_is_back(world: World) -> None:
    """The one that did not do it remembers less, and tells NATS what it knows, too."""
    access, user = world.bus.worker_credential(world.instance, world.worker_id, world.session, 3600)
    assert await world.enters(access.credential, access.inbox)
    other = Bus(world.settings, world.keys)
    await other.connect(world.server.url)
    await other.revoke(world.instance, {user: int(time.time()) + 60})
    assert not await world.enters(access.credential, access.inbox)
    await other.close()
    world.server.kill()
    await world.server.start()
    await until(lambda: world.bus.connected)
    await asyncio.sleep(1)  # it has told what it tells
    assert not await world.enters(access.credential, access.inbox)


async def test_a_server_whose_quotas_are_larger_has_its_way_after_one_of_before_has_told_its_own(
    world: World, tmp_path: Path
) -> None:
    """Both run while servers are rolled out."""
    larger = dataclasses.replace(world.settings, bulk_stream_bytes=3 * world.settings.bulk_stream_bytes)
    new = Bus(larger, world.keys)
    await new.connect(world.server.url)
    try:
        assert new._accounts is not None
        await new._accounts.ensure(world.instance)
        await world.bus.revoke(world.instance, {KeyPair.new_user().public: 1})  # which pushes its own quota
        async with asyncio.timeout(30):
            while True:
                try:
                    await new.add_instance(world.instance)
                    break
                except BusError:
                    await asyncio.sleep(0.2)
    finally:
        await new.close()


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
