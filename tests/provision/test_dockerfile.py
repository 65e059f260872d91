"""The server's Dockerfile: no registry with its base can be reached from here, so what it says is looked at."""

from __future__ import annotations

import re
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "runtime" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_it_copies_is_there_and_is_not_ignored() -> None:
    copied = [name for line in re.findall(r"^COPY (?!--)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    kept = re.findall(r"^!(.*)$", (ROOT / "runtime" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert sorted(kept) == sorted(copied)


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
