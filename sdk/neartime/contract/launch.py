"""How a worker comes to be and is spoken to: its launch document, signed commands, and the zygote that forks it.

A worker is one process, container or pod for one (session, program version). Its launch document is all it is told; it
reaches it over a pipe, a secret file or a mounted secret, never in an environment variable.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from neartime.contract.backends import BackendSpec
from neartime.contract.jobs import LogLevel, ReasonCode
from neartime.contract.version import CONTRACT_VERSION

COMMAND_HEADER = "Neartime-Command"
COUNTER_HEADER = "Neartime-Counter"
SIGNATURE_HEADER = "Neartime-Signature"


# Pydantic would keep thousands of short strings that it has read, for the next time that they come. Those here are ids
# and keys: they don't come again, and a worker would find those of the workers before it in its memory.
_PARSING = ConfigDict(cache_strings="keys")


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, **_PARSING)


# --- the launch document


class NatsAccess(Model):
    """Where the worker's one door is, and the key to it."""

    url: str
    credential: str = Field(repr=False)
    """A NATS credentials file's text: user JWT and seed. It lives as long as the worker may, and no longer."""
    inbox: str
    """The inbox prefix that the credential allows."""


class Limits(Model):
    """What the supervisor holds the program to. Seconds and bytes."""

    cancel_grace: float = 2.0
    """Between the exception raised in main() and SIGTERM, and again between SIGTERM and SIGKILL."""
    heartbeat: float = 5.0
    """Between two heartbeats."""
    idle: float = 300.0
    """A worker that hears nothing of the control plane for so long, and runs nothing, ends itself."""
    buffer: int = 64 << 20
    """Bytes that may wait for the broker before publish() blocks."""
    memory: int | None = None
    """Bytes of address space of the child, where the executor doesn't hold it by itself."""


class Fetchable(Model):
    """A value that the worker asks for chunk by chunk, on `fetch.<id>`: `size` bytes in `chunks` chunks."""

    digest: str
    size: int
    chunks: int


class Launch(Model):
    """Everything that a worker is told when it starts."""

    contract_version: int = CONTRACT_VERSION
    worker_id: str
    session_id: str
    program_id: str
    version_id: str
    manifest: dict[str, Any]
    """A `programs.Manifest` as its JSON."""
    path: str
    """The folder that holds the program's files."""
    files: Fetchable | None = None
    """The archive of these files, which the worker fetches and unpacks where there is no such folder: one that was
    started before anybody knew its program has none."""
    backend: BackendSpec
    nats: NatsAccess
    control_key: str = Field(repr=False)
    """Hexadecimal; signs commands, answers and heartbeats, both ways."""
    limits: Limits = Limits()


# --- commands, over NATS request/reply on `worker.<id>.control`


class Start(Model):
    """Run a job. The body of the request is the encoded inputs, unless `inputs` says that they are to be fetched."""

    type: Literal["start"] = "start"
    job_id: str
    attempt: int = 1
    max_execution_time: float
    log_level: LogLevel = "warning"
    inputs: Fetchable | None = None
    checkpoint: Fetchable | None = None
    interims: int = 0
    """How many interim results the checkpoint has already accounted for."""
    qpy_version: int | None = None


class Cancel(Model):
    """Stop a job: an exception in main(), then SIGTERM, then SIGKILL."""

    type: Literal["cancel"] = "cancel"
    job_id: str
    reason_code: ReasonCode = ReasonCode.CANCELLED_BY_USER
    reason: str = "cancelled by the user"


class Drain(Model):
    """End the worker when the job it runs has ended."""

    type: Literal["drain"] = "drain"


Command = Annotated[Start | Cancel | Drain, Field(discriminator="type")]
COMMAND: TypeAdapter[Start | Cancel | Drain] = TypeAdapter(Command, config=_PARSING)


class Answer(Model):
    """A worker's answer. Commands are idempotent: one that was carried out already is answered `ok` again."""

    ok: bool
    error: str | None = None


# --- what a worker says on its own


class Beat(Model):
    """Sent when the worker is ready, then every `Limits.heartbeat` seconds, and whenever `job_id` changes."""

    worker_id: str
    job_id: str | None = None
    """The job it runs."""
    ready: bool = True
    draining: bool = False


class Fetch(Model):
    """Asks for one chunk of a value that it was told of. The answer's body is the chunk; an empty one is a refusal."""

    job_id: str | None
    """The job whose `Start` named it; None for its program's files, which its launch document names."""
    digest: str
    chunk: int
    """From 0."""


def encode_command(message: BaseModel) -> str:
    """A command, answer or beat as the text of a header: JSON in ASCII, without a line break."""
    return json.dumps(message.model_dump(mode="json"), separators=(",", ":"))


def sign(key: str, subject: str, counter: int, command: str, body: bytes) -> str:
    """HMAC-SHA-256 over subject, counter, command and body, hexadecimal.

    A subject alone proves nothing: another credential of the account can make the broker deliver a message there. The
    counter rises with every message of one direction, so that none can be played again.
    """
    text = f"{subject}\n{counter}\n{command}\n".encode()
    return hmac.new(bytes.fromhex(key), text + body, hashlib.sha256).hexdigest()


def signed_headers(key: str, subject: str, counter: int, command: str, body: bytes = b"") -> dict[str, str]:
    return {
        COMMAND_HEADER: command,
        COUNTER_HEADER: str(counter),
        SIGNATURE_HEADER: sign(key, subject, counter, command, body),
    }


def verify(key: str, subject: str, headers: dict[str, str] | None, body: bytes, after: int) -> tuple[str, int] | None:
    """(command, counter) of a signed message; None where its signature is wrong or its counter not above `after`.

    The answer to a request is signed over the *request's* subject and counter, with `after` one below that counter.
    """
    try:
        command = (headers or {})[COMMAND_HEADER]
        counter = int((headers or {})[COUNTER_HEADER])
        signature = (headers or {})[SIGNATURE_HEADER]
    except (KeyError, ValueError):
        return None
    if counter <= after or not hmac.compare_digest(signature, sign(key, subject, counter, command, body)):
        return None
    return command, counter


# --- the zygote's socket, between the `process` executor and `python -m neartime_runner zygote`
# JSON lines both ways. A connection first hears `ZygoteState`, then `WorkerExit` as workers end.


class Spawn(Model):
    """Fork a worker. Answered by `Spawned`."""

    type: Literal["spawn"] = "spawn"
    launch: Launch


class Kill(Model):
    """End a worker: SIGTERM to its supervisor, SIGKILL to all of its processes after `grace` seconds."""

    type: Literal["kill"] = "kill"
    worker_id: str
    grace: float = 5.0


class Forget(Model):
    """The exit of this worker has been taken note of; drop it from the state."""

    type: Literal["forget"] = "forget"
    worker_id: str


ZygoteRequest: TypeAdapter[Spawn | Kill | Forget] = TypeAdapter(
    Annotated[Spawn | Kill | Forget, Field(discriminator="type")], config=_PARSING
)


class Spawned(Model):
    type: Literal["spawned"] = "spawned"
    worker_id: str
    pid: int
    """Of the supervisor."""


class WorkerExit(Model):
    """How a worker ended: the supervisor's exit code, negative for the signal that killed it."""

    type: Literal["exit"] = "exit"
    worker_id: str
    exit_code: int


class ZygoteState(Model):
    type: Literal["state"] = "state"
    python: str
    """Its Python version, `3.11.7`."""
    packages: dict[str, str]
    """Versions of qiskit, qiskit-aer, numpy, cloudpickle where they are installed."""
    running: list[Spawned]
    exited: list[WorkerExit]


ZygoteEvent: TypeAdapter[Spawned | WorkerExit | ZygoteState] = TypeAdapter(
    Annotated[Spawned | WorkerExit | ZygoteState, Field(discriminator="type")], config=_PARSING
)
