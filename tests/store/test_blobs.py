"""Payloads at rest, on both databases."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from neartime_server.store import Store, blobs
from neartime_server.store.tables import blob_chunks


async def _parts(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def _read(store: Store, digest: str) -> bytes:
    found, chunks = await blobs.open_blob(store, digest)
    data = b"".join([chunk async for chunk in chunks])
    assert len(data) == found.size
    return data


def _count(store: Store) -> int:
    return store.transact(
        lambda connection: connection.execute(select(func.count()).select_from(blob_chunks)).scalar_one()
    )


@pytest.mark.parametrize("size", [0, 1, blobs.CHUNK, blobs.CHUNK + 1, 3 * blobs.CHUNK])
async def test_a_value_comes_back_as_it_went_in_whole_or_chunk_by_chunk(store: Store, size: int) -> None:
    data = os.urandom(size)
    digest = await store.run(lambda connection: blobs.put(connection, data))
    assert digest == hashlib.sha256(data).hexdigest()
    assert await store.read(lambda connection: blobs.get(connection, digest)) == data
    assert await _read(store, digest) == data


async def test_a_value_put_twice_is_kept_once(store: Store) -> None:
    data = os.urandom(blobs.CHUNK + 5)
    first = await store.run(lambda connection: blobs.put(connection, data))
    second = await store.run(lambda connection: blobs.put(connection, data))
    third = await store.run(lambda connection: blobs.put_chunks(connection, [data[: blobs.CHUNK], data[blobs.CHUNK :]]))
    staged = await blobs.stage(store, _parts(data))
    fourth = await store.run(lambda connection: blobs.keep(connection, staged))
    assert first == second == third == fourth
    assert _count(store) == 2


async def test_a_staged_value_is_cut_into_chunks_whatever_its_parts(store: Store) -> None:
    data = os.urandom(2 * blobs.CHUNK + 7)
    staged = await blobs.stage(store, _parts(data[:10], data[10 : blobs.CHUNK + 100], data[blobs.CHUNK + 100 :]))
    with pytest.raises(blobs.MissingBlob):
        await _read(store, staged.digest)
    digest = await store.run(lambda connection: blobs.keep(connection, staged))
    assert staged.chunks == 3
    assert await _read(store, digest) == data


async def test_a_sweep_takes_what_nothing_refers_to_and_leaves_what_is_young(store: Store) -> None:
    digest = await store.run(lambda connection: blobs.put(connection, b"left over"))
    abandoned = await blobs.stage(store, _parts(b"never kept"))
    assert await store.run(blobs.sweep) == 0
    assert _count(store) == 2
    assert await store.run(lambda connection: blobs.sweep(connection, grace=-timedelta(seconds=1))) == 1
    assert _count(store) == 0
    for gone in (digest, abandoned.digest):
        with pytest.raises(blobs.MissingBlob):
            await store.read(lambda connection, gone=gone: blobs.get(connection, gone))
