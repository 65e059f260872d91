"""Every refusal and failure in the one shape of `contract.problem`, made here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from neartime.contract.problem import ErrorCode, Fault, Problems
from neartime_server.errors import BusError, Refused, StoreUnavailable
from neartime_server.store.idempotency import Answered

log = logging.getLogger(__name__)

RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": Problems, "description": "Refused; nothing was done."},
    "5XX": {"model": Problems, "description": "The server failed; nothing was committed."},
    422: {"model": Problems, "description": "Every fault of the request, each with its path."},
}
"""Of every route, for OpenAPI."""

_CODES = {
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.FORBIDDEN,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.TOO_LARGE,
    429: ErrorCode.LIMIT_REACHED,
    503: ErrorCode.UNAVAILABLE,
}


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def response(refused: Refused, trace: str) -> Response:
    """The refusal as a response."""
    body = Problems(errors=refused.problems, trace=trace).model_dump_json(exclude_none=True)
    headers = {}
    if refused.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refused.status == 503:
        headers["Retry-After"] = "1"
    return Response(body, refused.status, headers, media_type="application/json")


def translate(error: Exception, trace: str) -> Refused:
    """What to tell of an error. One that nobody foresaw is logged whole, and told as no more than its trace."""
    match error:
        case Refused():
            return error
        case StoreUnavailable():
            log.warning("%s: %s", trace, error)
            return Refused.of(503, ErrorCode.UNAVAILABLE, "the database does not answer", solution="try again shortly")
        case BusError():
            log.warning("%s: %s", trace, error)
            return Refused.of(503, ErrorCode.UNAVAILABLE, "NATS does not answer", solution="try again shortly")
        case RequestValidationError():
            return Refused.faults(ErrorCode.INVALID_REQUEST, faults(error.errors()))
        case HTTPException(__cause__=Refused() as cause):
            return cause  # raised while the framework read the body
        case HTTPException():
            return _of_framework(error)
    log.error("%s: %s", trace, error, exc_info=error)
    return Refused.of(
        500,
        ErrorCode.INTERNAL_ERROR,
        "the server failed at this; nothing was committed",
        solution=f"look for {trace} in the server's log, or send it to whoever runs the server",
    )


def faults(errors: Sequence[Any]) -> list[Fault]:
    """pydantic's errors as paths and messages."""
    found = []
    for one in errors:
        location = list(one["loc"])
        if location and location[0] in ("body", "query", "path", "header"):
            location.pop(0)
        path = ""
        for step in location:
            path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else str(step)
        message = str(one["msg"]).removeprefix("Value error, ")
        if one["type"] == "json_invalid":
            path, message = "body", f"is not JSON: {one.get('ctx', {}).get('error', message)}"
        elif one["type"] == "extra_forbidden":
            message = "is not known here; is it misspelt?"
        elif one["type"] == "missing":
            message = "is missing"
        found.append(Fault(path=path or "body", message=message[:1].lower() + message[1:]))
    return found


def _of_framework(error: HTTPException) -> Refused:
    code = _CODES.get(error.status_code, ErrorCode.INVALID_REQUEST)
    messages = {404: "there is no such path", 405: "this path has no such method"}
    message = messages.get(error.status_code, str(error.detail))
    solutions = {404: "the paths are listed in /api/v1/openapi.json", 405: "the methods are in the Allow header"}
    return Refused.of(error.status_code, code, message, solution=solutions.get(error.status_code))


def _routed(app: FastAPI, request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in app.routes)


def install(app: FastAPI) -> None:
    """Take over from the framework's own error responses."""

    async def handle(request: Request, error: Exception) -> Response:
        trace: str = request.state.trace
        refused = translate(error, trace)
        if isinstance(error, RequestValidationError) and "json" not in request.headers.get("content-type", ""):
            solution = "send the body with Content-Type: application/json"
            refused = Refused(
                refused.status,
                [
                    one.model_copy(update={"solution": solution}) if one.path == "body" else one
                    for one in refused.problems
                ],
            )
        answer = response(refused, trace)
        if refused.status == 405:
            answer.headers["Allow"] = ", ".join(method for method in _METHODS if _routed(app, request, method))
        return answer

    async def replay(request: Request, error: Exception) -> Response:
        assert isinstance(error, Answered)
        return Response(error.answer.response, error.answer.status, media_type="application/json")

    for kind in (
        Refused,
        StoreUnavailable,
        BusError,
        RequestValidationError,
        HTTPException,
        Exception,
    ):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(Answered, replay)
