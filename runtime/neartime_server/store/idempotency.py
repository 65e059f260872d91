"""Answers to requests that create, kept under the client's own key, so that a request sent twice creates once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, bindparam, delete, insert, select, text

from neartime.contract.problem import ErrorCode
from neartime_server.errors import Refused
from neartime_server.store.engine import utc_now
from neartime_server.store.tables import idempotency


@dataclass(frozen=True)
class Key:
    """What a client calls a request."""

    instance_id: str
    key: str
    """The `Idempotency-Key` header."""
    request: str
    """SHA-256 of method, path and body, hexadecimal."""


@dataclass(frozen=True)
class Answer:
    status: int
    response: bytes


# Built once: building a statement costs more than running it.
_FIND = select(idempotency).where(
    idempotency.c.instance_id == bindparam("instance"), idempotency.c.key == bindparam("name")
)


class Answered(Exception):
    """The request was carried out already, by another that came first: its transaction is undone and this is the
    answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("answered before")
        self.answer = answer


def find(connection: Connection, key: Key) -> Answer | None:
    """The answer that the request got before.

    Raises:
        Refused: 409, the key was used for another request.
    """
    row = connection.execute(_FIND, {"instance": key.instance_id, "name": key.key}).one_or_none()
    if row is None:
        return None
    if row.request != key.request:
        raise Refused.of(
            409,
            ErrorCode.IDEMPOTENCY_CONFLICT,
            f"the Idempotency-Key {key.key!r} was used for a different request",
            solution="use a new key for each new request",
        )
    return Answer(row.status, bytes(row.response))


def remember(connection: Connection, key: Key, answer: Answer) -> None:
    """Keep the answer, in the transaction that made it true.

    Raises:
        Answered: another request with the key has committed first.
        Refused: so it has, and it was a different one.
    """
    if connection.dialect.name == "postgresql":
        # Two that race meet here: the second waits until the first has committed, then finds its answer.
        lock = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
        connection.execute(lock, {"name": f"{key.instance_id}/{key.key}"})
    if earlier := find(connection, key):
        raise Answered(earlier)
    row = {
        "instance_id": key.instance_id,
        "key": key.key,
        "request": key.request,
        "status": answer.status,
        "response": answer.response,
        "created": utc_now(),
    }
    connection.execute(insert(idempotency), row)


def prune(connection: Connection, ttl: float) -> None:
    """Forget answers older than `ttl` seconds."""
    connection.execute(delete(idempotency).where(idempotency.c.created < utc_now() - timedelta(seconds=ttl)))
