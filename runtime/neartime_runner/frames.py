"""What supervisor and child say to each other over two pipes: a kind, a length, and a body.

    supervisor ▶ child    SETUP {json}, then for each job: START {json}, INPUT bytes …, STATE bytes …, GO
    child ▶ supervisor    for each job: LOG {json} …, values …, DONE {json}

STOP {json} may follow a START, and a signal follows it, since the child does not read while main() runs; in place of a
GO it ends the job before it has begun. LOG may come between jobs too.

A value is one frame INTERIM, CHECKPOINT or RESULT with the encoded value as its body; a large one comes as CHUNK
frames first, and then that frame with an empty body. DISCARD takes back the chunks that were sent: their value broke
off.
"""

from __future__ import annotations

import signal
import struct
from enum import IntEnum
from typing import Any

from pydantic import BaseModel

from neartime.contract.backends import BackendSpec
from neartime.contract.jobs import LogLevel, ReasonCode

HEADER = struct.Struct("!BI")


STOP_SIGNAL = signal.SIGUSR1
"""Says to the child that a STOP is to be read."""


class Frame(IntEnum):
    SETUP = 1
    START = 2
    INPUT = 3
    STATE = 4
    GO = 5
    STOP = 6
    LOG = 17
    CHUNK = 18
    DISCARD = 19
    INTERIM = 20
    CHECKPOINT = 21
    RESULT = 22
    DONE = 23


def pack(kind: Frame, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


class Setup(BaseModel):
    """The body of SETUP: what a child needs to know of its worker's launch."""

    manifest: dict[str, Any]
    path: str
    backend: BackendSpec
    memory: int | None
    """Bytes of address space that it may have."""
    supervisor: int
    """The supervisor's pid."""


class Begin(BaseModel):
    """The body of START."""

    job_id: str
    log_level: LogLevel
    qpy_version: int | None
    resumed: bool
    """Whether a checkpoint's state follows the inputs."""
    mark: str
    """What the child writes to stdout and stderr after the job's last output, so that its reader knows the end."""


class Stop(BaseModel):
    """The body of STOP: why the job is to end."""

    code: ReasonCode
    reason: str


class Logged(BaseModel):
    """The body of LOG: a record of `logging`."""

    level: str
    text: str
    time: float
    """Unix seconds."""


class Done(BaseModel):
    """The body of DONE: how the job ended."""

    code: ReasonCode | None = None
    """None for a job that completed."""
    reason: str | None = None
    seconds: float = 0.0
    quantum_seconds: float = 0.0


def mark_bytes(mark: str) -> bytes:
    """The mark as it is written: no line of text begins like that."""
    return b"\0" + mark.encode() + b"\n"
