"""A client's reader: one connection for all its jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from neartime.contract.streams import StreamAccess
from neartime.stream.event import Event
from neartime.stream.line import Line
from neartime.stream.order import follow
from neartime.stream.value import chunks


class EventStream:
    """Reads the events of an instance's jobs. `access` gives a credential, whenever one is needed.

    A server that is away is waited for. An error by which `access` says that there is no credential any more (the
    token was ended, for example) goes to all who read.
    """

    def __init__(self, access: Callable[[], Awaitable[StreamAccess]]) -> None:
        self._line = Line(access, name="neartime client")
        self.dropped = 0
        """Messages that were no valid events."""

    def events(
        self, *, session_id: str | None = None, job_id: str | None = None, after: int = 0, logs: bool = False
    ) -> AsyncGenerator[Event, None]:
        """A job's or a session's events in the order of publishing, each once, past the one of stream sequence `after`.

        With a job id it ends behind the job's final status. `logs` reads the log instead, and never ends.

        Raises:
            StreamError: an event of a job that has ended is missing, or the stream is closed.
        """
        return follow(
            self._line.link, session_id=session_id, job_id=job_id, after=after, logs=logs, drop=self._count_dropped
        )

    def value(self, event: Event) -> AsyncGenerator[bytes, None]:
        """The event's value, chunk by chunk.

        Raises:
            StreamError: chunks are gone from the stream, or what came is not what was published.
        """
        return chunks(self._line.link, event)

    async def close(self) -> None:
        await self._line.close()

    def _count_dropped(self, count: int) -> None:
        self.dropped += count
