"""Backends: built from their configuration, timed while they run, described for those who can't import Qiskit."""

from __future__ import annotations

import functools
import importlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any, TextIO

from neartime.contract.backends import BackendSpec
from neartime.errors import NeartimeError


class BackendFailed(NeartimeError):
    """A backend can't be built in this environment."""


def build(spec: BackendSpec, secrets: Mapping[str, str] = {}, *, here: bool = True) -> Any:
    """What the backend's factory gives, under the name that the operator has given it. `secrets` are further keyword
    arguments; `here` says that it is to run on this machine.

    Raises:
        BackendFailed: it can't be imported, or raised, or needs a device that this machine does not have.
    """
    module, _, name = spec.factory.partition(":")
    try:
        factory = functools.reduce(_step, name.split("."), importlib.import_module(module))
        backend = factory(**spec.options, **secrets)  # type: ignore[operator]
    except Exception as error:  # a factory is anybody's code
        raise BackendFailed(
            f"the backend {spec.name!r} can't be built by {spec.factory} in this environment: "
            f"{type(error).__name__}: {error}"
        ) from error
    if here and (lacking := _lacking(backend)) is not None:
        raise BackendFailed(f"the backend {spec.name!r} can't run in this environment: {lacking}")
    with suppress(AttributeError):  # of a class that has no name to give
        backend.name = spec.name
    return backend


def _lacking(backend: Any) -> str | None:
    """Which device a simulator of Aer's is to use that is not here: it would say so in its first result only."""
    if type(backend).__module__.partition(".")[0] != "qiskit_aer":
        return None
    wanted, there_are = backend.options.get("device"), backend.available_devices()
    if wanted is None or wanted in there_are:
        return None
    return (
        f"device = {wanted!r}, and Aer finds {', '.join(there_are)} here; a GPU needs qiskit-aer-gpu, and a driver on "
        "the machine where the worker runs"
    )


def _step(place: Any, name: str) -> Any:
    """What has that name in a module, class or object; called, where the name ends with `()`."""
    found = getattr(place, name.removesuffix("()"))
    return found() if name.endswith("()") else found


class Meter:
    """Seconds that were spent inside a backend's run() and in waiting for its results, however many threads did."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._since = 0.0
        self._seconds = 0.0

    def reset(self) -> None:
        with self._lock:
            self._seconds, self._since = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._inside else 0.0)

    def timed(self, call: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        with self._lock:
            if not self._inside:
                self._since = time.monotonic()
            self._inside += 1
        try:
            return call(*arguments, **keywords)
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._seconds += time.monotonic() - self._since

    def watch(self, backend: Any) -> None:
        """Times run() of this backend's class, so that backends which a program makes of it are timed as well."""
        kind = type(backend)
        run = getattr(kind, "run", None)
        if run is None:
            return
        meter = self

        @functools.wraps(run)
        def timed_run(self: Any, *arguments: Any, **keywords: Any) -> Any:
            job = meter.timed(run, self, *arguments, **keywords)
            try:
                job.result = functools.partial(meter.timed, job.result)
            except AttributeError:
                return job  # of a class that takes no attributes: what its result takes is not seen
            return job

        try:
            kind.run = timed_run
        except TypeError:
            return  # of a class that is not Python's


def describe(spec: BackendSpec, backend: Any) -> dict[str, Any]:
    """The configuration of a backend, in the fields that Qiskit Runtime's API gives it.

    Source: `qiskit_ibm_runtime.models.QasmBackendConfiguration`.
    """
    target = backend.target
    qubits = target.num_qubits if target.num_qubits is not None else getattr(backend, "num_qubits", None)
    coupling = target.build_coupling_map() if target.num_qubits else None
    simulator = bool(getattr(backend, "is_simulator", False)) or type(backend).__name__.endswith("Simulator")
    gates = sorted(name for name in target.operation_names if name not in _NO_GATES)
    return {
        "backend_name": spec.name,
        "name": spec.name,
        "backend_version": str(getattr(backend, "backend_version", None) or "1.0"),
        "description": getattr(backend, "description", None) or "",
        "n_qubits": qubits,
        "num_qubits": qubits,
        "basis_gates": gates,
        "supported_instructions": sorted(target.operation_names),
        "coupling_map": sorted(map(list, coupling.get_edges())) if coupling is not None else None,
        "gates": [_gate(target, name) for name in gates if _definite(target, name)],
        "simulator": simulator,
        "noise_free": _noise_free(backend),
        "local": True,
        "conditional": any(name in target.operation_names for name in ("if_else", "while_loop")),
        "open_pulse": False,
        "memory": True,
        "max_shots": _max_shots(backend),
        "dt": target.dt,
        "described": datetime.now(timezone.utc).isoformat(),
        "properties": _properties(spec, backend, target),
    }


_NO_GATES = frozenset(
    {"measure", "reset", "delay", "barrier", "if_else", "while_loop", "for_loop", "switch_case", "break_loop"}
    | {"continue_loop", "box", "store", "save_state", "initialize", "kraus", "roerror", "superop"}
)


def _definite(target: Any, name: str) -> bool:
    """Whether a gate can be told by its name: one that Qiskit knows, or of a width that its places tell."""
    from qiskit.circuit.library.standard_gates import get_standard_gate_name_mapping

    if isinstance(target.operation_from_name(name), type):
        return False  # of any width
    return name in get_standard_gate_name_mapping() or any(qubits is not None for qubits in target[name] or {})


def _gate(target: Any, name: str) -> dict[str, Any]:
    operation = target.operation_from_name(name)
    # An operation of any width stands in the target as its class.
    parameters = [] if isinstance(operation, type) else [str(one) for one in operation.params]
    places = [list(qubits) for qubits in (target[name] or {}) if qubits is not None]
    return {"name": name, "parameters": parameters, "qasm_def": "", "coupling_map": places}


def _noise_free(backend: Any) -> bool:
    """Whether it is known to compute without noise: one of Aer's simulators, without a model of it.

    Fake devices have such an option, too, and noise of their own where it is None.
    """
    of_aer = type(backend).__module__.partition(".")[0] == "qiskit_aer"
    return of_aer and backend.options.get("noise_model") is None


def _max_shots(backend: Any) -> int | None:
    found = getattr(backend, "max_shots", None)
    if found is None:
        found = getattr(getattr(backend, "options", None), "validator", {}).get("shots")
    if isinstance(found, tuple):
        found = found[1]
    return int(found) if isinstance(found, (int, float)) else None


def _properties(spec: BackendSpec, backend: Any, target: Any) -> dict[str, Any] | None:
    """What the target knows of errors and durations: `general`, `gates` and `qubits` of the backend's properties."""
    gates = []
    for name in target.operation_names:
        for qubits, known in (target[name] or {}).items():
            if qubits is None or known is None or (known.error is None and known.duration is None):
                continue
            values = (("gate_error", known.error, ""), ("gate_length", known.duration, "s"))
            parameters = [
                {"name": key, "value": value, "unit": unit} for key, value, unit in values if value is not None
            ]
            gates.append({"gate": name, "name": f"{name}{'_'.join(map(str, qubits))}", "qubits": list(qubits)}
                         | {"parameters": parameters})  # fmt: skip
    if not gates:
        return None
    return {
        "backend_name": spec.name,
        "backend_version": str(getattr(backend, "backend_version", None) or "1.0"),
        "gates": gates,
        "qubits": [_qubit(target, number) for number in range(target.num_qubits or 0)],
        "general": [],
    }


def _qubit(target: Any, number: int) -> list[dict[str, Any]]:
    """What is known of one qubit and of its readout."""
    known = (target.qubit_properties or {number: None})[number]
    readout = target["measure"].get((number,)) if target.get("measure") else None
    values = (
        ("T1", getattr(known, "t1", None), "s"),
        ("T2", getattr(known, "t2", None), "s"),
        ("frequency", getattr(known, "frequency", None), "Hz"),
        ("readout_error", getattr(readout, "error", None), ""),
        ("readout_length", getattr(readout, "duration", None), "s"),
    )
    return [{"name": key, "value": value, "unit": unit} for key, value, unit in values if value is not None]


def answer(requests: TextIO, answers: TextIO, *, here: bool) -> None:
    """For each `BackendSpec`, one a line, its configuration as one line of JSON, or `{"error": …}`. `here` says that
    workers run on this machine."""
    for line in requests:
        try:
            spec = BackendSpec.model_validate_json(line)
            told = describe(spec, build(spec, here=here))
        except (BackendFailed, ValueError, AttributeError, TypeError) as error:
            told = {"error": str(error)}
        answers.write(json.dumps(told, default=str) + "\n")
        answers.flush()
