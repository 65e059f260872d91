"""The schemas that a program's own models declare: it is imported for them, in a process of its own.

Its modules would else stay in the author's process, and the next upload would read the old ones.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neartime.errors import PackagingError
from neartime.packaging.entry import MODELS

PATIENCE: Final = 300.0
"""Seconds that a program may take to be imported."""
_RUN = "from neartime.packaging.derive import child; child()"
_TAIL = 2000
"""Characters of what a program printed, where it ended the process."""


@dataclass(frozen=True)
class Derived:
    typed: bool
    """Whether main() takes one object, its inputs' model, rather than keyword arguments."""
    schemas: dict[str, Any]
    """`inputs`, `interim`, `result`: those of which there is a model."""


class NotImported(PackagingError):
    """A program can't be imported on this machine."""


def derive(contents: Mapping[str, bytes], entry_point: str) -> Derived:
    """What the models of a program declare.

    Raises:
        NotImported: importing it raised, or took too long; the message ends with its traceback.
        PackagingError: a model has no schema.
    """
    with tempfile.TemporaryDirectory(prefix="neartime-") as place:
        folder, answer = Path(place, "program"), Path(place, "answer.json")
        for path, data in contents.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        said = _run(folder, entry_point, answer)
        try:
            told = json.loads(answer.read_bytes())
        except (OSError, ValueError):
            raise NotImported(
                f"The program ended the process that imported it, to read its schemas:\n{said[-_TAIL:].strip()}"
            ) from None
    if "error" in told:
        raise PackagingError(told["error"])
    if "traceback" in told:
        raise NotImported(
            "The program can't be imported here, which is where its schemas are read. Install what it needs, import "
            "it inside main(), or have main() take keyword arguments and declare them in program.toml, as "
            f"[schemas.inputs].\n{told['traceback']}"
        )
    return Derived(told["typed"], told["schemas"])


def _run(folder: Path, entry_point: str, answer: Path) -> str:
    """Imports it in another process, which writes the answer; returns what it printed."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", _RUN, str(folder), entry_point, str(answer)]
    try:
        run = subprocess.run(
            command,
            # Not in the folder itself: a json.py of the program's would take the place of Python's own there.
            cwd=folder.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NotImported(f"The program took more than {PATIENCE:g} s to be imported, to read its schemas.") from error
    return run.stdout.decode("utf-8", "replace")


def child() -> None:
    """The other process: imports the program, writes what it declares."""
    from neartime.packaging import models

    folder, entry_point, answer = sys.argv[1:]
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [""]
    try:
        told = _declared(entry_point, models)
    except PackagingError as error:
        told = {"error": str(error)}
    except BaseException as error:
        told = {"traceback": _traceback(error, folder)}
    Path(answer).write_text(json.dumps(told))


def _declared(entry_point: str, models: Any) -> dict[str, Any]:
    from pydantic import BaseModel

    name, _, function = entry_point.partition(":")
    module = importlib.import_module(name)
    main = getattr(module, function, None)
    if not callable(main):
        raise PackagingError(f"{name} has no function {function}.")
    found = {part: getattr(module, part, None) for part in MODELS}
    model = models.inputs_model(main)
    found["Inputs"] = model or found["Inputs"]
    schemas = {
        part.lower(): models.json_schema(one)
        for part, one in found.items()
        if isinstance(one, type) and issubclass(one, BaseModel) and one is not BaseModel
    }
    return {"typed": model is not None, "schemas": schemas}


def _traceback(error: BaseException, folder: str) -> str:
    """The program's own frames, with paths as they are in the program."""
    told = traceback.TracebackException.from_exception(error)
    first = next((at for at, frame in enumerate(told.stack) if frame.filename.startswith(folder)), len(told.stack))
    del told.stack[:first]
    text = "".join(told.format()) if told.stack else "".join(told.format_exception_only())
    return text.replace(f"{folder}{os.sep}", "").strip()
