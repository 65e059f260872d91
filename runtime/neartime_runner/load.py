"""A program's main(), out of its folder."""

from __future__ import annotations

import importlib
import importlib.machinery
import inspect
import pickle
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from neartime.contract.problem import Fault
from neartime.contract.programs import PICKLE_FILE, Manifest
from neartime.errors import IncompatibleVersion, InvalidInput

_OWN = frozenset({"neartime", "neartime_runner"})


@dataclass(frozen=True)
class Program:
    main: Callable[..., Any]
    inputs: type[BaseModel] | None
    """The model of a typed program's inputs."""

    def bound(self, backend: Any, messenger: Any, values: dict[str, Any]) -> Callable[[], Any]:
        """main() with all its arguments.

        Raises:
            InvalidInput: it does not take these.
        """
        if self.inputs is not None:
            return partial(self.main, backend, messenger, _model(self.inputs, values))
        try:
            signature = inspect.signature(self.main)
        except (TypeError, ValueError):  # of a callable that states none
            signature = None
        if signature is not None:
            try:
                signature.bind(backend, messenger, **values)
            except TypeError as error:
                raise InvalidInput(f"main{signature} does not take these inputs: {error}") from None
        return partial(self.main, backend, messenger, **values)


def load(manifest: Manifest, folder: Path) -> Program:
    """Import it. Modules that are loaded already stay as they are.

    Raises:
        IncompatibleVersion: it was pickled by another Python.
        BaseException: whatever the program's own code raises.
    """
    if manifest.kind == "function":
        main: Any = _unpickle(manifest, folder / PICKLE_FILE)
    else:
        module_name, _, name = manifest.entry_point.partition(":")
        _make_way(folder)
        importlib.invalidate_caches()  # the folder may have changed since a job before this one failed to import it
        module = importlib.import_module(module_name)
        main = getattr(module, name, None)
        if main is None:
            raise AttributeError(f"{module_name} has no function {name!r}, which the manifest names as its entry point")
    if not callable(main):
        raise TypeError(f"{manifest.entry_point} is no function but an object of type {type(main).__name__}")
    return Program(main, _inputs_model(main) if manifest.typed else None)


def _unpickle(manifest: Manifest, file: Path) -> Callable[..., Any]:
    import cloudpickle

    made, own = manifest.pickled_with, platform.python_version()
    if made is not None and made.python.split(".")[:2] != own.split(".")[:2]:
        raise IncompatibleVersion(
            f"the function was pickled by Python {made.python}, and this environment runs Python {own}; a pickle "
            f"does not cross minor versions: upload it from Python {'.'.join(own.split('.')[:2])}, or as a file"
        )
    try:
        return cloudpickle.loads(file.read_bytes())  # type: ignore[no-any-return]
    except (AttributeError, TypeError, pickle.UnpicklingError) as error:
        if made is None or made.cloudpickle == cloudpickle.__version__:
            raise
        raise IncompatibleVersion(
            f"the function was pickled by cloudpickle {made.cloudpickle}, and this environment's, "
            f"{cloudpickle.__version__}, can't read it ({type(error).__name__}: {error}); "
            "upload it again with that version, or as a file"
        ) from error


def _make_way(folder: Path) -> None:
    """The folder's modules are found first, as they are where Python is started in it, whatever is loaded already."""
    path = str(folder)
    if path not in sys.path:
        sys.path.insert(0, path)
    for entry in folder.iterdir():
        name = entry.name.partition(".")[0]
        loaded = sys.modules.get(name)
        if loaded is None or name in _OWN or name in sys.builtin_module_names or name == "__main__":
            continue
        spec = importlib.machinery.PathFinder.find_spec(name, [path])
        if spec is None or spec.origin is None or spec.origin == getattr(loaded, "__file__", None):
            continue  # no module, or loaded from here by an earlier job
        for other in [other for other in sys.modules if other == name or other.startswith(f"{name}.")]:
            del sys.modules[other]


def _inputs_model(main: Callable[..., Any]) -> type[BaseModel]:
    from neartime.packaging.models import inputs_model

    if (found := inputs_model(main)) is None:
        raise TypeError("main() of a typed program takes a pydantic model as its third argument: inputs: Inputs")
    return found


def _model(model: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [Fault(path=_path(one["loc"]), message=one["msg"]) for one in error.errors(include_url=False)]
        raise InvalidInput("the inputs are not what the program declares", faults) from None


def _path(location: tuple[int | str, ...]) -> str:
    return "inputs" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
