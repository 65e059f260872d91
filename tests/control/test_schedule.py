"""Who runs next, without a clock, a store or a worker."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from neartime.contract.sessions import SessionMode
from neartime_server.control.schedule import (
    HALF_LIFE,
    PATIENCE,
    Close,
    Dismiss,
    Expire,
    Give,
    Job,
    Picture,
    Session,
    Worker,
    decayed,
    line,
    schedule,
)

NOW = datetime(2026, 1, 1)  # noqa: DTZ001 - as the database holds it
DEDICATED, BATCH, LONE = SessionMode.DEDICATED, SessionMode.BATCH, SessionMode.JOB


def session(name: str, mode: SessionMode = LONE, *, started: bool = False, **more: object) -> Session:
    base = Session(name, "tenant", "aer", mode, False, NOW if started else None, NOW, 1000, 100)
    return replace(base, **more)  # type: ignore[arg-type]


def job(name: str, of: str, worker: str | None = None, version: str = "v1", **more: object) -> Job:
    return replace(Job(name, "tenant", of, version, worker), **more)  # type: ignore[arg-type]


def picture(
    sessions: list[Session], jobs: list[Job], workers: list[Worker] | None = None, places: int = 2, now: datetime = NOW
) -> Picture:
    return Picture(now, {"aer": places}, sessions, jobs, workers or [])


def begun(view: Picture) -> list[tuple[str, str | None]]:
    return [(one.job.id, one.worker_id) for one in schedule(view).decisions if isinstance(one, Give)]


def test_lone_jobs_begin_in_the_order_of_their_arrival_as_many_as_there_are_places() -> None:
    sessions = [session(name) for name in "abc"]
    jobs = [job("3", "c"), job("1", "a"), job("2", "b")]
    assert begun(picture(sessions, jobs)) == [("1", None), ("2", None)]
    assert schedule(picture(sessions, jobs)).waiting == {"c": "aer"}


def test_a_jobs_place_is_free_only_when_it_has_ended() -> None:
    sessions = [session("a", started=True), session("b")]
    assert begun(picture(sessions, [job("1", "a", "w"), job("2", "b")], places=1)) == []
    assert begun(picture(sessions, [job("2", "b")], places=1)) == [("2", None)]


def test_a_batch_session_uses_its_idle_workers_and_starts_more_up_to_the_parallelism() -> None:
    sessions = [session("a", BATCH, started=True)]
    jobs = [job("1", "a"), job("2", "a"), job("3", "a")]
    assert begun(picture(sessions, jobs, [Worker("w", "a", "v1")])) == [("1", "w"), ("2", None)]


def test_a_worker_runs_only_its_own_session_and_version() -> None:
    sessions = [session("a", BATCH, started=True), session("b", BATCH, started=True)]
    workers = [Worker("w", "b", "v1"), Worker("x", "a", "v2")]
    assert begun(picture(sessions, [job("1", "a")], workers)) == [("1", None)]


def test_a_dedicated_session_has_the_backend_for_itself_until_it_is_closed() -> None:
    mine, other = session("a", DEDICATED, started=True), session("b")
    assert begun(picture([mine, other], [job("1", "b")])) == []
    assert begun(picture([mine, other], [job("1", "b"), job("2", "a")])) == [("2", None)]
    assert begun(picture([other], [job("1", "b")])) == [("1", None)]


def test_a_dedicated_session_runs_its_jobs_one_after_the_other() -> None:
    mine = session("a", DEDICATED, started=True)
    assert begun(picture([mine], [job("1", "a", "w"), job("2", "a")], [Worker("w", "a", "v1")])) == []
    assert begun(picture([mine], [job("2", "a"), job("3", "a")], [Worker("w", "a", "v1")])) == [("2", "w")]


def test_nobody_overtakes_a_dedicated_session_that_waits_for_the_backend() -> None:
    sessions = [session("a", started=True), session("b", DEDICATED), session("c")]
    assert begun(picture(sessions, [job("1", "a", "w"), job("2", "b"), job("3", "c")])) == []
    assert begun(picture(sessions[1:], [job("2", "b"), job("3", "c")])) == [("2", None)]


def test_a_dedicated_session_without_a_job_holds_nothing_yet() -> None:
    assert begun(picture([session("a", DEDICATED), session("b")], [job("1", "b")])) == [("1", None)]


def test_a_session_that_drains_still_runs_what_was_queued_and_then_closes() -> None:
    draining = session("a", BATCH, draining=True)
    assert begun(picture([draining], [job("1", "a")])) == [("1", None)]
    assert schedule(picture([draining], [])).decisions == [Close(draining)]


def test_a_lone_jobs_session_closes_with_its_job() -> None:
    lone = session("a", started=True)
    assert schedule(picture([lone], [job("1", "a", "w")])).decisions == []
    assert schedule(picture([lone], [])).decisions == [Close(lone)]


def test_an_idle_session_closes_after_its_interactive_ttl_and_the_plan_says_when_to_look() -> None:
    idle = session("a", DEDICATED, started=True)
    plan = schedule(picture([idle], [], now=NOW + timedelta(seconds=99)))
    assert (plan.decisions, plan.due) == ([], NOW + timedelta(seconds=100))
    (closing,) = schedule(picture([idle], [], now=NOW + timedelta(seconds=100))).decisions
    assert isinstance(closing, Close)
    assert "interactive_ttl of 100 s" in str(closing.reason)


def test_a_session_with_a_job_is_not_idle_but_ends_at_its_max_ttl() -> None:
    mine = session("a", DEDICATED, started=True)
    jobs = [job("1", "a", "w"), job("2", "a")]
    assert schedule(picture([mine], jobs, now=NOW + timedelta(seconds=500))).decisions == []
    (expired,) = schedule(picture([mine], jobs, now=NOW + timedelta(seconds=1000))).decisions
    assert isinstance(expired, Expire)


def test_an_attempt_that_waits_lets_others_go_ahead() -> None:
    later = NOW + timedelta(seconds=4)
    sessions = [session("a", started=True), session("b")]
    view = picture(sessions, [job("1", "a", not_before=later), job("2", "b")], places=1)
    assert begun(view) == [("2", None)]
    assert schedule(view).due == later
    assert begun(replace(view, now=later)) == [("1", None)]


def test_a_job_that_is_to_be_cancelled_does_not_begin() -> None:
    assert begun(picture([session("a")], [job("1", "a", cancelled=True)])) == []


def test_workers_of_closed_sessions_are_dismissed() -> None:
    assert schedule(picture([], [], [Worker("w", "a", "v1")])).decisions == [Dismiss("w")]


modes = st.sampled_from([DEDICATED, BATCH, LONE])


@given(
    st.lists(st.tuples(modes, st.booleans()), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12),
    st.integers(1, 4),
)
def test_places_are_never_oversold_and_a_dedicated_session_is_never_beside_another(
    chosen: list[tuple[SessionMode, bool]], queued: list[tuple[int, bool]], places: int
) -> None:
    """From any reachable picture, carried on: jobs begin, the plan is carried out, jobs end, until none is left."""
    sessions = {str(number): session(str(number), mode) for number, (mode, _) in enumerate(chosen)}
    jobs = {
        f"{number:03}": job(f"{number:03}", str(of % len(chosen)), version="v1" if first else "v2")
        for number, (of, first) in enumerate(queued)
    }
    rounds = 0
    while jobs:
        plan = schedule(picture(list(sessions.values()), list(jobs.values()), places=places))
        for one in plan.decisions:
            if isinstance(one, Give):
                jobs[one.job.id] = replace(one.job, worker_id=f"w{one.job.id}")
                sessions[one.session.id] = replace(one.session, started=NOW)
            elif isinstance(one, Close):
                sessions.pop(one.session.id, None)
        running = [one for one in jobs.values() if one.worker_id]
        assert len(running) <= places
        owners = {one.session_id for one in running if sessions[one.session_id].mode is DEDICATED}
        if owners:
            assert len(running) == 1
        assert running or plan.decisions, "nothing runs and nothing is done: the queue is stuck"
        for one in running[:1]:
            del jobs[one.id]
        if not running:
            sessions = {key: replace(value, draining=True) for key, value in sessions.items()}
        # A dedicated session that has run dry would hold the backend until it idles out: here its user closes it.
        alive = {one.session_id for one in jobs.values()}
        sessions = {key: value for key, value in sessions.items() if key in alive}
        rounds += 1
        assert rounds < 100


def test_the_instance_that_used_a_backend_least_is_next_and_each_has_its_own_order() -> None:
    sessions = [session(name) for name in "abcd"]
    jobs = [job("1", "a", instance_id="busy"), job("2", "b", instance_id="busy"), job("3", "c", instance_id="calm")]
    view = picture(sessions, [*jobs, job("4", "d", instance_id="calm")], places=3)
    shares = {("busy", "aer"): 1000.0, ("calm", "aer"): 10.0, ("calm", "other"): 9e9}
    assert [name for name, _ in begun(replace(view, shares=shares))] == ["3", "4", "1"]
    assert [name for name, _ in begun(view)] == ["1", "3", "2"]


def test_what_was_used_long_ago_counts_less() -> None:
    assert decayed(100.0, 0.0) == 100.0
    assert decayed(100.0, HALF_LIFE) == 50.0
    assert decayed(100.0, -5.0) == 100.0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(1, 300)), max_size=60),
    st.tuples(*[st.sampled_from([0.5, 1.0, 4.0])] * 3),
    st.integers(1, 3),
)
def test_nobody_starves_however_much_the_others_bring(
    brought: list[tuple[str, float]], weights: tuple[float, float, float], places: int
) -> None:
    """One job of a fourth instance comes last, behind a queue that is filled up again as long as it waits."""
    weight = dict(zip("abc", weights, strict=True)) | {"poor": 1.0}
    lengths = {f"{number:05}": length for number, (_, length) in enumerate(brought)}
    queue = {f"{number:05}": owner for number, (owner, _) in enumerate(brought)}
    queue["00100"], lengths["00100"] = "poor", 10.0
    running: dict[str, float] = {}
    used = dict.fromkeys(weight, 0.0)
    clock, following = 0.0, 200
    for _ in range(300):
        for owner in "abc":  # each of them always has something that waits
            queue[f"{following:05}"], lengths[f"{following:05}"] = owner, 60.0
            following += 1
        sessions = [session(name, started=name in running, instance_id=owner) for name, owner in queue.items()]
        jobs = [
            job(name, name, f"w{name}" if name in running else None, instance_id=owner) for name, owner in queue.items()
        ]
        shares = {(owner, "aer"): used[owner] / weight[owner] for owner in used}
        for name, _ in begun(replace(picture(sessions, jobs, places=places), shares=shares)):
            running[name] = clock + lengths[name]
        if "00100" in running:
            return
        done = min(running, key=lambda name: running[name])
        used = {owner: decayed(seconds, running[done] - clock) for owner, seconds in used.items()}
        clock = running.pop(done)
        used[queue.pop(done)] += lengths[done]
    raise AssertionError("the last one waits still")


def test_shares_of_a_busy_backend_are_as_the_weights_are() -> None:
    used, weight = {"one": 0.0, "three": 0.0}, {"one": 1.0, "three": 3.0}
    served = {"one": 0, "three": 0}
    for number in range(400):
        owners = {f"{number:05}a": "one", f"{number:05}b": "three"}
        sessions = [session(name, instance_id=owner) for name, owner in owners.items()]
        jobs = [job(name, name, instance_id=owner) for name, owner in owners.items()]
        shares = {(owner, "aer"): used[owner] / weight[owner] for owner in used}
        ((name, _),) = begun(replace(picture(sessions, jobs, places=1), shares=shares))
        used[owners[name]] += 60.0
        served[owners[name]] += 1
    assert 2.8 < served["three"] / served["one"] < 3.2


def test_an_instance_at_its_limit_leaves_the_places_to_others() -> None:
    sessions = [session(name) for name in "abc"] + [session("d", started=True, instance_id="full")]
    jobs = [job(name, name, instance_id="full") for name in "ab"] + [job("c", "c", instance_id="other")]
    view = picture(sessions, [*jobs, job("d", "d", "w", instance_id="full")], places=4)
    assert [name for name, _ in begun(replace(view, most={"full": 1}, shares={("other", "aer"): 9e9}))] == ["c"]
    assert [name for name, _ in begun(replace(view, most={"full": 2}, shares={("other", "aer"): 9e9}))] == ["a", "c"]


def test_a_higher_priority_goes_first_until_a_lower_one_has_waited_as_long_as_they_differ() -> None:
    sessions = [session(name, instance_id=name) for name in "ab"]
    shares = {("b", "aer"): 9e9}
    low = job("1", "a", instance_id="a", created=NOW)
    for waited, first in ((0.0, "2"), (29.0, "2"), (30.0, "1")):
        now = NOW + timedelta(seconds=waited * PATIENCE)
        high = job("2", "b", instance_id="b", priority=30, created=now)
        view = picture(sessions, [low, high], places=1, now=now)
        assert [name for name, _ in begun(replace(view, shares=shares))] == [first], waited


def test_a_negative_priority_lets_others_go_ahead() -> None:
    sessions = [session(name) for name in "ab"]
    jobs = [job("1", "a", priority=-5, created=NOW), job("2", "b", created=NOW)]
    assert begun(picture(sessions, jobs, places=1)) == [("2", None)]
    assert begun(picture(sessions[:1], jobs[:1], places=1)) == [("1", None)]


def test_a_job_that_waits_by_the_side_of_a_higher_one_leaves_shares_as_they_are() -> None:
    """Minutes of waiting count against a higher priority alone."""
    sessions = [session(name, instance_id=name) for name in "abc"]
    jobs = [
        job("1", "a", instance_id="a", created=NOW - timedelta(seconds=5 * PATIENCE)),
        job("2", "b", instance_id="b", created=NOW),
        job("3", "c", instance_id="c", created=NOW, priority=10),
    ]
    view = replace(picture(sessions, jobs, places=3), shares={("a", "aer"): 1000.0})
    assert [name for name, _ in begun(view)] == ["3", "2", "1"]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(-20, 20), st.integers(1, 3), st.floats(20, 600))
def test_nobody_starves_below_a_priority_that_never_ends(above: int, own: int, places: int, length: float) -> None:
    """On a simulated clock: jobs above it come without end, and it begins as soon as it has waited the difference out
    and a place is free."""
    queue = {"00000": own}
    created = {"00000": NOW}
    running: dict[str, datetime] = {}
    now, following = NOW, 1
    while "00000" not in running:
        for _ in range(places + 1):
            name = f"{following:05}"
            queue[name], created[name] = own + above, now
            following += 1
        sessions = [session(name, started=name in running, instance_id=name) for name in queue]
        jobs = [
            job(
                name,
                name,
                f"w{name}" if name in running else None,
                instance_id=name,
                priority=level,
                created=created[name],
            )
            for name, level in queue.items()
        ]
        for name, _ in begun(picture(sessions, jobs, places=places, now=now)):
            running[name] = now + timedelta(seconds=length)
        if "00000" in running:
            break
        done = min(running, key=lambda name: running[name])
        now = running.pop(done)
        del queue[done]
        waiting = [name for name in queue if name not in running]
        for name in waiting[1 + places :]:  # they would only make the test slow
            del queue[name]
    assert now - NOW <= timedelta(seconds=above * PATIENCE + length)


def test_the_line_is_the_order_of_beginning_and_says_what_each_one_waits_for() -> None:
    mine, other = session("a", DEDICATED, started=True), session("b", instance_id="other")
    view = picture([mine, other], [job("1", "b", instance_id="other"), job("2", "a", "w"), job("3", "a")])
    assert [(one.job.id, one.position) for one in line(view, "aer")] == [("3", 1), ("1", 2)]
    first, second = (one.waits_for for one in line(view, "aer"))
    assert first == "the job before it: a dedicated session runs one at a time"
    assert (
        second == "somebody else's dedicated session, which has the backend until 2026-01-01 00:16:40 UTC at the latest"
    )
    assert line(view, "elsewhere") == []


def test_the_line_tells_of_limits_places_and_sessions_that_come_before() -> None:
    sessions = [session("a", started=True), session("b"), session("c", DEDICATED), session("d")]
    jobs = [job("1", "a", "w"), job("2", "b"), job("3", "c"), job("4", "d")]
    later = job("5", "d", not_before=NOW + timedelta(seconds=4))
    view = picture(sessions, [*jobs, later], places=1)
    assert [one.waits_for for one in line(view, "aer")] == [
        "a place: 1 may run at a time",
        "the end of what runs now: its session is dedicated, and wants the backend alone",
        "a dedicated session, which comes before it",
        "its next attempt, at 2026-01-01 00:00:04 UTC",
    ]
    limited = line(replace(view, most={"tenant": 1}), "aer")
    assert limited[0].waits_for == "a job of its instance to end: 1 may run at a time"
    gone = line(replace(view, parallelism={}), "aer")
    assert gone[0].waits_for == "the backend 'aer', which is not offered any more"


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-2, 2), st.integers(0, 300)), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_jobs_begin_in_the_order_of_the_line(waiting: list[tuple[str, int, int]], places: int) -> None:
    sessions = [session(f"{number:03}", instance_id=owner) for number, (owner, _, _) in enumerate(waiting)]
    jobs = [
        job(f"{n:03}", f"{n:03}", instance_id=owner, priority=level, created=NOW - timedelta(seconds=waited))
        for n, (owner, level, waited) in enumerate(waiting)
    ]
    view = picture(sessions, jobs, places=places)
    told = [one.job.id for one in line(view, "aer")]
    assert sorted(told) == sorted(one.id for one in jobs)
    assert [name for name, _ in begun(view)] == told[:places]
