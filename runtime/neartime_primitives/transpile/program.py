"""Qiskit's transpiler as a service: circuits in, ISA circuits of the backend out, with the layout that they got.

Whatever is installed beside the program takes part: plug-ins by their names, and passes by where their classes are.
"""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any

from qiskit.transpiler import PassManager, generate_preset_pass_manager
from qiskit.transpiler.basepasses import BasePass
from qiskit.transpiler.passes.synthesis import plugin as synthesis
from qiskit.transpiler.preset_passmanagers.plugin import list_stage_plugins

MOST_KEPT = 16
"""Pass managers; each holds the distances between all qubits of a device."""
_ELSEWHERE = "a package that brings it goes into the requirements of a program of your own"
_managers: dict[str, tuple[Any, Any]] = {}
"""Those that this process has made, by what was asked for, each with its backend; the one last used at the end."""


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    optimization_level: int = 2,
    initial_layout: list[int] | None = None,
    seed_transpiler: int | None = None,
    approximation_degree: float | None = 1.0,
    methods: dict[str, str] | None = None,
    high_level_synthesis: dict[str, list[str]] | None = None,
    passes: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    asked = {
        "optimization_level": optimization_level,
        "initial_layout": initial_layout,
        "seed_transpiler": seed_transpiler,
        "approximation_degree": approximation_degree,
        **{f"{stage}_method": name for stage, name in (methods or {}).items()},
    }
    key = json.dumps([id(backend), asked, high_level_synthesis, passes], sort_keys=True)
    _, manager = _managers.pop(key, (None, None))
    if manager is None:
        _require_plugins(methods or {}, high_level_synthesis or {})
        if high_level_synthesis:
            from qiskit.transpiler.passes.synthesis import HLSConfig

            asked["hls_config"] = HLSConfig(**high_level_synthesis)
        manager = generate_preset_pass_manager(backend=backend, **asked)
        for number, one in enumerate(passes or []):
            before = getattr(manager, one["at"], None) or PassManager()
            before.append(_made(one, backend, f"passes[{number}]"))
            setattr(manager, one["at"], before)
    _managers[key] = backend, manager
    if len(_managers) > MOST_KEPT:
        del _managers[next(iter(_managers))]
    found = manager.run(circuits)
    return {
        "circuits": found,
        "depths": [one.depth(_is_wide) for one in found],
    }


def _require_plugins(methods: dict[str, str], high_level: dict[str, list[str]]) -> None:
    """Raises ValueError, which names those there are, where one is not installed."""
    wanted = [
        (
            f"methods.{stage}",
            [name],
            synthesis.unitary_synthesis_plugin_names() if stage == "unitary_synthesis" else list_stage_plugins(stage),
        )
        for stage, name in methods.items()
    ]
    wanted += [
        (f"high_level_synthesis.{operation}", names, synthesis.high_level_synthesis_plugin_names(operation))
        for operation, names in high_level.items()
    ]
    for path, names, there in wanted:
        for name in names:
            if name not in there:
                known = ", ".join(sorted(there)) or "none"
                raise ValueError(f"{path}: there is no plug-in {name!r} here; installed: {known}; {_ELSEWHERE}")


def _made(one: dict[str, Any], backend: Any, path: str) -> Any:
    """A pass from where its class is; what it wants to know of the backend it is told."""
    where, arguments = one["pass"], dict(one.get("arguments") or {})
    module, _, name = where.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path}.pass: {where!r} can't be imported: {error}; {_ELSEWHERE}") from error
    if not (inspect.isclass(kind) and issubclass(kind, BasePass)):
        raise ValueError(f"{path}.pass: {where!r} is no pass of Qiskit's transpiler")
    told = {"backend": backend, "target": backend.target, "coupling_map": backend.coupling_map}
    takes = inspect.signature(kind.__init__).parameters  # of the class itself it is that of a metaclass
    known = {key: value for key, value in told.items() if key in takes}
    try:
        return kind(**{**known, **arguments})
    except TypeError as error:
        raise ValueError(f"{path}.arguments: {where!r} can't be made with them: {error}") from error


def _is_wide(step: Any) -> bool:
    """Whether it is a gate of several qubits: those are what errors come from."""
    return len(step.qubits) > 1 and step.operation.name != "barrier"
