"""Qiskit's transpiler as a service: circuits in, ISA circuits of the backend out, with the layout that they got."""

from __future__ import annotations

import json
from typing import Any

from qiskit.transpiler import generate_preset_pass_manager

_managers: dict[str, Any] = {}
"""Those that this process has made, by what was asked for."""


def main(
    backend: Any,
    user_messenger: Any,
    circuits: list[Any],
    optimization_level: int = 2,
    initial_layout: list[int] | None = None,
    seed_transpiler: int | None = None,
    approximation_degree: float | None = 1.0,
    methods: dict[str, str] | None = None,
) -> dict[str, Any]:
    asked = {
        "optimization_level": optimization_level,
        "initial_layout": initial_layout,
        "seed_transpiler": seed_transpiler,
        "approximation_degree": approximation_degree,
        **{f"{stage}_method": name for stage, name in (methods or {}).items()},
    }
    key = json.dumps([id(backend), asked])
    if key not in _managers:
        _managers[key] = generate_preset_pass_manager(backend=backend, **asked)
    found = _managers[key].run(circuits)
    return {
        "circuits": found,
        "depths": [one.depth(_is_wide) for one in found],
    }


def _is_wide(step: Any) -> bool:
    """Whether it is a gate of several qubits: those are what errors come from."""
    return len(step.qubits) > 1 and step.operation.name != "barrier"
