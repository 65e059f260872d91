"""Writes docs/reference/cli.md: `python -m neartime.cli.reference > docs/reference/cli.md`. A test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from neartime.cli.app import Exit, app

_INTRO = """\
# The command line

<!-- Written by `python -m neartime.cli.reference`; change the commands, not this page. -->

`neartime [--url URL] [--account NAME] [--debug] COMMAND …`

The server is the one of `--url`, else of `NEARTIME_URL` (with `NEARTIME_TOKEN`), else of the saved account, else the
runtime that `neartime up` started on this machine.

Every command takes `--json`: then standard output holds JSON and nothing else, one document, or a line for each event
where a job is followed; errors, those of usage too, are one JSON object on standard error. Values are in the wire form,
in which circuits and arrays are tagged objects.

## Exit codes

| code | what it says |
|---|---|
"""

_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "the job failed",
    Exit.USAGE: "the command, the inputs or the program are at fault; nothing was done",
    Exit.UNREACHABLE: "no server is known, or it can't be reached",
    Exit.NOT_FOUND: "there is no such program, job, session or backend",
    Exit.REFUSED: "the server refused or failed: the token, a limit, a conflict, a version",
    Exit.CANCELLED: "the job was cancelled",
    Exit.TIMED_OUT: "the time given with `--timeout` ran out; the job goes on",
    Exit.INTERRUPTED: "Ctrl-C; the job goes on",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command with its full name, `neartime job list`."""
    yield from _walk("neartime", get_command(app))


def page() -> str:
    """The reference page."""
    parts = [_INTRO + "".join(f"| {int(code)} | {meaning} |\n" for code, meaning in _MEANINGS.items())]
    for name, command in commands():
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        options = [one for one in command.params if one.param_type_name == "option"]
        usage = " ".join([name, *(_argument(one) for one in arguments)])
        lines = [f"## {name}\n", f"`{usage}`\n", " ".join((command.help or "").split()) + "\n"]
        rows = [(f"`{_argument(one)}`", one.help or "") for one in arguments]
        rows += [(_option(one), one.help or "") for one in options if "--help" not in one.opts]
        if rows:
            lines.append("\n".join(["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows)]) + "\n")
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        if not command.hidden:
            yield name, command
        return
    for one in below:
        yield from _walk(f"{name} {one}", below[one])


def _argument(one: Any) -> str:
    name = one.name.upper()
    return name if one.required else f"[{name}]"


def _option(one: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*one.opts, *one.secondary_opts])
    return names if one.is_flag else f"{names} {one.name.upper()}"


if __name__ == "__main__":
    print(page(), end="")
