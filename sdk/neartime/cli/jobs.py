"""`neartime run` and `neartime job`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from neartime.cli.console import Json, Output, Timeout, facts, moment, service
from neartime.cli.follow import follow, show_result
from neartime.cli.inputs import MOST, brief, encoded
from neartime.cli.programs import uploaded
from neartime.contract.jobs import MAX_PRIORITY, JobStatus, JobView
from neartime.errors import InvalidInput, InvalidRequest, NotFound
from neartime.options import RuntimeOptions, seconds

app = typer.Typer(help="Jobs: what was run, and what came of it.", no_args_is_help=True)

_OPTIONS = {
    "options.backend": "--backend",
    "options.max_execution_time": "--max-time",
    "options.log_level": "--log-level",
    "options.job_tags": "--tag",
    "options.max_attempts": "--max-attempts",
}
JobId = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


def run(
    context: typer.Context,
    program: Annotated[
        str, typer.Argument(help="A program's name or id; or a folder or file, uploaded first.", show_default=False)
    ],
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="NAME=VALUE; the value is JSON, or else text.")
    ] = None,
    inputs: Annotated[str | None, typer.Option(help="A JSON file with all inputs; - is standard input.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="The backend; else the server's own.")] = None,
    session: Annotated[str | None, typer.Option(help="Id of the session to run in.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A tag; may be given several times.")] = None,
    max_time: Annotated[str | None, typer.Option(help="How long the job may run: seconds, or '2h 30m'.")] = None,
    log_level: Annotated[str | None, typer.Option(help="critical, error, warning, info or debug.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Starts, where the machine below is lost.", min=1)] = None,
    watch: Annotated[
        bool, typer.Option("--follow/--detach", "-f/-d", help="Show it until it has ended, or only its id.")
    ] = True,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Run a program, watch it live and show its result: a large one in short."""
    output, runtime = Output(as_json), service(context)
    values = read_inputs(given or [], inputs)
    if is_path(program):
        program = runtime.upload_program(Path(program), log=output.note)
        output.note(f"uploaded {uploaded(runtime.program(program, refresh=False))}")
    options = RuntimeOptions(
        backend=backend,
        max_execution_time=seconds(max_time, "--max-time"),
        log_level=log_level,
        job_tags=tag or [],
        max_attempts=max_attempts,
    )
    try:
        job = runtime.run(program, values, options, session_id=session)
    except InvalidRequest as error:
        raise error.renamed(_OPTIONS) from error
    except NotFound:
        if Path(program).exists():
            output.note(f"{program} is a file or folder here: to upload and run it, write ./{program}")
        raise
    said = {"job_id": job.job_id(), "session_id": job.session_id, "backend": job.backend_name}
    if not watch:
        output.show(said, job.job_id())
        return
    if as_json:
        output.line({"event": "submitted", **said})
    output.note(f"job {job.job_id()} on {job.backend_name}")
    follow(job, output, timeout)


def is_path(program: str) -> bool:
    """Whether a program is meant by its place rather than by its name."""
    return program in (".", "..") or "/" in program or "\\" in program or program.endswith((".py", ".zip"))


def read_inputs(given: list[str], file: str | None) -> dict[str, Any]:
    """The inputs of a command line: those of the file, and over them those given one by one.

    Raises:
        InvalidInput: the file can't be read, or one is not NAME=VALUE.
    """
    values: dict[str, Any] = {}
    if file is not None:
        from neartime import codec

        try:
            content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise InvalidInput(f"--inputs {file}: {error.strerror}") from error
        decoded = codec.decode(content)
        if not isinstance(decoded, dict):
            raise InvalidInput(f"--inputs {file}: expected a JSON object, the inputs by name")
        values = decoded
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise InvalidInput(f"--input {one!r} is not NAME=VALUE, for example --input maxiter=50")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return values


@app.command("list")
def list_jobs(
    context: typer.Context,
    status: Annotated[list[JobStatus] | None, typer.Option(help="May be given several times.")] = None,
    pending: Annotated[bool | None, typer.Option("--pending/--ended", help="Only those.")] = None,
    program: Annotated[str | None, typer.Option(help="Of this program, by name or id.")] = None,
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="On this backend.")] = None,
    session: Annotated[str | None, typer.Option(help="Of this session.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="With all these tags.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 20,
    skip: Annotated[int, typer.Option(help="How many of the newest to leave out.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first."""
    found = service(context).jobs(
        limit=limit,
        skip=skip,
        backend_name=backend,
        pending=pending,
        program_id=program,
        session_id=session,
        job_tags=tag,
        status=status,
    )
    views = [job.view for job in found]
    rows = [_as_json(view) if as_json else job_row(view) for view in views]
    columns = ["id", "program", "status", "backend", "created", "seconds", "interims", "tags"]
    Output(as_json).table(rows, {name: name for name in columns}, "No jobs. Run one: neartime run PROGRAM")


@app.command()
def show(context: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Show where a job stands, its inputs in short, and why it failed."""
    runtime = service(context)
    view = runtime.job(job_id).view
    if as_json:
        Output(as_json).line({**_as_json(view), "params": encoded(runtime, job_id)})
        return
    shown = job_row(view)
    shown["session"] = view.session_id
    shown["version"] = view.program.version
    if view.position is not None:
        shown["place in queue"] = view.position
    if view.waits_for is not None:
        shown["waits for"] = view.waits_for
    if view.state.reason_code:
        shown["reason"] = f"{view.state.reason_code.value}: {view.state.reason}"
    shown["inputs"] = brief(encoded(runtime, job_id, MOST))
    Output().show(None, facts(shown))


@app.command()
def watch(context: typer.Context, job_id: JobId, timeout: Timeout = None, as_json: Json = False) -> None:
    """Show a job live, from its first interim result, until it has ended; then its result."""
    follow(service(context).job(job_id), Output(as_json), timeout)


@app.command()
def logs(
    context: typer.Context,
    job_id: JobId,
    live: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show what the program printed and logged."""
    job, output = service(context).job(job_id), Output(as_json)
    for record in job.log_records(follow=live):
        if as_json:
            output.line(record.model_dump(mode="json"))
        else:
            print(record.text, flush=True)


@app.command()
def result(context: typer.Context, job_id: JobId, timeout: Timeout = None, as_json: Json = False) -> None:
    """Wait for a job and show its result: a large one in short, with `--json` all of it."""
    show_result(service(context).job(job_id), Output(as_json), timeout)


@app.command()
def cancel(context: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """End a job."""
    service(context).job(job_id).cancel()
    Output(as_json).show({"job_id": job_id, "cancelled": True}, f"job {job_id} is being cancelled")


@app.command()
def delete(context: typer.Context, job_id: JobId, as_json: Json = False) -> None:
    """Delete a job that has ended, with its inputs, results and logs."""
    service(context).delete_job(job_id)
    Output(as_json).show({"job_id": job_id, "deleted": True}, f"job {job_id} is deleted")


def _as_json(view: JobView) -> dict[str, Any]:
    return view.model_dump(mode="json")


@app.command()
def prioritize(
    context: typer.Context,
    job_id: JobId,
    priority: Annotated[
        int,
        typer.Argument(
            min=-MAX_PRIORITY,
            max=MAX_PRIORITY,
            show_default=False,
            help="0 at first; a minute's wait makes up for 1.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Let a job that waits go before those of a lower priority; for operators, who may also name others' jobs."""
    service(context).prioritize(job_id, priority)
    Output(as_json).show({"job_id": job_id, "priority": priority}, f"job {job_id} has priority {priority}")


def queue(
    context: typer.Context,
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="Of this one alone.")] = None,
    every_instance: Annotated[bool, typer.Option("--all", help="Of all instances; for operators.")] = False,
    as_json: Json = False,
) -> None:
    """Show what runs on each backend, and what waits: in which order, and for what."""
    entries = service(context).queue(backend, every_instance=every_instance)
    if as_json:
        Output(as_json).line([entry.model_dump(mode="json") for entry in entries])
        return
    rows = [
        {
            **entry.model_dump(),
            "place": entry.position or ("runs" if entry.status is JobStatus.RUNNING else "begins"),
            "created": moment(entry.created),
            "priority": entry.priority or None,
            "session": entry.session_id,
            "waits for": entry.waits_for,
        }
        for entry in entries
    ]
    owner = ["instance"] if every_instance else []
    columns = ["backend", "place", "id", *owner, "program", "created", "priority", "waits for"]
    shown = [name for name in columns if any(row.get(name) is not None for row in rows)]
    Output().table(rows, {name: name for name in shown}, "Nothing runs and nothing waits.")


def job_row(view: JobView) -> dict[str, Any]:
    """A job as a row of a table."""
    return {
        "id": view.id,
        "program": view.program.name,
        "status": view.status.value,
        "backend": view.backend,
        "created": moment(view.created),
        "seconds": f"{view.usage.seconds:.1f}" if view.usage.seconds else None,
        "interims": view.interims or None,
        "tags": view.tags,
    }
