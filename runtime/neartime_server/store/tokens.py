"""Bearer tokens: who speaks, for which instance, in which role. Only a keyed digest of a token is stored."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, insert, or_, select, update

from neartime.contract.ids import new_id
from neartime_server.store.engine import utc_now
from neartime_server.store.tables import instances, tokens


class Role(str, Enum):
    USER = "user"
    """Uploads and runs programs of its instance."""
    OPERATOR = "operator"
    """A user that also reads what concerns the whole server, such as its metrics."""


@dataclass(frozen=True)
class Principal:
    """Who a token stands for."""

    token_id: str
    instance_id: str
    name: str
    role: Role
    expires: datetime | None = None


@dataclass(frozen=True)
class Token:
    """What is known of a token; the token itself is not."""

    id: str
    instance_id: str
    name: str
    """Of the user."""
    role: Role
    created: datetime
    expires: datetime | None
    ended: datetime | None

    @property
    def over(self) -> datetime | None:
        """When it ended or expires, whichever is first."""
        return min((moment for moment in (self.ended, self.expires) if moment), default=None)


def new_token() -> str:
    """256 random bits behind a prefix that secret scanners can learn. Shown once."""
    return f"neartime_{secrets.token_urlsafe(32)}"


def create(
    connection: Connection, instance_id: str, name: str, role: Role, digest: str, expires: datetime | None = None
) -> str:
    """Record a token by its digest; returns the record's id."""
    token_id = new_id()
    row = {
        "id": token_id,
        "instance_id": instance_id,
        "name": name,
        "digest": digest,
        "role": role.value,
        "created": utc_now(),
        "expires": expires,
    }
    connection.execute(insert(tokens), row)
    return token_id


def find(connection: Connection, digest: str) -> Principal | None:
    """Who a live token of a live instance stands for."""
    return _principal(connection, tokens.c.digest == digest)


def find_by_id(connection: Connection, token_id: str) -> Principal | None:
    """The same, of the token of this id."""
    return _principal(connection, tokens.c.id == token_id)


def _principal(connection: Connection, which: ColumnElement[bool]) -> Principal | None:
    row = connection.execute(
        select(tokens)
        .join(instances, instances.c.id == tokens.c.instance_id)
        .where(
            which,
            tokens.c.ended.is_(None),
            instances.c.ended.is_(None),
            or_(tokens.c.expires.is_(None), tokens.c.expires > utc_now()),
        )
    ).one_or_none()
    return Principal(row.id, row.instance_id, row.name, Role(row.role), row.expires) if row else None


def known(connection: Connection, digest: str) -> bool:
    """Whether there is a record of the token, be it ended or expired."""
    return connection.execute(select(tokens.c.id).where(tokens.c.digest == digest)).one_or_none() is not None


def page(connection: Connection, instance_id: str | None = None, *, ended: bool = False) -> list[Token]:
    """Tokens, oldest first: of one instance or of all, the ended ones too where `ended`."""
    query = select(tokens).order_by(tokens.c.id)
    if instance_id:
        query = query.where(tokens.c.instance_id == instance_id)
    if not ended:
        query = query.where(tokens.c.ended.is_(None))
    return [_token(row) for row in connection.execute(query)]


def ended_since(connection: Connection, moment: datetime) -> list[Token]:
    """Tokens that were ended, or have expired, since then."""
    over = or_(tokens.c.ended > moment, (tokens.c.expires > moment) & (tokens.c.expires <= utc_now()))
    return [_token(row) for row in connection.execute(select(tokens).where(over).order_by(tokens.c.id))]


def end(connection: Connection, token_id: str) -> bool:
    """End a token; False where there is no live one of this id."""
    return _end(connection, tokens.c.id == token_id) == 1


def end_user(connection: Connection, instance_id: str, name: str) -> int:
    """End every token of a user; returns how many there were."""
    return _end(connection, (tokens.c.instance_id == instance_id) & (tokens.c.name == name))


def _token(row: Row[Any]) -> Token:
    return Token(row.id, row.instance_id, row.name, Role(row.role), row.created, row.expires, row.ended)


def _end(connection: Connection, which: ColumnElement[bool]) -> int:
    done = connection.execute(
        update(tokens).where(which, tokens.c.ended.is_(None)).values(ended=utc_now()).returning(tokens.c.id)
    )
    return len(done.all())
