"""Jobs whose events a test stores as it likes, and what was handed on of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timezone

from neartime.contract.events import CONTROL, Envelope, LogRecord, StatusEvent, encode_log
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus
from neartime.stream import Event
from neartime.stream.order import Order

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SESSION = new_id()


def status(status: JobStatus) -> bytes:
    return StatusEvent(status=status, time=NOW).model_dump_json(exclude_none=True).encode()


def line(text: str) -> bytes:
    return encode_log([LogRecord(time=NOW, stream="stdout", text=text)])


class Life:
    """The events of one job, numbered as its worker numbers them."""

    def __init__(self, job_id: str | None = None) -> None:
        self.job_id = job_id or new_id()
        self.worker = new_id()
        self.attempt = 1
        self.number = 0
        self.index = 0

    def say(self, kind: str, body: bytes = b"1", *, index: int = 0) -> Event:
        self.number += 1
        envelope = Envelope(self.worker, self.attempt, self.number, index)
        return Event(SESSION, self.job_id, kind, envelope, body, 0, 0.0)

    def interim(self, body: bytes = b"1") -> Event:
        self.index += 1
        return self.say("interim", body, index=self.index)

    def log(self, text: str = "hello") -> Event:
        return self.say("log", line(text))

    def again(self, index: int = 0) -> None:
        """Another worker begins anew, after `index` interim results."""
        self.worker, self.attempt, self.number, self.index = new_id(), self.attempt + 1, 0, index

    def whole(self, interims: int, end: JobStatus = JobStatus.COMPLETED) -> list[Event]:
        """All that a job says that runs to its end."""
        return [
            self.say("status", status(JobStatus.RUNNING)),
            *(self.interim() for _ in range(interims)),
            self.say("result"),
            self.say("status", status(end)),
        ]

    def control(self, said: JobStatus, attempt: int | None = None) -> Event:
        """What the control plane says of the job: that it has ended, or waits for its next attempt."""
        envelope = Envelope(CONTROL, attempt or self.attempt, 2 if said.final else 1)
        return Event(SESSION, self.job_id, "status", envelope, status(said), 0, 0.0)


def stored(events: Iterable[Event]) -> list[Event]:
    """The events as a stream holds them, in this order."""
    return [replace(event, sequence=number) for number, event in enumerate(events, 1)]


def said(events: Iterable[Event]) -> list[tuple[str, int, int]]:
    """What identifies events, however often they are stored: job, attempt and the source's own number."""
    return [(event.job_id, event.envelope.attempt, event.envelope.sequence) for event in events]


def read(arrivals: Iterable[Event], order: Order | None = None) -> list[Event]:
    """What is handed on while these are read."""
    order = order or Order()
    return [due for event in arrivals for due in order.push(event, 0.0)]
