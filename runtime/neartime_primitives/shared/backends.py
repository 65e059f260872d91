"""What a primitive has to know of a backend."""

from __future__ import annotations

from typing import Any

PARALLEL_QUBITS = 14
"""From which on Aer divides a state among threads."""


def is_aer(backend: Any) -> bool:
    """Whether it is a simulator of Aer's, which takes many parameter values in one call."""
    from qiskit_aer import AerSimulator

    return isinstance(backend, AerSimulator)


def is_exact(backend: Any) -> bool:
    """Whether it can tell expectation values without sampling, and has no noise that sampling would show."""
    return is_aer(backend) and backend.options.noise_model is None


def run_options(backend: Any, pub: Any, seed: int | None) -> dict[str, Any]:
    """What Aer is told of a run.

    One small circuit without noise keeps to one thread: it gains nothing from more, and waits for them where others
    compute, too.
    """
    small = pub.size == 1 and pub.circuit.num_qubits < PARALLEL_QUBITS and is_exact(backend)
    options: dict[str, Any] = {"max_parallel_threads": 1} if small else {}
    return options if seed is None else {**options, "seed_simulator": seed}


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
