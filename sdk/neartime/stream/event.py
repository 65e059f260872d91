"""What a job said, out of a message of its stream."""

from __future__ import annotations

from dataclasses import dataclass

from neartime.contract import subjects
from neartime.contract.events import Envelope, InvalidEnvelope, StatusEvent, decode_log
from neartime.stream.reader import Stored


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job."""

    session_id: str
    job_id: str
    kind: str
    """`status`, `interim`, `checkpoint`, `result` or `log`."""
    envelope: Envelope
    body: bytes
    """Empty where the envelope has a reference: the value is large."""
    sequence: int
    """In the stream."""
    time: float
    """When the broker stored it, Unix seconds."""

    def status(self) -> StatusEvent:
        """Of an event of kind `status`. Raises ValueError where the body is none."""
        return StatusEvent.model_validate_json(self.body)

    @property
    def valid(self) -> bool:
        """Whether the body is one that its kind allows. Values are opaque here."""
        try:
            if self.kind == "status":
                self.status()
            elif self.kind == "log":
                decode_log(self.body)
        except ValueError:
            return False
        return True

    @property
    def final(self) -> bool:
        """Whether it ends the job."""
        if self.kind != "status":
            return False
        try:
            return self.status().status.final
        except ValueError:
            return False


def parse(stored: Stored) -> Event | None:
    """The event in a message; None for what has no event's subject or no valid envelope.

    Such are acknowledgements that a worker made the broker store under another job's subject.
    """
    message = stored.message
    if (names := subjects.parse_event(message.subject)) is None:
        return None
    try:
        envelope = Envelope.parse(message.headers)
    except InvalidEnvelope:
        return None
    return Event(*names, envelope, message.data, stored.sequence, stored.time)
