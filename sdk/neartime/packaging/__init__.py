"""Programs as they travel: packaged on the author's machine, checked and unpacked where they arrive.

Each name is read from its module when it is first used: the server, which only reads archives, must not load the half
that pickles functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neartime.packaging.archive import pack, read_files, unpack
    from neartime.packaging.models import inputs_model, json_schema
    from neartime.packaging.program import Package, package

__all__ = ["Package", "inputs_model", "json_schema", "pack", "package", "read_files", "unpack"]

_MODULES = {
    "Package": "program",
    "inputs_model": "models",
    "json_schema": "models",
    "pack": "archive",
    "package": "program",
    "read_files": "archive",
    "unpack": "archive",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
