"""What a zygote imports before it forks, so that a fresh child has it at once.

Forking is only safe while no thread pool of a library runs: Aer's OpenMP and Qiskit's Rayon do not survive it, and the
forked child hangs at their first use. OpenBLAS, which starts its threads when numpy is imported, ends them before each
fork by itself. So things are imported and built here, never run; and no pass manager of level 2 or 3 is built, since
that alone starts Rayon's threads (tried with Qiskit 2.6).
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from contextlib import suppress

OWN = (
    "neartime.codec",
    "neartime.codec.plain",
    "neartime.packaging.models",
    "neartime.schema",
    "neartime.types",
    "jsonschema",
    "nats",
    "nkeys",
)
SCIENCE = (
    "numpy",
    "scipy.optimize",
    "scipy.sparse",
    "qiskit",
    "qiskit.circuit.library",
    "qiskit.primitives",
    "qiskit.providers.fake_provider",
    "qiskit.qpy",
    "qiskit.quantum_info",
    "qiskit.transpiler",
    "qiskit_aer",
    "qiskit_aer.primitives",
    "neartime.codec.arrays",
    "neartime.codec.circuits",
    "neartime.codec.operators",
    "neartime.codec.results",
    "cloudpickle",
)
"""Loaded where they are installed, each with what a program most often imports of it."""
FIRST = ("qiskit", "qiskit_aer")
"""What a worker loads that nobody has made ready: its first job waits for it."""
STATED = ("qiskit", "qiskit-aer", "numpy", "cloudpickle")
_loaded = False


def preload() -> None:
    """Import all of it, find the transpiler's plugins, and keep the garbage collector off what was made.

    The second call in a process, or in one that was forked from it, does nothing.

    Raises:
        ImportError: a package of the runner itself is missing or broken.
    """
    global _loaded
    if _loaded:
        return
    _loaded = True
    for name in OWN:
        importlib.import_module(name)
    _load(SCIENCE)
    _find_plugins()
    gc.collect()
    gc.freeze()  # a collection in a child would write to every page that it shares with the zygote


def preload_first() -> None:
    """Import what nearly every program needs, and nothing that some can do without: `preload` where there is time."""
    if not _loaded:
        _load(FIRST)
        gc.freeze()


def _load(names: Sequence[str]) -> None:
    for name in names:
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            continue
        with suppress(ModuleNotFoundError):  # of an optional part, or of a release that has no such module
            importlib.import_module(name)


def _find_plugins() -> None:
    """Discovers the plugins of the transpiler's stages, half a second that each child would spend by itself."""
    if importlib.util.find_spec("qiskit") is None:
        return
    from qiskit.transpiler import generate_preset_pass_manager

    line = [[0, 1], [1, 0]]
    for level in (0, 1):
        generate_preset_pass_manager(level, basis_gates=["cx", "rz", "sx", "x"], coupling_map=line)
    if importlib.util.find_spec("qiskit_aer") is not None:
        from qiskit_aer import AerSimulator

        generate_preset_pass_manager(1, backend=AerSimulator())


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a program can rely on, where they are installed."""
    found = {}
    for name in STATED:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
