"""Payloads at rest, by the SHA-256 of their content: archives, inputs, results, logs. Opaque bytes, in chunks.

Functions on a connection put and get a value as part of a caller's transaction. `stage` writes a value of any size
ahead of one, holding a chunk in memory; `keep` then makes it a blob in the transaction that refers to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from sqlalchemy import Connection, Select, delete, insert, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from neartime.contract.ids import new_id
from neartime_server.store.engine import Store, utc, utc_now
from neartime_server.store.tables import blob_chunks, blobs, jobs, program_versions

CHUNK: Final = 512 << 10
"""Bytes of a chunk, but for the last one. The same as on the stream, so that a chunk passes through as it is."""
GRACE: Final = timedelta(hours=6)
"""How long a value that nothing refers to is left alone: its writer may be about to."""


@dataclass(frozen=True)
class Info:
    """What is known of a blob without reading it."""

    digest: str
    size: int
    """Bytes."""
    chunks: int
    content: str
    """Whose chunks its are; of no meaning outside this module."""


class Blobs(Protocol):
    """What another home for payloads, such as a bucket, gives beside this one."""

    async def stage(self, chunks: AsyncIterator[bytes]) -> Info:
        """Write a value of any size; it is not there for readers yet."""
        ...

    def keep(self, connection: Connection, staged: Info) -> str:
        """Make a staged value a blob, in the transaction that refers to it. Returns its digest."""
        ...

    def open(self, info: Info) -> AsyncIterator[bytes]:
        """The value, chunk by chunk."""
        ...


# Built once: building a statement costs more than running it.
_CLAIM: Final = {
    dialect: new.on_conflict_do_update(index_elements=["digest"], set_={"created": new.excluded.created}).returning(
        blobs.c.content
    )
    for dialect, new in (("sqlite", sqlite.insert(blobs)), ("postgresql", postgresql.insert(blobs)))
}


class MissingBlob(LookupError):
    """No blob has this digest."""


def put(connection: Connection, data: bytes) -> str:
    """Keep `data` and return its digest. What is there already is not written again."""
    parts = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    value = Info(hashlib.sha256(data).hexdigest(), len(data), len(parts), new_id())
    if _claim(connection, value) and parts:
        rows = [{"content": value.content, "number": number, "data": part} for number, part in enumerate(parts)]
        connection.execute(insert(blob_chunks), rows)
    return value.digest


def put_chunks(connection: Connection, chunks: Iterable[bytes]) -> str:
    """Keep chunks, all of `CHUNK` bytes but for the last, as one value, one in memory at a time. Returns its digest."""
    content, total, size, number = new_id(), hashlib.sha256(), 0, 0
    for data in chunks:
        connection.execute(insert(blob_chunks), {"content": content, "number": number, "data": data})
        total.update(data)
        size, number = size + len(data), number + 1
    return keep(connection, Info(total.hexdigest(), size, number, content))


def get(connection: Connection, digest: str) -> bytes:
    """The whole value.

    Raises:
        MissingBlob: there is none of this digest.
    """
    found = info(connection, digest)
    rows = connection.execute(
        select(blob_chunks.c.data).where(blob_chunks.c.content == found.content).order_by(blob_chunks.c.number)
    )
    return b"".join(row.data for row in rows)


def chunk(connection: Connection, digest: str, number: int) -> bytes:
    """One chunk, counted from 0.

    Raises:
        MissingBlob: there is no such blob, or it has no such chunk.
    """
    data = connection.execute(
        select(blob_chunks.c.data)
        .join(blobs, blobs.c.content == blob_chunks.c.content)
        .where(blobs.c.digest == digest, blob_chunks.c.number == number)
    ).scalar()
    if data is None:
        raise MissingBlob(f"{digest}, chunk {number}")
    return bytes(data)


def info(connection: Connection, digest: str) -> Info:
    """Size and number of chunks.

    Raises:
        MissingBlob: there is none of this digest.
    """
    row = connection.execute(select(blobs).where(blobs.c.digest == digest)).one_or_none()
    if row is None:
        raise MissingBlob(digest)
    return Info(row.digest, row.size, row.chunks, row.content)


async def open_blob(store: Store, digest: str) -> tuple[Info, AsyncIterator[bytes]]:
    """A blob's size and its chunks, one in memory at a time.

    Raises:
        MissingBlob: there is none of this digest.
    """
    found = await store.read(lambda connection: info(connection, digest))

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(found.chunks):
            yield await store.read(lambda connection, number=number: chunk(connection, digest, number))  # type: ignore[misc]

    return found, chunks()


async def stage(store: Store, parts: AsyncIterator[bytes]) -> Info:
    """Write a value that comes in parts of any size, a transaction a chunk, ahead of the one that will `keep` it."""
    content, total, size, number = new_id(), hashlib.sha256(), 0, 0
    pending = bytearray()

    async def write(data: bytes) -> None:
        nonlocal number
        row = {"content": content, "number": number, "data": data}
        await store.run(lambda connection: connection.execute(insert(blob_chunks), row))
        number += 1

    async for part in parts:
        total.update(part)
        size += len(part)
        pending += part
        while len(pending) >= CHUNK:
            await write(bytes(pending[:CHUNK]))
            del pending[:CHUNK]
    if pending:
        await write(bytes(pending))
    return Info(total.hexdigest(), size, number, content)


def keep(connection: Connection, staged: Info) -> str:
    """Make a staged value a blob and return its digest; where it is one already, the staged chunks go."""
    if not _claim(connection, staged):
        connection.execute(delete(blob_chunks).where(blob_chunks.c.content == staged.content))
    return staged.digest


def sweep(connection: Connection, now: datetime | None = None, grace: timedelta = GRACE) -> int:
    """Delete the values that nothing refers to and nobody put within `grace`. Returns how many."""
    before = (now or utc_now()) - grace
    # Ids begin with their time: chunks of a writer that died before it could keep them show by their id.
    oldest = new_id(utc(before).timestamp())[:9]
    references: list[Select[tuple[str]]] = [
        select(column).where(column.is_not(None))
        for column in (
            program_versions.c.archive,
            jobs.c.inputs,
            jobs.c.result,
            jobs.c.interim_archive,
            jobs.c.log_archive,
            jobs.c.checkpoint,
        )
    ]
    used = union_all(*references).subquery()
    gone = connection.execute(
        delete(blobs)
        .where(blobs.c.created < before, blobs.c.digest.not_in(select(used.c[0])))
        .returning(blobs.c.digest)
    ).all()
    connection.execute(
        delete(blob_chunks).where(blob_chunks.c.content < oldest, blob_chunks.c.content.not_in(select(blobs.c.content)))
    )
    return len(gone)


def _claim(connection: Connection, value: Info) -> bool:
    """Whether the blob is new, and its chunks are `value.content`'s. One that is there counts as put now, which keeps a
    sweep that runs at the same time off it."""
    row = {
        "digest": value.digest,
        "content": value.content,
        "size": value.size,
        "chunks": value.chunks,
        "created": utc_now(),
    }
    return bool(connection.execute(_CLAIM[connection.dialect.name], row).scalar_one() == value.content)
