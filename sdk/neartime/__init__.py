"""Neartime: run your own Qiskit Runtime.

    from neartime import RuntimeService, Session

    service = RuntimeService()
    with Session(service, backend="aer") as session:
        job = session.run("vqe", inputs={"maxiter": 50}, callback=lambda job_id, energy: print(energy))
        print(job.result())

Importing this loads nothing: each name is read from its module when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neartime.backends import RuntimeBackend
    from neartime.client import RuntimeService
    from neartime.contract.jobs import JobStatus
    from neartime.decoders import ResultDecoder
    from neartime.errors import (
        ConfigurationError,
        ConnectionFailed,
        IncompatibleVersion,
        InvalidInput,
        JobCancelled,
        JobError,
        JobFailed,
        JobTimeout,
        NeartimeError,
        NotFound,
        PackagingError,
        RequestFailed,
        StreamError,
        Unauthorized,
    )
    from neartime.job import JobEvent, RuntimeJob
    from neartime.options import RuntimeOptions
    from neartime.programs import RuntimeProgram
    from neartime.session import Batch, Session

    __version__: str

__all__ = [
    "Batch",
    "ConfigurationError",
    "ConnectionFailed",
    "IncompatibleVersion",
    "InvalidInput",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "JobStatus",
    "JobTimeout",
    "NeartimeError",
    "NotFound",
    "PackagingError",
    "RequestFailed",
    "ResultDecoder",
    "RuntimeBackend",
    "RuntimeJob",
    "RuntimeOptions",
    "RuntimeProgram",
    "RuntimeService",
    "Session",
    "StreamError",
    "Unauthorized",
    "__version__",
]

_MODULES = {
    "Batch": "session",
    "JobEvent": "job",
    "JobStatus": "contract.jobs",
    "ResultDecoder": "decoders",
    "RuntimeBackend": "backends",
    "RuntimeJob": "job",
    "RuntimeOptions": "options",
    "RuntimeProgram": "programs",
    "RuntimeService": "client",
    "Session": "session",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("neartime")
    else:
        from importlib import import_module

        value = getattr(import_module(f"neartime.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
