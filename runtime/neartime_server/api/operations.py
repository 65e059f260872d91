"""/instances/usage, and what an operator's tools ask: /healthz, /readyz, /metrics."""

from __future__ import annotations

import json

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel
from sqlalchemy import Connection, func, select

from neartime.contract.jobs import JobStatus, Usage
from neartime.contract.problem import ErrorCode
from neartime_server.api import ibm
from neartime_server.api.ibm import ForIbm
from neartime_server.api.services import JSON, Caller, Here, Operator
from neartime_server.errors import Refused
from neartime_server.store.tables import jobs, workers

usage_router = APIRouter(prefix="/instances", tags=["usage"])
router = APIRouter(tags=["operations"])


class LimitView(BaseModel):
    """A limit of an instance, and where it stands."""

    limit: int | None
    """None is no limit."""
    used: float


class InstanceUsage(BaseModel):
    """The body of GET /instances/usage: what the caller's instance has used since it began."""

    instance: str
    usage: Usage
    jobs: dict[JobStatus, int]
    """How many jobs are in each status."""
    limits: dict[str, LimitView]
    """running_jobs, live_jobs, open_sessions, and seconds_per_day of the last 24 hours."""


class Health(BaseModel):
    status: str


@usage_router.get("/usage", response_model=InstanceUsage)
async def usage(here: Here, caller: Caller, for_ibm: ForIbm) -> Response:
    """Seconds used and jobs run by the caller's instance, and its limits."""

    def read(connection: Connection) -> InstanceUsage:
        rows = connection.execute(
            select(
                jobs.c.status,
                func.count().label("count"),
                func.sum(jobs.c.seconds).label("seconds"),
                func.sum(jobs.c.quantum_seconds).label("quantum_seconds"),
            )
            .where(jobs.c.instance_id == caller.instance_id)
            .group_by(jobs.c.status)
        ).all()
        used = Usage(seconds=sum(row.seconds for row in rows), quantum_seconds=sum(row.quantum_seconds for row in rows))
        counts = {JobStatus(row.status): row[1] for row in rows}
        limits = {
            name: LimitView(limit=limit, used=now)
            for name, (limit, now) in here.control.limits(connection, caller.instance_id).items()
        }
        return InstanceUsage(instance=caller.instance_id, usage=used, jobs=counts, limits=limits)

    found = await here.store.read(read)
    if for_ibm:
        return Response(json.dumps(ibm.instance_usage(found.model_dump(mode="json"))), media_type=JSON)
    return Response(found.model_dump_json(), media_type=JSON)


@router.get("/healthz", response_model=Health)
async def healthz() -> Response:
    """That the process answers."""
    return Response(Health(status="ok").model_dump_json(), media_type=JSON)


@router.get("/readyz", response_model=Health)
async def readyz(here: Here) -> Response:
    """That database and NATS answer too."""
    await here.store.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
    if not here.bus.connected:
        raise Refused.of(503, ErrorCode.UNAVAILABLE, "NATS is not connected", solution="try again shortly")
    return Response(Health(status="ready").model_dump_json(), media_type=JSON)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(here: Here, caller: Operator) -> Response:
    """Counts of the whole server in Prometheus' text format, for operators."""

    def read(connection: Connection) -> list[str]:
        lines = ["# TYPE neartime_jobs gauge"]
        for status, count in connection.execute(select(jobs.c.status, func.count()).group_by(jobs.c.status)):
            lines.append(f'neartime_jobs{{status="{status}"}} {count}')
        lines.append("# TYPE neartime_workers gauge")
        for state, count in connection.execute(select(workers.c.state, func.count()).group_by(workers.c.state)):
            lines.append(f'neartime_workers{{state="{state}"}} {count}')
        return lines

    lines = await here.store.read(read)
    lines += ["# TYPE neartime_events_dropped counter", f"neartime_events_dropped {here.bus.dropped}"]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")
