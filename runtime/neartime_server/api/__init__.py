"""The REST API: Qiskit Runtime's paths and field names under /api/v1, and one shape for every error."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from starlette.types import Lifespan

from neartime import __version__
from neartime.contract.jobs import JobRequest
from neartime_server.api import (
    backends,
    events,
    identity,
    jobs,
    operations,
    problems,
    programs,
    queue,
    sessions,
    streams,
)

PREFIX: Final = "/api/v1"
_MODELS: Final = "#/components/schemas/{model}"
_PROBLEMS: Final = {"application/json": {"schema": {"$ref": _MODELS.format(model="Problems")}}}


def create(lifespan: Lifespan[FastAPI]) -> FastAPI:
    """The routes, without what they stand on: the lifespan puts that into `app.state.services`."""
    app = FastAPI(
        title="Neartime",
        version=__version__,
        lifespan=lifespan,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # the page would load its scripts from elsewhere
        redoc_url=None,
        responses=problems.RESPONSES,
        redirect_slashes=False,
    )
    for router in (
        programs.router,
        jobs.router,
        events.router,
        sessions.router,
        backends.router,
        queue.router,
        streams.router,
        operations.usage_router,
        identity.router,
    ):
        app.include_router(router, prefix=PREFIX)
    app.include_router(operations.router)
    problems.install(app)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = described()
            components = document["components"]
            # The body of POST /jobs is taken apart by hand, so the framework does not see its model.
            model = JobRequest.model_json_schema(ref_template=_MODELS)
            components["schemas"] |= model.pop("$defs", {}) | {"JobRequest": model}
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
            for methods in document["paths"].values():
                for operation in methods.values():
                    # The framework leaves this out where a route's own answers are no JSON.
                    for status in problems.RESPONSES:
                        operation["responses"][str(status)]["content"] = _PROBLEMS
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
    return app
