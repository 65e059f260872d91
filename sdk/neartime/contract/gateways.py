"""Gateways: what one is told when it starts, what workers ask of it, and what it asks of the server.

A message is a header, JSON of one of these models, and a body: `pack` and `unpack`. What does not fit into one message
goes as chunks: of a call's circuits before it (`put`), of an answer after it (`take`).
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Annotated, Final, TypeVar

from pydantic import BaseModel, Field

from neartime.contract.backends import BackendSpec, Gateway
from neartime.contract.launch import Model, NatsAccess
from neartime.contract.version import CONTRACT_VERSION

PART_BYTES: Final = 512 << 10
"""Of a body in one message: NATS takes a megabyte, with its headers."""
LONGEST: Final = 2.0
"""Seconds that an answer to `wait` may take; who wants to wait longer asks again."""
_LENGTH: Final = struct.Struct("!I")
M = TypeVar("M", bound=BaseModel)


class GatewayLaunch(Model):
    """Everything that a gateway is told: a file that it alone can read, and reads again when its way in ends."""

    contract_version: int = CONTRACT_VERSION
    backend: BackendSpec
    parallelism: int = 1
    gateway: Gateway
    nats: NatsAccess


class Verb(str, Enum):
    """What a worker can ask; the last token of the subject."""

    TARGET = "target"
    """What the backend is: the answer's body is a `neartime_runner.targets` document."""
    PUT = "put"
    """A part of a call's body."""
    RUN = "run"
    """Run circuits. The body is {"circuits": …, "options": …} in the codec."""
    WAIT = "wait"
    """How far a call is; answered when that changes, or after a while. The body is the encoded result."""
    TAKE = "take"
    """A further part of an answer's body."""
    CANCEL = "cancel"


class Asked(Model):
    """The header of what a worker asks."""

    call: Annotated[str, Field(pattern=r"^[a-z0-9]{0,32}$")] = ""
    """Its name for a call of run(), new for each; empty of `target`. `cancel` without one is of all of its calls."""
    part: Annotated[int, Field(ge=0)] = 0
    """Of `put` and `take`: which part, from 0."""
    parts: Annotated[int, Field(ge=0)] = 0
    """Of `run`: how many were put before it, where its body is not in its own message."""
    seconds: Annotated[float, Field(ge=0)] = 0.0
    """Of `wait`."""


class Step(str, Enum):
    """How far a call is."""

    WAITING = "waiting"
    """For calls of other sessions to end."""
    RUNNING = "running"
    DONE = "done"
    RAISED = "raised"
    """The provider raised; `error` is its words."""
    FAILED = "failed"
    """The gateway could not go on with it; `error` says why."""
    CANCELLED = "cancelled"


class Told(Model):
    """The header of an answer to a worker."""

    step: Step | None = None
    refused: str | None = None
    """Why nothing was done."""
    again: bool = False
    """Whether that passes, so that it is worth asking again in a moment."""
    error: str | None = None
    parts: int = 1
    """Of the body, this message's being the first."""
    gateway: str = ""
    """The id of the gateway's process: another one knows nothing of the calls of the one before."""


class LeaseAsked(Model):
    """A gateway asks the server whether a worker may use the backend now."""

    instance_id: str
    session_id: str
    worker_id: str


class Lease(Model):
    """The answer."""

    held: bool
    alone: bool = True
    """Whether calls of other sessions must have ended before."""
    reason: str | None = None
    """Why it is not held."""


class DescribeAsked(Model):
    """The server asks a gateway what its backend is."""

    part: int = 0
    digest: str | None = None
    """Of the description that further parts are wanted of."""


class Described(Model):
    """The header of the answer; the body is a part of the configuration that the REST API tells, as JSON."""

    digest: str | None = None
    parts: int = 1
    fault: str | None = None
    """Why the backend can't be described."""


def pack(header: BaseModel, body: bytes = b"") -> bytes:
    """One message. It begins with a byte that no JSON does, so that nothing takes it for a request of its own."""
    text = header.model_dump_json().encode()
    return b"".join((_LENGTH.pack(len(text)), text, body))


def unpack(kind: type[M], data: bytes) -> tuple[M, bytes]:
    """Header and body of a message.

    Raises:
        ValueError: it is none, or another one.
    """
    if len(data) < _LENGTH.size:
        raise ValueError("this is no message of a gateway: it is too short")
    end = _LENGTH.size + int(_LENGTH.unpack_from(data)[0])
    return kind.model_validate_json(data[_LENGTH.size : end]), data[end:]


def part_of(body: bytes, number: int) -> bytes:
    return body[number * PART_BYTES : (number + 1) * PART_BYTES]


def parts_of(size: int) -> int:
    """How many parts a body of that size has; an empty one has one."""
    return max(1, -(-size // PART_BYTES))
