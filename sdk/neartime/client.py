"""The service: programs, jobs, sessions and backends of one Neartime server."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from neartime import config
from neartime.backends import RuntimeBackend
from neartime.connection import Connection
from neartime.contract.jobs import JobPage, JobStatus, QueueEntry, QueuePage
from neartime.contract.programs import ProgramPage, ProgramView
from neartime.contract.sessions import SessionPage, SessionView
from neartime.decoders import as_decodes
from neartime.errors import InvalidInput, InvalidRequest, PackagingError
from neartime.feed import Callback
from neartime.job import RuntimeJob
from neartime.options import FIELDS, RuntimeOptions, backend_name, one_of
from neartime.programs import RuntimeProgram
from neartime.session import Session
from neartime.transport import segment


class RuntimeService:
    """A Neartime server, as one instance's user sees it.

    It is found by, in this order: the arguments; `NEARTIME_URL` and `NEARTIME_TOKEN`; a saved account; the embedded
    runtime that `neartime up` started. Nothing is sent before a method is called. Methods may be called from any
    thread.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        instance: str | None = None,
        verify: bool | str | ssl.SSLContext = True,
        *,
        http: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Finds the account.

        Args:
            url: of the server, `http://127.0.0.1:8787` or the like.
            token: of an instance of it.
            instance: name of a saved account.
            verify: False, a file of CA certificates or an SSL context, where the usual ones do not do.
            http: an httpx transport in place of the network.

        Raises:
            ConfigurationError: no server or no token is known; the message says what to do.
        """
        self._account = config.find(url, token, instance)
        self._verify = verify
        self._http = http
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._made: Connection | None = None

    @property
    def url(self) -> str:
        return self._account.url

    def _connection(self) -> Connection:
        """The connection of this process, made when it is first needed; a forked process makes its own."""
        made = self._made
        if made is not None and self._pid == os.getpid():
            return made
        if self._pid != os.getpid():
            self._lock, self._pid, self._made = threading.Lock(), os.getpid(), None
        with self._lock:
            if self._made is None:
                self._made = Connection(self._account, verify=self._verify, http=self._http)
            return self._made

    # --- programs

    def upload_program(
        self,
        data: str | os.PathLike[str] | Callable[..., Any],
        metadata: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        is_public: bool | None = None,
        log: Callable[[str], None] | None = None,
        **overrides: Any,
    ) -> str:
        """Uploads a program, or a new version of the one that has its name; returns the program's id.

        Args:
            data: a folder with a program.toml, a file, a zip, the source itself, or a function.
            metadata: Qiskit Runtime's metadata, a dictionary or a JSON file with one.
            is_public: whether every instance of the server may run it.
            log: called with each line of the build's log, while the server makes what the program runs in.
            overrides: fields of the manifest (`name`, `description`, `requirements`, …) that win over all else.

        Raises:
            PackagingError: it can't be packaged; every fault is named.
            InvalidRequest: the server refuses it, for example since its requirements can't be installed.
        """
        return self._upload("POST", "/programs", data, metadata, is_public, overrides, log).id

    def update_program(
        self,
        program_id: str,
        data: str | os.PathLike[str] | Callable[..., Any] | None = None,
        metadata: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        description: str | None = None,
        is_public: bool | None = None,
        log: Callable[[str], None] | None = None,
        **overrides: Any,
    ) -> None:
        """Makes a new version of a program (an id or a name) from `data`; without it, changes description or
        visibility of the program that there is. Jobs that were accepted keep their version. `log` is called with each
        line of the build's log."""
        if data is None:
            metadata = _metadata(metadata)
            unknown = sorted((set(metadata) | set(overrides)) - {"description", "is_public"})
            if unknown:
                raise InvalidInput(f"{', '.join(unknown)}: part of a version, so `data` is needed to change it")
            change = {
                "description": description if description is not None else metadata.get("description"),
                "is_public": is_public if is_public is not None else metadata.get("is_public"),
            }
            body = {name: value for name, value in change.items() if value is not None}
            connection = self._connection()
            view = ProgramView.model_validate(connection.json("PATCH", f"/programs/{segment(program_id)}", body))
            connection.forget_program(view)
            return
        if description is not None:
            overrides["description"] = description
        overrides.setdefault("name", self._connection().program(program_id, refresh=True).name)
        self._upload("PATCH", f"/programs/{segment(program_id)}", data, metadata, is_public, overrides, log)

    def _upload(
        self,
        method: str,
        path: str,
        data: str | os.PathLike[str] | Callable[..., Any],
        metadata: Mapping[str, Any] | str | os.PathLike[str] | None,
        is_public: bool | None,
        overrides: dict[str, Any],
        log: Callable[[str], None] | None = None,
    ) -> ProgramView:
        from neartime import packaging

        said = _metadata(metadata)
        if is_public is None:
            is_public = said.pop("is_public", None)
        package = packaging.package(data, **{**_manifest_fields(said), **overrides})
        body = package.to_upload(is_public).model_dump(mode="json", exclude_none=True)
        connection = self._connection()
        if log is not None:
            answer = connection.run(connection.transport.told(method, path, body, log))
        else:
            answer = connection.json(method, path, body, long=True)
        view = ProgramView.model_validate(answer)
        connection.forget_program(view)
        return view

    def programs(
        self, refresh: bool = False, limit: int = 20, skip: int = 0, *, search: str | None = None
    ) -> list[RuntimeProgram]:
        """The instance's programs, then the public ones, each by name. `refresh` is for those who know it: it is always
        so."""
        query = {"limit": limit, "offset": skip, "search": search}
        page = ProgramPage.model_validate(self._connection().json("GET", "/programs", query=query))
        return [RuntimeProgram(self._connection, view) for view in page.programs]

    def program(self, program_id: str, refresh: bool = True) -> RuntimeProgram:
        """A program, by id or name.

        Raises:
            NotFound: there is none.
        """
        return RuntimeProgram(self._connection, self._connection().program(program_id, refresh=refresh))

    def pprint_programs(self, refresh: bool = False, detailed: bool = False, limit: int = 20, skip: int = 0) -> None:
        """Prints the programs."""
        for program in self.programs(refresh, limit, skip):
            print(program if detailed else f"{program.name}:\n  {program.description}".rstrip())
            print("=" * 50)

    def program_data(self, program_id: str) -> bytes:
        """A program's files, as a zip archive."""
        return self.program(program_id).data

    def download_program(self, program_id: str, folder: str | os.PathLike[str]) -> Path:
        """Writes a program's files into a new or empty folder; returns it."""
        from neartime import packaging

        path = Path(folder)
        if path.exists() and any(path.iterdir()):
            raise PackagingError(f"{path} is not empty; name a folder that is not there yet")
        path.mkdir(parents=True, exist_ok=True)
        packaging.unpack(self.program_data(program_id), path)
        return path

    def delete_program(self, program_id: str) -> None:
        """Deletes a program; its jobs keep their version."""
        connection = self._connection()
        view = connection.program(program_id, refresh=True)
        connection.json("DELETE", f"/programs/{view.id}")
        connection.forget_program(view)

    def set_program_visibility(self, program_id: str, public: bool) -> None:
        """Lets every instance of the server run the program, or only its own."""
        self.update_program(program_id, is_public=public)

    # --- jobs

    def run(
        self,
        program_id: str,
        inputs: Any = None,
        options: RuntimeOptions | Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        result_decoder: Any = None,
        *,
        session_id: str | None = None,
        start_session: bool = False,
        program_version: str | None = None,
        idempotency_key: str | None = None,
    ) -> RuntimeJob:
        """Runs a program; returns at once, as soon as the server has accepted the job.

        Args:
            program_id: the program's id or name; its newest version runs unless `program_version` (an id) says which.
            inputs: a dictionary of what main() takes, or an object of the program's pydantic model.
            options: a `RuntimeOptions`, or a dictionary with its keys.
            callback: called as `callback(job_id, interim)` with each interim result, in order, each exactly once, on
                a thread of the service's own.
            result_decoder: reads results in place of the usual codec: a `ResultDecoder`, a function of text, or a
                sequence of two (for interim results, for the result).
            session_id: of the session to run in.
            start_session: opens a session with this job; its id is the job's `session_id`.
            idempotency_key: the same key with the same request is the same job.

        Raises:
            InvalidInput: inputs or options are not what is declared; every fault is named, nothing was queued.
            NotFound: there is no such program or session.
        """
        if isinstance(inputs, RuntimeOptions):
            raise TypeError("run(program_id, inputs, options): inputs come before options")
        chosen = RuntimeOptions.of(options)
        if start_session:
            opened = Session(self, chosen.backend, max_time=chosen.session_time)
            session_id = opened.session_id
        head = {"program_id": program_id, **chosen.request()}
        if program_version is not None:
            head["program_version"] = program_version
        if session_id is not None:
            head["session_id"] = session_id
        values = _inputs(inputs)
        try:
            accepted, program, watch = self._connection().submit(
                head, values, key=idempotency_key, callback=callback, interim_decode=as_decodes(result_decoder)[0]
            )
        except InvalidRequest as error:
            raise error.renamed(FIELDS) from error
        return RuntimeJob(
            self._connection,
            accepted=accepted,
            program=program,
            watch=watch,
            inputs=values,
            decoder=result_decoder,
        )

    def job(self, job_id: str) -> RuntimeJob:
        """A job that was submitted before, here or elsewhere.

        Raises:
            NotFound: there is no such job.
        """
        return RuntimeJob.read(self._connection, job_id)

    def jobs(
        self,
        limit: int | None = 10,
        skip: int = 0,
        backend_name: str | None = None,
        pending: bool | None = None,
        program_id: str | None = None,
        session_id: str | None = None,
        job_tags: Sequence[str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        status: JobStatus | str | Sequence[JobStatus | str] | None = None,
        descending: bool = True,
    ) -> list[RuntimeJob]:
        """Jobs that fit all that is given, the newest first.

        Args:
            limit: how many at most; None for all.
            skip: how many of the first to leave out.
            pending: True for those that have not ended, False for those that have.
            program_id: the program's id or name.
            job_tags: tags that a job has all of.
            status: one status, or several of which a job has one: Queued, Running, Completed, Failed, Cancelled.

        Raises:
            InvalidInput: `status` is none of these.
        """
        statuses = [status] if isinstance(status, (JobStatus, str)) else list(status or [])
        query = {
            "backend": backend_name,
            "pending": None if pending is None else str(pending).lower(),
            "program": program_id,
            "session_id": session_id,
            "tags": list(job_tags) if job_tags else None,
            "created_after": created_after.astimezone().isoformat() if created_after else None,
            "created_before": created_before.astimezone().isoformat() if created_before else None,
            "status": [one_of(JobStatus, one, "status").value for one in statuses] or None,
            "sort": "DESC" if descending else "ASC",
        }
        found: list[RuntimeJob] = []
        while limit is None or len(found) < limit:
            size = _PAGE if limit is None else min(limit - len(found), _PAGE)
            asked = {**query, "limit": size, "offset": skip + len(found)}
            page = JobPage.model_validate(self._connection().json("GET", "/jobs", query=asked))
            found += [RuntimeJob(self._connection, view=view) for view in page.jobs]
            if not page.jobs or skip + len(found) >= page.count:
                break
        return found

    def delete_job(self, job_id: str) -> None:
        """Deletes a job that has ended, with its inputs, results and logs."""
        self._connection().json("DELETE", f"/jobs/{segment(job_id)}")

    # --- sessions

    def sessions(self, limit: int = 20, skip: int = 0) -> list[SessionView]:
        """The instance's sessions, the newest first. `Session.from_id` takes one up."""
        query = {"limit": limit, "offset": skip}
        page = SessionPage.model_validate(self._connection().json("GET", "/sessions", query=query))
        return page.sessions

    # --- backends

    def backends(
        self,
        name: str | None = None,
        min_num_qubits: int | None = None,
        *,
        simulator: bool | None = None,
        operational: bool | None = None,
        filters: Callable[[RuntimeBackend], bool] | None = None,
    ) -> list[RuntimeBackend]:
        """The server's backends that fit all that is given."""
        return [
            backend
            for backend in RuntimeBackend.all(self._connection, self)
            if (name is None or backend.name == name)
            and (min_num_qubits is None or backend.num_qubits >= min_num_qubits)
            and (simulator is None or backend.simulator == simulator)
            and (operational is None or backend.operational == operational)
            and (filters is None or filters(backend))
        ]

    def backend(self, name: str) -> RuntimeBackend:
        """A backend by its name.

        Raises:
            NotFound: there is none; the message names those there are.
        """
        return RuntimeBackend.read(self._connection, backend_name(name) or "", self)

    def least_busy(
        self,
        min_num_qubits: int | None = None,
        *,
        simulator: bool | None = None,
        filters: Callable[[RuntimeBackend], bool] | None = None,
    ) -> RuntimeBackend:
        """Of the backends that take jobs and fit, the one with the fewest waiting.

        Raises:
            LookupError: none fits.
        """
        fitting = self.backends(None, min_num_qubits, simulator=simulator, operational=True, filters=filters)
        if not fitting:
            raise LookupError("no backend fits; service.backends() lists those there are")
        return min(fitting, key=lambda backend: backend.pending_jobs / backend.parallelism)

    def queue(self, backend: Any = None, *, every_instance: bool = False) -> list[QueueEntry]:
        """What runs and what waits: by backend, what runs, then what waits in the order in which it would begin now.

        Args:
            backend: of this one alone, an object or a name.
            every_instance: those of all instances, not of one's own alone; for operators.

        Raises:
            NotFound: there is no such backend.
            Unauthorized: `every_instance`, and the token is no operator's.
        """
        query = {"backend": backend_name(backend), "every_instance": every_instance or None}
        page = self._connection().json("GET", "/queue", query=query)
        return QueuePage.model_validate(page).jobs

    def prioritize(self, job_id: str, priority: int) -> None:
        """Lets a job that waits, of whichever instance, go before those of a lower priority; for operators.

        Args:
            job_id: id of the job; `queue(every_instance=True)` shows it.
            priority: -1000 to 1000, 0 at first. A minute of waiting makes up for one, so that nobody waits for ever.

        Raises:
            NotFound: there is no such job.
            Unauthorized: the token is no operator's.
            Conflict: the job runs already, or has ended.
        """
        self._connection().json("PUT", f"/queue/{segment(job_id)}/priority", {"priority": priority})

    def usage(self) -> dict[str, Any]:
        """What the instance has used, and its limits: `usage`, `jobs` by status, and `limits` by name, each with
        `limit` (None is none) and `used`. Times in seconds."""
        answer: dict[str, Any] = self._connection().json("GET", "/instances/usage")
        return answer

    # --- the end

    def close(self) -> None:
        """Ends all reading and waiting of this object; jobs and sessions go on."""
        if self._made is not None and self._pid == os.getpid():
            self._made.close()
        self._made = None

    def __enter__(self) -> RuntimeService:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RuntimeService {self.url!r}, from {self._account.source}>"


_PAGE = 100
"""Jobs asked for at once."""


def _inputs(inputs: Any) -> dict[str, Any]:
    """Inputs as a dictionary; of a pydantic object, its fields as they are."""
    if inputs is None:
        return {}
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if (model := getattr(type(inputs), "model_fields", None)) is not None:
        return {name: getattr(inputs, name) for name in model}
    raise InvalidInput(f"inputs are a dictionary or a pydantic object, not {type(inputs).__name__}")


def _metadata(metadata: Mapping[str, Any] | str | os.PathLike[str] | None) -> dict[str, Any]:
    """Qiskit Runtime's metadata, read from a file where it is one."""
    import json

    if metadata is None:
        return {}
    if isinstance(metadata, Mapping):
        return dict(metadata)
    try:
        content = json.loads(Path(metadata).read_text())
    except (OSError, ValueError) as error:
        raise PackagingError(f"metadata {str(metadata)!r} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise PackagingError(f"metadata {str(metadata)!r} is no JSON object")
    return content


def _manifest_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a manifest from Qiskit Runtime's metadata."""
    return {"metadata": metadata} if metadata else {}
