"""What supervisor and child say to each other over their socket: a kind, a length, and a body.

    supervisor ▶ child    START {json}, INPUT bytes …, STATE bytes …, GO
    child ▶ supervisor    READY, then for each job: LOG {json} …, values …, DONE {json}

A value is one frame INTERIM, CHECKPOINT or RESULT with the encoded value as its body; a large one comes as CHUNK frames
first, and then that frame with an empty body. DISCARD takes back the chunks that were sent: their value broke off.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from pydantic import BaseModel

from neartime.contract.jobs import LogLevel, ReasonCode

HEADER = struct.Struct("!BI")


class Frame(IntEnum):
    START = 1
    INPUT = 2
    STATE = 3
    GO = 4
    READY = 16
    LOG = 17
    CHUNK = 18
    DISCARD = 19
    INTERIM = 20
    CHECKPOINT = 21
    RESULT = 22
    DONE = 23


def pack(kind: Frame, body: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(body)) + body


class Begin(BaseModel):
    """The body of START."""

    job_id: str
    log_level: LogLevel
    qpy_version: int | None
    resumed: bool
    """Whether a checkpoint's state follows the inputs."""
    mark: str
    """What the child writes to stdout and stderr after the job's last output, so that its reader knows the end."""


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
    marked: list[str] = []
    """Which of stdout and stderr carry the mark; a program may have closed or redirected them."""


def mark_bytes(mark: str) -> bytes:
    """The mark as it is written: no line of text begins like that."""
    return b"\0" + mark.encode() + b"\n"
