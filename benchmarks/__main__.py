"""Runs the benchmarks on a runtime of their own, prints the table, writes the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks import api, cluster, images, jobs, primitives, sessions, streams
from benchmarks.measure import Row, show
from neartime_server.testing import Runtime

BENCHMARKS = {
    "import": jobs.import_time,
    "cold": jobs.cold_start,
    "warm": jobs.warm_start,
    "round-trip": jobs.round_trip,
    "vqe": jobs.vqe_loop,
    "iterations": sessions.iterations,
    "publish": streams.publish_cost,
    "latency": streams.latency,
    "throughput": streams.throughput,
    "submissions": api.submissions,
    "images": images.images,
    "cluster": cluster.cluster,
    "primitives": primitives.calls,
    "local-mode": primitives.beside_local_mode,
    "sweep": primitives.sweep,
    "mitigation": primitives.mitigation,
}


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(BENCHMARKS)}; may be repeated.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows there.")] = None,
) -> None:
    """Measure Neartime on this machine, each figure beside its floor."""
    if unknown := set(only or []) - set(BENCHMARKS):
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(BENCHMARKS)}", param_hint="--only")
    console = Console(stderr=True)
    rows: list[Row] = []
    with Runtime() as runtime:
        for name, benchmark in BENCHMARKS.items():
            if only and name not in only:
                continue
            console.print(f"[dim]{name} …")
            rows += benchmark(runtime)
    show(rows, Console())
    if json_file:
        json_file.write_text(json.dumps([one.as_json() for one in rows], indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
