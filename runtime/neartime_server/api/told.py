"""Requests that take long, told line by line while they are carried out, to clients that ask for it.

A client that accepts `application/x-ndjson` gets a line of JSON for each line of the log, `{"log": "…"}`, and at the
end `{"status": 201, "body": {…}}`: what it would have been answered otherwise. Where the connection breaks, the request
goes on; asked again under its idempotency key, it is answered what it was.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from neartime_server.api import problems
from neartime_server.builder import Tell, tell_nobody

LINES: Final = "application/x-ndjson"


async def told(request: Request, work: Callable[[Tell], Awaitable[Response]]) -> Response:
    """The answer of `work`, or a stream of what it tells, with that answer at its end."""
    if LINES not in request.headers.get("accept", ""):
        return await work(tell_nobody)
    trace: str = request.state.trace
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def carried_out() -> Response:
        try:
            return await work(lines.put_nowait)
        except Exception as error:  # as the gate does with what it sees
            return problems.response(problems.translate(error, trace), trace)
        finally:
            lines.put_nowait(None)

    task = asyncio.create_task(carried_out())
    request.app.state.services.tasks.add(task)
    task.add_done_callback(request.app.state.services.tasks.discard)

    async def stream() -> AsyncIterator[str]:
        while (line := await lines.get()) is not None:
            yield json.dumps({"log": line}) + "\n"
        answer = await task
        yield f'{{"status": {answer.status_code}, "body": {bytes(answer.body).decode()}}}\n'

    return StreamingResponse(stream(), media_type=LINES)
