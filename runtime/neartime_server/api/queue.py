"""/queue: what runs and what waits on each backend."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from neartime.contract.jobs import Priority, QueuePage
from neartime_server.api.services import JSON, Caller, Here, Operator, operators_alone

router = APIRouter(prefix="/queue", tags=["queue"])


@router.get("", response_model=QueuePage)
async def index(here: Here, caller: Caller, backend: str | None = None, every_instance: bool = False) -> Response:
    """The jobs that run and wait: by backend, what runs, then what waits in the order in which it would begin. Of the
    caller's instance; of all for an operator who asks with `every_instance`."""
    if every_instance:
        operators_alone(caller)
    if backend is not None:
        here.backends.get(backend, status=404)
    entries = await here.control.line.entries(None if every_instance else caller.instance_id, backend)
    return Response(QueuePage(jobs=entries).model_dump_json(), media_type=JSON)


@router.put("/{job_id}/priority", status_code=204)
async def prioritize(job_id: str, body: Priority, here: Here, caller: Operator) -> Response:
    """Let a job that waits, of whichever instance, go before those of a lower priority. For operators."""
    await here.control.prioritize(job_id, body.priority)
    return Response(status_code=204)
