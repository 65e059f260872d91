"""What a program may ask for to be installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from neartime.contract.problem import Fault
from neartime.schema.wire import shown

QISKIT_FLOOR: Final = Version("1.4.2")
"""Older ones evaluate text that is in a circuit file which they load."""
_OLD_NAMES = frozenset({"qiskit-terra", "qiskit-aqua", "qiskit-ignis"})
"""What Qiskit's parts were called before 1.0."""


class UnsupportedRequirement(Fault):
    """The fault of a requirement that is well formed, and asks for what no environment can have here."""


def requirement_faults(requirements: Any, root: str = "manifest.requirements") -> list[Fault]:
    """What is wrong with a list of requirements, with paths such as `manifest.requirements[2]`."""
    if not isinstance(requirements, Sequence) or isinstance(requirements, str):
        return [Fault(path=root, message=f"expected a list of requirements, got {shown(requirements)}")]
    return [
        type(fault)(path=f"{root}[{number}]", message=fault.message)
        for number, text in enumerate(requirements)
        for fault in _faults(text)
    ]


def _faults(text: Any) -> Iterator[Fault]:
    if not isinstance(text, str):
        yield _fault(f"expected text such as 'scipy>=1.13', got {shown(text)}")
        return
    stripped = text.strip()
    if not stripped or stripped.startswith(("-", "#")):
        yield _fault(f"{text!r} is no package; options, index lines and comments are not taken")
        return
    if stripped.startswith((".", "/", "~")) or "://" in stripped or "file:" in stripped:
        yield _fault(f"{text!r} is a path or an address; packages are taken from the index alone, by name")
        return
    try:
        requirement = Requirement(stripped)
    except InvalidRequirement as error:
        yield _fault(f"{text!r} can't be read: {str(error).splitlines()[0]}")
        return
    if requirement.url is not None:
        yield _fault(f"{text!r} has an address; packages are taken from the index alone, by name")
        return
    name = canonicalize_name(requirement.name)
    if name in _OLD_NAMES:
        yield _unsupported(f"{requirement.name} is of a Qiskit before 1.0; ask for qiskit>={QISKIT_FLOOR}")
    elif name == "qiskit" and not _allows(requirement.specifier, QISKIT_FLOOR):
        yield _unsupported(
            f"{text!r} allows only a Qiskit older than {QISKIT_FLOOR}, which evaluates text that is in circuit files; "
            f"ask for qiskit>={QISKIT_FLOOR}"
        )


def _fault(message: str) -> Fault:
    return Fault(path="", message=message)


def _unsupported(message: str) -> Fault:
    return UnsupportedRequirement(path="", message=message)


def _allows(specifiers: SpecifierSet, floor: Version) -> bool:
    """Whether a version of `floor` or newer may satisfy them: one of those that they name, or just after, or far on."""
    named = [one for one in (_version(specifier.version) for specifier in specifiers) if one is not None]
    after = (
        Version(f"{one.epoch}!{'.'.join(map(str, (*release[:at], release[at] + 1)))}")
        for one in (*named, floor)
        for release in ((*one.release, 0, 0, 0),)
        for at in range(3)
    )
    candidates = chain((floor, Version("9999")), named, after)
    return any(one >= floor and specifiers.contains(one, prereleases=True) for one in candidates)


def _version(text: str) -> Version | None:
    try:
        return Version(text.removesuffix(".*"))
    except InvalidVersion:
        return None


def python_faults(python: Any, root: str = "manifest.python") -> list[Fault]:
    """What is wrong with a specifier of Python versions."""
    if python is None or not isinstance(python, str):
        return []
    try:
        SpecifierSet(python)
    except InvalidSpecifier:
        return [Fault(path=root, message=f"{python!r} is no version specifier, for example '>=3.11'")]
    return []
