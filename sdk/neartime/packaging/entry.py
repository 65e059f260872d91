"""Where a program begins, read from its source without running it."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from neartime.contract.problem import Fault
from neartime.errors import PackagingError
from neartime.packaging.folder import MODULE

MODELS: Final = ("Inputs", "Interim", "Result")
"""pydantic models whose schemas a program's are, by their names in its entry module."""
DEFAULT: Final = "program:main"


@dataclass(frozen=True)
class Entry:
    """What the source of the entry module tells."""

    defines: bool
    """Whether it has a class of a name of `MODELS`, with a base."""
    imports: bool
    """Whether it takes one of those names from elsewhere, where it may be anything."""
    annotated: str | None
    """How it annotates main()'s third parameter, the one behind `user_messenger`; not where by a built-in type."""

    @property
    def declares(self) -> bool:
        """Whether there may be a model to read: then the program has to be imported for it."""
        return self.defines or self.imports or self.annotated is not None

    @property
    def surely(self) -> bool:
        """Whether there is one, as far as can be told."""
        return self.defines or (self.annotated or "").rpartition(".")[2] == "Inputs"


def find(contents: Mapping[str, bytes]) -> str:
    """The entry point of a program that names none: main() of program.py, or else of the only module that has one.

    Raises:
        PackagingError: there is none, or there are several.
    """
    if MODULE in contents:
        return DEFAULT
    top = [path for path in sorted(contents) if path.endswith(".py") and "/" not in path]
    having = [path for path in top if _defines(contents[path], "main")]
    if len(top) == 1 and not having:
        _parsed(contents[top[0]], top[0])  # a file that can't be read at all has a fault of its own
    if len(having) == 1:
        return f"{having[0].removesuffix('.py')}:main"
    said = f"main() is in {', '.join(having)}" if having else "no file at its top has a main()"
    raise PackagingError(
        f"The program has no {MODULE}, and {said}.",
        [Fault(path="manifest.entry-point", message="is missing: module:function, for example program:main")],
    )


def read(contents: Mapping[str, bytes], entry_point: str) -> Entry:
    """What the entry module tells of main() and its models.

    Raises:
        PackagingError: it is not there, has a syntax error, or has no such function.
    """
    module, _, function = entry_point.partition(":")
    base = module.replace(".", "/")
    path = next((one for one in (f"{base}.py", f"{base}/__init__.py") if one in contents), None)
    if path is None:
        raise PackagingError(
            f"The program has no {base}.py.",
            [Fault(path="manifest.entry-point", message=f"{entry_point!r} names a module that is not there")],
        )
    tree = _parsed(contents[path], path)
    names = set(_names(tree.body))
    if function not in names and "*" not in names:
        raise PackagingError(
            f"{path} has no function {function}.",
            [Fault(path="manifest.entry-point", message=f"{entry_point!r} names a function that is not there")],
        )
    main = next((one for one in _functions(tree) if one.name == function), None)
    classes = {one.name for one in tree.body if isinstance(one, ast.ClassDef) and one.bases}
    imported = {one.asname or one.name for part in tree.body if isinstance(part, ast.ImportFrom) for one in part.names}
    return Entry(
        defines=not classes.isdisjoint(MODELS),
        imports=not imported.isdisjoint(MODELS),
        annotated=_annotation(main) if main else None,
    )


def _parsed(source: bytes, path: str) -> ast.Module:
    try:
        return ast.parse(source, path)
    except SyntaxError as error:
        line = (error.text or "").strip()
        message = f"{error.msg}{f': {line}' if line else ''}"
        raise PackagingError(
            f"{path} is no Python that can be read here.", [Fault(path=f"{path}:{error.lineno}", message=message)]
        ) from error
    except ValueError as error:  # null bytes
        raise PackagingError(f"{path} is no Python that can be read here: {error}") from error


def _defines(source: bytes, function: str) -> bool:
    try:
        return any(one.name == function for one in _functions(ast.parse(source)))
    except (SyntaxError, ValueError):
        return False


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (one for one in tree.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef)))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module's own statements bind, in branches too; `*` where it takes all of another module's."""
    for statement in body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            for one in statement.names:
                yield one.asname or one.name.partition(".")[0]
        elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(statement, part, None) or [])
            for handler in getattr(statement, "handlers", []):
                yield from _names(handler.body)


def _annotation(main: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    parameters = [*main.args.posonlyargs, *main.args.args]
    if len(parameters) < 3 or (annotation := parameters[2].annotation) is None:
        return None
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        text = annotation.value
    else:
        text = ast.unparse(annotation)
    plain = text.replace(".", "_").isidentifier() and not hasattr(builtins, text)
    return text if plain else None
