"""The lines of a job's log: cut out of what comes through pipes, published in batches while the job runs.

A line is published at once when nothing else is under way. While much is written, lines gather for a moment, so that a
flood of output costs the broker a bounded number of messages; when more waits than may, the pipes are left unread, and
the program's next write waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Final

from neartime.contract.events import LogRecord, encode_log
from neartime_runner import tracebacks
from neartime_runner.events import JobEvents

LINE_LIMIT: Final = 16 << 10
"""Bytes of a line; the rest of a longer one is dropped, and the line says how much that was."""
BATCH: Final = 64 << 10
"""Bytes of one log event."""
HELD: Final = 1 << 20
"""Bytes of lines that may wait before the pipes are left unread."""
PARTIAL_SECONDS: Final = 0.3
"""How long a line may lack its end, while nothing comes, before it is shown as it is."""
LATE_SECONDS: Final = 0.05
"""A timer that is later than that says that the event loop was held up, and nothing of what came meanwhile."""
GATHER_SECONDS: Final = 0.01
"""Between two log events while much is written."""
STALLED_SECONDS: Final = 0.25
"""How long the acknowledgement of one log event is waited for before the next is published."""
TAIL_LINES: Final = 20
"""Lines that the reason of a dead program ends with."""


class LogBook:
    """All that a worker's program writes. What is written between jobs goes to the next one."""

    def __init__(self, folder: str = "") -> None:
        """`folder` is the program's: frames in it are shown with their path from there."""
        self._frame = f'  File "{folder.rstrip("/")}/' if folder else None
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._written = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._publishing: asyncio.Task[None]
        self._ending: asyncio.Future[None]
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def write(self, stream: str, text: str, level: str | None = None, when: float | None = None) -> None:
        if tracebacks.is_own(text):
            return  # of a crash: the runner's frames would hide the program's
        if self._frame is not None and text.startswith(self._frame):
            text = f'  File "{text[len(self._frame) :]}'
        moment = datetime.fromtimestamp(time.time() if when is None else when, timezone.utc)
        line = encode_log([LogRecord(time=moment, stream=stream, text=text, level=level)])
        self._lines.append(line)
        self._bytes += len(line)
        self.tail.append(text)
        if self._bytes > HELD:
            self._room.clear()
        self._written.set()

    async def room(self) -> None:
        """Returns when there is room for more."""
        await self._room.wait()

    def begin(self, events: JobEvents) -> None:
        """From now on it is this job's log."""
        self._ending = asyncio.get_running_loop().create_future()
        self._publishing = asyncio.create_task(self._publish(events, self._ending))

    async def end(self) -> None:
        """Returns when the rest of the job's lines is published."""
        self._ending.set_result(None)
        self._written.set()
        await self._publishing
        self.tail.clear()

    async def _publish(self, events: JobEvents, ending: asyncio.Future[None]) -> None:
        while self._lines or not ending.done():
            await self._written.wait()
            self._written.clear()
            while self._lines:
                stored = await self._batch(events)
                either: set[asyncio.Future[Any]] = {stored, ending}
                await asyncio.wait(either, timeout=STALLED_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if self._lines:
                    await asyncio.wait({ending}, timeout=GATHER_SECONDS)

    async def _batch(self, events: JobEvents) -> asyncio.Future[int]:
        batch = [self._lines.popleft()]
        size = len(batch[0])
        while self._lines and size + len(self._lines[0]) <= BATCH:
            size += len(self._lines[0])
            batch.append(self._lines.popleft())
        self._bytes -= size
        if self._bytes <= HELD:
            self._room.set()
        return await events.publish("log", b"".join(batch))


class LineSplitter:
    """Bytes to lines: text that is no UTF-8 is shown as far as it is, a line that is too long is cut."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._partial = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._take(line)
            self._emit()
        self._take(rest)

    def flush(self) -> None:
        """Shows a line that has no end yet."""
        if self._partial:
            self._emit()

    def _take(self, part: bytes) -> None:
        room = LINE_LIMIT - len(self._partial)
        self._partial += part[:room]
        self._dropped += max(0, len(part) - room)

    def _emit(self) -> None:
        text = self._partial.decode("utf-8", "replace").rstrip("\r")
        if self._dropped:
            text += f" … ({self._dropped} bytes more)"
        self._partial.clear()
        self._dropped = 0
        self._write(text)


class Capture:
    """Reads what a child writes to one of its pipes, into the log book."""

    def __init__(self, stream: str, reader: asyncio.StreamReader, book: LogBook) -> None:
        self._reader, self._book = reader, book
        self._splitter = LineSplitter(lambda text: book.write(stream, text))
        self._mark = b""
        self._marked: asyncio.Future[None] | None = None
        self._rest = b""
        self._late: asyncio.TimerHandle | None = None
        self.task = asyncio.create_task(self._read())

    def expect(self, mark: bytes) -> asyncio.Future[None]:
        """Done when all that was written before the mark is in the log book, or the pipe has ended."""
        self._mark = mark
        self._marked = asyncio.get_running_loop().create_future()
        if self.task.done():
            self._marked.set_result(None)
        return self._marked

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(BATCH):
                if self._late is not None:
                    self._late.cancel()
                self._feed(data)
                await self._book.room()
                self._wait_for_the_end()
        finally:
            if self._late is not None:
                self._late.cancel()
            self._splitter.feed(self._rest)
            self._splitter.flush()
            self._reached()

    def _wait_for_the_end(self) -> None:
        """Of a line."""
        loop = asyncio.get_running_loop()
        due = loop.time() + PARTIAL_SECONDS

        def show() -> None:
            if loop.time() - due > LATE_SECONDS:
                self._wait_for_the_end()
            else:
                self._splitter.flush()

        self._late = loop.call_at(due, show)

    def _feed(self, data: bytes) -> None:
        data = self._rest + data
        self._rest = b""
        if self._mark:
            before, found, after = data.partition(self._mark)
            if found:
                self._splitter.feed(before)
                self._splitter.flush()
                self._mark = b""
                self._reached()
                data = after
            elif (start := data.rfind(b"\0")) >= 0 and self._mark.startswith(data[start:]):
                data, self._rest = data[:start], data[start:]  # the mark comes in two pieces
        self._splitter.feed(data)

    def _reached(self) -> None:
        if self._marked is not None and not self._marked.done():
            self._marked.set_result(None)
