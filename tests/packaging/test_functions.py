"""A function as a program: by value, with what it uses; told apart by what it is, not by its pickle."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from pydantic import BaseModel, Field

from neartime.contract.programs import PICKLE_FILE
from neartime.errors import PackagingError
from neartime.packaging import Package, package, unpack

FACTOR = 3


class Inputs(BaseModel):
    number: int = Field(ge=1)


def helper(number: int) -> int:
    return FACTOR * number


def triple(backend: Any, user_messenger: Any, number: int) -> int:
    return helper(number)


def typed(backend: Any, user_messenger: Any, inputs: Inputs) -> int:
    return helper(inputs.number)


def elsewhere(made: Package, folder: Path, call: str) -> str:
    """What a call of the function, `f`, gives in a process that has none of this one's modules."""
    unpack(made.archive, folder)
    code = f"import cloudpickle; f = cloudpickle.load(open({str(folder / PICKLE_FILE)!r}, 'rb'))\n{call}"
    run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def test_a_function_runs_where_nothing_of_it_is_installed(tmp_path: Path) -> None:
    made = package(triple)
    assert (made.manifest.name, made.manifest.kind, made.manifest.typed) == ("triple", "function", False)
    assert made.manifest.pickled_with is not None
    assert made.manifest.pickled_with.python.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert made.manifest.pickled_with.cloudpickle == cloudpickle.__version__
    assert elsewhere(made, tmp_path, "print(f(None, None, 14))") == "42"
    assert (tmp_path / "source.py").read_text().startswith("def triple(")


def test_a_function_of_a_model_takes_it_along_with_its_schema(tmp_path: Path) -> None:
    made = package(typed)
    assert made.manifest.typed
    assert (made.manifest.schemas.inputs or {})["properties"]["number"]["minimum"] == 1
    call = """
from neartime.packaging import inputs_model
print(f(None, None, inputs_model(f).model_validate({"number": 5})))
"""
    assert elsewhere(made, tmp_path, call) == "15"
    assert typed.__annotations__["inputs"] == "Inputs", "the author's own function is as it was"


def test_a_function_within_a_function_keeps_what_it_sees(tmp_path: Path) -> None:
    words = ["a", "b"]

    def joined(backend: Any, user_messenger: Any) -> str:
        return "-".join(words)

    assert elsewhere(package(joined), tmp_path, "print(f(None, None))") == "a-b"


def test_helper_modules_that_are_not_installed_are_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "near_helper.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    import near_helper  # type: ignore[import-not-found]

    def doubled(backend: Any, user_messenger: Any, x: int) -> int:
        return int(near_helper.twice(x))

    first = package(doubled)
    other = tmp_path / "other"
    other.mkdir()
    assert elsewhere(first, other, "print(f(None, None, 4))") == "8"
    (tmp_path / "near_helper.py").write_text("def twice(x):\n    return 2 * x + 0\n")
    assert package(doubled).digest != first.digest


def test_a_function_has_one_digest_in_every_process_and_another_when_anything_of_it_changes(tmp_path: Path) -> None:
    def made(text: str) -> str:
        (tmp_path / "script.py").write_text(text)
        run = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
        return run.stdout

    script = """
from neartime.packaging import package
FACTORS = {"a": 1.5, "b": 2}
def helper(x, y=3): return x + y
class Kept:
    def method(self): return helper(1)
def main(backend, user_messenger, names={"one", "two"}): return helper(FACTORS["a"]), Kept().method(), names
print(package(main).digest)
"""
    first = made(script)
    assert first.startswith("sha256:")
    assert made(script) == first
    for before, after in (
        ("1.5", "1.6"),
        ("x + y", "x - y"),
        ("y=3", "y=4"),
        ("helper(1)", "helper(2)"),
        ('"two"', '"2"'),
    ):
        assert made(script.replace(before, after)) != first, before
    assert made(script.replace("print(", "unused = 3\nprint(")) == first


def test_what_has_no_name_must_be_given_one() -> None:
    with pytest.raises(PackagingError, match=r"manifest\.name"):
        package(lambda backend, user_messenger: 1)
    made = package(lambda backend, user_messenger: 1, name="one", requirements=["numpy"], max_execution_time=5)
    assert (made.manifest.name, made.manifest.requirements, made.manifest.max_execution_time) == ("one", ["numpy"], 5)


def test_what_can_not_be_pickled_is_said_to_be() -> None:
    lock = threading.Lock()

    def locked(backend: Any, user_messenger: Any) -> None:
        with lock:
            pass

    with pytest.raises(PackagingError, match=r"locked\(\) can't be pickled.*inside it"):
        package(locked)


def test_an_annotation_that_names_nothing_is_said_to_be() -> None:
    def lost(backend: Any, user_messenger: Any, inputs: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        pass

    with pytest.raises(PackagingError, match="Nowhere, which can't be found"):
        package(lost)


def test_packaging_leaves_cloudpickle_as_it_was() -> None:
    before = set(cloudpickle.list_registry_pickle_by_value())
    package(triple)
    assert set(cloudpickle.list_registry_pickle_by_value()) == before
