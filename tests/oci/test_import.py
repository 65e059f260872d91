"""What the package shows, and what it costs who does not use it."""

from __future__ import annotations

import subprocess
import sys

from neartime import oci


def loaded(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"], check=True, capture_output=True
    )
    return set(done.stdout.decode().split())


def test_who_does_not_use_registries_does_not_load_them() -> None:
    assert not [name for name in loaded("import neartime") if name.startswith(("neartime.oci", "httpx"))]
    assert not [name for name in loaded("import neartime; neartime.RuntimeService") if name.startswith("neartime.oci")]


def test_registries_take_no_server_no_engine_and_no_qiskit() -> None:
    heavy = {"qiskit", "numpy", "docker", "fastapi", "sqlalchemy", "nats", "cloudpickle", "typer", "neartime_server"}
    assert {name.partition(".")[0] for name in loaded("import neartime.oci")} & heavy == set()


def test_every_exported_name_is_there_and_the_list_is_sorted() -> None:
    constants = sorted(name for name in oci.__all__ if name.isupper())
    classes = sorted(name for name in oci.__all__ if name[0].isupper() and not name.isupper())
    functions = sorted(name for name in oci.__all__ if name.islower())
    assert oci.__all__ == [*constants, *classes, *functions]
    assert all(hasattr(oci, name) for name in oci.__all__)
