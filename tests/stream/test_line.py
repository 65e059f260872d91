"""A connection that is always there: while a server is away, past the end of a credential, until it is closed."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import time
from contextlib import suppress

import pytest
from bus.conftest import World, until
from nats.errors import Error as NatsError
from stream.harness import Desk, Life, Worker

from neartime.contract import subjects
from neartime.contract.problem import ErrorCode, Problem
from neartime.contract.streams import StreamAccess
from neartime.errors import ConnectionFailed, LimitReached, ServerFailed, StreamError, Unauthorized
from neartime.stream import EventStream, Line, Link
from neartime.stream.link import lifetime
from neartime_server.bus.accounts import own_access


class Door:
    """Gives out credentials, and counts them. `answers` are given, or raised, before."""

    def __init__(self, desk: Desk, lifetime: float = 3600, *answers: Exception) -> None:
        self.desk, self.lifetime, self.answers = desk, lifetime, [*answers]
        self.shut: Exception | None = None
        self.asked = 0

    async def __call__(self) -> StreamAccess:
        self.asked += 1
        if self.answers:
            raise self.answers.pop(0)
        if self.shut:
            raise self.shut
        return await self.desk.access(self.lifetime)


def unauthorized(message: str) -> Unauthorized:
    return Unauthorized(401, [Problem(code=ErrorCode.UNAUTHORIZED, message=message)])


async def connections(world: World, name: str) -> int:
    """How many connections of that name the server has."""
    link = await Link.open(own_access(world.keys.system, world.server.url), name="system")
    answer = await link.client.request("$SYS.REQ.SERVER.PING.CONNZ", b'{"limit": 1000}', timeout=5)
    await link.close()
    return answer.data.count(f'"name":"{name}"'.encode())


async def gone(world: World, name: str) -> None:
    """Returns once the server has noticed that there is no such connection any more."""
    async with asyncio.timeout(2):
        while True:
            if not await connections(world, name):
                return
            await asyncio.sleep(0.01)


async def test_all_who_ask_share_one_connection_and_one_credential(desk: Desk) -> None:
    door = Door(desk)
    line = Line(door, name="shared")
    links = await asyncio.gather(*(line.link() for _ in range(50)))
    assert {id(link) for link in links} == {id(await line.link())}
    assert door.asked == 1
    assert line.connected
    assert await connections(desk.world, "shared") == 1
    await line.close()
    assert not line.connected
    await gone(desk.world, "shared")


async def test_a_credential_is_renewed_before_its_end_and_reading_loses_and_repeats_nothing(desk: Desk) -> None:
    door = Door(desk, 3)
    line = Line(door, name="renewed")
    async with Worker.at_work(desk.world) as worker, asyncio.timeout(30):
        reading = asyncio.ensure_future(worker.follow(line.link))
        begun = time.monotonic()
        count = 0
        while door.asked < 4:
            await worker.interims(1)
            count += 1
            link = await line.link()
            assert link.client.is_connected
            await link.client.flush()  # which would raise where the credential had ended
            await asyncio.sleep(0.005)
        assert 3.0 < time.monotonic() - begun < 9.0
        await worker.end()
        events = await reading
    assert [event.envelope.index for event in events] == [*range(1, count + 1), 0]
    assert await connections(desk.world, "renewed") == 1
    await line.close()


async def test_where_nobody_gives_a_new_credential_reading_goes_on_until_the_old_one_ends(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    door, life = Door(desk, 3), Life()
    async with desk.events(door) as stream, asyncio.timeout(15):
        reading = stream.events(job_id=life.job_id)
        await desk.say(life.interim())
        await anext(reading)
        door.shut = unauthorized("the token was ended")
        await until(lambda: door.asked == 2)
        await desk.say(life.interim())
        assert (await anext(reading)).envelope.index == 2
        with pytest.raises(Unauthorized, match="the token was ended"):
            await anext(reading)
    assert "can't be renewed: the token was ended" in caplog.text


async def test_whoever_reads_hears_that_there_is_no_credential(desk: Desk) -> None:
    door = Door(desk)
    door.shut = unauthorized("no such token")
    async with desk.events(door) as stream, asyncio.timeout(10):
        for _ in range(2):
            waiting = [asyncio.ensure_future(anext(stream.events(job_id=Life().job_id))) for _ in range(5)]
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, Unauthorized)
        door.shut, life = None, Life()
        await desk.say(life.interim())
        assert (await anext(stream.events(job_id=life.job_id))).envelope.index == 1
    assert door.asked == 3


async def test_what_passes_is_tried_again(desk: Desk) -> None:
    door = Door(desk, 3600, ConnectionFailed("away"), ServerFailed(503, []), LimitReached(429, []), StreamError("no"))
    line = Line(door, name="test")
    async with asyncio.timeout(10):
        await line.link()
    assert door.asked == 5
    await line.close()


async def test_what_is_to_be_done_with_each_new_connection_is_tried_again_with_another_one(desk: Desk) -> None:
    opened: list[Link] = []

    async def prepare(link: Link) -> None:
        opened.append(link)
        if len(opened) < 3:
            raise NatsError("not yet")

    line = Line(Door(desk), name="prepared", opened=prepare)
    async with asyncio.timeout(10):
        link = await line.link()
        assert link is opened[-1]
        assert len(opened) == 3
        assert await connections(desk.world, "prepared") == 1
        # Closed for good, it is opened again although nobody asks.
        await link.close()
        await until(lambda: len(opened) == 4)
        await until(lambda: line.connected)
    await line.close()


async def test_a_server_that_is_away_is_waited_for(desk: Desk) -> None:
    world, life = desk.world, Life()
    world.server.kill()
    async with desk.events() as stream, asyncio.timeout(30):
        reading = asyncio.ensure_future(anext(stream.events(job_id=life.job_id)))
        with pytest.raises(StreamError, match="can't be reached"):
            await Link.open(await desk.access(), name="test")
        assert not reading.done()
        await world.server.start()
        await desk.say(life.interim())
        assert (await reading).envelope.index == 1


async def test_a_server_that_goes_away_for_a_while_is_waited_for_by_all_who_read(desk: Desk) -> None:
    world = desk.world
    lives = [Life() for _ in range(5)]
    async with desk.events() as stream, asyncio.timeout(30):
        readers = [stream.events(job_id=life.job_id) for life in lives]
        for life, reader in zip(lives, readers, strict=True):
            await desk.say(life.interim())
            await anext(reader)
        waiting = [asyncio.ensure_future(anext(reader)) for reader in readers]
        world.server.kill()
        link = await stream._line.link()
        await until(lambda: not link.client.is_connected)
        assert not any(one.done() for one in waiting)
        await world.server.start()
        for life, one in zip(lives, waiting, strict=True):
            await desk.say(life.interim())
            assert (await one).envelope.index == 2
        for reader in readers:
            await reader.aclose()


# --- the end


async def test_closing_ends_those_who_read_with_an_error(desk: Desk) -> None:
    life = Life()
    await desk.say(life.interim())
    async with asyncio.timeout(10):
        stream = EventStream(desk.access)
        reader = stream.events(job_id=life.job_id)
        await anext(reader)
        waiting = [asyncio.ensure_future(anext(reader))]
        waiting += [asyncio.ensure_future(anext(stream.events(logs=True))) for _ in range(5)]
        await desk.read_by(5, subjects.BULK)
        await stream.close()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, StreamError)
            assert str(outcome) == "the event stream is closed"
        with pytest.raises(StreamError, match="is closed"):
            await anext(stream.events(job_id=life.job_id))
        await stream.close()


async def test_closing_ends_those_who_wait_for_a_server_that_is_away(desk: Desk) -> None:
    life = Life()
    async with asyncio.timeout(20):
        stream = EventStream(desk.access)
        begun = stream.events(job_id=life.job_id)
        await desk.say(life.interim())
        await anext(begun)
        other = EventStream(desk.access)
        desk.world.server.kill()
        waiting = [asyncio.ensure_future(anext(reader)) for reader in (begun, stream.events(), other.events())]
        link = await stream._line.link()
        await until(lambda: not link.client.is_connected)
        assert not any(one.done() for one in waiting)
        began = time.monotonic()
        await stream.close()
        await other.close()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(outcome, StreamError)
        assert time.monotonic() - began < 2


async def test_closing_ends_those_who_wait_for_a_credential(desk: Desk) -> None:
    asked = asyncio.Event()

    async def access() -> StreamAccess:
        asked.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    stream = EventStream(access)
    waiting = asyncio.ensure_future(anext(stream.events()))
    async with asyncio.timeout(5):
        await asked.wait()
        await stream.close()
        with pytest.raises(StreamError, match="is closed"):
            await waiting


async def test_whoever_gives_up_waiting_does_not_disturb_the_others(desk: Desk) -> None:
    desk.world.server.kill()
    line = Line(Door(desk), name="test")
    impatient, patient = (asyncio.ensure_future(line.link()) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    assert impatient.cancelled()
    await desk.world.server.start()
    async with asyncio.timeout(10):
        assert (await patient).client.is_connected
    await line.close()


async def test_a_line_that_nobody_used_can_be_closed(desk: Desk) -> None:
    line = Line(Door(desk), name="test")
    await line.close()
    with pytest.raises(StreamError, match="is closed"):
        await line.link()


@pytest.mark.parametrize("rounds", [*range(10), *range(10, 60, 3), 100])
async def test_closing_at_any_moment_leaves_no_connection(desk: Desk, rounds: int) -> None:
    line = Line(Door(desk), name="hasty")
    opening = asyncio.ensure_future(line.link())
    for _ in range(rounds):
        await asyncio.sleep(0)
    await line.close()
    (outcome,) = await asyncio.gather(opening, return_exceptions=True)
    assert isinstance(outcome, (StreamError, Link))
    await gone(desk.world, "hasty")


# --- one connection


async def test_a_credential_that_is_refused_is_told_within_seconds(desk: Desk) -> None:
    access = await desk.access(-5)
    began = time.monotonic()
    with pytest.raises(StreamError, match=r"can't be reached: .*[Aa]uthorization"):
        await Link.open(access, name="test")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("rounds", [*range(10), *range(10, 60, 3), 100])
async def test_opening_that_is_given_up_at_any_moment_leaves_no_connection(desk: Desk, rounds: int) -> None:
    opening = asyncio.ensure_future(Link.open(await desk.access(), name="hasty"))
    for _ in range(rounds):
        await asyncio.sleep(0)
    if opening.cancel():
        await asyncio.wait({opening})
    else:
        await opening.result().close()
    await gone(desk.world, "hasty")


async def test_a_request_that_was_on_its_way_when_the_connection_broke_is_not_waited_for(desk: Desk) -> None:
    link = await desk.client.link()
    pid = desk.world.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asking = asyncio.ensure_future(link.api("STREAM.INFO.JOBS"))
    await asyncio.sleep(0)
    desk.world.server.kill()
    await desk.world.server.start()
    began = time.monotonic()
    with pytest.raises(NatsError):
        await asking
    assert time.monotonic() - began < 2
    assert (await link.api("STREAM.INFO.JOBS"))["config"]["name"] == "JOBS"


async def test_a_request_that_waits_for_the_server_is_answered_when_that_is_back(desk: Desk) -> None:
    link = await desk.client.link()
    desk.world.server.kill()
    await until(lambda: not link.client.is_connected)
    asking = asyncio.ensure_future(link.api("STREAM.INFO.JOBS"))
    await desk.world.server.start()
    assert (await asking)["config"]["name"] == "JOBS"


async def test_the_lifetime_of_a_credential_is_from_its_issue_to_its_end(desk: Desk) -> None:
    assert lifetime((await desk.access(3600)).credential) == pytest.approx(3600, abs=1)
    for claims, seconds in (('{"iat": 5, "exp": 65}', 60.0), ('{"iat": 5}', None)):
        token = base64.urlsafe_b64encode(claims.encode()).decode().rstrip("=")
        assert lifetime(f"-----BEGIN NATS USER JWT-----\na.{token}.c\n------END NATS USER JWT------\n") == seconds


@pytest.mark.parametrize("text", ["", "x.y", "a.b.c", "a.bnVsbA.c", "a.eyJleHAiOiAieCJ9.c"])
def test_what_is_no_credential_is_told(text: str) -> None:
    with pytest.raises(StreamError, match="no NATS credential"):
        lifetime(text)
