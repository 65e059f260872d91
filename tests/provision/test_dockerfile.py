"""The server's Dockerfile. No registry with its base can be reached from here: it is looked at, and run without it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from neartime_server.builder import uv

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "runtime" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


COPIED = [name for line in re.findall(r"^COPY (?!--)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()]


def test_what_it_copies_is_there_and_is_not_ignored() -> None:
    assert all((ROOT / name).exists() for name in COPIED)
    kept = re.findall(r"^!(.*)$", (ROOT / "runtime" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(kept) == sorted(COPIED)


def test_what_it_installs_of_what_it_copies_is_a_server_that_starts(tmp_path: Path) -> None:
    source, made = tmp_path / "source", tmp_path / "neartime"
    source.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    joined = TEXT.replace("\\\n", " ")
    (command,) = (step for step in re.findall(r"^RUN (.*)$", joined, re.MULTILINE) if "uv sync" in step)
    settings = dict(pair.split("=", 1) for pair in re.findall(r"UV_\w+=\S+", TEXT))
    assert settings["UV_PROJECT_ENVIRONMENT"] == "/opt/neartime"
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {
        **settings,
        "UV_PROJECT_ENVIRONMENT": str(made),
        "UV_PYTHON": sys.executable,
        "UV_LINK_MODE": "hardlink",
    }
    words = [uv.binary(), *shlex.split(command)[1:]]
    subprocess.run(words, cwd=source, env=environment, check=True, capture_output=True, timeout=300)
    shutil.rmtree(source)  # it is no part of the image
    (served,) = re.findall(r"^CMD (.*)$", TEXT, re.MULTILINE)
    program = [str(made / "bin" / "python"), *json.loads(served)[1:]]
    plain = {"HOME": str(tmp_path), "PATH": f"{made}/bin:/usr/bin:/bin"}
    helped = subprocess.run([*program, "--help"], cwd="/", env=plain, check=True, capture_output=True, text=True)
    assert "--port" in helped.stdout
    imported = "import kubernetes, qiskit_aer, neartime_runner, neartime_primitives as it; print(it.__path__[0])"
    told = subprocess.run([program[0], "-c", imported], cwd="/", env=plain, check=True, capture_output=True, text=True)
    assert told.stdout.startswith(str(made))


def test_it_has_what_a_server_in_a_cluster_needs() -> None:
    extras = set(re.findall(r"--extra (\S+)", TEXT))
    assert extras == {"server", "runner", "qiskit", "kubernetes"}
    assert extras <= set(PROJECT["project"]["optional-dependencies"])


def test_the_files_that_the_wheel_is_made_of_are_copied() -> None:
    targets = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {path.partition("/")[0] for path in [*targets["packages"], *targets["force-include"]]}
    needed |= {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    for name in needed:
        assert re.search(rf"^COPY .*\b{re.escape(name)}\b", TEXT, re.MULTILINE), name


def test_it_is_of_no_users_rights_as_the_chart_says() -> None:
    assert re.findall(r"^USER (.*)$", TEXT, re.MULTILINE) == ["65532:65532"]
    assert 'include "neartime.podSecurity" 65532' in (ROOT / "charts/neartime/templates/server.yaml").read_text()
