"""What `import neartime` costs, and what it shows."""

from __future__ import annotations

import subprocess
import sys

import neartime

ALLOWED = {"neartime", "typing", "__future__"}
"""Modules that `import neartime` may load beyond those that a bare interpreter has."""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_neartime_loads_these_modules_and_no_others() -> None:
    bare = set(run("import sys; print(*sys.modules)").split())
    loaded = set(run("import sys, neartime; print(*sys.modules)").split()) - bare
    typing_needs = set(run("import sys, typing; print(*sys.modules)").split()) - bare
    assert loaded - typing_needs - ALLOWED == set()


def test_using_the_service_loads_neither_qiskit_nor_numpy() -> None:
    code = "import sys; from neartime import RuntimeService, Session, RuntimeOptions; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run(code).split()}
    assert loaded & {"qiskit", "qiskit_aer", "numpy", "fastapi", "sqlalchemy", "typer", "cloudpickle"} == set()


def test_every_exported_name_is_there_and_the_list_is_sorted() -> None:
    assert neartime.__all__ == sorted(neartime.__all__)
    for name in neartime.__all__:
        assert getattr(neartime, name) is not None
    assert dir(neartime) == neartime.__all__
