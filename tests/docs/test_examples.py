"""What README and tutorials show runs as it is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from neartime import InvalidInput
from neartime.cli import templates
from neartime_server.testing import Runtime

ROOT = Path(__file__).parents[2]
Run = Callable[[str], dict[str, Any]]


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs code in an empty folder, where the client finds a runtime; one piece after the other in one namespace."""
    monkeypatch.setenv("NEARTIME_URL", runtime.url)
    monkeypatch.setenv("NEARTIME_TOKEN", runtime.token)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "example"}

    def execute(text: str) -> dict[str, Any]:
        exec(compile(text, "example", "exec"), names)
        return names

    yield execute
    if service := names.get("service"):
        service.close()


def test_the_program_of_the_readme_runs_and_streams(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    program, use = blocks("README.md")
    Path("bell.py").write_text(program)
    names = run(use)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("{'batch': ") for line in lines] == [True, True, True, False, False]
    with pytest.raises(InvalidInput, match=r"inputs\.batches: 0 is less than the minimum of 1"):
        names["service"].run("bell", inputs={"batches": 0})


def test_the_tutorials_first_program_runs_as_it_is_changed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    declared, field, loop, session, again = blocks("docs/tutorials/first-program.md")
    program = templates.write("ghz", "circuit", Path("ghz")) / "program.py"
    text = program.read_text()
    assert declared.partition("class")[2] in text
    text = re.sub(r"(    shots: .*\n)", rf"\1{field}", text)
    text = re.sub(r"    for _ in range.*publish\(dict\(counts\)\)\n", loop, text, flags=re.DOTALL)
    program.write_text(f"import time\n{text}")
    run("from neartime import RuntimeService\nRuntimeService().upload_program('ghz')")
    run(session)
    assert "2 outcomes after 1000 shots" in capsys.readouterr().out
    run(again)
    assert "{'num_qubits': 4}" in capsys.readouterr().out


def test_a_program_of_qiskit_runtime_moves_over_as_the_tutorial_says(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    main, circuits, use, wrong, _ = blocks("docs/tutorials/qiskit-runtime.md")
    Path("old/lib").mkdir(parents=True)
    for path, text in (("program.py", main), ("lib/circuits.py", circuits), ("lib/__init__.py", "")):
        (Path("old") / path).write_text(text)
    Path("old/angles.json").write_text("[0.1, 0.5, 1.2]")
    Path("old.json").write_text(json.dumps(json.loads(blocks("docs/tutorials/qiskit-runtime.md", "json")[0])))
    run(use)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:2] for line in lines] == ["0 ", "1 ", "2 ", "{'"]
    assert "'best'" in lines[-1]
    with pytest.raises(InvalidInput, match=r"inputs\.width: is missing"):
        run(wrong)
