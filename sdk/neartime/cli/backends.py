"""`neartime backend`."""

from __future__ import annotations

from typing import Annotated

import typer

from neartime.cli.console import Json, Output, service

app = typer.Typer(help="Backends: what programs run on.", no_args_is_help=True)


@app.command("list")
def list_backends(context: typer.Context, as_json: Json = False) -> None:
    """List the server's backends."""
    found = service(context).backends()
    rows = [
        backend.to_dict()
        if as_json
        else {
            "name": backend.name,
            "qubits": backend.num_qubits or None,
            "jobs at once": backend.parallelism,
            "waiting": backend.pending_jobs,
            "status": "takes jobs" if backend.operational else backend.to_dict()["status"]["message"] or "away",
            "description": backend.description,
        }
        for backend in found
    ]
    columns = ["name", "qubits", "jobs at once", "waiting", "status", "description"]
    Output(as_json).table(rows, {name: name for name in columns}, "No backends.")


@app.command()
def show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The backend's name.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a backend: its qubits, its gates, who waits."""
    backend = service(context).backend(name)
    configuration = backend.configuration()
    lines = [
        f"{backend.name}: {backend.description}".rstrip(": "),
        f"  qubits: {configuration.get('num_qubits')}",
        f"  jobs at once: {backend.parallelism}",
        f"  waiting: {backend.pending_jobs}",
        f"  gates: {', '.join(configuration.get('basis_gates') or [])}",
    ]
    Output(as_json).show({**backend.to_dict(), "configuration": configuration}, "\n".join(lines))
