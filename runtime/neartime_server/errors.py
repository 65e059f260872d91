"""Every error that the server raises on purpose.

ServerError
├── ConfigurationError      settings, secret or backends file: the server does not start
├── BuildFailed             what a program runs in could not be made; carries the tool's last lines
├── BusError                NATS refused or did not answer
│   └── NoAnswer            a worker did not answer a command
├── ExecutorError           a worker could not be started or stopped
├── StoreUnavailable        the database does not answer
├── AdminError              a command of the operator can't be carried out
└── Refused                 a request is refused; carries status and problems
"""

from __future__ import annotations

from collections.abc import Sequence

from neartime.contract.problem import ErrorCode, Fault, Problem


class ServerError(Exception):
    """The root."""


class ConfigurationError(ServerError):
    """The server can't start as it is configured; the message says what to change."""


class BuildFailed(ServerError):
    """What a program runs in could not be made."""

    def __init__(self, message: str, log: str, solution: str | None = None) -> None:
        super().__init__(message)
        self.log = log
        """The end of the tool's own output."""
        self.solution = solution
        """What to do, where the program's requirements are not at fault."""


class BusError(ServerError):
    """NATS refused or did not answer."""


class NoAnswer(BusError):
    """A worker did not answer a command in time."""


class ExecutorError(ServerError):
    """A worker could not be started or stopped."""


class StoreUnavailable(ServerError):
    """The database does not answer, or was lost on the way."""


class AdminError(ServerError):
    """A command of the operator can't be carried out; the message says why."""


class Refused(ServerError):
    """A request is refused. Raised anywhere below the API, rendered there and nowhere else."""

    def __init__(self, status: int, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.status = status
        self.problems = list(problems)

    @classmethod
    def of(
        cls, status: int, code: ErrorCode, message: str, *, solution: str | None = None, path: str | None = None
    ) -> Refused:
        return cls(status, [Problem(code=code, message=message, solution=solution, path=path)])

    @classmethod
    def faults(cls, code: ErrorCode, faults: Sequence[Fault], solution: str | None = None) -> Refused:
        """422 with every fault at once."""
        problems = [Problem(code=code, message=str(fault), path=fault.path, solution=solution) for fault in faults]
        return cls(422, problems)

    @classmethod
    def not_found(cls, what: str, name: str, solution: str | None = None) -> Refused:
        return cls.of(404, ErrorCode.NOT_FOUND, f"there is no {what} {name!r} here", solution=solution)
