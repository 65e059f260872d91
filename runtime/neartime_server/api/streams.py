"""/streams/token: a short-lived NATS credential that reads the instance's events."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from neartime.contract.streams import StreamAccess
from neartime_server.api.services import JSON, Caller, Here

router = APIRouter(prefix="/streams", tags=["streams"])


@router.post("/token", response_model=StreamAccess)
async def token(here: Here, caller: Caller) -> Response:
    """A credential for this instance's streams, read only; ask for a fresh one before it expires."""
    await here.bus.add_instance(caller.instance_id)
    access = here.bus.reader_access(caller.instance_id, here.settings.stream_token_ttl, caller.token_id)
    return Response(access.model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})
