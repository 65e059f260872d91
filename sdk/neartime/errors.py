"""Every error that this package raises.

NeartimeError
├── ConfigurationError          no URL, no token, a file that can't be read
├── ConnectionFailed            the server can't be reached
├── RequestFailed               the server refused a request; carries its problems
│   ├── Unauthorized            401, 403
│   ├── NotFound                404
│   ├── Conflict                409
│   ├── LimitReached            429
│   ├── InvalidRequest          422
│   └── ServerFailed            5xx
├── IncompatibleVersion         client, server, runner or a pickle do not fit together
├── PackagingError              a program can't be packaged; carries faults
├── InvalidInput                inputs do not fit the program's schema; carries faults
├── CodecError
│   ├── EncodeError             a value has no wire form
│   └── DecodeError             bytes are no encoded value
├── StreamError                 the event stream can't be read, or is broken
├── RegistryError               a registry of container images did not do what was asked of it
│   ├── InvalidReference        what is no name of an image, or no digest
│   ├── NotInRegistry           there is no such image, blob or platform
│   ├── RegistryRefused         401, 403, 405: who asks may not, or nobody may
│   ├── RegistryUnreachable     no connection, no trust in its certificate, or it is busy or failing for too long
│   └── DamagedContent          bytes do not have the digest that names them, or are no manifest
├── JobError                    a job did not complete; carries job_id, reason_code and the log's tail
│   ├── JobFailed
│   └── JobCancelled            also what a cancelled main() sees
└── JobTimeout                  the wait, not the job, ran out of time (a TimeoutError too)
"""

from __future__ import annotations

from collections.abc import Sequence

from neartime.contract.jobs import ReasonCode
from neartime.contract.problem import Fault, Problem


class NeartimeError(Exception):
    """The root: whoever catches this has caught everything that this package raises on purpose."""


class ConfigurationError(NeartimeError):
    """What is needed to begin is missing or unreadable: a URL, a token, a file."""


class ConnectionFailed(NeartimeError):
    """The server can't be reached."""


class RequestFailed(NeartimeError):
    """The server refused a request. `str()` of it gives every problem and what to do about it."""

    def __init__(self, status: int, problems: Sequence[Problem], trace: str = "") -> None:
        self.status = status
        self.problems = list(problems)
        self.trace = trace
        lines = [
            (f"{problem.path}: " if problem.path and not problem.message.startswith(problem.path) else "")
            + problem.message
            + (f" ({problem.solution})" if problem.solution else "")
            for problem in self.problems
        ]
        super().__init__("\n".join(lines) or f"HTTP status {status}")


class Unauthorized(RequestFailed):
    """The token is missing, unknown, ended, or may not do this."""


class NotFound(RequestFailed):
    """There is no such thing, or it is another instance's."""


class Conflict(RequestFailed):
    """It contradicts what is there: a finished job, a closed session, a key that was used for something else."""


class LimitReached(RequestFailed):
    """A limit of the instance; the message says which and when it frees."""


class InvalidRequest(RequestFailed):
    """A field of the request is at fault; each problem names one."""


class ServerFailed(RequestFailed):
    """The server failed; nothing was committed."""


class IncompatibleVersion(NeartimeError):
    """Two ends do not speak the same version; the message gives both and the command that mends it."""


class FaultyInput(NeartimeError):
    """Base of the errors that list faults, each with its path."""

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        self.faults = list(faults)
        super().__init__("\n".join([message, *(f"  {fault}" for fault in self.faults)]))


class PackagingError(FaultyInput):
    """A program can't be packaged."""


class InvalidInput(FaultyInput):
    """Inputs do not fit what the program declares. Nothing was queued."""


class CodecError(NeartimeError):
    """A value can't be written or read."""


class EncodeError(CodecError):
    """A value has no wire form; the message gives its path and its type."""


class DecodeError(CodecError):
    """Bytes are no encoded value, or one of a newer version."""


class StreamError(NeartimeError):
    """The event stream can't be read, or events are missing from it."""


class RegistryError(NeartimeError):
    """A registry of container images did not do what was asked of it. No message holds a secret."""


class InvalidReference(RegistryError):
    """What was given is no name of an image, or no digest."""


class NotInRegistry(RegistryError):
    """The registry has no such image, blob or platform."""


class RegistryRefused(RegistryError):
    """Who asks may not do this, or the registry lets nobody do it. Nothing was done."""


class RegistryUnreachable(RegistryError):
    """There is no connection, no trust in the certificate, or the registry was busy or failing for too long."""


class DamagedContent(RegistryError):
    """Bytes do not have the digest that names them, or are no manifest."""


class JobError(NeartimeError):
    """A job did not complete."""

    def __init__(
        self, message: str, job_id: str = "", reason_code: ReasonCode | None = None, log_tail: str = ""
    ) -> None:
        self.job_id = job_id
        self.reason_code = reason_code
        self.log_tail = log_tail
        super().__init__(message)


class JobFailed(JobError):
    """The job failed; the message is its reason, with the user's traceback where main() raised."""


class JobCancelled(JobError):
    """The job was cancelled. Inside main() this is raised where the program happens to be."""


class JobTimeout(NeartimeError, TimeoutError):
    """The result did not come within the time given; the job goes on."""
