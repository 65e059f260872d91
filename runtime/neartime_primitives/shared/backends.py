"""What a primitive has to know of a backend."""

from __future__ import annotations

from typing import Any


def is_aer(backend: Any) -> bool:
    """Whether it is a simulator of Aer's, which takes many parameter values in one call."""
    from qiskit_aer import AerSimulator

    return isinstance(backend, AerSimulator)


def is_exact(backend: Any) -> bool:
    """Whether it can tell expectation values without sampling, and has no noise that sampling would show."""
    return is_aer(backend) and backend.options.noise_model is None


def refuse(options: dict[str, Any], program: str) -> None:
    """Raises ValueError where options ask for what another program does."""
    twirling = options.get("twirling") or {}
    asked = []
    if (options.get("dynamical_decoupling") or {}).get("enable"):
        asked.append("dynamical_decoupling.enable")
    asked += [f"twirling.{name}" for name in ("enable_gates", "enable_measure") if twirling.get(name)]
    resilience = options.get("resilience") or {}
    asked += [f"resilience.{name}" for name, value in resilience.items() if name.endswith("_mitigation") and value]
    if asked:
        raise ValueError(f"options: {', '.join(asked)}: the program {program!r} does that")
    if (options.get("execution") or {}).get("meas_type", "classified") != "classified":
        raise ValueError("options.execution.meas_type: a backend here gives classified bits alone")


def seed_of(options: dict[str, Any]) -> int | None:
    seed = (options.get("simulator") or {}).get("seed_simulator")
    return None if seed is None else int(seed)
