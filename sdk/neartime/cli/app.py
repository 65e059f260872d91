"""The command line, put together; and the one place where errors become words and exit codes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated

import typer

from neartime.cli import accounts, backends, jobs, programs, runtime, sessions
from neartime.cli.console import Caller, Json, Output, service
from neartime.errors import (
    CodecError,
    ConfigurationError,
    ConnectionFailed,
    FaultyInput,
    InvalidReference,
    InvalidRequest,
    JobCancelled,
    JobError,
    JobTimeout,
    NeartimeError,
    NotFound,
    NotInRegistry,
    RegistryUnreachable,
    StreamError,
)


class Exit(IntEnum):
    """What the exit code says; docs/reference/cli.md lists them."""

    OK = 0
    FAILED = 1
    """The job failed."""
    USAGE = 2
    """The command, the inputs or the program are at fault; nothing was done."""
    UNREACHABLE = 3
    """No server is known, or it can't be reached."""
    NOT_FOUND = 4
    REFUSED = 5
    """The server refused or failed: the token, a limit, a conflict, a version."""
    CANCELLED = 6
    """The job was cancelled."""
    TIMED_OUT = 124
    """The time given ran out; the job goes on."""
    INTERRUPTED = 130
    """Ctrl-C; the job goes on."""


_CODES: list[tuple[tuple[type[Exception], ...], Exit]] = [
    ((JobCancelled,), Exit.CANCELLED),
    ((JobTimeout,), Exit.TIMED_OUT),
    ((JobError,), Exit.FAILED),
    ((ConfigurationError, ConnectionFailed, RegistryUnreachable, StreamError), Exit.UNREACHABLE),
    ((NotFound, NotInRegistry), Exit.NOT_FOUND),
    ((FaultyInput, InvalidReference, InvalidRequest, CodecError), Exit.USAGE),
]

app = typer.Typer(
    name="neartime",
    help="Run quantum programs on your own Qiskit Runtime.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(programs.app, name="program")
app.add_typer(jobs.app, name="job")
app.add_typer(sessions.app, name="session")
app.add_typer(backends.app, name="backend")
app.add_typer(accounts.app, name="account")
app.command("run")(jobs.run)
app.command("queue")(jobs.queue)
runtime.register(app)


@app.callback()
def options(
    context: typer.Context,
    url: Annotated[str | None, typer.Option(help="The server; else $NEARTIME_URL, a saved account, `up`.")] = None,
    account: Annotated[str | None, typer.Option(help="Name of the saved account to use.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and what goes over the network.")] = False,
) -> None:
    """Run quantum programs on your own Qiskit Runtime."""
    context.obj = Caller(url=url, account=account)
    if debug:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


@app.command()
def usage(context: typer.Context, as_json: Json = False) -> None:
    """Show what your instance has used, and its limits."""
    used = service(context).usage()
    total = used["usage"]
    lines = [f"{total['seconds']:.1f} s in programs, {total['quantum_seconds']:.1f} s of them on backends"]
    lines += [f"{count} jobs are {status}" for status, count in sorted(used["jobs"].items())]
    output = Output(as_json)
    output.show(used, "\n".join(lines))
    if not as_json:
        output.show(None, "")
        rows = [
            {"limit": name.replace("_", " "), "used": f"{one['used']:.0f}", "of": one["limit"] or "no limit"}
            for name, one in used["limits"].items()
        ]
        output.table(rows, {name: name for name in ("limit", "used", "of")}, "")


@app.command()
def version(as_json: Json = False) -> None:
    """Show the versions of client, contract and Python."""
    import platform

    from neartime import __version__
    from neartime.contract.version import CONTRACT_VERSION

    said = {"neartime": __version__, "contract": CONTRACT_VERSION, "python": platform.python_version()}
    Output(as_json).show(said, f"neartime {__version__} (contract {CONTRACT_VERSION}, Python {said['python']})")


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(given, prog_name="neartime")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.FAILED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nobody is left to be told
        return Exit.OK
    except (NeartimeError, LookupError) as error:
        code = next((code for kinds, code in _CODES if isinstance(error, kinds)), Exit.REFUSED)
        _tell(error, code, as_json="--json" in given)
        if "--debug" in given:
            raise
        return code
    return Exit.OK


def _tell(error: Exception, code: Exit, *, as_json: bool) -> None:
    """Says on standard error what went wrong; the errors themselves say what to do next."""
    if as_json:
        said: dict[str, object] = {"error": type(error).__name__, "message": str(error), "exit_code": int(code)}
        if isinstance(error, FaultyInput):
            said["faults"] = [fault.model_dump() for fault in error.faults]
        print(json.dumps(said), file=sys.stderr)
        return
    from rich.text import Text

    Output().error.print(Text.assemble(("Error: ", "bold red"), str(error)), soft_wrap=True)
