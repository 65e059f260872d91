"""Fifty iterations of a six-qubit VQE, four ways: what stands between one iteration and the next."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.jobs import PROGRAMS
from benchmarks.measure import Row, repeat, row, timed
from neartime import Session
from neartime_server.testing import Runtime

ITERATIONS = 50


def _each(run: Callable[..., Any], what: str) -> list[float]:
    """Milliseconds of each iteration that is a job."""
    seed = 0

    def once() -> float:
        nonlocal seed
        seed += 1
        samples: list[float] = []
        with timed(samples):
            run("iteration", {"seed": seed}).result(timeout=120)
        return samples[0]

    return repeat(ITERATIONS, once, what)


def iterations(runtime: Runtime) -> list[Row]:
    plain: list[float] = []
    looped: list[float] = []
    script = str(PROGRAMS / "vqe_loop.py")
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "vqe_loop.py", name="vqe-loop")
        service.upload_program(PROGRAMS / "iteration.py", name="iteration")

        def once() -> float:
            output = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
            plain.append(float(output) / ITERATIONS)
            looped.append(service.run("vqe-loop", options={"backend": "aer"}).result(timeout=120) / ITERATIONS)
            return looped[-1]

        repeat(5, once, "plain process and one job")
        with Session(service, backend="aer") as session:
            session.run("iteration", {"seed": 0}).result(timeout=120)
            warm = _each(session.run, "a job in a session")
        lone = _each(lambda name, inputs: service.run(name, inputs, {"backend": "aer"}), "a job by itself")
    beyond = [one - statistics.median(plain) for one in warm]
    return [
        row("VQE iteration in one job", looped, "ms", "plain process", plain),
        row("a job of a session for each, beyond it", beyond, "ms", "plain process", plain, median=12.0),
        row("a job by itself for each", lone, "ms", "a job of a session", warm, ratio=20.0, want="at least"),
    ]
