"""Sessions as the REST API speaks of them. Times to live are in seconds."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from neartime.contract.jobs import Usage


class SessionMode(str, Enum):
    DEDICATED = "dedicated"
    """The backend is this session's alone."""
    BATCH = "batch"
    """Jobs run in parallel, as many as the backend allows."""
    JOB = "job"
    """Holds one job and closes itself after it. Made by the server for a job outside a session."""


class SessionState(str, Enum):
    OPEN = "open"
    """Waiting for the backend; takes jobs."""
    ACTIVE = "active"
    """Has the backend; takes jobs."""
    DRAINING = "draining"
    """Takes no more jobs; those it has run to their end."""
    CLOSED = "closed"


class SessionRequest(BaseModel):
    """The body of POST /sessions."""

    model_config = ConfigDict(extra="forbid")

    backend: str | None = None
    mode: SessionMode = SessionMode.DEDICATED
    max_ttl: Annotated[int, Field(ge=1)] | None = None
    interactive_ttl: Annotated[int, Field(ge=1)] | None = None


class SessionChange(BaseModel):
    """The body of PATCH /sessions/{id}: `accepting_jobs: false` closes it, its queued jobs still run."""

    model_config = ConfigDict(extra="forbid")

    accepting_jobs: bool


class SessionView(BaseModel):
    """The body of GET /sessions/{id}."""

    id: str
    backend_name: str
    mode: SessionMode
    state: SessionState
    accepting_jobs: bool
    max_ttl: int
    interactive_ttl: int
    created: datetime
    started: datetime | None = None
    """When it got the backend."""
    last_activity: datetime | None = None
    """When a job of it was last queued or ended: `interactive_ttl` counts from here."""
    closed: datetime | None = None
    reason: str | None = None
    """Why it closed, where nobody asked for it."""
    usage: Usage = Usage()
    jobs: int = 0


class SessionPage(BaseModel):
    """The body of GET /sessions."""

    sessions: list[SessionView]
    count: int
