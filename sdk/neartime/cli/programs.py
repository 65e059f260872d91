"""`neartime program`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from neartime.cli import templates
from neartime.cli.console import Json, Output, facts, service
from neartime.errors import PackagingError
from neartime.programs import RuntimeProgram

app = typer.Typer(help="Programs: upload them, look at them, begin one.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The program's name or id.", show_default=False)]


@app.command()
def upload(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(help="A folder with a program.toml, a .py file or a zip.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(help="Another name than it declares.")] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="Let every instance of the server run it, or its own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Upload a program, or a new version of the one that has its name."""
    if not source.exists():
        raise PackagingError(f"{source} is not there; `neartime program init NAME` begins a program")
    runtime = service(context)
    overrides: dict[str, Any] = {} if name is None else {"name": name}
    output = Output(as_json)
    program_id = runtime.upload_program(source, is_public=public, log=output.note, **overrides)
    program = runtime.program(program_id)
    text = f"{uploaded(program)}\n  program id: {program.program_id}\nRun it: neartime run {program.name}"
    output.show({**program.to_dict(), "new_version": program.version_is_new}, text)


def uploaded(program: RuntimeProgram) -> str:
    """What became of an upload: `vqe, version 3`, a new one or one that was there."""
    text = f"{program.name}, version {program.version}"
    if program.version_is_new:
        return text
    newest = max(version.number for version in program.versions())
    if newest == program.version:
        return f"{text} (unchanged)"
    return f"{text} again (the content is that of then); jobs run it instead of version {newest}"


@app.command("list")
def list_programs(
    context: typer.Context,
    search: Annotated[str | None, typer.Option(help="Text that name or description contains.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 50,
    skip: Annotated[int, typer.Option(help="How many of the first to leave out.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """List programs, your own and the public ones."""
    found = service(context).programs(limit=limit, skip=skip, search=search)
    rows = [program.to_dict() if as_json else _row(program) for program in found]
    columns = {"name": "name", "version": "version", "description": "description", "public": "public", "id": "id"}
    Output(as_json).table(rows, columns, "No programs. Begin one: neartime program init NAME")


@app.command()
def show(context: typer.Context, program: Name, as_json: Json = False) -> None:
    """Show what a program declares: its inputs above all."""
    found = service(context).program(program)
    Output(as_json).show(found.to_dict(), str(found))


@app.command()
def inspect(
    image: Annotated[str, typer.Argument(help="Reference of an image, HOST/NAME@sha256:… or HOST/NAME:TAG.")],
    ca: Annotated[Path | None, typer.Option(help="Certificates, PEM, that the registry's is checked against.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="The registry speaks HTTP without TLS.")] = False,
    as_json: Json = False,
) -> None:
    """Show what a program's image says of itself: asked of its registry, without its layers."""
    import asyncio

    from neartime import images

    found = asyncio.run(images.inspect(image, ca=ca, insecure=insecure))
    manifest = found.manifest
    shown = {
        "image": found.reference,
        "program": manifest.name,
        "description": manifest.description,
        "digest": found.program,
        "entry point": manifest.entry_point,
        "requires": manifest.requirements,
        "Python": found.python,
        "neartime": found.version,
        "contract": found.contract,
        "built on": found.base,
        "size": f"{found.size / (1 << 20):.0f} MiB in {found.layers} layers",
    }
    Output(as_json).show(found.to_json(), facts(shown))


@app.command()
def download(
    context: typer.Context,
    program: Name,
    folder: Annotated[Path | None, typer.Argument(help="A new folder; else one of the program's name.")] = None,
    as_json: Json = False,
) -> None:
    """Write a program's files into a new folder."""
    runtime = service(context)
    path = runtime.download_program(program, folder or Path(runtime.program(program).name))
    Output(as_json).show({"folder": str(path)}, f"{path}")


@app.command()
def delete(context: typer.Context, program: Name, as_json: Json = False) -> None:
    """Delete a program; its jobs keep their version."""
    service(context).delete_program(program)
    Output(as_json).show({"program": program, "deleted": True}, f"{program} is deleted")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Of the program, and of its new folder.", show_default=False)],
    template: Annotated[
        str, typer.Option("--template", "-t", help=f"What to begin with: {', '.join(templates.names())}.")
    ] = "hello",
    as_json: Json = False,
) -> None:
    """Begin a program: a folder that can be uploaded as it is."""
    folder = templates.write(name, template, Path(name))
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    text = f"{folder}/ with {', '.join(files)}\nRun it: neartime run ./{folder} --inputs {folder}/{templates.INPUTS}"
    Output(as_json).show({"folder": str(folder), "files": files}, text)


def _row(program: RuntimeProgram) -> dict[str, Any]:
    return {
        "name": program.name,
        "version": program.version,
        "description": program.description.split("\n")[0],
        "public": "preinstalled" if program.is_preinstalled else "yes" if program.is_public else "",
        "id": program.program_id,
    }
