"""Interim results: what a publish costs, how soon a callback has it, how many a second."""

from __future__ import annotations

import json
import time
from typing import Any

from benchmarks import bare_nats
from benchmarks.jobs import PROGRAMS
from benchmarks.measure import Row, row
from neartime import Session
from neartime_server.testing import Runtime

COUNT = 300
PAUSE = 0.004
BURST = 10_000
WARM = 20


def _ticks(runtime: Runtime, count: int, pause: float) -> tuple[list[int], list[int], list[int]]:
    """(heard, sent, cost of each publish), nanoseconds."""
    heard: list[int] = []
    sent: list[int] = []

    def hear(job_id: str, value: Any) -> None:
        heard.append(time.monotonic_ns())
        sent.append(value[0])

    with runtime.service() as service:
        service.upload_program(PROGRAMS / "ticks.py", name="ticks")
        with Session(service, backend="aer") as session:
            session.run("ticks", inputs={"count": WARM, "pause": 0.001}, callback=lambda job_id, value: None).result()
            costs = session.run("ticks", inputs={"count": count, "pause": pause}, callback=hear).result(timeout=120)
    if len(heard) != count:
        raise RuntimeError(f"{count} interim results were published, {len(heard)} arrived")
    return heard, sent, costs


def publish_cost(runtime: Runtime) -> list[Row]:
    """Its floor: writing the same two numbers as JSON."""
    _, _, costs = _ticks(runtime, 2000, 0.0005)
    floors = []
    for _ in range(2000):
        start = time.perf_counter_ns()
        json.dumps([time.monotonic_ns(), 0.5]).encode()
        floors.append((time.perf_counter_ns() - start) / 1e3)
    return [row("publish() in main()", [cost / 1e3 for cost in costs], "µs", "json.dumps", floors, median=50.0)]


def latency(runtime: Runtime) -> list[Row]:
    heard, sent, _ = _ticks(runtime, COUNT, PAUSE)
    samples = [(one - other) / 1e6 for one, other in zip(heard, sent, strict=True)]
    floors = bare_nats.latencies(runtime, COUNT, PAUSE)
    return [row("publish() to callback", samples[WARM:], "ms", "bare nats-py", floors[WARM:], ratio=2.0)]


def throughput(runtime: Runtime) -> list[Row]:
    samples = []
    floors = []
    for _ in range(3):
        heard, sent, _ = _ticks(runtime, BURST, 0)
        samples.append(BURST / ((heard[-1] - sent[0]) / 1e9))
        floors.append(bare_nats.throughput(runtime, BURST))
    return [row("interim results a second", samples, "/s", "bare nats-py", floors, ratio=0.5, want="at least")]
