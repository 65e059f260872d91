"""How a job is to be run, beside its inputs; and how long things take, in people's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar

from neartime.contract.problem import Fault
from neartime.errors import InvalidInput

E = TypeVar("E", bound=Enum)
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d+)\s*d)?\s*(?:(\d+)\s*h)?\s*(?:(\d+)\s*m)?\s*(?:(\d+)\s*s)?")

FIELDS = {
    "backend": "options.backend",
    "cost": "options.max_execution_time",
    "log_level": "options.log_level",
    "tags": "options.job_tags",
    "max_attempts": "options.max_attempts",
}
"""What the fields of POST /jobs are called here."""


def seconds(value: int | float | str | None, name: str) -> int | None:
    """Seconds from a number, or from text as people write it: `2h 30m`, `90s`, `300`.

    Raises:
        InvalidInput: it is no such text, or not above zero; `name` says whose value it was.
    """
    if value is None:
        return None
    total: float = 0
    if isinstance(value, str):
        text = value.strip().lower()
        if text.isdigit():
            total = int(text)
        elif match := _DURATION.fullmatch(text):
            total = sum(int(count or 0) * unit for count, unit in zip(match.groups(), _UNITS.values(), strict=True))
    else:
        total = value
    if total < 1:
        raise InvalidInput(
            "A length of time can't be read.",
            [Fault(path=name, message=f"{value!r} is neither seconds nor like '2h 30m'")],
        )
    return int(total)


def one_of(kind: type[E], value: E | str, name: str) -> E:
    """A member of an enum, from itself or its value.

    Raises:
        InvalidInput: it is none; the message lists those there are, and `name` says whose value it was.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(one.value) for one in kind)
        fault = Fault(path=name, message=f"{value!r} is none of {known}")
        raise InvalidInput("There is no such choice.", [fault]) from error


def backend_name(backend: Any) -> str | None:
    """The name in what a caller gave as backend: a name, or anything that has one."""
    if backend is None or isinstance(backend, str):
        return backend
    name = getattr(backend, "name", None)
    return str(name() if callable(name) else name) if name is not None else str(backend)


@dataclass
class RuntimeOptions:
    """How a job is to be run. A dictionary with the same keys does as well."""

    backend: Any = None
    """A backend or its name; None is the server's default, or the session's. Also known as `backend_name`."""
    max_execution_time: int | str | None = None
    """Seconds that the job may run, or `"2h 30m"`; at most the program's own."""
    log_level: str | None = None
    """From which level on `logging` of the program is kept: critical, error, warning (the default), info or debug."""
    job_tags: list[str] = field(default_factory=list)
    session_time: int | str | None = None
    """Seconds, or `"2h 30m"`, that a session started by this job may stay open."""
    max_attempts: int | None = None
    """How often the job is started when the process or machine below it is lost; one by default."""

    @classmethod
    def of(cls, options: RuntimeOptions | Mapping[str, Any] | None) -> RuntimeOptions:
        """Raises InvalidInput with every key that is no option."""
        if options is None:
            return cls()
        if isinstance(options, cls):
            return options
        if not isinstance(options, Mapping):
            raise InvalidInput(f"options are a RuntimeOptions or a dictionary, not {type(options).__name__}")
        values = dict(options)
        if "backend_name" in values:
            values.setdefault("backend", values.pop("backend_name"))
            values.pop("backend_name", None)
        known = {one.name for one in fields(cls)}
        if unknown := sorted(set(values) - known):
            what = f"no such option; there are {', '.join(sorted(known | {'backend_name'}))}"
            raise InvalidInput(
                "The options can't be used.", [Fault(path=f"options.{key}", message=what) for key in unknown]
            )
        return cls(**values)

    def request(self) -> dict[str, Any]:
        """The fields of POST /jobs that say the same."""
        body = {
            "backend": backend_name(self.backend),
            "cost": seconds(self.max_execution_time, "options.max_execution_time"),
            "log_level": self.log_level.lower() if self.log_level else None,
            "tags": list(self.job_tags) or None,
            "max_attempts": self.max_attempts,
        }
        return {name: value for name, value in body.items() if value is not None}
