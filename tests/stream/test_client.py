"""What a client's reader hands on of its instance's jobs: session by session, logs, past an event, and not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import pytest
from stream.harness import SESSION, Desk, Life, reference, said

from neartime.contract import subjects
from neartime.contract.events import ATTEMPT_HEADER, REFERENCE_HEADER, SEQUENCE_HEADER, SOURCE_HEADER
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.contract.version import VERSION_HEADER
from neartime.errors import StreamError
from neartime.stream import Event, EventStream, follow
from neartime.stream.order import GAP_SECONDS

GOOD = {VERSION_HEADER: "1", SOURCE_HEADER: "w", ATTEMPT_HEADER: "1", SEQUENCE_HEADER: "1"}


@pytest.fixture
async def stream(desk: Desk) -> AsyncIterator[EventStream]:
    async with desk.events() as stream, asyncio.timeout(40):
        yield stream


async def test_a_job_is_read_to_its_end(desk: Desk, stream: EventStream) -> None:
    events = (life := Life()).whole(3)
    reading = asyncio.ensure_future(_all(stream.events(job_id=life.job_id)))
    await desk.say(*events, life.interim())
    found = await reading
    assert said(found) == said(events)
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6]
    assert all(abs(event.time - time.time()) < 60 for event in found)
    assert {(event.session_id, event.job_id) for event in found} == {(SESSION, life.job_id)}
    await desk.nobody_reads()


async def test_a_sessions_jobs_are_read_and_those_of_others_are_not(desk: Desk, stream: EventStream) -> None:
    mine, too, other = Life(), Life(), Life()
    elsewhere = [replace(event, session_id=new_id()) for event in other.whole(1)]
    events = [*mine.whole(1), *too.whole(1)]
    await desk.say(*elsewhere, *events)
    reading = stream.events(session_id=SESSION)
    assert said([await anext(reading) for _ in events]) == said(events)
    await reading.aclose()


async def test_a_job_is_read_on_past_any_of_its_events(desk: Desk, stream: EventStream) -> None:
    first, second, third, *rest = (life := Life()).whole(4)
    order = [first, third, second, *reversed(rest)]
    await desk.say(*order)
    found = [event async for event in stream.events(job_id=life.job_id)]
    for at, event in enumerate(found):
        assert [one async for one in stream.events(job_id=life.job_id, after=event.sequence)] == found[at + 1 :]


async def test_a_log_is_read_line_by_line_without_an_end(desk: Desk, stream: EventStream) -> None:
    life = Life()
    lines = [life.log(str(number)) for number in range(3)]
    await desk.say(lines[1], lines[0])
    reading = stream.events(job_id=life.job_id, logs=True)
    assert said([await anext(reading) for _ in range(2)]) == said(lines[:2])
    await desk.say(lines[2])
    assert said([await anext(reading)]) == said(lines[2:])
    await reading.aclose()


async def test_what_is_stored_now_is_read_and_no_more(desk: Desk) -> None:
    life = Life()
    first, _, *rest = events = [life.interim() for _ in range(4)]
    log = [Life().log() for _ in range(1)]
    async with asyncio.timeout(5):
        assert await _all(follow(desk.client.link, job_id=life.job_id, end=True)) == []
        await desk.say(events[0], *log)
        assert said(await _all(follow(desk.client.link, job_id=life.job_id, end=True))) == said([first])
        assert said(await _all(follow(desk.client.link, job_id=log[0].job_id, logs=True, end=True))) == said(log)
        await desk.say(*rest)
        with pytest.raises(StreamError, match="number 2 of attempt 1"):
            await _all(follow(desk.client.link, job_id=life.job_id, end=True))


async def test_of_a_job_whose_first_events_are_gone_all_that_is_stored_is_read_up_to_the_next_gap(desk: Desk) -> None:
    events = (life := Life()).whole(5)
    await desk.say(*events[2:4], *events[5:])
    async with asyncio.timeout(5), aclosing(follow(desk.client.link, job_id=life.job_id, end=True)) as reading:
        found = [await anext(reading) for _ in range(2)]
        with pytest.raises(StreamError, match="number 5 of attempt 1"):
            await anext(reading)
    assert said(found) == said(events[2:4])


async def test_what_is_missing_is_told_in_a_quiet_stream_and_in_one_that_is_never_silent(desk: Desk) -> None:
    """Of a job by itself, of one in a session where another one goes on, and of a log that goes on."""
    quiet, broken, talker, log = Life(), Life(), Life(), Life()
    loop, waited = asyncio.get_running_loop(), dict[str, float]()

    async def job(stream: EventStream, life: Life, session_id: str) -> None:
        reading = stream.events(session_id=session_id, job_id=life.job_id if life is quiet else None)
        with pytest.raises(StreamError, match=f"{life.job_id} is missing from its stream: number 3 of attempt 1"):
            await _all(reading)
        waited[life.job_id] = loop.time() - begun

    async def lines(stream: EventStream) -> list[Event]:
        async with aclosing(stream.events(job_id=log.job_id, logs=True)) as reading:
            found = [await anext(reading) for _ in range(2)]
            waited[log.job_id] = loop.time() - begun
            return [*found, *[await anext(reading) for _ in range(10)]]

    elsewhere = new_id()
    async with desk.events() as stream, asyncio.timeout(40):
        begun = loop.time()
        tasks = [
            asyncio.ensure_future(job(stream, quiet, elsewhere)),
            asyncio.ensure_future(job(stream, broken, SESSION)),
        ]
        reading = asyncio.ensure_future(lines(stream))
        await desk.say(*(replace(event, session_id=elsewhere) for event in _without(2, quiet.whole(3))))
        await desk.say(*_without(2, broken.whole(3)), first := log.log())
        log.log()  # is never stored
        said_since = []
        while not all(task.done() for task in (*tasks, reading)):
            said_since.append(log.log())
            await desk.say(talker.interim(), said_since[-1])
            await asyncio.sleep(0.2)  # too short for the broker to send a heartbeat
        await asyncio.gather(*tasks)
    assert said(await reading) == said([first, *said_since[:11]])
    assert waited.keys() == {quiet.job_id, broken.job_id, log.job_id}
    for seconds in waited.values():
        assert GAP_SECONDS <= seconds < GAP_SECONDS + 3


async def test_a_reader_that_takes_its_time_misses_nothing_that_is_on_its_way(desk: Desk, stream: EventStream) -> None:
    first, second, third, *rest = (life := Life()).whole(3)
    reading = stream.events(job_id=life.job_id)
    await desk.say(first)
    assert said([await anext(reading)]) == said([first])
    await desk.say(third, *rest)
    waiting = asyncio.ensure_future(anext(reading))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    time.sleep(GAP_SECONDS + 1)  # noqa: ASYNC251  # the whole process is held up
    await desk.say(second)
    assert said([await waiting, *await _all(reading)]) == said([second, third, *rest])


@pytest.mark.parametrize(
    "headers",
    [
        None,
        {},
        GOOD | {VERSION_HEADER: "999"},
        GOOD | {SOURCE_HEADER: ""},
        GOOD | {ATTEMPT_HEADER: "0"},
        GOOD | {SEQUENCE_HEADER: "-1"},
        GOOD | {SEQUENCE_HEADER: "1.5"},
        GOOD | {REFERENCE_HEADER: "[]"},
        GOOD | {REFERENCE_HEADER: "[" * 60_000},
        {name: value for name, value in GOOD.items() if name != ATTEMPT_HEADER},
    ],
    ids=["none", "empty", "version", "source", "attempt", "sequence", "fraction", "reference", "deep", "missing"],
)
async def test_messages_without_a_valid_envelope_are_dropped_and_counted(
    desk: Desk, stream: EventStream, headers: dict[str, str] | None
) -> None:
    events = (life := Life()).whole(1)
    await desk.operator.client.publish(subjects.event(SESSION, life.job_id, "interim"), b"1", headers=headers)
    await desk.holds(1)
    await desk.say(*events)
    assert said(await _all(stream.events(job_id=life.job_id))) == said(events)
    assert stream.dropped == 1


@pytest.mark.parametrize("body", [b"", b"null", b"\xff", b'{"status":"Up"}', b"[" * 100_000, b"9" * 10_000])
async def test_statuses_and_log_lines_that_are_none_are_dropped_and_counted(
    desk: Desk, stream: EventStream, body: bytes
) -> None:
    life = Life()
    begun, bad, *rest = life.interim(), life.say("status", body), *life.whole(0)
    await desk.say(begun, bad, *rest)
    assert said(await _all(stream.events(job_id=life.job_id))) == said([begun, *rest])
    assert stream.dropped == 1
    if body:
        log = Life()
        bad, good = log.say("log", body), log.log()
        await desk.say(bad, good)
        reading = stream.events(job_id=log.job_id, logs=True)
        assert said([await anext(reading)]) == said([good])
        assert stream.dropped == 2
        await reading.aclose()


async def test_an_event_of_another_jobs_subject_is_that_jobs(desk: Desk, stream: EventStream) -> None:
    """What is in the headers names no job; the subject does, and the broker has checked who may publish there."""
    mine, other = Life(), Life()
    await desk.say(replace(mine.interim(), job_id=other.job_id), mine.control(JobStatus.FAILED))
    found = await _all(stream.events(job_id=mine.job_id))
    assert said(found) == said([mine.control(JobStatus.FAILED)])


async def test_a_large_value_is_read_over_the_same_connection(desk: Desk, stream: EventStream) -> None:
    life, parts = Life(), [bytes(1000), b"end"]
    subject = subjects.blob(SESSION, life.job_id, "1-1")
    sequences = [await desk.chunk(subject, index, part) for index, part in enumerate(parts)]
    event = life.interim(b"")
    envelope = replace(event.envelope, reference=reference(life, parts, sequences))
    await desk.say(replace(event, envelope=envelope), life.control(JobStatus.CANCELLED))
    found = await _all(stream.events(job_id=life.job_id))
    assert b"".join([part async for part in stream.value(found[0])]) == b"".join(parts)


async def test_many_jobs_are_read_side_by_side(desk: Desk, stream: EventStream) -> None:
    lives = [(life.job_id, life.whole(10)) for life in (Life() for _ in range(30))]
    readers = [asyncio.ensure_future(_all(stream.events(job_id=job_id))) for job_id, _ in lives]
    for together in zip(*(events for _, events in lives), strict=True):
        await desk.say(*together)
    for (_, events), reader in zip(lives, readers, strict=True):
        assert said(await reader) == said(events)
    assert stream.dropped == 0


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def _without(at: int, events: list[Event]) -> list[Event]:
    return events[:at] + events[at + 1 :]
