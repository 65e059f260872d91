"""What the `qiskit-ibm-runtime` client reads, made of what this server knows.

That client states the version of the API that it speaks in a header, and gets its own shapes where they differ from
this server's: other names, times and places in the dictionaries, nothing that is not true. What has no counterpart here
(a plan, a count of credits) is left out.

Sources: `qiskit_ibm_runtime.api.rest`, `.ibm_backend`, `.runtime_job_v2`, `.session`, `.utils.backend_decoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from neartime.contract.backends import BackendDevice
from neartime.contract.jobs import JobMetrics, JobView, ReasonCode
from neartime.contract.sessions import SessionState, SessionView

VERSION_HEADER: Final = "IBM-API-Version"
"""A date. Every release of the client that is read here sends one, and no other client does."""
MOST: Final = 200
"""Entries of a page. The client asks for as many as its caller wants, and takes what it gets."""
PRIMITIVES: Final = ("sampler", "estimator")
MITIGATED: Final = "-mitigated"
"""Ends the name of the program that does what its namesake does, with mitigation and suppression."""
_NAMESAKES: Final = {name + MITIGATED: name for name in PRIMITIVES}
_TIMED_OUT: Final = 1305
"""The one reason code that the client knows: the job ran for longer than it may."""
_STATES: Final = {
    SessionState.OPEN: "open",
    SessionState.ACTIVE: "active",
    SessionState.DRAINING: "active",
    SessionState.CLOSED: "closed",
}


async def _spoken(request: Request) -> bool:
    return VERSION_HEADER in request.headers


ForIbm = Annotated[bool, Depends(_spoken)]
"""Whether the request is of that client."""


def program(name: str, params: Any, simulator: bool) -> str:
    """The program that runs what the client sends to its `sampler` or `estimator`: here, mitigation and suppression are
    programs of their own. Without a level, an estimator has level 1, as there; on a simulator, 0."""
    if not isinstance(params, dict):
        return name
    options = params.get("options")
    parts = options if isinstance(options, dict) else {}
    asked = _enabled(parts, "dynamical_decoupling", "enable") or _enabled(parts, "twirling", "enable_")
    if name == "estimator":
        level = params.get("resilience_level", 0 if simulator else 1)
        asked = asked or level != 0 or _enabled(parts, "resilience", "", "_mitigation")
    return name + MITIGATED if asked else name


def _enabled(options: dict[str, Any], part: str, begin: str, end: str = "") -> bool:
    """Whether a part of the options turns something on whose name begins and ends like this."""
    found = options.get(part)
    return isinstance(found, dict) and any(
        value is True and name.startswith(begin) and name.endswith(end) for name, value in found.items()
    )


def device(known: BackendDevice) -> dict[str, Any]:
    """An entry of GET /backends."""
    return {
        "name": known.name,
        "qubits": known.num_qubits or 0,
        "queue_length": known.status.length_queue,
        "status": {"name": "online" if known.status.state else "offline", "reason": known.status.message},
    }


def configuration(known: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a `QasmBackendConfiguration`: `dt` in nanoseconds, and every basis gate is one of `gates`."""
    told = {name: value for name, value in known.items() if name not in ("properties", "described", "dt")}
    told["basis_gates"] = [gate["name"] for gate in known.get("gates", ())]
    told["coupling_map"] = known.get("coupling_map") or []
    told["online_date"] = _date(known)
    if dt := known.get("dt"):
        told["dt"] = dt * 1e9
    if known.get("conditional"):
        told["supported_features"] = ["qasm3"]
    return told


def properties(known: Mapping[str, Any]) -> dict[str, Any] | None:
    """What makes `BackendProperties`: each value has a date, and a unit with a prefix; None without a calibration."""
    found = known.get("properties")
    if not found:
        return None
    date = _date(known)
    return {
        **found,
        "last_update_date": date,
        "qubits": [_values(qubit, date) for qubit in found["qubits"]],
        "gates": [{**gate, "parameters": _values(gate["parameters"], date)} for gate in found["gates"]],
        "general": _values(found["general"], date),
    }


def job(view: JobView) -> dict[str, Any]:
    """GET /jobs/{id}, without `params`. A program goes by its name there: the client chooses a decoder by it."""
    told: dict[str, Any] = view.model_dump(mode="json")
    told["program"] = {"id": _NAMESAKES.get(view.program.name, view.program.name)}
    told["usage"] = _usage(view.usage.seconds, view.usage.quantum_seconds, final=view.status.final)
    if view.state.reason_code is ReasonCode.TIMED_OUT:
        told["state"]["reason_code"] = _TIMED_OUT
    return told


def metrics(known: JobMetrics) -> dict[str, Any]:
    """GET /jobs/{id}/metrics."""
    told: dict[str, Any] = known.model_dump(mode="json")
    told["usage"] = _usage(
        known.usage.seconds, known.usage.quantum_seconds, final=known.timestamps.get("finished") is not None
    )
    return told


def session(view: SessionView) -> dict[str, Any]:
    """GET /sessions/{id}."""
    told: dict[str, Any] = view.model_dump(mode="json")
    told |= {
        "state": _STATES[view.state],
        "active_ttl": view.max_ttl,
        "elapsed_time": view.usage.seconds,
        "created_at": told["created"],
        "started_at": told["started"],
        "activated_at": told["started"],
        "closed_at": told["closed"],
        "timestamps": [
            {"status": status, "timestamp": told[moment]}
            for status, moment in (("open", "created"), ("active", "started"), ("closed", "closed"))
            if told[moment] is not None
        ],
    }
    return told


def instance_usage(told: dict[str, Any]) -> dict[str, Any]:
    """GET /instances/usage: where there is a limit of seconds a day, it is of the last 24 hours."""
    daily = told["limits"].get("seconds_per_day") or {}
    limit = daily.get("limit")
    consumed = told["usage"]["seconds"] if limit is None else daily["used"]
    found = {**told, "instance_id": told["instance"], "usage_consumed_seconds": consumed, "usage_limit_reached": False}
    if limit is not None:
        found |= {"usage_limit_seconds": limit, "usage_limit_reached": consumed >= limit}
    return found


def _usage(seconds: float, quantum_seconds: float, *, final: bool) -> dict[str, Any]:
    """The client reads the time in which a job had the backend: here, from its start to its end."""
    return {
        "seconds": seconds,
        "quantum_seconds": quantum_seconds,
        "qpu_charge_time_seconds": seconds,
        "status": "complete" if final else "pending",
    }


def _values(values: Iterable[Mapping[str, Any]], date: str) -> list[dict[str, Any]]:
    """The client reads `s` and `GHz`, and falls over `Hz`."""
    dated = [{**one, "date": date} for one in values]
    return [one | {"value": one["value"] * 1e-9, "unit": "GHz"} if one["unit"] == "Hz" else one for one in dated]


def _date(known: Mapping[str, Any]) -> str:
    """When the backend was described; its calibration is as old as that."""
    return str(known.get("described") or datetime.now(timezone.utc).isoformat())
