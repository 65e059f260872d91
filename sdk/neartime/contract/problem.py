"""The one shape of every error of the REST API: the `errors` list that Qiskit Runtime clients read."""

from __future__ import annotations

from enum import Enum

from pydantic import BaseModel, ConfigDict


class ErrorCode(str, Enum):
    """Stable codes of refused requests; each one is explained in docs/reference/error-codes.md."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    INVALID_REQUEST = "invalid_request"
    INVALID_MANIFEST = "invalid_manifest"
    INVALID_INPUT = "invalid_input"
    INVALID_ARCHIVE = "invalid_archive"
    UNSUPPORTED_REQUIREMENT = "unsupported_requirement"
    UNSUPPORTED_IMAGE = "unsupported_image"
    BUILD_FAILED = "build_failed"
    UNKNOWN_BACKEND = "unknown_backend"
    SESSION_CLOSED = "session_closed"
    JOB_NOT_FINISHED = "job_not_finished"
    JOB_STARTED = "job_started"
    JOB_FINISHED = "job_finished"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    LIMIT_REACHED = "limit_reached"
    TOO_LARGE = "too_large"
    INCOMPATIBLE_VERSION = "incompatible_version"
    UNAVAILABLE = "unavailable"
    INTERNAL_ERROR = "internal_error"


class Fault(BaseModel):
    """One thing that is wrong with what was sent: where, what, and what to do."""

    model_config = ConfigDict(frozen=True)

    path: str
    """As a reader writes it: `inputs.maxiter`, `manifest.requirements[2]`."""
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class Problem(BaseModel):
    """One entry of `errors`."""

    model_config = ConfigDict(frozen=True)

    code: ErrorCode
    message: str
    solution: str | None = None
    """What the reader can do now, where the message does not say it."""
    path: str | None = None
    """The field that is at fault, where it is one."""


class Problems(BaseModel):
    """The body of every response of status 4xx or 5xx."""

    errors: list[Problem]
    trace: str
    """The id of the request, also in the `X-Request-Id` header and in the server's log."""
