"""Draws demo.svg beside it: what `scripts/demo` says in a terminal, the middle of it left out."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

HERE = Path(__file__).parent
WIDTH = 72
"""Columns of the picture."""
FIRST, LAST = 14, 3
"""Evaluations that are shown at the beginning and at the end."""


def shown(lines: list[str]) -> list[str]:
    """The lines without the middle of the energies."""
    energies = [at for at, line in enumerate(lines) if re.match(r" +\d+ +-?\d+\.\d{5}", line)]
    left_out = energies[FIRST:-LAST]
    return [line if at not in left_out else "        …" for at, line in enumerate(lines) if at not in left_out[1:]]


def draw(lines: list[str], console: Console) -> None:
    for line in lines:
        text = Text(line.rstrip())
        text.highlight_regex(r"[▏▎▍▌▋▊▉█]+", "cyan")
        text.highlight_regex(r"^\$ .*", "bold")
        console.print(text)


def main() -> None:
    said = subprocess.run([HERE.parents[1] / "scripts" / "demo"], check=True, capture_output=True, text=True).stdout
    console = Console(record=True, width=WIDTH)
    draw(["$ scripts/demo", *shown(said.splitlines())], console)
    svg = console.export_svg(title="scripts/demo", theme=MONOKAI, unique_id="demo")
    svg = re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL)  # no font is fetched to show it
    svg = svg.replace("Fira Code", "ui-monospace, DejaVu Sans Mono, Menlo, Consolas")
    (HERE / "demo.svg").write_text("".join(f"{line.rstrip()}\n" for line in svg.splitlines()))


if __name__ == "__main__":
    main()
