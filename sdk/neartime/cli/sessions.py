"""`neartime session`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from neartime.cli.console import Json, Output, facts, moment, service
from neartime.cli.jobs import job_row
from neartime.contract.sessions import SessionMode, SessionState, SessionView
from neartime.errors import InvalidRequest
from neartime.options import seconds
from neartime.session import Session

app = typer.Typer(help="Sessions: keep the backend, and warm workers, for several jobs.", no_args_is_help=True)

SessionId = Annotated[str, typer.Argument(help="The session's id.", show_default=False)]
_OPTIONS = {"backend": "--backend", "max_time": "--max-time", "interactive_timeout": "--interactive-timeout"}
_JOBS_SHOWN = 10
_JOB_COLUMNS = ["id", "program", "status", "created", "seconds", "interims"]
_COLUMNS = ["id", "backend", "mode", "state", "jobs", "created", "seconds"]


@app.command("list")
def list_sessions(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 20,
    skip: Annotated[int, typer.Option(help="How many of the newest to leave out.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List sessions, the newest first."""
    found = service(context).sessions(limit, skip)
    rows = [view.model_dump(mode="json") if as_json else _row(view) for view in found]
    Output(as_json).table(rows, {name: name for name in _COLUMNS}, "No sessions. Open one: neartime session open")


@app.command("open")
def open_session(
    context: typer.Context,
    backend: Annotated[str | None, typer.Option("--backend", "-b", help="The backend; else the server's own.")] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Jobs side by side; else one after the other.")] = False,
    max_time: Annotated[str | None, typer.Option(help="When it closes at the latest: seconds, or '2h 30m'.")] = None,
    interactive_timeout: Annotated[str | None, typer.Option(help="How long it waits for a next job.")] = None,
    as_json: Json = False,
) -> None:
    """Open a session; `neartime run --session ID` runs in it."""
    mode = SessionMode.BATCH if batch else SessionMode.DEDICATED
    longest, idle = seconds(max_time, "--max-time"), seconds(interactive_timeout, "--interactive-timeout")
    try:
        session = Session(service(context), backend, mode, longest, idle)
    except InvalidRequest as error:
        raise error.renamed(_OPTIONS) from error
    Output(as_json).show({"session_id": session.session_id, "backend": session.backend()}, session.session_id)


@app.command()
def show(context: typer.Context, session_id: SessionId, as_json: Json = False) -> None:
    """Show where a session stands, and its newest jobs."""
    runtime = service(context)
    details = Session.from_id(session_id, runtime).details()
    view = SessionView.model_validate({name: details[name] for name in SessionView.model_fields})
    found = runtime.jobs(limit=_JOBS_SHOWN, session_id=session_id)
    output = Output(as_json)
    if as_json:
        output.line({**details, "jobs_shown": [job.view.model_dump(mode="json") for job in found]})
        return
    output.show(None, facts(_life(view)))
    if found:
        output.show(None, "")
        output.table([job_row(job.view) for job in found], {name: name for name in _JOB_COLUMNS}, "")
    if view.jobs > len(found):
        output.note(f"{view.jobs - len(found)} more: neartime job list --session {view.id}")


@app.command()
def close(context: typer.Context, session_id: SessionId, as_json: Json = False) -> None:
    """Close a session; the jobs that it has run to their end."""
    Session.from_id(session_id, service(context)).close()
    Output(as_json).show({"session_id": session_id, "closed": True}, f"session {session_id} takes no more jobs")


@app.command()
def cancel(context: typer.Context, session_id: SessionId, as_json: Json = False) -> None:
    """End a session now, and its jobs with it."""
    Session.from_id(session_id, service(context)).cancel()
    Output(as_json).show({"session_id": session_id, "cancelled": True}, f"session {session_id} is cancelled")


def _life(view: SessionView) -> dict[str, Any]:
    """What happened to a session so far, and what is to come."""
    life = _row(view)
    life["has backend"] = moment(view.started) if view.started else None
    if view.state is SessionState.OPEN:
        life["waits"] = "for its first job, which gets it the backend" if not view.jobs else "for the backend"
    if view.closed:
        life["closed"] = moment(view.closed)
    elif view.started:
        ends = view.started + timedelta(seconds=view.max_ttl)
        life["ends"] = f"{moment(ends)} at the latest, {view.max_ttl} s after it got the backend"
    else:
        life["max time"] = f"{view.max_ttl} s from when it gets the backend"
    if not view.closed:
        life["idle timeout"] = f"{view.interactive_ttl} s without a job"
        life["last activity"] = moment(view.last_activity) if view.last_activity else None
    life["on backend"] = f"{view.usage.quantum_seconds:.1f}" if view.usage.quantum_seconds else None
    life["reason"] = view.reason
    return life


def _row(view: SessionView) -> dict[str, Any]:
    return {
        "id": view.id,
        "backend": view.backend_name,
        "mode": view.mode.value,
        "state": view.state.value,
        "jobs": view.jobs,
        "created": moment(view.created),
        "seconds": f"{view.usage.seconds:.1f}" if view.usage.seconds else None,
    }
