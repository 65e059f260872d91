"""One stream's messages: in order and without a gap, whatever happens to server, connection and consumer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from stream.harness import Desk, Life, Worker, said

from neartime.contract import subjects
from neartime.contract.ids import new_id
from neartime.stream import Link, Quiet, Stored, follow, read
from neartime.stream.link import Refusal
from neartime.stream.reader import HEARTBEAT, MISSED_HEARTBEATS

COUNT = 5_000
EVERYTHING = ["job.>"]


async def messages(items: AsyncGenerator[Stored | Quiet, None], count: int) -> list[Stored]:
    """The next so many messages."""
    found: list[Stored] = []
    async for item in items:
        if isinstance(item, Stored):
            found.append(item)
            if len(found) == count:
                break
    return found


async def test_nothing_is_missing_or_comes_twice_over_a_server_that_is_killed_twice(desk: Desk) -> None:
    world, seen = desk.world, asyncio.Condition()
    sequences: list[int] = []
    interruptions = 0

    async def as_stored() -> None:
        nonlocal interruptions
        async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items:
            async for item in items:
                if isinstance(item, Stored):
                    async with seen:
                        sequences.append(item.sequence)
                        seen.notify_all()
                elif item.fresh and sequences:
                    interruptions += 1

    async def reached(count: int) -> None:
        async with seen:
            await seen.wait_for(lambda: len(sequences) >= count)

    async with Worker.at_work(world) as worker, asyncio.timeout(60):
        reading = asyncio.ensure_future(as_stored())
        following = asyncio.ensure_future(worker.follow(desk.client.link))
        for part in range(1, 6):
            publishing = asyncio.ensure_future(worker.interims(COUNT // 5))
            if part in (2, 4):
                await reached((part - 1) * COUNT // 5 + 100)
                world.server.kill()
                await world.server.start()
            await publishing
        await worker.end()
        events = await following
        last = await world.bus.last_sequence(world.instance, subjects.JOBS)
        await reached(last)
        reading.cancel()
    assert sequences == list(range(1, last + 1))
    assert [event.envelope.index for event in events if event.kind == "interim"] == list(range(1, COUNT + 1))
    assert [event.envelope.sequence for event in events] == list(range(1, COUNT + 2))
    assert interruptions >= 2


async def test_a_consumer_that_another_client_deleted_is_replaced(desk: Desk) -> None:
    life = Life()
    events = [life.interim() for _ in range(10)]
    async with aclosing(follow(desk.client.link, job_id=life.job_id)) as reading, asyncio.timeout(15):
        for number, event in enumerate(events):
            if number == 5:
                (consumer,) = await desk.consumers(subjects.JOBS)
                await desk.operator.api(f"CONSUMER.DELETE.JOBS.{consumer['name']}")
            await desk.say(event)
            assert said([await anext(reading)]) == said([event])
        (another,) = await desk.consumers(subjects.JOBS)
        assert another["name"] != consumer["name"]


async def test_a_silent_server_is_asked_anew_and_costs_no_message(desk: Desk) -> None:
    world, life = desk.world, Life()
    silence = HEARTBEAT * (MISSED_HEARTBEATS + 1.5)
    async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items, asyncio.timeout(30):
        assert await anext(items) == Quiet(0, fresh=True)
        await desk.say(life.interim())
        assert len(await messages(items, 1)) == 1
        pid = world.server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(silence)
        finally:
            os.kill(pid, signal.SIGCONT)
        await desk.say(life.interim(), life.interim())
        found = [await anext(items) for _ in range(3)]
        assert [item.sequence for item in found if isinstance(item, Stored)] == [2, 3]
        assert [item.fresh for item in found if isinstance(item, Quiet)] == [True]


async def test_it_begins_with_word_of_how_much_there_is_and_goes_on_past_a_sequence(desk: Desk) -> None:
    life = Life()
    await desk.say(*(life.interim() for _ in range(5)))
    for after in (0, 3, 5):
        async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING, after)) as items:
            assert await anext(items) == Quiet(5 - after, fresh=True)
            found = await messages(items, 5 - after) if after < 5 else []
            assert [(item.sequence, item.pending) for item in found] == [(n, 5 - n) for n in range(after + 1, 6)]


async def test_an_idle_stream_is_quiet_at_every_heartbeat(desk: Desk) -> None:
    async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items, asyncio.timeout(10):
        assert await anext(items) == Quiet(0, fresh=True)
        began = time.monotonic()
        assert [await anext(items) for _ in range(2)] == [Quiet(0, fresh=False)] * 2
        assert 1.0 < time.monotonic() - began < 4.0


async def test_messages_on_other_subjects_are_not_seen(desk: Desk) -> None:
    mine, other = Life(), Life()
    await desk.say(mine.interim(), other.interim(), mine.interim())
    filters = [subjects.event("*", mine.job_id, kind) for kind in ("interim", "status")]
    async with aclosing(read(desk.client.link, subjects.JOBS, filters)) as items, asyncio.timeout(10):
        assert [item.sequence for item in await messages(items, 2)] == [1, 3]


async def test_a_stream_that_is_made_later_is_waited_for(desk: Desk) -> None:
    config = (await desk.operator.api("STREAM.INFO.JOBS"))["config"]
    await desk.operator.api("STREAM.DELETE.JOBS")
    async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items, asyncio.timeout(10):
        first = asyncio.ensure_future(anext(items))
        # It is refused by now: what it asked for was asked on this connection, before this.
        with pytest.raises(Refusal, match="stream not found"):
            await (await desk.client.link()).api("STREAM.INFO.JOBS")
        assert not first.done()
        await desk.operator.api("STREAM.CREATE.JOBS", config)
        await desk.say(Life().interim())
        assert (await first).fresh  # type: ignore[union-attr]
        assert len(await messages(items, 1)) == 1


async def test_a_stream_that_was_lost_and_made_anew_is_read_from_its_first_message(desk: Desk) -> None:
    life = Life()
    config = (await desk.operator.api("STREAM.INFO.JOBS"))["config"]
    async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items, asyncio.timeout(15):
        await desk.say(*(life.interim() for _ in range(5)))
        assert len(await messages(items, 5)) == 5
        await desk.operator.api("STREAM.DELETE.JOBS")
        await desk.operator.api("STREAM.CREATE.JOBS", config)
        await desk.say(life.interim(), life.interim())
        assert [item.sequence for item in await messages(items, 2)] == [1, 2]
        await desk.say(life.interim())
        assert [item.sequence for item in await messages(items, 1)] == [3]
    async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING, 1000)) as items, asyncio.timeout(15):
        assert [item.sequence for item in await messages(items, 3)] == [1, 2, 3]


@pytest.mark.parametrize("filters", [["job.*.*.status", "job.>"], ["job..status"]], ids=["overlapping", "no subject"])
async def test_what_is_wrong_with_the_request_itself_is_raised(desk: Desk, filters: list[str]) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(Refusal, match=r"overlap|invalid subject"):
            await anext(read(desk.client.link, subjects.JOBS, filters))


async def test_many_read_at_once_and_all_see_everything(desk: Desk) -> None:
    life = Life()
    async with asyncio.timeout(30):
        readers = [read(desk.client.link, subjects.JOBS, EVERYTHING) for _ in range(50)]
        reading = [asyncio.ensure_future(messages(items, 200)) for items in readers]
        for event in [life.interim() for _ in range(200)]:
            await desk.say(event)
        for found in await asyncio.gather(*reading):
            assert [item.sequence for item in found] == list(range(1, 201))
        assert len(await desk.consumers(subjects.JOBS)) == 50
        for items in readers:
            await items.aclose()
        await desk.nobody_reads()


async def test_what_a_slow_reader_has_not_read_yet_waits_at_the_broker(wide: Desk) -> None:
    size, count = 512 << 10, 160
    subject = subjects.blob(new_id(), new_id(), "1-1")
    await wide.fill(subject, (number.to_bytes(4, "big") + bytes(size - 4) for number in range(count)))
    await wide.holds(count, subjects.BULK)
    async with aclosing(read(wide.client.link, subjects.BULK, [subject])) as items, asyncio.timeout(60):
        assert await anext(items) == Quiet(count, fresh=True)
        most = 0
        for number in range(count):
            (item,) = await messages(items, 1)
            assert item.sequence == number + 1
            assert int.from_bytes(item.message.data[:4], "big") == number
            (consumer,) = await wide.consumers(subjects.BULK)  # which takes its time
            most = max(most, consumer["delivered"]["consumer_seq"] - number)
        assert most * size <= 32 << 20


async def test_whoever_stops_reading_leaves_nothing_behind(desk: Desk) -> None:
    life = Life()
    await desk.say(*(life.interim() for _ in range(10)))
    async with asyncio.timeout(20):
        async with aclosing(read(desk.client.link, subjects.JOBS, EVERYTHING)) as items:
            await messages(items, 5)
            assert len(await desk.consumers(subjects.JOBS)) == 1
        await desk.nobody_reads()
        async for _ in follow(desk.client.link, job_id=life.job_id):
            break  # and says no more
        await desk.nobody_reads()
        for rounds in range(12):
            reading = asyncio.ensure_future(messages(read(desk.client.link, subjects.JOBS, EVERYTHING), 100))
            for _ in range(rounds):
                await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait({reading})
        await desk.nobody_reads()
        assert len((await desk.client.link()).client._subs) == 1  # for the answers to its requests


async def test_a_reader_goes_over_to_another_connection_when_its_own_is_closed(desk: Desk) -> None:
    life = Life()
    links: list[Link] = []

    async def source() -> Link:
        links.append(await Link.open(await desk.access(), name="test"))
        return links[-1]

    async with aclosing(read(source, subjects.JOBS, EVERYTHING)) as items, asyncio.timeout(20):
        for number in range(1, 6):
            await desk.say(life.interim())
            (item,) = await messages(items, 1)
            assert item.sequence == number
            await links[-1].close()
        await desk.say(life.interim())
        assert [item.sequence for item in await messages(items, 1)] == [6]
    await links[-1].close()
    assert len(links) == 6
