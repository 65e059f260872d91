"""What a job said, kept beyond the streams: interim results and log, each one blob, written after the job has ended.

A job is read from its stream while it lives and until its archive is written; a row that is final without one is found
again and again until it has one. The archive of interim results is each value behind its length, eight bytes, big
endian; that of the log is JSON lines, a `LogRecord` each.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row

from neartime.contract.events import LogRecord, decode_log, encode_log
from neartime.errors import StreamError
from neartime.stream import Event
from neartime_server.bus import Bus
from neartime_server.errors import ServerError
from neartime_server.store import Store, blobs, jobs
from neartime_server.store.engine import utc_now

log = logging.getLogger(__name__)

AFTER: Final = 2.0
"""Seconds after its end at which a job is archived: by then its last log lines are in the stream, and whoever waited
for the job has its result."""
AT_ONCE: Final = 20
"""Jobs of one look."""
_LENGTH: Final = struct.Struct(">Q")


class Archive:
    def __init__(self, store: Store, bus: Bus) -> None:
        self._store, self._bus = store, bus

    # --- writing

    async def write_due(self) -> bool:
        """Archive some of the jobs that have ended and were not archived yet. True where more may be left.

        Raises:
            ServerError: the store or the bus is away; what is left is found the next time.
        """
        before = utc_now() - timedelta(seconds=AFTER)
        rows = await self._store.read(lambda connection: jobs.unarchived(connection, before, AT_ONCE))
        for row in rows:
            await self._write_alone(row)
        return len(rows) == AT_ONCE

    async def _write_alone(self, row: Row[Any]) -> None:
        """Whatever a job's events hold, those of others are kept."""
        try:
            await self._write(row)
        except ServerError:
            raise
        except Exception:
            log.exception("the events of job %s can't be archived", row.id)

    async def _write(self, row: Row[Any]) -> None:
        interims = row.interim_archive or await self._keep(self._frames(row), empty=not row.interims)
        records = row.log_archive or await self._keep(self._lines(row), empty=False)

        def note(connection: Connection) -> None:
            values = {"interim_archive": _kept(connection, interims), "log_archive": _kept(connection, records)}
            jobs.change(connection, row.id, **values)

        await self._store.run(note)

    async def _keep(self, parts: AsyncIterator[bytes], *, empty: bool) -> blobs.Info | None:
        return None if empty else await blobs.stage(self._store, parts)

    async def _frames(self, row: Row[Any]) -> AsyncIterator[bytes]:
        async for event in self._events(row, "interim"):
            reference = event.envelope.reference
            yield _LENGTH.pack(reference.size if reference else len(event.body))
            async for part in self._bus.value(row.instance_id, event):
                yield part

    async def _lines(self, row: Row[Any]) -> AsyncIterator[bytes]:
        async for event in self._events(row, "log"):
            yield encode_log(_records(event))

    # --- reading

    async def interim_results(self, row: Row[Any]) -> AsyncIterator[bytes]:
        """A job's interim results so far, in order, each as the program encoded it."""
        if row.interim_archive is None:
            async for event in self._events(row, "interim"):
                yield b"".join([part async for part in self._bus.value(row.instance_id, event)])
            return
        _, parts = await blobs.open_blob(self._store, row.interim_archive)
        pending = bytearray()
        async for part in parts:
            pending += part
            at = 0
            while len(pending) - at >= _LENGTH.size:
                (size,) = _LENGTH.unpack_from(pending, at)
                if len(pending) - at - _LENGTH.size < size:
                    break
                at += _LENGTH.size
                yield bytes(pending[at : at + size])
                at += size
            del pending[:at]

    async def log(self, row: Row[Any]) -> list[LogRecord]:
        """A job's log so far."""
        if row.log_archive is not None:
            data = await self._store.read(lambda connection: blobs.get(connection, row.log_archive))
            return decode_log(data)
        return [record async for event in self._events(row, "log") for record in _records(event)]

    async def _events(self, row: Row[Any], kind: str) -> AsyncIterator[Event]:
        """The job's events of one kind that are in its stream now."""
        events = self._bus.job_events(row.instance_id, row.session_id, row.id, logs=kind == "log", follow=False)
        async with aclosing(events):
            try:
                async for event in events:
                    if event.kind == kind:
                        yield event
            except StreamError as error:  # what came before it is kept; it won't come back
                log.warning("the %ss of job %s are incomplete: %s", kind, row.id, error)


def _records(event: Event) -> list[LogRecord]:
    try:
        return decode_log(event.body)
    except ValueError:
        return []  # whatever a worker published there, it is no log


def _kept(connection: Connection, value: blobs.Info | str | None) -> str:
    if isinstance(value, str):
        return value
    return blobs.put(connection, b"") if value is None else blobs.keep(connection, value)
