"""Jobs as the REST API speaks of them: Qiskit Runtime's field names, extended."""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_TAGS = 24
MAX_PRIORITY = 1000


class JobStatus(str, Enum):
    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def final(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class ReasonCode(str, Enum):
    """Why a job did not complete. Stable; each one is explained in docs/reference/reason-codes.md."""

    PROGRAM_ERROR = "ProgramError"
    """main() raised, or the program could not be imported."""
    INVALID_INPUT = "InvalidInput"
    """An input is not what the program declares, found where it was opened."""
    INVALID_RESULT = "InvalidResult"
    """A result or interim result is not what the program declares, or can't be encoded."""
    TIMED_OUT = "TimedOut"
    """The job ran for longer than its max_execution_time."""
    CANCELLED_BY_USER = "CancelledByUser"
    SESSION_CLOSED = "SessionClosed"
    """The session was cancelled, idled out or reached its max_time with the job in it."""
    PROCESS_DIED = "ProcessDied"
    """The process that ran main() was killed or exited."""
    OUT_OF_MEMORY = "OutOfMemory"
    WORKER_LOST = "WorkerLost"
    """The worker around the program is gone, or was not heard of any more."""
    START_FAILED = "StartFailed"
    """No worker could be started: its environment, image or backend could not be had."""
    BACKEND_LOST = "BackendLost"
    """The gateway of its backend refused, is gone, or gave up waiting for the provider."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The instance's storage for events and large values is full."""
    STREAM_BROKEN = "StreamBroken"
    """Events of the job are missing from its stream."""
    INCOMPATIBLE_VERSION = "IncompatibleVersion"
    """Program and environment, or runner and server, do not fit together."""
    INTERNAL_ERROR = "InternalError"


class Usage(BaseModel):
    """What a job used. Wall-clock seconds, from a monotonic clock."""

    model_config = ConfigDict(frozen=True)

    seconds: float = 0.0
    """From the start of main() to its end."""
    quantum_seconds: float = 0.0
    """Spent inside the backend's run(), as far as the worker can see it."""


Tag = Annotated[str, Field(min_length=1, max_length=86)]
LogLevel = Literal["critical", "error", "warning", "info", "debug"]


class JobRequest(BaseModel):
    """The body of POST /jobs. `params` is opaque beyond the program's schema."""

    model_config = ConfigDict(extra="forbid")

    program_id: str
    """A program's id or name. Runs its newest version, unless `program_version` says which."""
    program_version: str | None = None
    backend: str | None = None
    params: Any = Field(default_factory=dict)
    session_id: str | None = None
    tags: list[Tag] = Field(default_factory=list, max_length=MAX_TAGS)
    log_level: LogLevel = "warning"
    max_execution_time: Annotated[int, Field(ge=1)] | None = Field(default=None, alias="cost")
    """Seconds; at most the program's own."""
    max_attempts: Annotated[int, Field(ge=1, le=10)] = 1
    private: Literal[False] = False
    """Qiskit Runtime's option that inputs and results can be read once only is not offered here."""
    qpy_version: Annotated[int, Field(ge=13)] | None = None
    """The highest QPY version that the client can read; circuits come back in the lowest that all can."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value  # Qiskit Runtime's client writes WARNING


class JobAccepted(BaseModel):
    """The answer to POST /jobs."""

    id: str
    backend: str
    session_id: str
    program_version: str


class JobState(BaseModel):
    status: JobStatus
    reason: str | None = None
    reason_code: ReasonCode | None = None


class ProgramReference(BaseModel):
    id: str
    name: str
    version: str
    """Id of the program version that the job pinned when it was accepted."""


class JobView(BaseModel):
    """The body of GET /jobs/{id}; `params` is added by the API as the bytes that came."""

    id: str
    backend: str
    program: ProgramReference
    session_id: str
    status: JobStatus
    state: JobState
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    tags: list[str] = Field(default_factory=list)
    cost: int
    """The job's max_execution_time, seconds."""
    usage: Usage = Usage()
    attempt: int = 1
    interims: int = 0
    sequence: int = 0
    """The position in the JOBS stream that this view reflects."""
    priority: int = 0
    """As an operator has set it."""
    position: int | None = None
    """Of a job that waits: its place in the order in which jobs of its backend would begin now, from 1."""
    waits_for: str | None = None
    """Of a queued job: what has to happen before it begins."""


class QueueEntry(BaseModel):
    """A job that waits or runs, as the queue shows it."""

    id: str
    instance: str
    """Name of the instance that it belongs to."""
    backend: str
    program: str
    """Name of its program."""
    session_id: str
    status: JobStatus
    priority: int = 0
    position: int | None = None
    """Its place among those that wait; None for one that a worker has."""
    waits_for: str | None = None
    created: datetime
    started: datetime | None = None


class QueuePage(BaseModel):
    """The body of GET /queue: by backend, what runs, then what waits in the order in which it would begin."""

    jobs: list[QueueEntry]


class Priority(BaseModel):
    """The body of PUT /queue/{id}/priority."""

    model_config = ConfigDict(extra="forbid")

    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
    """The higher one goes first; a minute of waiting makes up for one."""


class JobPage(BaseModel):
    """The body of GET /jobs."""

    jobs: list[JobView]
    count: int
    """Of all jobs that match, not only of this page."""
    limit: int
    offset: int


class JobMetrics(BaseModel):
    """The body of GET /jobs/{id}/metrics."""

    timestamps: dict[Literal["created", "started", "running", "finished"], datetime | None]
    usage: Usage
    attempts: int
    interims: int
    position_in_queue: int | None = None
