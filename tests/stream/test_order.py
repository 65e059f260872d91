"""A job's events, however they are stored: each is handed on once and in order, and what is missing is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream.harness import Life, read, said, status, stored

from neartime.contract.events import Envelope, Sequencer
from neartime.contract.jobs import JobStatus
from neartime.errors import StreamError
from neartime.stream import Event
from neartime.stream.order import GAP_SECONDS, HELD_BYTES, OVERHEAD, Order, Patience

T = TypeVar("T")
JUST_BEFORE = GAP_SECONDS - 0.001


@st.composite
def disorders(draw: st.DrawFn, items: Sequence[T]) -> list[T]:
    """The items in any order, some of them twice or three times."""
    again = draw(st.lists(st.sampled_from(items), max_size=len(items))) if items else []
    return draw(st.permutations([*items, *again]))


@st.composite
def mixes(draw: st.DrawFn, parts: Sequence[Sequence[T]]) -> list[T]:
    """All parts as one, each in its own order."""
    turns = draw(st.permutations([at for at, part in enumerate(parts) for _ in part]))
    rest = [iter(part) for part in parts]
    return [next(rest[at]) for at in turns]


@st.composite
def wholes(draw: st.DrawFn) -> list[Event]:
    """All events of a job that ran to its end, in the order of publishing."""
    return Life().whole(draw(st.integers(0, 8)), draw(st.sampled_from([JobStatus.COMPLETED, JobStatus.FAILED])))


@st.composite
def jobs(draw: st.DrawFn) -> list[Event]:
    """Several jobs' events in one stream, each job's in disorder."""
    lives = draw(st.lists(wholes(), min_size=1, max_size=3))
    return stored(draw(mixes([draw(disorders(life)) for life in lives])))


# --- one job


@settings(deadline=None)
@given(st.data())
def test_a_jobs_events_are_handed_on_once_and_in_order_however_they_are_stored(data: st.DataObject) -> None:
    life = data.draw(wholes())
    order = Order()
    assert said(read(stored(data.draw(disorders(life))), order)) == said(life)
    assert order.ended == {life[0].job_id}
    assert order.look(1e9) == order.finish() == []
    assert order.dropped == 0


@settings(deadline=None)
@given(st.data())
def test_what_is_there_without_a_gap_is_handed_on_at_once(data: st.DataObject) -> None:
    life = data.draw(wholes())
    order = Order()
    for event in stored(life):
        assert order.push(event, 0.0) == [event]


@settings(deadline=None)
@given(st.data())
def test_whatever_is_missing_the_control_planes_word_ends_the_job_behind_all_that_came(data: st.DataObject) -> None:
    life = Life()
    events = life.whole(data.draw(st.integers(0, 8)))[:-1]
    came = data.draw(st.sets(st.sampled_from(events), max_size=len(events)))
    arrivals = data.draw(disorders([event for event in events if event in came]))
    end = life.control(JobStatus.FAILED)
    late = data.draw(disorders(events))
    order = Order()
    handed = read(stored([*arrivals, end, *late, end]), order)
    assert said(handed) == [*said(event for event in events if event in came), *said([end])]
    assert order.ended == {life.job_id}
    assert order.look(1e9) == order.finish() == []


@settings(deadline=None)
@given(st.data())
def test_nothing_is_handed_on_behind_the_final_status(data: st.DataObject) -> None:
    life = Life()
    events = life.whole(data.draw(st.integers(0, 3)))
    beyond = [life.interim() for _ in range(data.draw(st.integers(1, 3)))]
    assert said(read(stored(data.draw(disorders([*events, *beyond]))))) == said(events)


def test_of_two_final_statuses_the_one_that_was_stored_first_counts() -> None:
    life = Life()
    first, *_, result, end = life.whole(1)
    arrivals = stored([first, result, end, life.control(JobStatus.FAILED)])
    assert said(read(arrivals)) == said([first, result, end])


def test_a_job_that_the_control_plane_queues_again_is_told_once() -> None:
    life = Life()
    queued = life.control(JobStatus.QUEUED, attempt=2)
    begun = life.interim()
    assert said(read(stored([begun, queued, queued]))) == said([begun, queued])


# --- attempts


@settings(deadline=None)
@given(st.data())
def test_an_attempt_ends_the_one_before_it_and_what_still_comes_of_that_is_dropped(data: st.DataObject) -> None:
    life = Life()
    attempts: list[list[Event]] = []
    for _ in range(data.draw(st.integers(1, 3))):
        attempts.append([life.say("checkpoint") for _ in range(data.draw(st.integers(1, 4)))])
        life.again()
    last = life.whole(0)
    arrivals: list[Event] = []
    for earlier in attempts:
        arrivals += data.draw(disorders(earlier))
    late = data.draw(st.lists(st.sampled_from([event for earlier in attempts for event in earlier]), max_size=5))
    final = data.draw(mixes([data.draw(disorders(last)), late]))
    # Of a straggler that is stored before the last attempt's first event, its own attempt still goes on.
    handed = said(read(stored([*arrivals, *final])))
    assert handed == [*said(event for earlier in attempts for event in earlier), *said(last)]


@settings(deadline=None)
@given(st.data())
def test_what_an_attempt_left_behind_a_gap_does_not_hold_up_the_next(data: st.DataObject) -> None:
    life = Life()
    begun = life.interim()
    life.interim()  # is never stored
    stuck = [life.say("status", status(JobStatus.FAILED)), *(life.interim() for _ in range(3))]
    life.again(index=1)
    first, *rest = life.whole(2)
    order = Order()
    assert said(read(stored([begun, *data.draw(disorders(stuck)), rest[0]]), order)) == said([begun])
    # The earlier attempt's end, which nobody heard, does not make a gap of this one an error.
    assert order.look(1e9) == []
    assert said(order.push(first, 1e9)) == said([first, rest[0]])


def test_a_gap_is_waited_for_from_its_own_beginning_and_not_from_that_of_an_earlier_attempt() -> None:
    life = Life()
    begun, _, stuck = life.interim(), life.interim(), life.interim()
    life.again(index=1)
    _, *_, end = life.whole(2)
    order = Order()
    assert said(read(stored([begun, stuck]), order)) == said([begun])
    assert order.push(end, 100.0) == []
    assert order.look(100.0 + JUST_BEFORE) == []
    with pytest.raises(StreamError, match="number 1 of attempt 2"):
        order.look(100.0 + GAP_SECONDS)


@settings(deadline=None)
@given(st.data())
def test_interim_results_that_a_later_attempt_repeats_are_handed_on_once(data: st.DataObject) -> None:
    life = Life()
    arrivals, published = [], 0
    for _ in range(data.draw(st.integers(1, 4))):
        life.index = data.draw(st.integers(0, published))  # a checkpoint accounts for so many
        events = [life.say("checkpoint"), *(life.interim() for _ in range(data.draw(st.integers(0, 5))))]
        arrivals += data.draw(disorders(events))
        published = max(published, life.index)
        life.again()
    handed = [event.envelope.index for event in read(stored(arrivals)) if event.kind == "interim"]
    assert handed == list(range(1, published + 1))


# --- many jobs


@settings(deadline=None)
@given(jobs())
def test_jobs_in_one_stream_do_not_disturb_each_other(arrivals: list[Event]) -> None:
    handed = read(arrivals)
    for job_id in {event.job_id for event in arrivals}:
        alone = read(event for event in arrivals if event.job_id == job_id)
        assert [event for event in handed if event.job_id == job_id] == alone


def test_many_jobs_whose_first_events_are_gone_are_all_read_from_what_there_is() -> None:
    lives = [Life().whole(2)[2:] for _ in range(5)]
    waits: list[Callable[[Order], list[Event]]] = [lambda order: order.look(GAP_SECONDS), lambda order: order.finish()]
    for wait in waits:
        order = Order()
        assert read(stored(event for life in lives for event in life), order) == []
        assert said(wait(order)) == said(event for life in lives for event in life)
        assert order.ended == {life[0].job_id for life in lives}


def test_a_job_that_waits_does_not_hold_up_another_ones_end() -> None:
    first, missing, third = (life := Life()).interim(), life.interim(), life.interim()
    other = Life().whole(3)
    order = Order()
    assert said(read(stored([first, third, *other]), order)) == said([first, *other])
    assert order.look(1e9) == []  # it goes on, and may still publish what is missing
    assert said(order.push(missing, 1e9)) == said([missing, third])


# --- going on behind an event


@settings(deadline=None)
@given(st.data())
def test_reading_goes_on_behind_any_event_whatever_the_order_of_storage(data: st.DataObject) -> None:
    arrivals = data.draw(jobs())
    handed = read(arrivals)
    at = data.draw(st.integers(0, len(handed) - 1))
    assert read(arrivals, Order(handed[at].sequence)) == handed[at + 1 :]


@settings(deadline=None)
@given(st.data())
def test_reading_goes_on_behind_a_message_that_was_not_handed_on_with_what_came_after_it(data: st.DataObject) -> None:
    arrivals = data.draw(jobs())
    order = Order()
    steps = [order.push(event, 0.0) for event in arrivals]
    handed = {event.sequence for due in steps for event in due}
    dropped = [event.sequence for event in arrivals if event.sequence not in handed]
    if dropped:
        after = data.draw(st.sampled_from(dropped))
        assert read(arrivals, Order(after)) == [event for due in steps[after:] for event in due]


@settings(deadline=None)
@given(st.data())
def test_reading_goes_on_although_the_event_that_was_last_is_gone(data: st.DataObject) -> None:
    life = data.draw(wholes())
    arrivals = stored(life)
    gone = data.draw(st.integers(1, len(life) - 1))
    after = data.draw(st.integers(1, gone))
    order = Order(after)
    assert read(arrivals[gone:], order) + order.finish() == arrivals[gone:]


def test_reading_goes_on_behind_an_event_that_waited_in_vain_for_an_earlier_one() -> None:
    life = Life()
    begun, _, stuck = life.interim(), life.interim(), life.interim()
    life.again(index=1)
    rest = life.whole(1)
    arrivals = stored([begun, stuck, *rest])
    assert said(read(arrivals, Order(2))) == said(rest)


def test_a_reader_that_goes_on_behind_the_end_knows_that_the_job_has_ended() -> None:
    life = Life().whole(2)
    order = Order(len(life))
    assert read(stored(life), order) == []
    assert order.ended == {life[0].job_id}


def test_a_reader_that_goes_on_behind_a_log_line_waits_for_lines_no_longer_than_the_first_reader() -> None:
    life = Life()
    first, _, *rest = [life.log(str(number)) for number in range(6)]
    arrivals = stored([first, *rest])
    order = Order()
    handed = read(arrivals, order) + order.look(GAP_SECONDS)
    assert handed == arrivals
    for at, last in enumerate(handed):
        order = Order(last.sequence)
        assert read(arrivals, order) + order.look(GAP_SECONDS) == handed[at + 1 :]


# --- what is missing


@settings(deadline=None)
@given(st.data())
def test_a_missing_event_of_a_job_that_has_ended_is_told_after_a_while_and_not_before(data: st.DataObject) -> None:
    life = data.draw(wholes())
    at = data.draw(st.integers(1, len(life) - 2))
    missing = life[at]
    order = Order()
    now = 1000.0
    handed = []
    for event in data.draw(disorders([event for event in life if event is not missing])):
        now += 0.25
        handed += order.push(event, now)
        handed += order.look(now)
    assert said(handed) == said(life[:at])
    with pytest.raises(StreamError, match=rf"number {at + 1} of attempt 1") as told:
        order.look(now + GAP_SECONDS)
    assert life[0].job_id in str(told.value)


def test_the_wait_for_a_missing_event_begins_when_something_waits_for_it() -> None:
    first, second, _, *rest = Life().whole(3)
    order = Order()
    order.push(first, 0.0)
    order.push(second, 1000.0)
    for event in rest:
        order.push(event, 2000.0)
    assert order.look(2000.0 + JUST_BEFORE) == []
    with pytest.raises(StreamError):
        order.look(2000.0 + GAP_SECONDS)


def test_an_event_that_comes_at_last_is_as_good_as_one_in_time() -> None:
    first, missing, *rest = life = Life().whole(3)
    order = Order()
    assert said(read([first, *rest], order)) == said([first])
    assert order.look(JUST_BEFORE) == []
    assert said(order.push(missing, JUST_BEFORE)) == said([missing, *rest])
    assert order.ended == {life[0].job_id}


def test_waiting_begins_anew_when_the_broker_was_away() -> None:
    first, _, *rest = Life().whole(3)
    order = Order()
    read([first, *rest], order)
    order.begin_anew(100.0)
    assert order.look(100.0 + JUST_BEFORE) == []
    with pytest.raises(StreamError):
        order.look(100.0 + GAP_SECONDS)


def test_a_job_that_goes_on_is_waited_for_without_an_end() -> None:
    life = Life()
    first, _, third = life.interim(), life.interim(), life.interim()
    order = Order()
    assert said(read([first, third], order)) == said([first])
    assert order.look(1e9) == []
    with pytest.raises(StreamError, match="number 2 of attempt 1"):
        order.finish()


@settings(deadline=None)
@given(st.data())
def test_a_job_whose_first_events_are_gone_is_read_from_what_there_is(data: st.DataObject) -> None:
    life = data.draw(wholes())
    rest = life[data.draw(st.integers(1, len(life) - 1)) :]
    arrivals = stored(data.draw(disorders(rest)))
    order = Order()
    assert read(arrivals, order) == []
    assert order.look(JUST_BEFORE) == []
    assert said(order.look(GAP_SECONDS)) == said(rest)
    assert order.ended == {life[0].job_id}
    order = Order()
    assert read(arrivals, order) == []
    assert said(order.finish()) == said(rest)


def test_of_a_job_whose_first_events_are_gone_another_one_that_is_missing_is_told_all_the_same() -> None:
    life = Life().whole(5)
    arrivals = stored([*life[2:4], *life[5:]])
    waits: list[Callable[[Order], list[Event]]] = [lambda order: order.look(GAP_SECONDS), lambda order: order.finish()]
    for wait in waits:
        order = Order()
        assert read(arrivals, order) == []
        assert said(wait(order)) == said(life[2:4])
        assert order.waiting
        with pytest.raises(StreamError, match="number 5 of attempt 1"):
            wait(order)


@settings(deadline=None)
@given(st.data())
def test_a_log_with_holes_goes_on_behind_each_of_them(data: st.DataObject) -> None:
    life = Life()
    lines = [life.log(str(number)) for number in range(data.draw(st.integers(1, 10)))]
    kept = data.draw(st.sets(st.sampled_from(lines), min_size=1))
    came = [line for line in lines if line in kept]
    arrivals = stored(data.draw(disorders(came)))
    order = Order()
    handed = read(arrivals, order)
    assert order.look(JUST_BEFORE) == []
    assert said(handed + order.look(GAP_SECONDS)) == said(came)
    order = Order()
    assert said(read(arrivals, order) + order.finish()) == said(came)


def test_a_hole_in_a_log_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    life = Life()
    first, _, third = life.log(), life.log(), life.log()
    order = Order()
    read([first, third], order)
    with caplog.at_level(logging.WARNING, logger="neartime.stream"):
        order.look(GAP_SECONDS)
    assert [record.getMessage() for record in caplog.records] == [
        f"a part of the log of job {life.job_id} is missing from its stream: number 2 of attempt 1"
    ]


# --- how much may wait


def test_too_much_that_waits_for_a_missing_event_is_told_at_once() -> None:
    life = Life()
    order = Order()
    part = HELD_BYTES // 16
    order.push(life.interim(), 0.0)
    life.interim()
    for _ in range(15):
        assert order.push(life.interim(bytes(part)), 0.0) == []
    with pytest.raises(StreamError, match="number 2 of attempt 1"):
        order.push(life.interim(bytes(part)), 0.0)


def test_too_much_that_waits_for_a_part_of_a_log_is_handed_on() -> None:
    life = Life()
    body = life.log("x" * (1 << 20)).body
    order = Order()
    waiting = [life.say("log", body) for _ in range(1 + HELD_BYTES // len(body))]
    assert said(read(waiting, order)) == said(waiting)
    following = life.say("log", body)
    assert order.push(following, 0.0) == [following]


def test_too_much_that_waits_for_a_jobs_first_events_is_handed_on() -> None:
    life = Life()
    life.interim()
    waiting = [life.interim(bytes(1 << 20)) for _ in range(1 + (HELD_BYTES >> 20))]
    assert said(read(waiting, order := Order())) == said(waiting)
    following = life.interim()
    assert order.push(following, 0.0) == [following]


def test_events_that_come_again_and_again_while_one_is_missing_are_not_too_much() -> None:
    life = Life()
    first, missing, large = life.interim(), life.interim(), life.interim(bytes(HELD_BYTES // 4))
    order = Order()
    order.push(first, 0.0)
    for _ in range(10):
        assert order.push(large, 0.0) == []
    assert said(order.push(missing, 0.0)) == said([missing, large])


def test_what_an_earlier_attempt_left_waiting_does_not_count() -> None:
    life = Life()
    order = Order()
    for _ in range(10):
        first, missing, large = life.interim(), life.interim(), life.interim(bytes(HELD_BYTES // 4))
        assert order.push(first, 0.0) == [first]
        assert order.push(large, 0.0) == []
        life.again(index=life.index)
    assert life.attempt == 11
    assert missing.envelope.attempt == 10


def test_gaps_that_were_filled_do_not_add_up() -> None:
    life = Life()
    order = Order()
    order.push(life.interim(), 0.0)
    for _ in range(10):
        missing, large, other, small = (
            life.interim(),
            life.interim(bytes(HELD_BYTES // 4)),
            life.interim(),
            life.interim(),
        )
        assert order.push(large, 0.0) == []
        assert order.push(small, 0.0) == []
        assert said(order.push(missing, 0.0)) == said([missing, large])
        assert said(order.push(other, 0.0)) == said([other, small])


def test_events_with_nothing_in_them_are_too_many_at_last() -> None:
    life = Life()
    order = Order()
    order.push(life.interim(), 0.0)
    life.interim()
    many = [life.interim(b"") for _ in range(HELD_BYTES // OVERHEAD)]
    assert read(many, order) == []
    with pytest.raises(StreamError, match="number 2"):
        order.push(life.interim(b""), 0.0)


# --- how long a reader has waited


@settings(deadline=None)
@given(st.lists(st.floats(0, 5), min_size=1, max_size=50))
def test_in_a_busy_stream_the_time_that_passes_counts(pauses: list[float]) -> None:
    patience, now = Patience(1000.0), 1000.0
    for pause in pauses:
        now += min(pause, 1.0)
        patience.tick(now, 1e9 + now)
    assert patience.seconds == pytest.approx(now - 1000.0, abs=1e-3)


def test_what_was_stored_long_ago_or_read_late_is_not_waited_for() -> None:
    old = Patience(0.0)
    old.tick(0.0, 1e9)
    assert old.tick(0.1, 1e9 + 3600.0) == pytest.approx(0.1)  # an hour for the broker, a moment for the reader
    slow = Patience(0.0)
    slow.tick(0.0, 1e9)
    assert slow.tick(3600.0, 1e9 + 0.1) == pytest.approx(0.1, abs=1e-3)  # and the other way round


def test_an_outage_is_not_waited_for_and_a_silence_in_which_the_broker_is_heard_is() -> None:
    patience = Patience(0.0)
    patience.tick(0.0, 1e9)
    assert patience.tick(60.0, 1e9 + 60.0) == Patience.STEP
    for second in range(61, 71):
        patience.tick(second)
    assert patience.seconds == Patience.STEP + 10.0


def test_a_brokers_clock_that_is_set_back_does_no_harm() -> None:
    patience = Patience(0.0)
    patience.tick(1.0, 1e9)
    assert patience.tick(2.0, 1e9 - 3600.0) == 1.0
    assert patience.tick(3.0, 1e9 + 1.0) == 2.0


# --- what is no event


def test_a_body_that_its_kind_does_not_allow_is_dropped_counted_and_holds_up_nothing() -> None:
    life = Life()
    events = [life.interim(), life.say("status", b"no JSON"), life.say("status", b'{"status": "Up"}'), life.interim()]
    order = Order()
    assert said(read(events, order)) == said([events[0], events[3]])
    assert order.dropped == 2
    log = Life()
    assert read([log.say("log", b"\xff\xfe"), log.say("log", b"[1]\n")], order) == []
    assert order.dropped == 4


# --- the sequencer by itself


@settings(deadline=None)
@given(st.data())
def test_a_sequencer_hands_on_each_number_once_and_in_order(data: st.DataObject) -> None:
    numbers = list(range(1, data.draw(st.integers(1, 12)) + 1))
    arrivals = data.draw(disorders(numbers))
    order: Sequencer[int] = Sequencer()
    handed = []
    for number in arrivals:
        handed += order.push(Envelope("w", 1, number), number)
        assert handed == numbers[: len(handed)]
        assert order.gap == (max(arrivals[: arrivals.index(number) + 1], default=0) > len(handed) or bool(order.held))
    assert handed == numbers
    assert order.dropped == len(arrivals) - len(numbers)
    assert not order.gap


@settings(deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1), st.booleans())
def test_a_sequencer_that_gives_up_what_is_missing_hands_on_all_that_came(numbers: list[int], at_once: bool) -> None:
    order: Sequencer[int] = Sequencer()
    handed = [due for number in numbers for due in order.push(Envelope("w", 1, number), number)]
    while order.gap:
        handed += order.rest() if at_once else order.skip()
    assert handed == sorted(set(numbers))
    assert order.push(Envelope("w", 1, 21), 21) == ([21] if handed[-1] == 20 else [])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), min_size=1))
def test_attempts_of_a_sequencer_never_go_back(arrivals: list[tuple[int, int]]) -> None:
    order: Sequencer[tuple[int, int]] = Sequencer()
    handed = [due for pair in arrivals for due in order.push(Envelope("w", *pair), pair)]
    assert handed == sorted(set(handed))
    for _, group in groupby(handed, key=lambda pair: pair[0]):
        numbers = [number for _, number in group]
        assert numbers == list(range(1, len(numbers) + 1))
