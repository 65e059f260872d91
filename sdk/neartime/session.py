"""Sessions: jobs of one session run one after the other on a backend of their own, or side by side in a batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from neartime.contract.sessions import SessionMode, SessionState, SessionView
from neartime.errors import InvalidRequest
from neartime.feed import Callback
from neartime.job import RuntimeJob
from neartime.options import RuntimeOptions, backend_name, one_of, seconds
from neartime.transport import segment

if TYPE_CHECKING:
    from neartime.client import RuntimeService


class Session:
    """A session, opened when it is made and closed at the end of its `with` block, or by `close()`.

        with Session(service, backend="aer") as session:
            job = session.run("vqe", inputs={...})

    The second job of a program finds its worker warm.
    """

    def __init__(
        self,
        service: RuntimeService | None = None,
        backend: Any = None,
        mode: SessionMode | str = SessionMode.DEDICATED,
        max_time: int | str | None = None,
        interactive_timeout: int | str | None = None,
    ) -> None:
        """Opens a session.

        Args:
            service: the service; None makes one from the environment.
            backend: a backend or its name; None is the server's default.
            mode: `dedicated`, the backend is this session's alone; or `batch`, as many jobs at once as it allows.
            max_time: seconds, or `"2h 30m"`, after which it is closed with all that is in it.
            interactive_timeout: seconds, or such text, without a job after which it closes.

        Raises:
            InvalidInput, InvalidRequest: one of these can't be; the message says which.
        """
        body = {
            "backend": backend_name(backend),
            "mode": one_of(SessionMode, mode, "mode").value,
            "max_ttl": seconds(max_time, "max_time"),
            "interactive_ttl": seconds(interactive_timeout, "interactive_timeout"),
        }
        self._service = service or _service()
        try:
            self._view = self._open({name: value for name, value in body.items() if value is not None})
        except InvalidRequest as error:
            raise error.renamed({"max_ttl": "max_time", "interactive_ttl": "interactive_timeout"}) from error

    @classmethod
    def from_id(cls, session_id: str, service: RuntimeService | None = None) -> Session:
        """A session that was opened before, here or elsewhere.

        Raises:
            NotFound: there is no such session.
        """
        service = service or _service()
        session = cls.__new__(cls)
        session._service = service
        view = service._connection().json("GET", f"/sessions/{segment(session_id)}")
        session._view = SessionView.model_validate(view)
        return session

    def _open(self, body: dict[str, Any]) -> SessionView:
        connection = self._service._connection()

        async def opened() -> SessionView:
            view = SessionView.model_validate(await connection.transport.json("POST", "/sessions", body))
            connection.sessions[view.id] = connection.feed.session(view.id)
            return view

        return connection.run(opened())

    @property
    def session_id(self) -> str:
        return self._view.id

    @property
    def mode(self) -> SessionMode:
        return self._view.mode

    @property
    def service(self) -> RuntimeService:
        return self._service

    def backend(self) -> str:
        """Name of its backend."""
        return self._view.backend_name

    def run(
        self,
        program_id: str,
        inputs: Any = None,
        options: RuntimeOptions | Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        result_decoder: Any = None,
        *,
        idempotency_key: str | None = None,
    ) -> RuntimeJob:
        """Runs a program in this session; as `RuntimeService.run`."""
        return self._service.run(
            program_id,
            inputs,
            options,
            callback,
            result_decoder,
            session_id=self.session_id,
            idempotency_key=idempotency_key,
        )

    def close(self) -> None:
        """Takes no more jobs; those it has run to their end."""
        self._connection().json("PATCH", f"/sessions/{self.session_id}", {"accepting_jobs": False})
        self._leave()

    def cancel(self) -> None:
        """Ends it now: its queued and running jobs are cancelled."""
        self._connection().json("DELETE", f"/sessions/{self.session_id}/close")
        self._leave()

    def details(self) -> dict[str, Any]:
        """All that the server tells of it, now; times in seconds."""
        view = self._refresh()
        return {
            **view.model_dump(mode="json"),
            "max_time": view.max_ttl,
            "interactive_timeout": view.interactive_ttl,
            "usage_time": view.usage.seconds,
        }

    def status(self) -> SessionState:
        """open (waits for its backend), active, draining or closed."""
        return self._refresh().state

    def usage(self) -> float:
        """Seconds that its jobs ran."""
        return self._refresh().usage.seconds

    def _connection(self) -> Any:
        return self._service._connection()

    def _refresh(self) -> SessionView:
        self._view = SessionView.model_validate(self._connection().json("GET", f"/sessions/{self.session_id}"))
        return self._view

    def _leave(self) -> None:
        connection = self._connection()
        if (feed := connection.sessions.pop(self.session_id, None)) is not None:
            connection.loop.call(feed.leave)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        view = self._view
        return f"<{type(self).__name__} {view.id!r}, backend={view.backend_name!r}, mode={view.mode.value!r}>"


class Batch(Session):
    """A session whose jobs run side by side."""

    def __init__(
        self,
        service: RuntimeService | None = None,
        backend: Any = None,
        max_time: int | str | None = None,
        interactive_timeout: int | str | None = None,
    ) -> None:
        super().__init__(service, backend, SessionMode.BATCH, max_time, interactive_timeout)


def _service() -> RuntimeService:
    from neartime.client import RuntimeService

    return RuntimeService()
