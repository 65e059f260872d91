"""What a worker says of one attempt of one job: events in their envelope, in the order in which they are published."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from datetime import datetime, timezone
from typing import Any

from neartime.contract import subjects
from neartime.contract.events import INDEX_HEADER, MESSAGE_ID_HEADER, Envelope, Reference, StatusEvent
from neartime.contract.jobs import JobStatus
from neartime_runner.outbox import Outbox, Refused


class JobEvents:
    """`interims` is the number of interim results that earlier attempts have accounted for."""

    def __init__(
        self, outbox: Outbox, worker_id: str, session_id: str, job_id: str, attempt: int, interims: int
    ) -> None:
        self._outbox, self._worker_id = outbox, worker_id
        self._session_id, self._job_id, self._attempt = session_id, job_id, attempt
        self._sequences: Counter[str] = Counter()
        self._values = 0
        self.interims = interims
        """The index of the interim result that was published last."""
        self.refused: asyncio.Future[Refused] = asyncio.get_running_loop().create_future()
        """Done when the broker has refused something of this job."""

    async def publish(
        self, kind: str, body: bytes, *, index: int = 0, interims: int = 0, reference: Reference | None = None
    ) -> asyncio.Future[int]:
        """Its sequence is fixed by the call, so that calls may overtake each other on the way."""
        stream = subjects.BULK if kind == "log" else subjects.JOBS
        self._sequences[stream] += 1
        envelope = Envelope(self._worker_id, self._attempt, self._sequences[stream], index, interims, reference)
        subject = subjects.event(self._session_id, self._job_id, kind)
        return self._watched(await self._outbox.send(subject, body, envelope.headers(self._job_id, stream)))

    async def interim(self, body: bytes, reference: Reference | None) -> None:
        self.interims += 1
        await self.publish("interim", body, index=self.interims, reference=reference)

    async def checkpoint(self, body: bytes, reference: Reference | None) -> None:
        await self.publish("checkpoint", body, interims=self.interims, reference=reference)

    async def result(self, body: bytes, reference: Reference | None) -> None:
        await self.publish("result", body, reference=reference)

    async def status(self, status: JobStatus, **more: Any) -> None:
        event = StatusEvent(status=status, time=datetime.now(timezone.utc), worker_id=self._worker_id, **more)
        await self.publish("status", event.model_dump_json(exclude_none=True).encode())

    def large_value(self) -> LargeValue:
        self._values += 1
        name = f"{self._attempt}-{self._values}"
        identity = f"{self._job_id}.{self._worker_id}.{self._attempt}.blob.{self._values}"
        return LargeValue(self, subjects.blob(self._session_id, self._job_id, name), identity)

    async def chunk(self, subject: str, body: bytes, headers: dict[str, str]) -> asyncio.Future[int]:
        return self._watched(await self._outbox.send(subject, body, headers))

    def _watched(self, stored: asyncio.Future[int]) -> asyncio.Future[int]:
        stored.add_done_callback(self._note)
        return stored

    def _note(self, stored: asyncio.Future[int]) -> None:
        if not stored.cancelled() and isinstance(error := stored.exception(), Refused) and not self.refused.done():
            self.refused.set_result(error)


class LargeValue:
    """A value that is published chunk by chunk, while it comes."""

    def __init__(self, events: JobEvents, subject: str, identity: str) -> None:
        self._events, self._subject, self._identity = events, subject, identity
        self._stored: list[asyncio.Future[int]] = []
        self._digest = hashlib.sha256()
        self._size = 0

    async def add(self, chunk: bytes) -> None:
        index = len(self._stored)
        headers = {INDEX_HEADER: str(index), MESSAGE_ID_HEADER: f"{self._identity}.{index}"}
        self._digest.update(chunk)
        self._size += len(chunk)
        self._stored.append(await self._events.chunk(self._subject, chunk, headers))

    async def reference(self) -> Reference:
        """Waits until all chunks are stored.

        Raises:
            Refused: one of them will not be.
        """
        sequences = [await stored for stored in self._stored]
        return Reference(
            subject=self._subject,
            first=min(sequences),
            last=max(sequences),
            chunks=len(sequences),
            size=self._size,
            digest=self._digest.hexdigest(),
        )
