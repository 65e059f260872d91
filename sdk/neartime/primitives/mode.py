"""Where a primitive runs: a backend of a service, or a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neartime.backends import RuntimeBackend
from neartime.session import Session

if TYPE_CHECKING:
    from neartime.client import RuntimeService
    from neartime.feed import Callback
    from neartime.job import RuntimeJob


class Mode:
    """What a primitive was given as its mode."""

    def __init__(self, mode: Any, service: RuntimeService | None) -> None:
        """Raises TypeError where `mode` is neither a backend, its name, a session or a batch, nor None."""
        self._session = mode if isinstance(mode, Session) else None
        self._backend: str | None = None
        if isinstance(mode, RuntimeBackend):
            self._backend, service = mode.name, service or mode.service
        elif isinstance(mode, str):
            self._backend = mode
        elif mode is not None and self._session is None:
            raise TypeError(f"mode: a backend, its name, a Session or a Batch, not {type(mode).__name__}")
        self._service = service
        self._noisy: bool | None = None

    @property
    def service(self) -> RuntimeService:
        """Its service; where none was given, the one that is found as `RuntimeService()` finds it."""
        if self._session is not None:
            return self._session.service
        if self._service is None:
            from neartime.client import RuntimeService

            self._service = RuntimeService()
        return self._service

    @property
    def noisy(self) -> bool:
        """Whether its backend may have noise; asked of the server once."""
        if self._noisy is None:
            name = self._session.backend() if self._session is not None else self._backend
            # The server takes its first backend where a job names none.
            backend = self.service.backend(name) if name is not None else self.service.backends()[0]
            self._noisy = not backend.configuration().get("noise_free", False)
        return self._noisy

    def run(
        self,
        program: str,
        inputs: dict[str, Any],
        options: dict[str, Any],
        callback: Callback | None = None,
        decoder: Any = None,
    ) -> RuntimeJob:
        """Runs a program there."""
        if self._session is not None:
            return self._session.run(program, inputs, options, callback, decoder)
        return self.service.run(program, inputs, {**options, "backend": self._backend}, callback, decoder)
