"""The runtime of this machine: `up`, `down`, `doctor`, `admin`. It runs as `python -m neartime_server …`."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.table import Table
from rich.text import Text

from neartime import config
from neartime.cli import doctor as checks
from neartime.cli.console import Caller, Json, Output
from neartime.errors import ConfigurationError

Home = Annotated[Path | None, typer.Option(help="Where it keeps its data; else $NEARTIME_HOME.", file_okay=False)]


def register(app: typer.Typer) -> None:
    """Adds the commands to the app."""
    app.command()(up)
    app.command()(down)
    app.command()(doctor)
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )(admin)


def up(
    port: Annotated[
        int | None, typer.Option(help="Of the API; 0 takes a free one. Else 8787, or a free one.", min=0, max=65535)
    ] = None,
    home: Home = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, until Ctrl-C or SIGTERM.")] = False,
    print_env: Annotated[
        bool,
        typer.Option(
            "--print-env",
            help="Start it where none is up; then write shell lines that set NEARTIME_URL and NEARTIME_TOKEN.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the runtime of this machine in the background, under a watchdog that restarts what dies.

    Where it is up already, this says so and changes nothing, not its port either: `neartime down` comes first.
    `eval "$(neartime up --print-env)"` is for shells and tools that can't find it by themselves; the client can. It
    starts the runtime, too, where none is up, and says so on standard error.
    """
    command = _server("up", *(["--port", str(port)] if port is not None else []))
    environment = _environment(home)
    output = Output(as_json)
    if foreground:
        sys.stdout.flush()
        os.execve(command[0], [*command, "--foreground"], environment)
    if as_json or print_env:
        told = _call(command, environment)
    else:
        with output.error.status("starting NATS server and API server"):
            told = _call(command, environment)
    elsewhere = ""
    if told["already"] and port and urlsplit(told["url"]).port != port:
        elsewhere = f"it listens on port {urlsplit(told['url']).port}, and stays there; to move it: "
        elsewhere += f"`neartime down`, which ends running jobs, then `neartime up --port {port}`"
    if print_env:
        token = Path(told["token_file"]).read_text().strip()
        print(f"export {config.URL_VARIABLE}={shlex.quote(told['url'])}")
        print(f"export {config.TOKEN_VARIABLE}={shlex.quote(token)}")
        if not told["already"]:
            output.note(f"up: {told['url']}; `neartime down` ends it")
        if elsewhere:
            output.note(elsewhere)
        return
    lines = [
        f"{'already up' if told['already'] else 'up'}: {told['url']}",
        f"  data   {told['home']}",
        f"  logs   {told['logs']}",
    ]
    if elsewhere:
        lines.append(f"  {elsewhere}")
    if (ours := _version()) != told["version"]:
        lines.append(f"  it runs version {told['version']}, this is {ours}: `neartime down`, then `neartime up`")
    output.show(told, "\n".join(lines))
    if not told["already"]:
        rights = "It runs programs as you, with your rights: let nobody else upload to it."
        if told["executor"] != "process":
            rights = "It runs programs in containers."
        output.note(f"`neartime down` ends it. {rights}")


def down(home: Home = None, as_json: Json = False) -> None:
    """End the runtime of this machine: servers, workers and watchdog. Its data stays.

    Running jobs fail, or wait for the next `up` where they have an attempt or a checkpoint left."""
    output = Output(as_json)
    command, environment = _server("down"), _environment(home)
    if as_json:
        told = _call(command, environment)
    else:
        with output.error.status("ending it"):
            told = _call(command, environment)
    ended = ", ".join(told["ended"])
    output.show(told, f"ended: {ended}" if ended else f"nothing was up in {told['home']}")


def doctor(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Check this machine and the server; says of each fault what mends it. Exit code 1 where there is one."""
    caller = context.find_object(Caller) or Caller()
    environment = _environment(home)
    output = Output(as_json)
    if as_json:
        found = list(checks.run(environment, caller.url, caller.account))
        output.line([check.to_dict() for check in found])
    else:
        found = []
        with output.error.status("looking"):
            found.extend(checks.run(environment, caller.url, caller.account))
        table = Table(box=None, pad_edge=False, show_header=False)
        for check in found:
            mark, style = {True: ("ok", "green"), False: ("FAULT", "bold red"), None: ("note", "yellow")}[check.ok]
            text = f"{check.found}\n  → {check.remedy}" if check.remedy else check.found
            table.add_row(Text(mark, style), check.name, Text(text))
        output.show(None, table)
    if any(check.ok is False for check in found):
        raise typer.Exit(1)


def admin(context: typer.Context) -> None:
    """Make, list and end instances, users and tokens: `admin instance|user|token create|list|end …`; and `admin prune`,
    which tells and removes what no program version needs.

    Before a server of its own starts: `admin secret` prints a new operator's secret, `admin migrate` brings the
    database's tables up to date, `admin nats-config` prints what a NATS server includes to trust this operator. `admin
    gateway` prints what the gateway of a backend reads that the operator starts.

    It works on the data of this machine's runtime (or of NEARTIME_DATABASE), whether it is up or not.
    """
    answer = subprocess.run([*_server("admin"), *context.args], check=False)
    raise typer.Exit(answer.returncode)


def _environment(home: Path | None) -> dict[str, str]:
    return {**os.environ, "NEARTIME_HOME": str(home.expanduser().resolve())} if home else dict(os.environ)


def _server(*arguments: str) -> list[str]:
    """The command of the server's package.

    Raises:
        ConfigurationError: it is not installed here.
    """
    if missing := checks.missing_for_server():
        raise ConfigurationError(
            f"the runtime needs what is not installed in {sys.prefix}: {', '.join(missing)}. {checks.INSTALL_LOCAL}"
        )
    return [sys.executable, "-m", "neartime_server", *arguments]


def _call(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise ConfigurationError(answer.stderr.strip() or f"`{shlex.join(command)}` ended with {answer.returncode}")
    told: dict[str, Any] = json.loads(answer.stdout)
    return told


def _version() -> str:
    from importlib.metadata import version

    return version("neartime")
