"""Events on their way to callbacks and waiting callers, from a source that plays them."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from neartime.contract.events import Envelope, Reference, StatusEvent
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.errors import StreamError
from neartime.feed import Collector, Feed, SessionFeed, Watch
from neartime.loop import Loop, shared
from neartime.stream import Event

SESSION = new_id()


class Play:
    """A source: what is put into it comes out, to every reader, from the first event on."""

    def __init__(self) -> None:
        self.said: list[Event | Exception] = []
        self.readers = 0
        self.large: dict[int, list[bytes]] = {}
        self._more = asyncio.Condition()

    async def say(self, *events: Event | Exception) -> None:
        async with self._more:
            self.said += events
            self._more.notify_all()

    async def events(
        self, *, session_id: str | None = None, job_id: str | None = None, after: int = 0, logs: bool = False
    ) -> AsyncIterator[Event]:
        self.readers += 1
        number = 0
        while True:
            async with self._more:
                await self._more.wait_for(lambda: len(self.said) > number)  # noqa: B023
            event = self.said[number]
            number += 1
            if isinstance(event, Exception):
                if job_id is None:
                    raise event
            elif job_id in (None, event.job_id):
                yield event
                if job_id is not None and event.kind == "status" and event.status().status.final:
                    return

    async def value(self, event: Event) -> AsyncIterator[bytes]:
        for chunk in self.large[event.sequence]:
            yield chunk

    async def close(self) -> None:
        pass


class Job:
    """Makes the events of one job."""

    def __init__(self) -> None:
        self.id = new_id()
        self.sequence = 0
        self.index = 0

    def _event(self, kind: str, body: bytes, reference: Reference | None = None, index: int = 0) -> Event:
        self.sequence += 1
        return Event(
            SESSION, self.id, kind, Envelope("w", 1, self.sequence, index, 0, reference), body, self.sequence, 0
        )

    def interim(self, value: Any, reference: Reference | None = None) -> Event:
        self.index += 1
        return self._event("interim", json.dumps(value).encode() if reference is None else b"", reference, self.index)

    def result(self, value: Any) -> Event:
        return self._event("result", json.dumps(value).encode())

    def status(self, status: JobStatus) -> Event:
        said = StatusEvent(status=status, time=datetime.now(timezone.utc))
        return self._event("status", said.model_dump_json().encode())

    def life(self, count: int) -> list[Event]:
        interims = [self.interim(number) for number in range(count)]
        return [self.status(JobStatus.RUNNING), *interims, self.result("done"), self.status(JobStatus.COMPLETED)]


@pytest.fixture
def loop() -> Loop:
    return shared()


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture
def feed(play: Play, loop: Loop) -> Iterator[Feed]:
    seen: list[int] = []
    feed = Feed(play, loop, lambda: Collector(json.loads), json.loads, seen.append)
    yield feed
    loop.run(feed.close())


def test_callbacks_come_in_order_and_before_the_end_is_told(feed: Feed, play: Play, loop: Loop) -> None:
    job, heard = Job(), []
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append((job_id, value)))
    loop.call(feed.follow, watch)
    loop.run(play.say(*job.life(200)))
    watch.delivered.result(10)
    assert heard == [(job.id, number) for number in range(200)]
    assert watch.result is not None
    assert feed.value(watch.result) == "done"


def test_a_slow_callback_holds_up_neither_the_loop_nor_the_jobs_end(feed: Feed, play: Play, loop: Loop) -> None:
    job, go_on = Job(), threading.Event()
    watch = Watch(job.id, SESSION, lambda job_id, value: go_on.wait(10))
    loop.call(feed.follow, watch)
    loop.run(play.say(*job.life(3)))
    watch.ended.result(10)
    assert not watch.delivered.done()
    go_on.set()
    watch.delivered.result(10)


@pytest.mark.parametrize("error", [RuntimeError("my own fault"), SystemExit(3)], ids=["an error", "sys.exit"])
def test_a_callback_that_raises_is_reported_and_delivery_goes_on(
    feed: Feed, play: Play, loop: Loop, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    job, heard = Job(), []

    def callback(job_id: str, value: Any) -> None:
        heard.append(value)
        if value == 1:
            raise error

    watch = Watch(job.id, SESSION, callback)
    with caplog.at_level(logging.WARNING, logger="neartime"):
        loop.call(feed.follow, watch)
        loop.run(play.say(*job.life(4)))
        watch.delivered.result(10)
    assert heard == [0, 1, 2, 3]
    assert job.id in caplog.text
    assert type(error).__name__ in caplog.text


def test_a_value_that_can_not_be_decoded_is_reported_and_delivery_goes_on(
    feed: Feed, play: Play, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    job, heard = Job(), []

    def decode(data: bytes) -> Any:
        if data == b"1":
            raise KeyError("a decoder's own fault")
        return json.loads(data)

    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value), decode)
    loop.call(feed.follow, watch)
    loop.run(play.say(*job.life(3)))
    watch.delivered.result(10)
    assert heard == [0, 2]
    assert "a decoder's own fault" in caplog.text


def test_a_large_value_keeps_its_place_in_the_order(feed: Feed, play: Play, loop: Loop) -> None:
    job, heard = Job(), []
    reference = Reference(subject="s", first=1, last=2, chunks=2, size=9, digest="")
    events = [job.status(JobStatus.RUNNING), job.interim("a"), job.interim(None, reference), job.interim("c")]
    play.large[events[2].sequence] = [b'"lar', b'ge"']
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value))
    loop.call(feed.follow, watch)
    loop.run(play.say(*events, job.status(JobStatus.COMPLETED)))
    watch.delivered.result(10)
    assert heard == ["a", "large", "c"]


def test_what_was_heard_before_is_left_out(feed: Feed, play: Play, loop: Loop) -> None:
    job, heard = Job(), []
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value), after=3)
    loop.call(feed.follow, watch)
    loop.run(play.say(*job.life(5)))
    watch.delivered.result(10)
    assert heard == [3, 4]


def test_a_callback_that_is_no_longer_wanted_is_not_called(feed: Feed, play: Play, loop: Loop) -> None:
    job, heard, first = Job(), [], threading.Event()

    def callback(job_id: str, value: Any) -> None:
        heard.append(value)
        watch.callback = None
        first.set()

    watch = Watch(job.id, SESSION, callback)
    loop.call(feed.follow, watch)
    loop.run(play.say(*job.life(5)))
    watch.delivered.result(10)
    assert heard == [0]


def test_a_job_whose_events_do_not_come_is_completed_from_elsewhere(feed: Feed, play: Play, loop: Loop) -> None:
    job, heard = Job(), []
    life = job.life(5)
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value))
    loop.call(feed.follow, watch)
    loop.run(play.say(*life[:3]))
    loop.run(asyncio.sleep(0.01))
    loop.call(feed.complete, watch, lambda after: list(range(5))[after:])
    loop.run(play.say(*life[3:]))
    watch.delivered.result(10)
    assert heard == [0, 1, 2, 3, 4]


def open_session(feed: Feed, loop: Loop) -> SessionFeed:
    async def opened() -> SessionFeed:
        return feed.session(SESSION)

    return loop.run(opened())


def submit(session: SessionFeed, play: Play, loop: Loop, watch: Watch, *early: Event) -> None:
    """A submission whose answer is overtaken by events."""

    async def work() -> None:
        with session.submission() as add:
            await play.say(*early)
            await asyncio.sleep(0.01)
            add(watch)

    loop.run(work())


def test_events_that_overtake_the_answer_to_their_submission_are_not_lost(feed: Feed, play: Play, loop: Loop) -> None:
    session, job, heard = open_session(feed, loop), Job(), []
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value))
    submit(session, play, loop, watch, *job.life(3))
    watch.delivered.result(10)
    assert heard == [0, 1, 2]


def test_all_jobs_of_a_session_share_one_reader(feed: Feed, play: Play, loop: Loop) -> None:
    session = open_session(feed, loop)
    for _ in range(5):
        job = Job()
        watch = Watch(job.id, SESSION)
        submit(session, play, loop, watch)
        loop.run(play.say(*job.life(2)))
        watch.ended.result(10)
    assert play.readers == 1


def test_where_a_sessions_events_are_broken_each_job_gets_a_reader_of_its_own(
    feed: Feed, play: Play, loop: Loop
) -> None:
    session, job, later, heard = open_session(feed, loop), Job(), Job(), []
    life = job.life(4)
    watch = Watch(job.id, SESSION, lambda job_id, value: heard.append(value))
    submit(session, play, loop, watch, *life[:3])
    loop.run(play.say(StreamError("a gap"), *life[3:]))
    watch.delivered.result(10)
    assert heard == [0, 1, 2, 3]
    following = Watch(later.id, SESSION)
    submit(session, play, loop, following, *later.life(1))
    following.ended.result(10)


def test_closing_tells_those_who_wait_that_the_job_goes_on(feed: Feed, play: Play, loop: Loop) -> None:
    session, job, alone = open_session(feed, loop), Job(), Job()
    watches = [Watch(job.id, SESSION), Watch(alone.id, SESSION)]
    submit(session, play, loop, watches[0], job.status(JobStatus.RUNNING))
    loop.call(feed.follow, watches[1])
    loop.run(asyncio.sleep(0.01))
    loop.run(feed.close())
    for watch in watches:
        with pytest.raises(StreamError, match="the job goes on"):
            watch.delivered.result(10)
