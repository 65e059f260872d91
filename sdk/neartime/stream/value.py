"""The value of an event: its body, or the chunks of the large value that it refers to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from neartime.contract import subjects
from neartime.contract.events import INDEX_HEADER, Reference
from neartime.errors import StreamError
from neartime.stream.event import Event
from neartime.stream.link import LinkSource
from neartime.stream.reader import Quiet, Stored, read

WINDOW: Final = 128
"""Chunks that may wait for an earlier one: 64 MiB. One that is further ahead is read again later."""
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def chunks(source: LinkSource, event: Event) -> AsyncGenerator[bytes, None]:
    """The event's value in order, a chunk at a time.

    Raises:
        StreamError: chunks are gone from the stream, or what came is not what was published.
    """
    reference = event.envelope.reference
    if reference is None:
        yield event.body
        return
    prefix = subjects.blob(event.session_id, event.job_id, "")
    name = reference.subject.removeprefix(prefix)
    if name == reference.subject or not _NAME.fullmatch(name):
        raise StreamError(f"job {event.job_id} refers to what is no value of its own: {reference.subject}")
    digest, size, due = hashlib.sha256(), 0, 0
    early: dict[int, bytes] = {}
    while due < reference.chunks:
        before = due
        async with aclosing(_stored(source, reference)) as messages:
            async for stored in messages:
                index = _index(stored)
                if due <= index < min(due + WINDOW, reference.chunks):
                    early[index] = stored.message.data
                while (chunk := early.pop(due, None)) is not None:
                    due += 1
                    size += len(chunk)
                    if size > reference.size:
                        raise StreamError(f"a large value of job {event.job_id} is longer than it was said to be")
                    digest.update(chunk)
                    yield chunk
                if due == reference.chunks:
                    break
        if due == before:
            raise StreamError(
                f"a large value of job {event.job_id} is not in its stream any more: "
                f"chunk {due} of {reference.chunks} is missing"
            )
    if size != reference.size or digest.hexdigest() != reference.digest:
        raise StreamError(f"a large value of job {event.job_id} arrived damaged: {size} of {reference.size} bytes")


async def _stored(source: LinkSource, reference: Reference) -> AsyncGenerator[Stored, None]:
    """The messages between the first chunk and the last, as they lie in the stream."""
    async with aclosing(read(source, subjects.BULK, [reference.subject], reference.first - 1)) as messages:
        async for item in messages:
            if isinstance(item, Quiet):
                if item.pending == 0:
                    return
                continue
            if item.sequence > reference.last:
                return
            yield item
            if item.sequence == reference.last or item.pending == 0:
                return


def _index(stored: Stored) -> int:
    try:
        return int((stored.message.headers or {})[INDEX_HEADER])
    except (KeyError, ValueError):
        return -1
