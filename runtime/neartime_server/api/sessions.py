"""/sessions: open, show, close, cancel."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import Connection

from neartime.contract.sessions import SessionChange, SessionPage, SessionRequest, SessionState, SessionView
from neartime_server.api import ibm
from neartime_server.api.ibm import ForIbm
from neartime_server.api.services import JSON, Caller, Here, OnceKey, Services, earlier, remembering
from neartime_server.errors import Refused
from neartime_server.store import sessions

router = APIRouter(prefix="/sessions", tags=["sessions"])


class Opening(SessionRequest):
    """The body of POST /sessions."""

    instance: str | None = None
    """Of Qiskit Runtime's client, and not read: the token says whose the session is."""


@router.post("", response_model=SessionView, status_code=201)
async def create(body: Opening, here: Here, caller: Caller, key: OnceKey) -> Response:
    """Open a session on a backend."""
    if answer := await earlier(here, key):
        return answer
    remember = remembering(key, 201)

    def within(connection: Connection, session: SessionView) -> None:
        remember(connection, session.model_dump_json().encode())

    session = await here.control.open_session(caller.instance_id, body, within=within)
    return Response(session.model_dump_json(), 201, media_type=JSON)


@router.get("", response_model=SessionPage)
async def index(
    here: Here,
    caller: Caller,
    state: Annotated[list[SessionState] | None, Query()] = None,
    backend: str | None = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 20,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """The instance's sessions, newest first; those of lone jobs are left out."""
    page = await here.store.read(
        lambda connection: sessions.page(
            connection, caller.instance_id, limit=limit, offset=offset, states=state or (), backend=backend
        )
    )
    return Response(page.model_dump_json(), media_type=JSON)


@router.get("/{session_id}", response_model=SessionView)
async def show(session_id: str, here: Here, caller: Caller, for_ibm: ForIbm) -> Response:
    """A session."""
    if for_ibm:
        return Response(json.dumps(ibm.session(await _find(here, caller.instance_id, session_id))), media_type=JSON)
    return await _shown(here, caller.instance_id, session_id)


@router.patch("/{session_id}", response_model=SessionView)
async def change(session_id: str, body: SessionChange, here: Here, caller: Caller) -> Response:
    """`accepting_jobs: false` closes a session: it takes no more jobs, those it has run to their end."""
    await _find(here, caller.instance_id, session_id)
    if not body.accepting_jobs:
        await here.control.close_session(caller.instance_id, session_id)
    return await _shown(here, caller.instance_id, session_id)


@router.delete("/{session_id}/close", status_code=204)
async def cancel(session_id: str, here: Here, caller: Caller) -> Response:
    """End a session and cancel its jobs."""
    await _find(here, caller.instance_id, session_id)
    await here.control.cancel_session(caller.instance_id, session_id)
    return Response(status_code=204)


async def _shown(here: Services, instance_id: str, session_id: str) -> Response:
    session = await _find(here, instance_id, session_id)
    return Response(session.model_dump_json(), media_type=JSON)


async def _find(here: Services, instance_id: str, session_id: str) -> SessionView:
    found = await here.store.read(lambda connection: sessions.view(connection, instance_id, session_id))
    if found is None:
        raise Refused.not_found("session", session_id, "neartime session list shows yours")
    return found
