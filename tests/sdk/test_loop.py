"""The background event loop behind the sync face."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator

import pytest

from neartime.loop import shared


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_a_coroutine_runs_and_its_value_and_its_error_come_back() -> None:
    async def broken() -> None:
        raise LookupError("gone")

    assert shared().run(double(21)) == 42
    with pytest.raises(LookupError, match="gone"):
        shared().run(broken())


async def test_it_works_where_a_loop_runs_already_as_in_a_notebook_cell() -> None:
    assert shared().run(double(21)) == 42


def test_a_wait_that_times_out_cancels_the_work() -> None:
    cancelled = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(concurrent.futures.TimeoutError):
        shared().run(endless(), 0.05)
    assert cancelled.wait(10)


def test_waiting_on_the_loops_own_thread_is_refused_rather_than_hanging() -> None:
    async def inside() -> None:
        shared().run(double(1))

    with pytest.raises(RuntimeError, match="own event loop"):
        shared().run(inside())


def test_leaving_an_iteration_early_closes_the_async_iterator() -> None:
    closed = threading.Event()

    async def numbers() -> AsyncIterator[int]:
        try:
            for number in range(100):
                yield number
        finally:
            closed.set()

    items = shared().iterate(numbers())
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert list(shared().iterate(numbers())) == list(range(100))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_makes_a_loop_of_its_own_and_ends() -> None:
    code = """
import os
from neartime.loop import shared
async def one(): return 1
assert shared().run(one()) == 1
if (child := os.fork()) == 0:
    assert shared().run(one()) == 1
    raise SystemExit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7
print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout.strip(), run.stderr) == ("done", "")


def test_the_interpreter_ends_at_once_and_in_silence_with_work_still_on_the_loop() -> None:
    code = """
import asyncio
from neartime.loop import shared
async def begin():
    asyncio.get_running_loop().create_task(asyncio.Event().wait())
shared().run(begin())
print("done")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (run.stdout.strip(), run.stderr, run.returncode) == ("done", "", 0)
