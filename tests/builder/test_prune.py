"""What a home keeps for program versions, and what goes when no version needs it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest
from builder.test_programs import archive

from neartime_server.builder import needs
from neartime_server.builder.images.layers import Layers
from neartime_server.builder.programs import materialize
from neartime_server.builder.prune import Needed, Unneeded, in_home

KEPT, GONE = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
LOCK, OLD_LOCK = "# Python 3.11\nsix==1.16.0\n", "# Python 3.11\nsix==1.15.0\n"
NEEDED = Needed(digests=frozenset({KEPT}), environments=frozenset({KEPT}), locks=frozenset({LOCK}))
HOUR = 3600.0


def hexadecimal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with one of everything that is needed, and one that is not, all of them old."""
    home = tmp_path / "home"
    files = archive({"program.py": b"def main(): ...\n"})
    layers = Layers(home / "layers")
    for digest, lock in ((KEPT, LOCK), (GONE, OLD_LOCK)):
        folder = materialize(home, digest, files)
        place = home / "environments" / digest.removeprefix("sha256:")
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "python").write_text("#!/bin/sh\n")
        for what, name in (("program", place.name), ("packages", hexadecimal(lock))):
            layers.pack(what, name, [(Path("/opt"), folder)])  # type: ignore[list-item]
        layers.pack("runner", needs.runner_layer("3.11") if digest == KEPT else "ef" * 32, [(Path("/o"), folder)])  # type: ignore[list-item]
    (home / "environments" / "resolved").mkdir()
    (home / "neartime.db").write_text("the operator's own")
    (home / "programs" / ".draft-0123").mkdir()
    (home / "layers" / ".making-0123").mkdir()
    age(home, 2 * HOUR)
    return home


def age(home: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in home.rglob("*"):
        os.utime(path, (then, then))


def remove(found: list[Unneeded]) -> None:
    async def work() -> None:
        for one in found:
            await one.remove()

    asyncio.run(work())


def everything(home: Path) -> set[str]:
    return {str(path.relative_to(home)) for path in home.glob("*/*")} | {path.name for path in home.iterdir()}


def test_what_no_version_needs_is_told_and_nothing_is_removed_by_that(home: Path) -> None:
    before = everything(home)
    found = in_home(home, NEEDED, HOUR)
    assert {(one.kind, one.name) for one in found} == {
        ("environment", "environments/" + "cd" * 32),
        ("program", "programs/" + "cd" * 32),
        ("layer", "layers/program-" + "cd" * 32),
        ("layer", f"layers/packages-{hexadecimal(OLD_LOCK)}"),
        ("layer", "layers/runner-" + "ef" * 32),
        ("draft", "programs/.draft-0123"),
        ("draft", "layers/.making-0123"),
    }
    assert all(one.size > 0 for one in found if one.kind != "draft")
    assert everything(home) == before


def test_what_no_version_needs_is_removed_and_the_rest_stays(home: Path) -> None:
    before = everything(home)
    found = in_home(home, NEEDED, HOUR)
    remove(found)
    assert in_home(home, NEEDED, HOUR) == []
    layers = {one.name for one in found if one.kind == "layer"}
    assert before - everything(home) == {
        *(one.name for one in found if one.kind != "layer"),
        *(f"{name}.json" for name in layers),
        *(f"{name}.tar.gz" for name in layers),
    }


def test_what_was_used_a_moment_ago_stays(home: Path) -> None:
    files = archive({"program.py": b"def main(): ...\n"})
    materialize(home, GONE, files)
    assert Layers(home / "layers").known("program", "cd" * 32) is not None
    found = {one.name for one in in_home(home, NEEDED, HOUR)}
    assert "programs/" + "cd" * 32 not in found
    assert "layers/program-" + "cd" * 32 not in found
    assert "layers/runner-" + "ef" * 32 in found
    assert in_home(home, NEEDED, 3 * HOUR) == []


def test_what_went_meanwhile_is_no_fault(home: Path) -> None:
    found = in_home(home, NEEDED, HOUR)
    remove(found)
    remove(found)
