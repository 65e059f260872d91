"""The command line against a real runtime, as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neartime.cli import templates
from neartime_server.testing import Runtime

SOURCE = """
import time

def main(backend, user_messenger, count=3, pause=0.0, fail=False, padding=0):
    print("counting to", count, flush=True)
    for number in range(count):
        user_messenger.publish({"number": number})
        time.sleep(pause)
    if fail:
        raise ValueError("counted too far")
    return {"count": count, **({"padding": "x" * padding} if padding else {})}
"""

Neartime = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from neartime.cli import main; main()", *arguments]


@pytest.fixture(scope="module")
def environment(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "counting.py").write_text(SOURCE)
    return os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token, "PWD": str(folder)}


@pytest.fixture(scope="module")
def neartime(environment: dict[str, str]) -> Neartime:
    def call(*arguments: str, stdin: str | None = None, patience: float = 90) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            env=environment,
            cwd=environment["PWD"],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )

    assert call("program", "upload", "counting.py").returncode == 0
    return call


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_run_shows_interim_results_as_they_come_and_the_result(neartime: Neartime) -> None:
    run = neartime("run", "counting", "--input", "count=2")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["    1  {'number': 0}", "    2  {'number': 1}", "result: {'count': 2}"]


def test_a_run_for_scripts_is_a_line_of_json_for_each_event(neartime: Neartime) -> None:
    run = neartime("run", "counting", "--inputs", "-", "--json", "--tag", "scripted", stdin='{"count": 2}')
    assert run.returncode == 0, run.stderr
    said = events(run)
    assert said[0]["event"] == "submitted"
    times = [one["time"] for one in said if one["event"] in ("status", "interim")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", time) for time in times)
    assert [one["value"] for one in said if one["event"] == "interim"] == [{"number": 0}, {"number": 1}]
    assert said[-1] == {"event": "result", "value": {"count": 2}}


def test_a_file_is_uploaded_and_run(neartime: Neartime, environment: dict[str, str]) -> None:
    Path(environment["PWD"], "other.py").write_text(SOURCE.replace('"count": count', '"other": count'))
    run = neartime("run", "./other.py", "--json")
    assert events(run)[-1]["value"] == {"other": 3}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("template", templates.names())
def test_a_program_that_was_begun_runs_as_it_is(neartime: Neartime, template: str) -> None:
    name = f"begun-{template}"
    assert neartime("program", "init", name, "--template", template).returncode == 0
    run = neartime("run", f"./{name}", "--inputs", f"{name}/inputs.json", "--backend", "aer", "--json", patience=300)
    assert run.returncode == 0, run.stderr
    said = events(run)
    assert [one for one in said if one["event"] == "interim"]
    assert said[-1]["event"] == "result"


def test_a_failed_job_ends_with_1_and_its_traceback(neartime: Neartime) -> None:
    run = neartime("run", "counting", "--input", "fail=true")
    assert run.returncode == 1
    assert "ValueError: counted too far" in run.stderr
    assert "neartime/cli" not in run.stderr
    assert run.stderr.count("raise ValueError") == 1
    run = neartime("run", "counting", "--input", "fail=true", "--json")
    assert run.returncode == 1
    assert events(run)[-1]["reason_code"] == "ProgramError"


def test_a_large_result_is_abbreviated_for_people_and_whole_for_scripts(neartime: Neartime) -> None:
    run = neartime("run", "counting", "--input", "padding=50000")
    assert len(run.stdout) < 10_000
    job = run.stderr.split("neartime job result ")[1].split()[0]
    assert len(neartime("job", "result", job).stdout) < 10_000
    assert len(json.loads(neartime("job", "result", job, "--json").stdout)["padding"]) == 50_000


def test_a_fault_names_the_option_that_was_typed(neartime: Neartime) -> None:
    for option, value in (("--max-time", "99d"), ("--log-level", "loud"), ("--tag", ""), ("--backend", "none")):
        run = neartime("run", "counting", option, value)
        assert run.returncode == 2
        assert run.stderr.startswith(f"Error: {option}")
    for option in ("--max-time", "--interactive-timeout"):
        run = neartime("session", "open", option, "99d")
        assert run.returncode == 2
        assert run.stderr.startswith(f"Error: {option}: ")


def test_a_table_fits_a_terminal_and_keeps_its_ids_whole(neartime: Neartime, environment: dict[str, str]) -> None:
    job = neartime("run", "counting", "--detach", "--tag", "a-tag-of-some-length", "--tag", "and-another-one")
    assert neartime("job", "watch", job.stdout.strip()).returncode == 0
    terminal, inside = pty.openpty()
    try:
        arguments = command("job", "list", "--limit", "3")
        narrow = environment | {"COLUMNS": "80", "TERM": "dumb"}
        assert subprocess.run(arguments, env=narrow, stdout=inside, timeout=90, check=False).returncode == 0
        lines = os.read(terminal, 65536).decode().splitlines()
    finally:
        os.close(terminal)
        os.close(inside)
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith(f"{job.stdout.strip()} ") for line in lines)


def test_what_an_upload_came_to_is_told(neartime: Neartime, environment: dict[str, str]) -> None:
    file = Path(environment["PWD"], "changing.py")
    told = []
    for text in (SOURCE, SOURCE, SOURCE + "# changed\n", SOURCE):
        file.write_text(text)
        told.append(neartime("program", "upload", "changing.py").stdout.splitlines())
    first, same, second, again = (lines[0] for lines in told)
    assert (first, same, second) == ("changing, version 1", "changing, version 1 (unchanged)", "changing, version 2")
    assert again.startswith("changing, version 1 again")
    assert "version 2" in again
    assert told[0][1].startswith("  program id: ")
    assert "version 1 again" in neartime("run", "./changing.py").stderr
    assert json.loads(neartime("program", "upload", "changing.py", "--json").stdout)["new_version"] is False


def test_the_files_of_anothers_public_program_are_its_owners(
    neartime: Neartime, runtime: Runtime, environment: dict[str, str]
) -> None:
    Path(environment["PWD"], "shared.py").write_text(SOURCE)
    assert neartime("program", "upload", "shared.py", "--public").returncode == 0
    other = environment | {"NEARTIME_TOKEN": runtime.new_instance("reader")}
    arguments = command("program", "download", "shared", "folder")
    run = subprocess.run(arguments, env=other, cwd=other["PWD"], capture_output=True, text=True, check=False)
    assert run.returncode == 5
    assert "you can run it" in run.stderr
    assert "upload" not in run.stderr


def test_a_detached_run_is_shown_watched_and_read_later(neartime: Neartime) -> None:
    job = neartime("run", "counting", "--detach", "-i", "count=3").stdout.strip()
    assert neartime("job", "watch", job).stdout.splitlines()[-1] == "result: {'count': 3}"
    assert json.loads(neartime("job", "result", job, "--json").stdout) == {"count": 3}
    shown = json.loads(neartime("job", "show", job, "--json").stdout)
    assert (shown["status"], shown["params"]) == ("Completed", {"count": 3})
    assert re.search(r"^ +status  Completed$", neartime("job", "show", job).stdout, re.MULTILINE)
    assert re.search(r"^ +inputs  count: 3$", neartime("job", "show", job).stdout, re.MULTILINE)
    assert neartime("job", "logs", job).stdout == "counting to 3\n"
    assert neartime("job", "logs", job, "--follow").stdout == "counting to 3\n"
    assert job in neartime("job", "list", "--limit", "100").stdout
    assert job in [one["id"] for one in json.loads(neartime("job", "list", "--status", "Completed", "--json").stdout)]
    assert neartime("job", "delete", job).returncode == 0
    assert neartime("job", "show", job).returncode == 4


def test_the_queue_shows_what_runs_and_what_waits_in_its_order(neartime: Neartime) -> None:
    session = neartime("session", "open", "--backend", "generic_5q").stdout.strip()
    slow = ["--detach", "-i", "count=600", "-i", "pause=0.1"]
    first = neartime("run", "counting", "--session", session, *slow).stdout.strip()
    second = neartime("run", "counting", "--backend", "generic_5q", "--detach").stdout.strip()
    third = neartime("run", "counting", "--backend", "generic_5q", "--detach").stdout.strip()
    rows = [line.split() for line in neartime("queue", "--backend", "generic_5q").stdout.splitlines()[1:]]
    assert [row[2] for row in rows] == [first, second, third]
    assert [row[1] for row in rows][1:] == ["1", "2"]
    assert neartime("job", "prioritize", third, "5").returncode == 0
    assert [one["id"] for one in json.loads(neartime("queue", "--all", "--json").stdout)][:3] == [first, third, second]
    assert neartime("job", "prioritize", third, "0").returncode == 0
    shown = neartime("session", "show", session).stdout
    assert "has backend" in shown
    assert first in shown
    assert "another dedicated session" in neartime("job", "show", second).stdout
    told = json.loads(neartime("queue", "--backend", "generic_5q", "--json").stdout)
    assert [one["id"] for one in told] == [first, second, third]
    assert neartime("session", "cancel", session).returncode == 0
    for job in (second, third):
        assert neartime("job", "watch", job).returncode == 0


def test_a_cancelled_job_ends_with_6(neartime: Neartime) -> None:
    job = neartime("run", "counting", "--input", "count=1000", "--input", "pause=0.1", "--detach").stdout.strip()
    waited = neartime("job", "result", job, "--timeout", "1")
    assert waited.returncode == 124
    assert f"neartime job cancel {job}" in waited.stderr
    assert "cancel()" not in waited.stderr
    assert neartime("job", "watch", job, "--timeout", "1").returncode == 124
    assert neartime("job", "cancel", job).returncode == 0
    assert neartime("job", "result", job).returncode == 6


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(neartime: Neartime, environment: dict[str, str]) -> None:
    arguments = command("run", "counting", "--input", "count=1000", "--input", "pause=0.1")
    client = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=environment["PWD"]
    )
    assert client.stdout is not None
    client.stdout.readline()
    client.send_signal(signal.SIGINT)
    _, errors = client.communicate(timeout=30)
    assert client.returncode == 130
    assert "Traceback" not in errors
    job = errors.split("neartime job watch ")[1].split()[0]
    assert json.loads(neartime("job", "show", job, "--json").stdout)["status"] == "Running"
    assert neartime("job", "cancel", job).returncode == 0


def test_bad_inputs_end_with_2_and_are_all_named(neartime: Neartime) -> None:
    assert neartime("program", "init", "strict").returncode == 0
    run = neartime("run", "./strict", "--input", "count=-1", "--input", "name=[]", "--json")
    assert run.returncode == 2
    said = json.loads(run.stderr)
    assert {fault["path"] for fault in said["faults"]} == {"inputs.count", "inputs.name"}
    assert run.stdout == ""


def test_what_is_not_there_ends_with_4_and_a_bad_token_with_5(neartime: Neartime, environment: dict[str, str]) -> None:
    assert neartime("program", "show", "nothing").returncode == 4
    assert neartime("run", "nothing").returncode == 4
    run = subprocess.run(
        command("job", "list"),
        env=environment | {"NEARTIME_TOKEN": "wrong"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 5
    assert "token" in run.stderr


def test_programs_are_listed_shown_downloaded_and_deleted(neartime: Neartime, environment: dict[str, str]) -> None:
    Path(environment["PWD"], "brief.py").write_text(SOURCE)
    assert neartime("program", "upload", "brief.py", "--name", "brief-one").returncode == 0
    assert "brief-one" in neartime("program", "list").stdout
    assert json.loads(neartime("program", "list", "--search", "brief-one", "--json").stdout)[0]["name"] == "brief-one"
    assert "version: 1" in neartime("program", "show", "brief-one").stdout
    assert neartime("program", "download", "brief-one").returncode == 0
    assert Path(environment["PWD"], "brief-one", "brief.py").exists()
    assert neartime("program", "download", "brief-one").returncode == 2
    assert neartime("program", "delete", "brief-one").returncode == 0
    assert neartime("program", "upload", "no-such-folder").returncode == 2


def test_a_session_is_opened_used_shown_and_closed(neartime: Neartime) -> None:
    session = neartime("session", "open", "--backend", "aer", "--max-time", "1h").stdout.strip()
    assert neartime("run", "counting", "--session", session).returncode == 0
    assert json.loads(neartime("session", "show", session, "--json").stdout)["max_time"] == 3600
    assert session in neartime("session", "list").stdout
    assert neartime("session", "close", session).returncode == 0
    assert neartime("run", "counting", "--session", session).returncode == 5
    other = json.loads(neartime("session", "open", "--batch", "--json").stdout)["session_id"]
    assert neartime("session", "cancel", other).returncode == 0


def test_backends_are_listed_and_shown(neartime: Neartime) -> None:
    assert "aer" in neartime("backend", "list").stdout
    assert "qubits: 5" in neartime("backend", "show", "generic_5q").stdout
    assert {one["name"] for one in json.loads(neartime("backend", "list", "--json").stdout)} >= {"aer", "generic_5q"}


def test_an_account_is_checked_before_it_is_saved(runtime: Runtime, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}

    def save(token: str) -> int:
        arguments = command("account", "save", runtime.url, "--token-stdin")
        return subprocess.run(arguments, env=environment, input=token, text=True, check=False).returncode

    assert save("wrong") == 5
    assert list(tmp_path.rglob("*.json")) == []
    assert save(runtime.token) == 0


def test_text_of_others_is_shown_as_it_is_written(neartime: Neartime, environment: dict[str, str]) -> None:
    folder = Path(environment["PWD"], "brackets")
    folder.mkdir()
    (folder / "program.py").write_text(SOURCE)
    (folder / "program.toml").write_text('name = "brackets"\ndescription = "see [/docs] :smile:"\n')
    assert neartime("program", "upload", "brackets").returncode == 0
    assert "see [/docs] :smile:" in neartime("program", "list").stdout
    assert neartime("run", "brackets", "--tag", "[/b]", "--detach").returncode == 0
    assert "[/b]" in neartime("job", "list").stdout
