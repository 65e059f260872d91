"""Whose turn it is: whatever comes in whatever order, sessions that want to be alone are."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from neartime_runner.turns import Turns

CALLS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=20
)
"""Session, when it comes, how long it takes (both in turns of the loop), whether it is given up."""


@settings(max_examples=150, deadline=None)
@given(CALLS, st.integers(1, 3), st.sets(st.sampled_from("abcd")))
def test_nobody_is_beside_a_session_that_is_alone_and_everybody_has_a_turn(
    calls: list[tuple[str, int, int, bool]], places: int, alone: set[str]
) -> None:
    inside: Counter[str] = Counter()
    served = 0

    async def call(turns: Turns, session: str, comes: int, takes: int) -> None:
        nonlocal served
        for _ in range(comes):
            await asyncio.sleep(0)
        async with turns.turn(session, alone=session in alone):
            inside[session] += 1
            try:
                there = {one for one, count in inside.items() if count}
                assert len(there) <= places
                assert there == {session} or not there & alone
                for _ in range(takes):
                    await asyncio.sleep(0)
            finally:
                inside[session] -= 1
            served += 1

    async def all_of_them() -> None:
        turns = Turns(places)
        tasks = [asyncio.create_task(call(turns, *rest)) for *rest, _ in calls]
        for _ in range(2):
            await asyncio.sleep(0)
        for task, (*_, given_up) in zip(tasks, calls, strict=True):
            if given_up:
                task.cancel()
        for task in asyncio.as_completed(tasks, timeout=5):
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(all_of_them())
    assert served >= sum(not given_up for *_, given_up in calls)


async def test_who_is_behind_a_session_that_wants_to_be_alone_waits_too() -> None:
    turns, order = Turns(2), []

    async def call(session: str, *, alone: bool, leave: asyncio.Event) -> None:
        async with turns.turn(session, alone=alone):
            order.append(session)
            await leave.wait()

    first, second, third = (asyncio.Event() for _ in range(3))
    tasks = [asyncio.create_task(call("a", alone=False, leave=first))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(call("b", alone=True, leave=second)))
    tasks.append(asyncio.create_task(call("c", alone=False, leave=third)))
    await asyncio.sleep(0.01)
    assert order == ["a"]
    first.set()
    await asyncio.sleep(0.01)
    assert order == ["a", "b"]
    second.set()
    third.set()
    await asyncio.gather(*tasks)
    assert order == ["a", "b", "c"]
