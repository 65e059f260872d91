"""What the control plane holds after many sessions is what it held before them."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter, deque
from collections.abc import Iterator
from types import CellType
from typing import Any

from control.harness import Plane, wait_for

from neartime.contract.launch import Spawned, ZygoteEvent, ZygoteRequest
from neartime_server.bus.tenant import Tenant
from neartime_server.control.fleet import Fleet

SESSIONS = 12
BOUNDED = {
    (Fleet, "_finished"): SESSIONS,
    (Tenant, "_heard"): SESSIONS,
    (Tenant, "_control_keys"): SESSIONS,
}
"""What is kept of each session on purpose, up to a bound of its own."""
SIZED = (dict, list, set, deque)


async def test_nothing_grows_with_sessions_that_are_over(plane: Plane) -> None:
    await used(plane, SESSIONS)  # what is made once is there now, and what stays for a moment
    before, objects, tasks = sizes(plane), living(), len(asyncio.all_tasks())
    await used(plane, SESSIONS)
    after, more = sizes(plane), living() - objects
    grown = {where: size - before[where] for where, size in after.items() if size - before[where] >= SESSIONS // 2}
    assert grown == BOUNDED
    ours = ("neartime", "nats", "_asyncio")  # tasks and futures; timers stay until they would be due
    assert {kind: count for kind, count in more.items() if kind.startswith(ours) and count >= SESSIONS // 2} == {}
    assert len(asyncio.all_tasks()) < tasks + SESSIONS // 2


async def used(plane: Plane, count: int) -> None:
    """So many sessions opened, used and closed; returns when nothing of them is under way any more."""
    for _ in range(count):
        session = await plane.open()
        await plane.until(await plane.submit({}, session_id=session))
        await plane.control.close_session(plane.instance, session)
        await plane.until_closed(session)
    acting = plane.control._acting
    assert acting is not None

    async def over() -> bool:
        workers = acting.workers
        return not (workers.fleet.workers or workers._tasks or acting.reconciler._settling or plane.executor.workers)

    await wait_for(over)
    executor = plane.executor
    await asyncio.gather(*executor.tasks.values(), *executor.closing, return_exceptions=True)
    for written in (executor.tasks, executor.closing, executor.starts, executor.commands, executor.inputs):
        written.clear()  # which the test's own executor keeps


def living() -> Counter[str]:
    """The objects that there are, by their type."""
    gc.collect()
    return Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())


def sizes(plane: Plane) -> Counter[tuple[type, str]]:
    """How much is in each attribute that is a collection, of everything that the server's parts hold."""
    found: Counter[tuple[type, str]] = Counter()
    for owner in held(plane.control, plane.bus, plane.store):
        for name, value in attributes(owner):
            if isinstance(value, SIZED):
                found[type(owner), name] += size(value)
    return found


def size(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value
    return len(value) + sum(size(one) for one in inner if isinstance(one, SIZED))


def held(*roots: object) -> Iterator[object]:
    """Everything of our own, and of the libraries below, that can be reached from here."""
    seen, left = {id(root) for root in roots}, deque(roots)
    while left:
        one = left.popleft()
        yield one
        inside: list[Any] = [value for _, value in attributes(one)]
        if isinstance(one, dict):
            inside += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset, deque)):
            inside += list(one)
        elif isinstance(one, asyncio.Future) and one.done() and not one.cancelled():
            inside.append(one.exception() or one.result())
        elif callable(one):
            inside += [getattr(one, "__self__", None), *(getattr(one, "__closure__", None) or ())]
        elif isinstance(one, CellType):
            inside.append(one.cell_contents)
        for value in inside:
            if id(value) not in seen and not isinstance(value, (str, bytes, int, float, type, type(None))):
                seen.add(id(value))
                left.append(value)


def attributes(one: object) -> list[tuple[str, Any]]:
    if not type(one).__module__.startswith(("neartime", "nats.")):
        return []
    names = [*vars(one)] if hasattr(one, "__dict__") else []
    for kind in type(one).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    return [(name, getattr(one, name)) for name in names if hasattr(one, name)]


def test_ids_of_workers_are_not_kept_by_who_reads_them() -> None:
    """In a zygote's memory every later worker would find them."""
    for adapter, text in (
        (ZygoteEvent, Spawned(worker_id="0mwvwfhyus5id1raxh68", pid=1).model_dump_json()),
        (ZygoteRequest, '{"type": "forget", "worker_id": "0mwvwfhyus5id1raxh68"}'),
    ):
        first, second = adapter.validate_json(text), adapter.validate_json(text)
        assert first.worker_id == second.worker_id
        assert first.worker_id is not second.worker_id
