"""An instance's account: made, restarted with the server, ended."""

from __future__ import annotations

import asyncio

from bus.conftest import World

from neartime.contract import subjects
from neartime.contract.events import Envelope


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
