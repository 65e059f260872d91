"""The VQE template on the embedded runtime, in a session: what a user's own program would do, and a picture of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from neartime import RuntimeService, Session

ROOT = Path(__file__).parent.parent
WIDTH = 44
"""Characters of the picture."""
FROM, TO = -1.2, 0.2
"""Hartree at its two edges."""


def neartime(*arguments: str | Path) -> dict[str, Any]:
    """What the command line says, as JSON."""
    command = [Path(sys.executable).with_name("neartime"), *arguments, "--json"]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def drawn(energy: float) -> str:
    """A bar as long as the energy is above the left edge."""
    part = min(max((energy - FROM) / (TO - FROM), 0.0), 1.0)
    whole, eighths = divmod(round(part * WIDTH * 8), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[eighths].strip()


def run(console: Console, url: str, token: str) -> dict[str, Any]:
    """Runs the program; returns its result."""
    said = 0

    def show(job_id: str, interim: dict[str, Any]) -> None:
        nonlocal said
        said += 1
        energy = interim["energy"]
        console.print(f"{interim['iteration']:>9}  {energy:>9.5f}  [cyan]{drawn(energy)}[/]", highlight=False)

    with RuntimeService(url, token) as service:
        began = time.monotonic()
        service.upload_program(ROOT / "program-templates" / "vqe")
        console.print(f"uploaded program-templates/vqe in {time.monotonic() - began:.2f} s")
        with Session(service, backend="aer") as session:
            began = time.monotonic()
            job = session.run("vqe", callback=show)
            console.print(f"job {job.job_id()} in session {session.session_id}\n")
            console.print("iteration     energy  (hartree)")
            result: dict[str, Any] = job.result(timeout=300)
            console.print(f"\n{said} interim results and the result in {time.monotonic() - began:.2f} s")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".neartime", help="where the runtime keeps its data")
    home = parser.parse_args().home
    console = Console(soft_wrap=True)
    with console.status("starting the embedded runtime"):
        runtime = neartime("up", "--port", "0", "--home", home)
    try:
        result = run(console, runtime["url"], Path(runtime["token_file"]).read_text().strip())
    finally:
        neartime("down", "--home", home)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("ground energy of H2, by VQE", f"[bold]{result['energy']:.6f}[/] hartree")
    table.add_row("exact, by diagonalisation", f"{result['exact_energy']:.6f} hartree")
    table.add_row("difference", f"{result['difference']:.1e} hartree")
    console.print(table)
    return 0 if abs(result["difference"]) < 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
