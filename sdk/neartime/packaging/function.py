"""A function as a program: pickled by value with cloudpickle, and named by its source.

What it needs of modules that are not installed (the notebook's own, files beside a script) is pickled with it, since no
server has them; of installed packages only the names are, and the program's requirements must bring them.
"""

from __future__ import annotations

import hashlib
import inspect
import platform
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from neartime.contract.programs import PICKLE_FILE
from neartime.errors import PackagingError

SOURCE_FILE: Final = "source.py"
"""Where the archive holds the function's source, for people."""
_PARTED = (dict, list, tuple, set, frozenset)
_LEAVES = frozenset({float, int, str, bool, type(None)})
_OURS = frozenset({"neartime", "neartime_runner", "neartime_server"})


@dataclass(frozen=True)
class Pickled:
    contents: dict[str, bytes]
    name: str
    """The function's, empty of a lambda."""
    pickled_with: dict[str, str]
    source_digest: str
    """SHA-256 (hexadecimal) of its source and of the values that it takes from around it."""
    inputs: dict[str, Any] | None
    """The schema of the model that it takes, where it takes one."""


def pickle(function: Callable[..., Any]) -> Pickled:
    """A function as the files of a program.

    Raises:
        PackagingError: it, or something that it uses, can't be pickled.
    """
    import cloudpickle

    from neartime.packaging import models

    name = str(getattr(function, "__name__", type(function).__name__))
    if inspect.isclass(function):
        raise PackagingError(f"{name} is a class; a program is a function main(backend, user_messenger, …)")
    model = models.inputs_model(function)
    with _annotated(function, model), _by_value(cloudpickle):
        try:
            data: bytes = cloudpickle.dumps(function)
        except Exception as error:  # objects raise what they please when they are pickled
            raise PackagingError(
                f"{name}() can't be pickled: {type(error).__name__}: {error}. It may use no open files, locks or "
                "connections from around it; make them inside it, or package a folder instead"
            ) from error
        digest = hashlib.sha256()
        for part in _content(function, cloudpickle.dumps, {}):
            digest.update(len(part).to_bytes(8, "little") + part)
    contents = {PICKLE_FILE: data}
    if source := _source(function):
        contents[SOURCE_FILE] = source.encode("utf-8", "replace")
    return Pickled(
        contents,
        "" if name == "<lambda>" else name,
        {"python": platform.python_version(), "cloudpickle": cloudpickle.__version__},
        digest.hexdigest(),
        models.json_schema(model) if model else None,
    )


@contextmanager
def _annotated(function: Callable[..., Any], model: type | None) -> Iterator[None]:
    """Puts the model itself in the place of its name: the name would mean nothing where the function is loaded."""
    if model is None or not isinstance(function, FunctionType):
        yield
        return
    parameter = list(inspect.signature(function).parameters)[2]
    before = function.__annotations__.get(parameter)
    function.__annotations__[parameter] = model
    try:
        yield
    finally:
        function.__annotations__[parameter] = before


@contextmanager
def _by_value(cloudpickle: Any) -> Iterator[None]:
    """Lets what comes from modules that are not installed be pickled with all that it is."""
    known = cloudpickle.list_registry_pickle_by_value()
    added = [module for module in list(sys.modules.values()) if _is_local(module) and module.__name__ not in known]
    for module in added:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def _is_local(module: object) -> bool:
    """Whether a module is a file of the author's own rather than of an installed package."""
    if not isinstance(module, ModuleType) or sys.modules.get(module.__name__) is not module:
        return False
    name, file = module.__name__, getattr(module, "__file__", None)
    if name == "__main__" or name.partition(".")[0] in _OURS or not isinstance(file, str) or not file.endswith(".py"):
        return False
    path = Path(file)
    standard = Path(sysconfig.get_path("stdlib"))
    installed = any(part in ("site-packages", "dist-packages") for part in path.parts)
    return not installed and standard not in path.parents


def _source(function: Callable[..., Any]) -> str | None:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None


def _content(value: Any, dumps: Callable[[Any], bytes], known: dict[int, int]) -> Iterator[bytes]:
    """What a value is, as bytes that are the same in every process: a function's source and all that it refers to.

    `known` numbers, by its id, each thing that was met and may contain itself.
    """
    if isinstance(value, (list, tuple)) and _LEAVES.issuperset(map(type, value)):
        yield _bytes(value, dumps)
    elif isinstance(value, _PARTED) or (isinstance(value, (FunctionType, type)) and _is_own(value)):
        if id(value) in known:
            yield b"again %d" % known[id(value)]
            return
        known[id(value)] = len(known)
        yield type(value).__name__.encode()
        yield from _parts(value, dumps, known)
    elif isinstance(value, ModuleType):
        yield value.__name__.encode()
        if _is_local(value):
            yield Path(str(value.__file__)).read_bytes()
    elif isinstance(value, (FunctionType, type)):
        yield f"{value.__module__}:{value.__qualname__}".encode()
    else:
        yield _bytes(value, dumps)


def _parts(value: Any, dumps: Callable[[Any], bytes], known: dict[int, int]) -> Iterator[bytes]:
    if isinstance(value, (set, frozenset)):
        yield from sorted(b"".join(_content(item, dumps, known)) for item in value)
        return
    named: Iterable[tuple[Any, Any]]
    if isinstance(value, FunctionType):
        yield (_source(value) or "").encode("utf-8", "replace") or value.__code__.co_code
        named = sorted(_around(value).items(), key=itemgetter(0))
    elif isinstance(value, type):
        yield (_source(value) or value.__qualname__).encode("utf-8", "replace")
        methods = {name: item for name, item in vars(value).items() if isinstance(item, FunctionType)}
        named = sorted(methods.items(), key=itemgetter(0))
    elif isinstance(value, dict):
        named = value.items()
    else:
        named = enumerate(value)
    for name, item in named:
        yield from _content(name, dumps, known)
        yield from _content(item, dumps, known)


def _is_own(value: Any) -> bool:
    """Whether a function or class is pickled by value."""
    module = sys.modules.get(value.__module__)
    return module is None or value.__module__ == "__main__" or _is_local(module)


def _around(function: FunctionType) -> dict[str, Any]:
    """What a function refers to, by name: globals, variables of functions around it, types of parameters, defaults."""
    names = set(_names(function.__code__))
    found = {name: function.__globals__[name] for name in names if name in function.__globals__}
    found |= inspect.getclosurevars(function).nonlocals
    found |= {f"<{name}>": kind for name, kind in function.__annotations__.items() if isinstance(kind, type)}
    return {**found, "<defaults>": [function.__defaults__, function.__kwdefaults__]}


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _bytes(value: Any, dumps: Callable[[Any], bytes]) -> bytes:
    from neartime import codec
    from neartime.errors import EncodeError

    try:
        return codec.encode(value)
    except EncodeError:
        return dumps(value)
