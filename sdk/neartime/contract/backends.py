"""Backends: what an operator configures, and what the REST API tells of one."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


class BackendHome(str, Enum):
    IN_WORKER = "in-worker"
    """Built inside the worker, no hop: Aer and the fake backends."""
    GATEWAY = "gateway"
    """Behind a trusted process that holds the machine's credential."""


class BackendSpec(BaseModel):
    """How a worker builds a backend: any callable with keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
    factory: str
    """`module:callable`, for example `qiskit_aer:AerSimulator`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""

    @field_validator("factory")
    @classmethod
    def _names_a_callable(cls, value: str) -> str:
        if not _FACTORY.fullmatch(value):
            raise ValueError(f"{value!r} is not of the form module:callable, for example qiskit_aer:AerSimulator")
        return value


class BackendConfig(BackendSpec):
    """One entry of the operator's backends file."""

    description: str = ""
    parallelism: Annotated[int, Field(ge=1)] = 1
    """Jobs that may run at once."""
    home: BackendHome = BackendHome.IN_WORKER


class BackendStatus(BaseModel):
    """The body of GET /backends/{name}/status."""

    name: str
    backend_version: str = "1.0"
    state: bool
    """Whether it takes jobs."""
    status: str
    message: str
    length_queue: int


class BackendList(BaseModel):
    """The body of GET /backends."""

    devices: list[str]
    backends: list[BackendDevice]


class BackendDevice(BaseModel):
    name: str
    description: str
    simulator: bool | None = None
    num_qubits: int | None = None
    parallelism: int
    status: BackendStatus


BackendList.model_rebuild()
