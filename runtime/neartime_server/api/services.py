"""What the routes stand on: the parts of the server, who calls, and the answers given before."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.responses import Response
from sqlalchemy import Connection

from neartime.contract.problem import ErrorCode
from neartime_server.backends import Backends
from neartime_server.builder import Builder
from neartime_server.bus import Bus, Keys
from neartime_server.control import Control
from neartime_server.errors import Refused
from neartime_server.executors import Executor
from neartime_server.settings import Settings
from neartime_server.store import Store, idempotency, programs
from neartime_server.store.tokens import Principal, Role

log = logging.getLogger(__name__)

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
PROJECTION_PATIENCE: Final = 10.0
"""Seconds that a read waits for the store to reflect what its client has seen."""
JSON: Final = "application/json"
_KEY_LENGTH: Final = 128
_VERSIONS_KEPT: Final = 512


@dataclass
class Services:
    """The parts of the server, as `app` put them together."""

    settings: Settings
    keys: Keys
    store: Store
    bus: Bus
    builder: Builder
    executor: Executor
    backends: Backends
    control: Control
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    """What goes on after its request was answered."""
    _versions: dict[str, programs.Version] = field(default_factory=dict)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Let something go on after its request was answered; what it raises is logged."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """End what goes on in the background."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background work failed", exc_info=error)

    def version(self, connection: Connection, version_id: str) -> programs.Version | None:
        """A program version; they never change, so the last few hundred are held."""
        if found := self._versions.get(version_id):
            return found
        if found := programs.version(connection, version_id):
            if len(self._versions) >= _VERSIONS_KEPT:
                self._versions.pop(next(iter(self._versions)), None)
            self._versions[version_id] = found
        return found


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


async def _caller(request: Request) -> Principal:
    principal: Principal = request.state.principal  # the gate put it there, or refused
    return principal


Here = Annotated[Services, Depends(_services)]
Caller = Annotated[Principal, Depends(_caller)]


def operators_alone(caller: Principal) -> None:
    """Raises Refused (403) where the caller is no operator."""
    if caller.role is not Role.OPERATOR:
        raise Refused.of(
            403,
            ErrorCode.FORBIDDEN,
            "this is for operators, and the token is a user's",
            solution="make one with: neartime admin token create NAME --instance INSTANCE --role operator",
        )


async def _operator(caller: Caller) -> Principal:
    operators_alone(caller)
    return caller


Operator = Annotated[Principal, Depends(_operator)]


def once_key(request: Request, caller: Principal, digest: str) -> idempotency.Key | None:
    """The request's idempotency key, where it has one; `digest` is of its body."""
    name = request.headers.get(IDEMPOTENCY_HEADER)
    if name is None:
        return None
    if not 0 < len(name) <= _KEY_LENGTH or not name.isascii() or not name.isprintable():
        raise Refused.of(
            422,
            ErrorCode.INVALID_REQUEST,
            f"{IDEMPOTENCY_HEADER}: expected 1 to {_KEY_LENGTH} printable ASCII characters",
            path=IDEMPOTENCY_HEADER,
        )
    what = f"{request.method} {request.url.path}\n{digest}".encode()
    return idempotency.Key(caller.instance_id, name, hashlib.sha256(what).hexdigest())


async def _key(request: Request, caller: Caller) -> idempotency.Key | None:
    if IDEMPOTENCY_HEADER not in request.headers:
        return None
    return once_key(request, caller, hashlib.sha256(await request.body()).hexdigest())


OnceKey = Annotated[idempotency.Key | None, Depends(_key)]
"""The key of a request whose body the framework reads."""


def answered(answer: idempotency.Answer) -> Response:
    return Response(answer.response, answer.status, media_type=JSON)


async def earlier(services: Services, key: idempotency.Key | None) -> Response | None:
    """What the same request was answered before."""
    if key is None:
        return None
    answer = await services.store.read(lambda connection: idempotency.find(connection, key))
    return answered(answer) if answer else None


def remembering(key: idempotency.Key | None, status: int) -> Callable[[Connection, bytes], None]:
    """Keeps the response, inside the transaction that creates what it tells of."""

    def remember(connection: Connection, response: bytes) -> None:
        if key is not None:
            idempotency.remember(connection, key, idempotency.Answer(status, response))

    return remember
