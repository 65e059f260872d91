"""What Neartime itself needs in a program's environment, and what nobody can have there.

The runner in an environment is the server's own: there are links to the packages that this server runs from, so that
the two can't drift, and a mended runner needs no environment made again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import itertools
import re
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from neartime.contract.problem import ErrorCode, Problem
from neartime.contract.programs import Manifest
from neartime_server.errors import BuildFailed, Refused

QISKIT_FLOOR: Final = Version("1.4.2")
"""Before it, loading a crafted circuit file evaluated text that is in it."""
PYTHON_FLOOR: Final = Version("3.10")
MINORS: Final = ("3.14", "3.13", "3.12", "3.11", "3.10")
"""Of Python, that programs can run on."""
PACKAGES: Final = ("neartime", "neartime_runner", "nkeys")
"""What is linked. The index has nkeys as a source distribution alone, and those are not built; it is pure Python."""
_LINKED: Final = ("neartime", "nkeys")
"""The distributions of these packages."""
_EXTRAS: Final = ("", "runner", "qiskit")
_CLIENT_ONLY: Final = frozenset({"httpx", "rich", "sniffio", "typer"})
"""What client and command line import, and the runner does not: a program may pin these as it likes."""
_PINNED: Final = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)", re.MULTILINE)


_PROGRAMS_ONLY: Final = frozenset({"cloudpickle", "jsonschema", "qiskit-aer", "referencing", "scipy"})
"""What runs programs, or in-worker backends: a provider behind a gateway may pin these as it likes."""


def own(python: str, *, gateway: bool = False) -> list[str]:
    """What runner and backend require on a Python of that minor version (`3.11`), from the packages' own metadata; or
    a gateway."""
    needless = _CLIENT_ONLY | _PROGRAMS_ONLY if gateway else _CLIENT_ONLY
    found = set()
    for text in itertools.chain.from_iterable(importlib.metadata.requires(name) or () for name in _LINKED):
        requirement = Requirement(text)
        applies = requirement.marker is None or any(
            requirement.marker.evaluate(
                {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
            )
            for extra in _EXTRAS
        )
        if applies and requirement.name not in (*needless, *_LINKED):
            requirement.marker = None
            found.add(str(requirement))
    return sorted(found)


def wanted(manifest: Manifest) -> list[str]:
    """A program's requirements, each in its one form, sorted.

    Raises:
        Refused: 422, with every one that no environment can have.
    """
    found = set()
    problems: list[tuple[int, str, str | None]] = []
    for number, text in enumerate(manifest.requirements):
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            problems.append((number, f"{text!r} is no requirement: {str(error).splitlines()[0]}", None))
            continue
        if requirement.url is not None:
            problems.append((number, f"{text!r}: only named packages of the index are taken, no URLs or paths", None))
        elif canonicalize_name(requirement.name) == "qiskit" and any(map(_too_old, requirement.specifier)):
            message = f"{text!r}: Qiskit before {QISKIT_FLOOR} can run code that is hidden in a circuit"
            problems.append((number, message, f"ask for qiskit>={QISKIT_FLOOR}"))
        found.add(str(requirement))
    if problems:
        raise Refused(422, [_unsupported(f"manifest.requirements[{at}]", text, way) for at, text, way in problems])
    return sorted(found)


def pythons(manifest: Manifest) -> SpecifierSet:
    """The Python versions that a program can run on; a pickled function's is the one that wrote it.

    Raises:
        Refused: 422, it is no version specifier.
    """
    text = manifest.python or ""
    if not text and manifest.kind == "function" and manifest.pickled_with is not None:
        text = f"=={'.'.join(manifest.pickled_with.python.split('.')[:2])}.*"
    try:
        return SpecifierSet(text)
    except InvalidSpecifier as error:
        message = f"{text!r} is no version specifier"
        raise Refused(422, [_unsupported("manifest.python", message, "write for example >=3.11")]) from error


def no_python(manifest: Manifest, there_are: list[str]) -> Refused:
    """No interpreter of this machine will do."""
    here = (
        f"the server's machine has no such Python of {PYTHON_FLOOR} or newer; it has {', '.join(there_are) or 'none'}"
    )
    solution = "widen it, or ask the operator to install one"
    if manifest.python is None:
        here = f"the function was pickled by Python {pythons(manifest)}, which a pickle can't leave, and {here}"
        solution = "upload the program as a file, or ask the operator to install that Python"
    else:
        here = f"{manifest.python!r} is wanted, and {here}"
    return Refused(422, [_unsupported("manifest.python", here, solution)])


def check_lock(lock: str) -> None:
    """That resolving did not bring in what may not be had.

    Raises:
        Refused: 422, a package of the program needs a Qiskit that is too old.
    """
    version = pinned(lock).get("qiskit")
    if version is not None and version < QISKIT_FLOOR:
        message = f"they lead to Qiskit {version}, and before {QISKIT_FLOOR} it can run code hidden in a circuit"
        raise Refused(422, [_unsupported("manifest.requirements", message, f"add qiskit>={QISKIT_FLOOR}")])


def pinned(lock: str) -> dict[str, Version]:
    """The versions in a lock, by name."""
    return {str(canonicalize_name(name)): Version(version) for name, version in _PINNED.findall(lock)}


def serves(lock: str, python: str, *, gateway: bool = False) -> bool:
    """Whether an environment of this lock has what runner and backend, or a gateway, require today."""
    versions = pinned(lock)
    requirements = (Requirement(text) for text in own(python, gateway=gateway))
    return all(
        (found := versions.get(canonicalize_name(one.name))) is not None
        and one.specifier.contains(found, prereleases=True)
        for one in requirements
    )


def _too_old(one: Specifier) -> bool:
    """Whether this part of a requirement of Qiskit lets in none that is new enough."""
    prefix = one.operator == "~=" or one.version.endswith(".*")
    try:
        version = Version(one.version.removesuffix(".*"))
    except InvalidVersion:  # of the operator ===, which takes any text
        return False
    if prefix:
        release = version.release[:-1] if one.operator == "~=" else version.release
        return one.operator != "!=" and release < QISKIT_FLOOR.release[: len(release)]
    if one.operator == "<":
        return version <= QISKIT_FLOOR
    return one.operator in ("==", "===", "<=") and version < QISKIT_FLOOR


def _unsupported(path: str, message: str, solution: str | None) -> Problem:
    return Problem(code=ErrorCode.UNSUPPORTED_REQUIREMENT, message=f"{path}: {message}", path=path, solution=solution)


# --- Neartime's own packages


def link(site: Path) -> None:
    """Make Neartime importable in an environment's site-packages, its metadata included. Links of another server that
    made the environment, or of this one before it was upgraded, are replaced.

    Raises:
        BuildFailed: this server's own packages can't be found.
    """
    sources = {source.name: source for source in _sources()}
    for name in _LINKED:
        for old in site.glob(f"{name}-*.dist-info"):
            if old.is_symlink() and old.name not in sources:
                old.unlink(missing_ok=True)
    for name, source in sources.items():
        target = site / name
        if not target.is_symlink() or target.readlink() != source:
            draft = site / f".{name}.{secrets.token_hex(4)}"
            draft.symlink_to(source, target_is_directory=True)
            draft.replace(target)


def copy(folder: Path) -> None:
    """Put Neartime's packages into a folder, without byte code.

    Raises:
        BuildFailed: this server's own packages can't be found.
    """
    for source in _sources():
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))


@cache
def runner_digest() -> str:
    """Of the content of Neartime's packages, as this server has them: 64 hexadecimal digits."""
    found = hashlib.sha256()
    for source in _sources():
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(f"{source.name}/{file.relative_to(source)}\0".encode() + file.read_bytes())
    return found.hexdigest()


def runner_layer(minor: str) -> str:
    """What the layer with Neartime's packages is called for a minor version of Python: 64 hexadecimal digits."""
    return hashlib.sha256(f"{minor} {runner_digest()}".encode()).hexdigest()


def _sources() -> list[Path]:
    found = []
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise BuildFailed(f"the server's own package {name} can't be found", "")
        found.append(Path(next(iter(spec.submodule_search_locations))).resolve())
    for name in _LINKED:
        distribution = importlib.metadata.distribution(name)
        beside = Path(str(distribution.locate_file("")))
        found += [one.resolve() for one in beside.glob(f"{name}-{distribution.version}.dist-info")]
    return found
