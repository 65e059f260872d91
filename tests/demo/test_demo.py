"""What scripts/demo shows to whoever runs it first."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_demo_streams_energies_and_ends_near_the_exact_one(tmp_path: Path) -> None:
    run = subprocess.run(
        [ROOT / "scripts" / "demo", "--home", tmp_path / "home"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    before, _, after = run.stdout.partition("interim results and the result")
    iterations = [int(number) for number in re.findall(r"^ *(\d+) +-?\d\.\d{5}", before, re.MULTILINE)]
    assert iterations == list(range(1, len(iterations) + 1))
    assert len(iterations) >= 20
    energy, exact = (float(number) for number in re.findall(r"(-\d\.\d{6}) hartree", after))
    assert abs(energy - exact) < 0.02
    assert not (tmp_path / "home" / "run" / "up.json").exists()
