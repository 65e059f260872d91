"""Fifty iterations of a six-qubit VQE, four ways: what stands between one iteration and the next."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.jobs import PROGRAMS
from benchmarks.measure import Row, row
from neartime import RuntimeService, Session
from neartime_server.testing import Runtime

ITERATIONS = 50
ROUNDS = 3
AER = {"backend": "aer"}

Vqe = tuple[list[float], list[float]]
"""Energies and milliseconds of each iteration."""


def _plain() -> Vqe:
    script = [sys.executable, str(PROGRAMS / "iteration.py"), str(ITERATIONS)]
    energies, times = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
    return energies, times


def _one_job(service: RuntimeService) -> Vqe:
    energies, times = service.run("iteration", {"iterations": ITERATIONS}, AER).result(timeout=120)
    return energies, times


def _jobs(run: Callable[[Any], Any]) -> Vqe:
    """The optimizer is here, each evaluation a job."""
    from benchmarks.programs.iteration import vqe  # Qiskit, which the other benchmarks' clients do without

    energies, times = vqe(lambda parameters: run({"parameters": parameters}).result(timeout=120), ITERATIONS)
    return energies, times


def _session(service: RuntimeService) -> Vqe:
    with Session(service, backend="aer") as session:
        return _jobs(lambda inputs: session.run("iteration", inputs))


def iterations(runtime: Runtime) -> list[Row]:
    """The four in turn, so that a busy minute of the machine meets them all; each does the same arithmetic."""
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "iteration.py", name="iteration")
        ways: list[Callable[[], Vqe]] = [
            _plain,
            lambda: _one_job(service),
            lambda: _session(service),
            lambda: _jobs(lambda inputs: service.run("iteration", inputs, AER)),
        ]
        samples: list[list[float]] = [[] for _ in ways]
        for _ in range(ROUNDS):
            found = [way() for way in ways]
            for (energies, times), into in zip(found, samples, strict=True):
                into += times
                if not all(map(math.isclose, energies, found[0][0])):
                    raise RuntimeError("the four ways should find the same energies, and do not")
    plain, looped, warm, lone = samples
    bare = statistics.median(plain)
    beyond_warm, beyond_lone = ([one - bare for one in times] for times in (warm, lone))
    return [
        row("VQE iteration: all in one job", looped, "ms", "plain process", plain),
        row("VQE iteration: a job each, one session", warm, "ms", "plain process", plain),
        row("    its overhead over a plain process", beyond_warm, "ms", "plain process", plain, median=12.0),
        row(
            "VQE iteration: a job each, no session",
            lone,
            "ms",
            "job each, one session",
            warm,
            ratio=20.0,
            want="at least",
        ),
        row("    its overhead over a plain process", beyond_lone, "ms", "that in a session", beyond_warm),
    ]
