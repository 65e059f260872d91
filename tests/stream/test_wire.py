"""Messages with anything in them, and a connection that dies: what comes behind them is read all the same."""

from __future__ import annotations

import asyncio

import pytest
from bus.conftest import World, until
from stream.harness import Desk, Life, Wire, raw, said

from neartime.contract import launch, subjects
from neartime.contract.launch import Beat
from neartime.contract.streams import StreamAccess
from neartime.stream import Link
from neartime.stream.wire import WireClient

HEADERS = {
    "empty": b"NATS/1.0\r\n\r\n",
    "without a line's end": b"NATS/1.0",
    "no headers at all": b"",
    "one byte": b"\xff",
    "no NATS headers": b"HTTP/1.1\r\nA: b\r\n\r\n",
    "without a colon": b"NATS/1.0\r\nNeartime-Source\r\nno colon at all\r\n\r\n",
    "without a name": b"NATS/1.0\r\n: control\r\n\r\n",
    "a name that is no UTF-8": b"NATS/1.0\r\n\xff\xfe: 1\r\n\r\n",
    "a value that is no UTF-8": b"NATS/1.0\r\nNeartime-Version: \xff\xfe\r\n\r\n",
    "numbers that are none": b"NATS/1.0\r\nNeartime-Version: 1\r\nNeartime-Source: w\r\nNeartime-Attempt: x\r\n\r\n",
    "numbers with too many digits": b"NATS/1.0\r\nNeartime-Version: " + b"9" * 10_000 + b"\r\n\r\n",
    "a status that is no UTF-8": b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    "a description that is no UTF-8": b"NATS/1.0 100 \xff\xff\r\n\r\n",
    "a heartbeat": b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 999\r\nNats-Last-Stream: 999\r\n\r\n",
    "a stalled heartbeat": b"NATS/1.0 100 Idle Heartbeat\r\nNats-Consumer-Stalled: job.a.b.c\r\n\r\n",
    "flow control": b"NATS/1.0 100 FlowControl Request\r\n\r\n",
    "the end of a consumer": b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    "nobody there": b"NATS/1.0 503\r\n\r\n",
}
TOKENS = {
    "no UTF-8": b"\xff\xfe",
    "a vertical tab": b"a\x0bb",
    "a form feed": b"a\x0cb",
    "an escape": b"a\x1b[2Jb",
    "zero": b"a\x00b",
    "a long one": b"a" * 3000,
    "blanks of other scripts": "\N{NO-BREAK SPACE}\N{LINE SEPARATOR}\N{NEXT LINE}".encode(),
    "next line as one byte": b"\x85",
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS.keys())
async def test_headers_with_anything_in_them_are_dropped_counted_and_stop_nobody(desk: Desk, headers: bytes) -> None:
    world, life = desk.world, Life()
    events = life.whole(2)
    async with desk.events() as stream, asyncio.timeout(10):
        reading = asyncio.ensure_future(_read(stream.events(job_id=life.job_id)))
        await desk.say(*events[:2])
        worker, _ = await world.worker()
        subject = subjects.event(world.session, life.job_id, "interim").encode()
        await raw(worker, subject, headers)
        await desk.holds(3)
        await desk.say(*events[2:])
        assert said(await reading) == said(events)
        assert stream.dropped == 1


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS.keys())
async def test_subjects_with_anything_in_them_are_dropped_counted_and_stop_nobody(desk: Desk, token: bytes) -> None:
    world, life = desk.world, Life()
    events = life.whole(2)
    async with desk.events() as stream, asyncio.timeout(10):
        reading = asyncio.ensure_future(_read(stream.events(job_id=life.job_id)))
        everything = stream.events()
        await desk.say(*events[:2])
        worker, _ = await world.worker()
        await raw(worker, b"job.%b.%b.status" % (world.session.encode(), token), b"NATS/1.0\r\nA: b\r\n\r\n")
        await desk.holds(3)
        await desk.say(*events[2:])
        assert said([await anext(everything) for _ in events]) == said(events)
        assert said(await reading) == said(events)
        assert stream.dropped == 1
        await everything.aclose()


@pytest.mark.parametrize("reply", [*TOKENS.values()], ids=TOKENS.keys())
async def test_a_reply_subject_with_anything_in_it_does_not_deafen_the_control_plane(
    world: World, reply: bytes
) -> None:
    beats: list[Beat] = []

    async def hear(instance: str, beat: Beat) -> None:
        beats.append(beat)

    world.bus.on_beat(hear)
    worker, _ = await world.worker()
    subject, key = subjects.beat(world.worker_id), world.keys.control_key(world.worker_id)
    await raw(
        worker, subject.encode(), b"NATS/1.0\r\nA: b\r\n\r\n", reply=b"job.%b.%b" % (world.session.encode(), reply)
    )
    said = launch.encode_command(Beat(worker_id=world.worker_id))
    await worker.publish(subject, headers=launch.signed_headers(key, subject, 1, said))
    await until(lambda: len(beats) == 1)


async def test_an_error_with_anything_in_it_ends_no_connection(desk: Desk) -> None:
    link = await desk.client.link()
    await raw(link.client, b"forbidden.\xff\x0b", b"NATS/1.0\r\n\r\n")
    assert (await link.api("STREAM.INFO.JOBS"))["config"]["name"] == "JOBS"


async def test_a_message_in_single_bytes_is_the_same_message(desk: Desk) -> None:
    """The parser by itself, over what a server sends."""
    heard: list[tuple[str, str, bytes, dict[str, str] | None]] = []
    link = await Link.open(await desk.access(), name="test")
    client = link.client
    assert isinstance(client, WireClient)

    async def hear(message: object) -> None:
        heard.append((message.subject, message.reply, message.data, message.headers))  # type: ignore[attr-defined]

    subject = f"{link.inbox}.x"
    subscription = await client.subscribe(subject, cb=hear)
    sid = b"%d" % subscription._id
    block = b"NATS/1.0\r\nA: 1\r\nB: \xc3\xa4\r\n\r\n"
    sent = [
        b"MSG %b %b 5\r\na\r\nbc\r\n" % (subject.encode(), sid),
        b"PING\r\n+OK\r\n",
        b"MSG %b %b re.ply 0\r\n\r\n" % (subject.encode(), sid),
        b"HMSG %b %b %d %d\r\n%bMSG\r\n\r\n" % (subject.encode(), sid, len(block), len(block) + 5, block),
        b"HMSG %b %b $JS.ACK.x %d %d\r\n%b\r\n" % (subject.encode(), sid, len(block), len(block), block),
    ]
    expected = [
        (subject, "", b"a\r\nbc", None),
        (subject, "re.ply", b"", None),
        (subject, "", b"MSG\r\n", {"A": "1", "B": "ä"}),
        (subject, "$JS.ACK.x", b"", {"A": "1", "B": "ä"}),
    ]
    for size in (1, 2, 7, 1000):
        data = b"".join(sent)
        for at in range(0, len(data), size):
            await client._ps.parse(data[at : at + size])
        await until(lambda: len(heard) == len(expected))
        assert heard == expected
        heard.clear()
    await link.close()


async def test_a_connection_that_dies_without_a_word_is_replaced_and_costs_no_message(desk: Desk) -> None:
    events = (life := Life()).whole(3)
    async with Wire.laid(desk.world.server.port) as wire, asyncio.timeout(40):

        async def access() -> StreamAccess:
            return (await desk.access()).model_copy(update={"url": wire.url})

        async with desk.events(access) as stream:
            reading = stream.events(job_id=life.job_id)
            await desk.say(*events[:2])
            found = [await anext(reading) for _ in range(2)]
            wire.die()
            await desk.say(*events[2:])
            found += [event async for event in reading]
            assert said(found) == said(events)


async def _read(events: object) -> list[object]:
    return [event async for event in events]  # type: ignore[attr-defined]
