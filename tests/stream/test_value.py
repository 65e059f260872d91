"""Large values: whatever way their chunks lie in the stream, what is handed on is what was published, or an error."""

from __future__ import annotations

import asyncio
import random
import secrets
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
from stream.harness import SESSION, Desk, Life, reference

from neartime.contract import subjects
from neartime.contract.events import Reference
from neartime.contract.ids import new_id
from neartime.errors import StreamError
from neartime.stream import Event, chunks
from neartime.stream.value import WINDOW


def event(life: Life, value: Reference) -> Event:
    """An interim result that refers to a large value."""
    said = life.interim(b"")
    return replace(said, envelope=replace(said.envelope, reference=value))


async def store(desk: Desk, life: Life, parts: list[bytes], order: list[int], name: str = "1-1") -> Event:
    """Stores the parts in this order, and what refers to them."""
    subject = subjects.blob(SESSION, life.job_id, name)
    sequences = [await desk.chunk(subject, index, parts[index]) for index in order]
    return event(life, reference(life, parts, sequences, name))


async def whole(desk: Desk, event: Event) -> bytes:
    async with asyncio.timeout(30):
        return b"".join([part async for part in chunks(desk.client.link, event)])


def made(count: int, size: int = 100) -> list[bytes]:
    return [secrets.token_bytes(size) for _ in range(count)]


async def test_a_small_value_is_the_events_own_body(desk: Desk) -> None:
    assert await whole(desk, Life().interim(b"small")) == b"small"


@pytest.mark.parametrize("seed", range(8))
async def test_chunks_that_are_stored_out_of_order_and_twice_are_put_in_order(desk: Desk, seed: int) -> None:
    life, dice = Life(), random.Random(seed)
    parts = made(dice.randint(1, 30))
    order = [*range(len(parts)), *dice.choices(range(len(parts)), k=len(parts))]
    dice.shuffle(order)
    assert await whole(desk, await store(desk, life, parts, order)) == b"".join(parts)
    await desk.nobody_reads()


async def test_chunks_that_lie_further_ahead_than_may_wait_are_read_again(desk: Desk) -> None:
    parts = made(3 * WINDOW + 1, 10)
    stored = await store(desk, Life(), parts, [*reversed(range(len(parts)))])
    assert await whole(desk, stored) == b"".join(parts)


async def test_values_that_are_stored_between_each_other_stay_apart(desk: Desk) -> None:
    life = Life()
    values = {name: made(20) for name in ("1-1", "1-2", "2-1")}
    sequences: dict[str, list[int]] = {name: [] for name in values}
    for index in range(20):
        for name, parts in values.items():
            sequences[name].append(await desk.chunk(subjects.blob(SESSION, life.job_id, name), index, parts[index]))
    for name, parts in values.items():
        assert await whole(desk, event(life, reference(life, parts, sequences[name], name))) == b"".join(parts)


async def test_messages_among_them_that_are_no_chunks_are_passed_over(desk: Desk) -> None:
    life, parts = Life(), made(3)
    subject = subjects.blob(SESSION, life.job_id, "1-1")
    sequences = [await desk.chunk(subject, 0, parts[0])]
    await desk.chunk(subject, None, b"no index")
    for index in (-1, 3, 10**30):
        await desk.chunk(subject, index, b"no chunk of it")
    sequences += [await desk.chunk(subject, index, parts[index]) for index in (1, 2)]
    assert await whole(desk, event(life, reference(life, parts, sequences))) == b"".join(parts)


@pytest.mark.parametrize("missing", [0, 4, 9])
async def test_a_chunk_that_is_gone_is_told(desk: Desk, missing: int) -> None:
    life, parts = Life(), made(10)
    order = [index for index in range(10) if index != missing]
    stored = await store(desk, life, parts, order)
    with pytest.raises(StreamError, match=f"chunk {missing} of 10 is missing") as told:
        await whole(desk, stored)
    assert life.job_id in str(told.value)
    await desk.nobody_reads()


@pytest.mark.parametrize(
    ("first", "last"),
    [(1, 10**6), (10**6, 2 * 10**6), (-5, 0), (5, 1), (0, 0), (1, 2**70), (2**64, 2**65)],
    ids=str,
)
async def test_a_reference_to_nowhere_is_told_and_not_waited_for(desk: Desk, first: int, last: int) -> None:
    life, parts = Life(), made(2)
    stored = await store(desk, life, parts, [0])
    value = stored.envelope.reference
    assert value is not None
    with pytest.raises(StreamError):
        await whole(desk, event(life, value.model_copy(update={"first": first, "last": last, "chunks": 10**12})))


async def test_a_value_that_is_let_go_of_while_it_is_read_is_told(wide: Desk) -> None:
    parts = made(150, 512 << 10)
    stored = await store(wide, Life(), parts, [*range(150)])
    async with asyncio.timeout(30), aclosing(chunks(wide.client.link, stored)) as reading:
        assert await anext(reading) == parts[0]
        await wide.operator.api("STREAM.PURGE.BULK")
        with pytest.raises(StreamError, match="is not in its stream any more"):
            async for _ in reading:
                pass


async def test_chunks_that_are_not_what_was_published_are_told(desk: Desk) -> None:
    life, parts = Life(), made(4)
    changed = [parts[0], parts[1], parts[2][::-1], parts[3]]
    stored = await store(desk, life, changed, [0, 1, 2, 3])
    value = reference(life, parts, [1, 2, 3, 4])
    with pytest.raises(StreamError, match="arrived damaged: 400 of 400 bytes"):
        await whole(desk, event(life, value))
    assert await whole(desk, stored) == b"".join(changed)


async def test_a_value_of_another_length_than_was_said_is_told_at_the_first_byte_too_many(desk: Desk) -> None:
    life, parts = Life(), made(4)
    value = (await store(desk, life, parts, [0, 1, 2, 3])).envelope.reference
    assert value is not None
    longer, shorter = (event(life, value.model_copy(update={"size": size})) for size in (399, 401))
    async with aclosing(chunks(desk.client.link, longer)) as reading:
        assert [await anext(reading) for _ in range(3)] == parts[:3]
        with pytest.raises(StreamError, match="longer than it was said to be"):
            await anext(reading)
    with pytest.raises(StreamError, match="arrived damaged: 400 of 401 bytes"):
        await whole(desk, shorter)


async def test_a_value_of_no_chunks_is_empty(desk: Desk) -> None:
    life = Life()
    assert await whole(desk, event(life, reference(life, [], [1]))) == b""
    claimed = reference(life, [], [1]).model_copy(update={"size": 5})
    with pytest.raises(StreamError, match="arrived damaged"):
        await whole(desk, event(life, claimed))


@pytest.mark.parametrize(
    "subject",
    [
        lambda life: subjects.blob(SESSION, new_id(), "1-1"),
        lambda life: subjects.blob(new_id(), life.job_id, "1-1"),
        lambda life: subjects.event(SESSION, life.job_id, "log"),
        *(
            lambda life, name=name: subjects.blob(SESSION, life.job_id, name)
            for name in ("", "*", ">", "a.b", "a b", "1\n")
        ),
        lambda life: "job.*.*.blob.*",
        lambda life: ">",
        lambda life: "",
    ],
    ids=["job", "session", "log", "no name", "star", "rest", "two tokens", "blank", "line", "stars", "all", "empty"],
)  # fmt: skip
async def test_what_is_not_a_value_of_the_job_itself_is_not_read(desk: Desk, subject: Callable[[Life], str]) -> None:
    life, parts = Life(), made(1)
    value = reference(life, parts, [1]).model_copy(update={"subject": subject(life)})
    with pytest.raises(StreamError, match="refers to what is no value of its own"):
        await whole(desk, event(life, value))


async def test_another_jobs_value_under_ones_own_name_is_not_found(desk: Desk) -> None:
    parts = made(3)
    victim, thief = Life(), Life()
    stored = (await store(desk, victim, parts, [0, 1, 2])).envelope.reference
    assert stored is not None
    with pytest.raises(StreamError, match="chunk 0 of 3 is missing"):
        await whole(desk, event(thief, reference(thief, parts, [1, 2, 3])))


async def test_a_value_goes_on_where_it_was_when_the_server_was_killed(wide: Desk) -> None:
    parts = made(150, 512 << 10)
    stored = await store(wide, Life(), parts, [*range(150)])
    async with asyncio.timeout(60), aclosing(chunks(wide.client.link, stored)) as reading:
        for index in range(150):
            if index in (10, 120):
                wide.world.server.kill()
                await wide.world.server.start()
            assert await anext(reading) == parts[index]
        with pytest.raises(StopAsyncIteration):
            await anext(reading)


async def test_fifty_megabytes_are_read_in_a_part_of_that(wide: Desk) -> None:
    life, size, count = Life(), 512 << 10, 100
    parts = [bytes([index]) * size for index in range(count)]
    stored = await store(wide, life, parts, [*range(count)])
    del parts
    link = await wide.client.link()
    await link.client.flush()

    async def read(pause: Callable[[], Awaitable[object]]) -> int:
        tracemalloc.start()
        try:
            index = 0
            async with aclosing(chunks(wide.client.link, stored)) as reading:
                async for part in reading:
                    assert len(part) == size
                    assert part[0] == part[-1] == index
                    index += 1
                    await pause()
            assert index == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    async with asyncio.timeout(60):
        fast = await read(lambda: asyncio.sleep(0))
        slow = await read(lambda: wide.operator.api("STREAM.INFO.BULK"))
    assert fast < 40 << 20
    assert slow < 40 << 20  # what the broker sends ahead, and a few chunks
