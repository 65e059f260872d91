"""The command line where no server is needed."""

from __future__ import annotations

import ast
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from neartime.cli import doctor, templates
from neartime.cli.app import app, run
from neartime.cli.console import Output, facts
from neartime.cli.follow import RESULT_CHARACTERS, RESULT_LINES, abbreviated
from neartime.cli.inputs import LINE, brief
from neartime.cli.jobs import is_path, read_inputs
from neartime.cli.reference import commands, page
from neartime.errors import InvalidInput, PackagingError

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, no account, an empty folder to be in."""
    for name in ("NEARTIME_URL", "NEARTIME_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NEARTIME_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def test_the_reference_page_documents_every_command_and_option() -> None:
    text = PAGE.read_text()
    assert text == page(), "write it again: python -m neartime.cli.reference > docs/reference/cli.md"
    for name, command in commands():
        assert f"## {name}\n" in text
        assert command.help, f"{name} says nothing of itself"
        assert all(getattr(one, "help", True) for one in command.params), f"an option of {name} says nothing of itself"


def test_every_command_that_answers_takes_json() -> None:
    streams = ("neartime up", "neartime down", "neartime doctor", "neartime admin")  # of the machine's own runtime
    for name, command in commands():
        if not name.startswith(streams):
            assert any("--json" in one.opts for one in command.params), name


def test_help_is_there_for_all() -> None:
    for name, _ in commands():
        result = CliRunner().invoke(app, [*name.split()[1:], "--help"])
        assert result.exit_code == 0, name


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contract"] == 1


def test_without_a_server_it_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "list"]) == 3
    captured = capsys.readouterr()
    assert "neartime up" in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_server_that_is_not_there_can_not_be_reached(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARTIME_TOKEN", "t")
    assert run(["--url", "http://127.0.0.1:9", "job", "list", "--json"]) == 3
    captured = capsys.readouterr()
    said = json.loads(captured.err)
    assert (said["error"], said["exit_code"], captured.out) == ("ConnectionFailed", 3, "")


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    assert run(["frobnicate"]) == 2
    assert run(["job", "list", "--status", "Sleeping"]) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["frobnicate"], "frobnicate"),
        (["job", "list", "--limit", "many"], "--limit"),
        (["job", "result"], "job_id"),
        (["job", "list", "--nothing"], "--nothing"),
    ],
)
def test_a_usage_error_is_json_where_json_was_asked_for(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--json"]) == 2
    captured = capsys.readouterr()
    said = json.loads(captured.err)
    assert (said["error"], said["exit_code"], captured.out) == ("UsageError", 2, "")
    assert says in said["message"].lower()


def test_accounts_that_are_saved_under_names_are_named_where_there_is_no_default_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["account", "save", "https://lab", "--name", "lab", "--token-stdin", "--no-check"]
    result = CliRunner().invoke(app, arguments, input="s3cret\n")
    assert "neartime --account lab" in result.output
    assert run(["job", "list"]) == 3
    told = capsys.readouterr().err
    assert "'lab' (https://lab)" in told
    assert "--account NAME" in told


def test_a_piped_table_leaves_out_empty_columns_and_ends_with_its_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "a" * 20, "empty": None, "text": "x" * 20_000}, {"id": "b", "empty": "", "text": "two\nlines"}]
    Output().table(rows, {name: name for name in ("id", "empty", "text")}, "none")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'id':20}  text", f"{'a' * 20}  {'x' * 20_000}", f"{'b':20}  two lines"]


def test_a_value_of_several_lines_stays_behind_its_name() -> None:
    told = facts({"id": "a", "empty": None, "none": [], "reason": "Failed: one\n\n  two\n", "count": 0})
    assert told.splitlines() == [
        "            id  a",
        "        reason  Failed: one",
        "",
        "                  two",
        "         count  0",
    ]


@pytest.mark.parametrize("value", ["short", {"a": [1, 2]}, list(range(20)), None])
def test_a_result_that_fits_a_screen_is_shown_whole(value: object) -> None:
    text, whole = abbreviated(value)
    assert whole
    assert text == value or ast.literal_eval(text) == value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 100_000,
        "line\n" * 1000,
        list(range(100_000)),
        {"counts": {f"{number:020b}": number for number in range(5000)}, "energy": -1.5},
        [[["deep"] * 50] * 50] * 50,
        [{f"key {number}": "text" * 1000} for number in range(100)],
    ],
)
def test_a_result_that_would_flood_the_terminal_is_abbreviated(value: object) -> None:
    text, whole = abbreviated(value)
    assert not whole
    assert len(text) <= RESULT_CHARACTERS + 2
    assert len(text.splitlines()) <= RESULT_LINES


def test_a_large_result_keeps_all_of_its_names() -> None:
    text, _ = abbreviated({"counts": {f"{number:020b}": number for number in range(5000)}, "energy": -1.5})
    assert "'energy': -1.5" in text


def test_inputs_are_shown_in_short_and_opaque_ones_by_their_types() -> None:
    circuit = {"__type__": "QuantumCircuit", "__value__": "e" * 500}
    operator = {"__type__": "settings", "__module__": "q", "__class__": "SparsePauliOp", "__value__": {"data": circuit}}
    pair = {"__type__": "neartime.tuple", "__value__": [1, "two"]}
    told = brief({"circuits": [circuit, operator], "pair": pair, "text": "x" * 500}).splitlines()
    assert told[:2] == ['circuits: ["<QuantumCircuit>", "<SparsePauliOp>"]', 'pair: [1, "two"]']
    assert told[2] == f"{('text: ' + chr(34) + 'x' * 500)[:LINE]}…"
    assert "KiB" in brief(None)


@pytest.mark.parametrize("template", templates.names())
def test_a_program_begun_from_a_template_can_be_packaged(
    template: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["program", "init", "my-program", "--template", template, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == ["README.md", "inputs.json", "program.py", "program.toml"]
    assert Path("my-program/README.md").read_text().startswith("# my-program\n")
    assert "program-templates" not in Path("my-program/README.md").read_text()
    from neartime import packaging

    package = packaging.package(Path("my-program"))
    assert package.manifest.name == "my-program"
    assert package.manifest.typed
    assert package.manifest.schemas.inputs is not None


def test_nothing_is_overwritten_and_names_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    assert run(["program", "init", "mine"]) == 2
    assert run(["program", "init", "Not A Name"]) == 2
    assert run(["program", "init", "other", "--template", "none"]) == 2
    assert "hello" in capsys.readouterr().err
    with pytest.raises(PackagingError, match="there already"):
        templates.write("mine", "hello", Path("mine"))


def test_inputs_come_from_a_file_and_one_by_one(tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text('{"maxiter": 1, "name": "Ada"}')
    given = ["maxiter=50", "tol=1e-3", "list=[1, 2]", "text=hello world", "empty="]
    assert read_inputs(given, str(file)) == {
        "maxiter": 50,
        "name": "Ada",
        "tol": 1e-3,
        "list": [1, 2],
        "text": "hello world",
        "empty": "",
    }


@pytest.mark.parametrize(
    ("given", "file", "says"),
    [(["maxiter"], None, "NAME=VALUE"), (["=3"], None, "NAME=VALUE"), ([], "missing.json", "missing.json")],
)
def test_inputs_that_can_not_be_read_are_named(given: list[str], file: str | None, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_inputs(given, file)


def test_a_program_is_a_path_where_it_looks_like_one() -> None:
    assert all(map(is_path, (".", "./vqe", "a/b", "vqe.py", "vqe.zip", "..")))
    assert not any(map(is_path, ("vqe", "my.program", "00abc")))


def test_an_account_is_saved_for_its_owner_alone_and_its_token_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(
        app, ["account", "save", "https://lab", "--token-stdin", "--no-check"], input="s3cret\n"
    )
    assert result.exit_code == 0, result.output
    file = tmp_path / "config" / "neartime" / "accounts.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert run(["account", "show"]) == 0
    shown = capsys.readouterr().out
    assert "https://lab" in shown
    assert "s3cret" not in shown + result.output


def test_a_clock_is_said_to_agree_to_be_off_or_to_be_too_far_off() -> None:
    assert [doctor.clock(ahead).found for ahead in (-0.04, 0.0, 0.96)] == ["agrees with the server's"] * 3
    assert (doctor.clock(4.2).ok, doctor.clock(4.2).found) == (True, "4 s ahead of the server's")
    assert (doctor.clock(-90.0).ok, doctor.clock(-90.0).found) == (False, "90 s behind the server's")
