"""What a job says while it lives: events, their envelope, and the order in which a reader takes them.

An event's subject says whose it is and of what kind (`subjects`); its NATS headers are the envelope; its body is

    status      JSON, a `StatusEvent`
    interim     the encoded value, opaque here
    result      the encoded value, opaque here
    checkpoint  the encoded state, opaque here
    log         JSON lines, each a `LogRecord`

A value larger than `INLINE_LIMIT` travels as chunks on the job's blob subject; its event then has an empty body and a
`Reference` in the envelope. Readers never trust a subject alone: a message without a valid envelope is dropped and
counted, since a worker can make the broker store an acknowledgement under another job's subject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from neartime.contract.jobs import JobStatus, ReasonCode, Usage
from neartime.contract.version import CONTRACT_VERSION, SUPPORTED_VERSIONS, VERSION_HEADER

INLINE_LIMIT = 256 << 10
"""Bytes of an encoded value that still travel in the event itself."""
CHUNK_SIZE = 512 << 10
"""Bytes of one chunk of a large value, below NATS' default limit of 1 MiB for a message."""
CONTROL = "control"
"""The source of events that the control plane publishes in place of a worker that is gone."""

SOURCE_HEADER = "Neartime-Source"
ATTEMPT_HEADER = "Neartime-Attempt"
SEQUENCE_HEADER = "Neartime-Sequence"
INDEX_HEADER = "Neartime-Index"
INTERIMS_HEADER = "Neartime-Interims"
REFERENCE_HEADER = "Neartime-Reference"
MESSAGE_ID_HEADER = "Nats-Msg-Id"


class InvalidEnvelope(ValueError):
    """The message has no envelope, or one that this contract does not know."""


class Reference(BaseModel):
    """Where the chunks of a large value lie.

    Chunk k (from 0) carries `Neartime-Index: k`. Chunks may be stored out of order or twice; the reader sorts by index.
    """

    model_config = ConfigDict(frozen=True)

    subject: str
    first: int
    """Stream sequence, in BULK, of the lowest chunk stored."""
    last: int
    """Stream sequence, in BULK, of the highest chunk stored."""
    chunks: int
    size: int
    """Bytes of the whole value."""
    digest: str
    """SHA-256 of the whole value, hexadecimal."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The headers of an event."""

    source: str
    """`CONTROL`, or the id of the worker."""
    attempt: int
    """From 1; a job that is started again has the next one."""
    sequence: int
    """The source's own count within the attempt and the stream, from 1."""
    index: int = 0
    """Of an interim result: its place among the job's interim results, from 1, carried on across attempts."""
    interims: int = 0
    """Of a checkpoint: how many interim results the job had published before it."""
    reference: Reference | None = None

    def headers(self, job_id: str, stream: str) -> dict[str, str]:
        """The NATS headers, among them the id by which the broker drops a publish that is repeated."""
        headers = {
            VERSION_HEADER: str(CONTRACT_VERSION),
            SOURCE_HEADER: self.source,
            ATTEMPT_HEADER: str(self.attempt),
            SEQUENCE_HEADER: str(self.sequence),
            MESSAGE_ID_HEADER: f"{job_id}.{self.source}.{self.attempt}.{stream}.{self.sequence}",
        }
        if self.index:
            headers[INDEX_HEADER] = str(self.index)
        if self.interims:
            headers[INTERIMS_HEADER] = str(self.interims)
        if self.reference:
            headers[REFERENCE_HEADER] = self.reference.model_dump_json()
        return headers

    @classmethod
    def parse(cls, headers: Mapping[str, str] | None) -> Envelope:
        """The envelope in a message's headers.

        Raises:
            InvalidEnvelope: a header is missing, is no number, or names a contract version that is not spoken.
        """
        if not headers:
            raise InvalidEnvelope("no headers")
        try:
            version, source = int(headers[VERSION_HEADER]), headers[SOURCE_HEADER]
            attempt, sequence = int(headers[ATTEMPT_HEADER]), int(headers[SEQUENCE_HEADER])
            index = int(headers.get(INDEX_HEADER, "0"))
            interims = int(headers.get(INTERIMS_HEADER, "0"))
            text = headers.get(REFERENCE_HEADER)
            reference = Reference.model_validate_json(text) if text else None
        except (KeyError, ValueError) as error:
            raise InvalidEnvelope(f"bad envelope: {error}") from error
        if version not in SUPPORTED_VERSIONS or attempt < 1 or sequence < 1 or index < 0 or not source:
            raise InvalidEnvelope(f"bad envelope: version {version}, attempt {attempt}, sequence {sequence}")
        return cls(source, attempt, sequence, index, interims, reference)


class StatusEvent(BaseModel):
    """A step in a job's life. A final one ends the job's stream: whatever still arrives after it is not read."""

    model_config = ConfigDict(frozen=True)

    status: JobStatus
    time: datetime
    reason: str | None = None
    reason_code: ReasonCode | None = None
    worker_id: str | None = None
    usage: Usage | None = None
    """Of a final status."""
    interims: int = 0
    """Of a final status: how many interim results the job published."""


class LogRecord(BaseModel):
    """One line of a job's log."""

    model_config = ConfigDict(frozen=True)

    time: datetime
    stream: str
    """`stdout`, `stderr`, `logging`, or `runner` for what the supervisor itself has to say."""
    text: str
    level: str | None = None
    """Of a record of `logging`: its level's name."""


def encode_log(records: list[LogRecord]) -> bytes:
    return b"".join(record.model_dump_json(exclude_none=True).encode() + b"\n" for record in records)


def decode_log(body: bytes) -> list[LogRecord]:
    """The records of a log event.

    Raises:
        ValueError: a line is no record.
    """
    return [LogRecord.model_validate_json(line) for line in body.splitlines() if line]


T = TypeVar("T")


@dataclass(slots=True)
class Sequencer(Generic[T]):
    """Puts one job's events of one stream into the order in which they were published, each exactly once.

    Pipelined publishes that are retried over a broken connection are stored out of order and twice; the broker's
    duplicate window is bounded. So the order is taken from the envelope: what was seen is dropped, what is ahead of a
    gap is held until the gap fills. An event of the control plane overtakes: by then the worker was cut off.
    """

    attempt: int = 0
    last: int = 0
    """The highest sequence of this attempt that was handed on."""
    last_index: int = 0
    """The highest index of an interim result that was handed on, across attempts."""
    held: dict[int, tuple[Envelope, T, int]] = field(default_factory=dict)
    size: int = 0
    """Of all that is held, in the unit of `push`."""
    dropped: int = 0

    def push(self, envelope: Envelope, item: T, size: int = 0) -> list[T]:
        """The items that are due now, in order; often just this one, sometimes none."""
        if envelope.source == CONTROL:
            return [item]
        if envelope.attempt > self.attempt:
            self.attempt, self.last, self.size = envelope.attempt, 0, 0
            self.held.clear()
        if envelope.attempt < self.attempt or envelope.sequence <= self.last or envelope.sequence in self.held:
            self.dropped += 1
            return []
        self.held[envelope.sequence] = (envelope, item, size)
        self.size += size
        return self._due()

    def skip(self) -> list[T]:
        """Gives up what is missing before the first one that is held: the items that are due then."""
        self.last = min(self.held) - 1
        return self._due()

    def _due(self) -> list[T]:
        due: list[T] = []
        while (following := self.held.pop(self.last + 1, None)) is not None:
            self.last += 1
            self._hand_on(following, due)
        return due

    def rest(self) -> list[T]:
        """Gives up what is missing: all that is held, in order."""
        due: list[T] = []
        for sequence in sorted(self.held):
            self.last = sequence
            self._hand_on(self.held.pop(sequence), due)
        return due

    def _hand_on(self, held: tuple[Envelope, T, int], due: list[T]) -> None:
        envelope, item, size = held
        self.size -= size
        if envelope.index and envelope.index <= self.last_index:
            self.dropped += 1
            return
        self.last_index = max(self.last_index, envelope.index)
        due.append(item)

    @property
    def gap(self) -> bool:
        """Whether something is held back behind an event that has not come."""
        return bool(self.held)
