"""The primitive programs, loaded as a worker loads them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import neartime_primitives
from neartime import codec


class Messenger:
    """Keeps what is published, as the caller's callback would get it."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def publish(self, message: Any, encoder: Any = None, final: bool = False) -> None:
        self.said.append(codec.decode(codec.encode(message)))


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], ModuleType]]:
    """`program.py` of a primitive program, with the modules that it shares with others beside it."""
    folder, before = tmp_path_factory.mktemp("primitives"), set(sys.modules)
    loaded: dict[str, ModuleType] = {}

    def load(name: str) -> ModuleType:
        if name not in loaded:
            place = str(neartime_primitives.assemble(name, folder))
            sys.path.insert(0, place)
            try:
                sys.modules.pop("program", None)
                loaded[name] = importlib.import_module("program")
            finally:
                sys.path.remove(place)
        return loaded[name]

    yield load
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
