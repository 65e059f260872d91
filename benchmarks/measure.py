"""One row of the table: a figure, the floor beside which it stands, and the goal that it should reach."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Literal

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """A figure and its floor, measured in the same run on the same machine."""

    name: str
    median: float
    unit: str
    floor_name: str
    floor: float
    """In the same unit."""
    goal: str
    """As people write it: `ratio <= 1.05`, `median <= 15 ms`."""
    met: bool | None
    """None where the row only reports."""

    @property
    def ratio(self) -> float:
        return self.median / self.floor if self.floor else float("inf")

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {"ratio": self.ratio}


def row(
    name: str,
    samples: Sequence[float],
    unit: str,
    floor_name: str,
    floors: Sequence[float],
    *,
    ratio: float | None = None,
    median: float | None = None,
    want: Literal["at most", "at least"] = "at most",
) -> Row:
    """A row from samples; the goal is on the ratio to the floor, on the median, or (neither given) there is none."""
    middle, floor = statistics.median(samples), statistics.median(floors)
    figure, limit, label = middle / floor, ratio, "ratio"
    if median is not None:
        figure, limit, label = middle, median, "median"
    if limit is None:
        return Row(name, middle, unit, floor_name, floor, "", None)
    met = figure <= limit if want == "at most" else figure >= limit
    goal = f"{label} {'<=' if want == 'at most' else '>='} {limit:g}{' ' + unit if label == 'median' else ''}"
    return Row(name, middle, unit, floor_name, floor, goal, met)


@contextmanager
def timed(into: list[float], scale: float = 1e3) -> Iterator[None]:
    """Appends the time that the block took; milliseconds unless `scale` says otherwise."""
    start = perf_counter()
    yield
    into.append((perf_counter() - start) * scale)


def repeat(count: int, work: Callable[[], float], what: str) -> list[float]:
    """`work()` so many times, with a word on standard error about where it stands."""
    samples = []
    for number in range(count):
        if sys.stderr.isatty():
            print(f"\r  {what} {number + 1}/{count}\x1b[K", end="", file=sys.stderr, flush=True)
        samples.append(work())
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    return samples


def show(rows: Sequence[Row], console: Console) -> None:
    table = Table(title="Neartime, each figure beside a floor of the same run", title_justify="left")
    for heading, justify in (
        ("", "left"),
        ("median", "right"),
        ("floor", "right"),
        ("", "left"),
        ("ratio", "right"),
        ("goal", "left"),
        ("", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for one in rows:
        mark = {True: "[green]met", False: "[red]missed", None: ""}[one.met]
        table.add_row(
            one.name,
            f"{one.median:,.4g} {one.unit}",
            f"{one.floor:,.4g} {one.unit}",
            one.floor_name,
            f"{one.ratio:.3g}",
            one.goal,
            mark,
        )
    console.print(table)
