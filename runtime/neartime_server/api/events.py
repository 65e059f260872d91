"""/jobs/{id}/events: a job's life as Server-Sent Events, for browsers and curl."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response, StreamingResponse

from neartime.stream import Event
from neartime_server.api.services import PROJECTION_PATIENCE, Caller, Here
from neartime_server.errors import Refused
from neartime_server.store import jobs

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/events",
    response_class=Response,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Events until the job has ended"}},
)
async def events(
    job_id: str,
    here: Here,
    caller: Caller,
    last_event_id: Annotated[int, Header(ge=0)] = 0,
) -> Response:
    """Status, interim results and result as they come. An event's id is its place in the instance's stream: a client
    that sends the last one it saw as `Last-Event-ID` goes on after it."""
    row = await here.store.read(lambda connection: jobs.find(connection, caller.instance_id, job_id))
    if row is None:
        raise Refused.not_found("job", job_id)

    async def stream() -> AsyncIterator[bytes]:
        yield b": the job's events follow\n\n"
        async for event in here.control.job_events(caller.instance_id, job_id, after=last_event_id):
            if event.final:  # whoever hears of the end may read the result at once
                with suppress(Refused):
                    await here.control.projected(caller.instance_id, event.sequence, PROJECTION_PATIENCE)
            yield render(event)

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def render(event: Event) -> bytes:
    """One event: `id`, `event` (its kind) and `data`, a JSON object on one line.

    The object has `time`, `attempt`, of interim results `index`, and the value: `text` where it is text, `base64`
    where it is not, `href` and `size` where it is too large to be carried along.
    """
    data: dict[str, Any] = {
        "time": datetime.fromtimestamp(event.time, timezone.utc).isoformat(),
        "attempt": event.envelope.attempt,
    }
    if event.envelope.index:
        data["index"] = event.envelope.index
    if event.envelope.reference:
        kind = "results" if event.kind == "result" else "interim_results"
        data["href"] = f"/api/v1/jobs/{event.job_id}/{kind}"
        data["size"] = event.envelope.reference.size
    else:
        try:
            data["text"] = event.body.decode()
        except UnicodeDecodeError:
            data["base64"] = base64.b64encode(event.body).decode()
    return f"id: {event.sequence}\nevent: {event.kind}\ndata: {json.dumps(data)}\n\n".encode()
