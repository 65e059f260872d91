"""/jobs: submit, list, show, cancel, delete, and what a job left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Row

from neartime import schema
from neartime.contract.events import SEQUENCE_HEADER, encode_log
from neartime.contract.jobs import MAX_TAGS, JobAccepted, JobMetrics, JobPage, JobRequest, JobStatus, JobView, Tag
from neartime.contract.problem import ErrorCode, Fault
from neartime_server.api import bodies, ibm, submission
from neartime_server.api.ibm import ForIbm
from neartime_server.api.services import (
    JSON,
    PROJECTION_PATIENCE,
    Caller,
    Here,
    Services,
    answered,
    once_key,
    remembering,
)
from neartime_server.errors import Refused
from neartime_server.store import blobs, idempotency, jobs, programs
from neartime_server.store.programs import Version

router = APIRouter(prefix="/jobs", tags=["jobs"])

_IN_THREAD = 64 << 10
"""Bytes of a body from which on it is parsed beside the event loop."""


class Tags(BaseModel):
    """The body of PUT /jobs/{id}/tags."""

    model_config = ConfigDict(extra="forbid")

    tags: list[Tag] = Field(max_length=MAX_TAGS)


async def _reflected(
    here: Here, caller: Caller, sequence: Annotated[int | None, Header(alias=SEQUENCE_HEADER, ge=0)] = None
) -> None:
    """Hold a read until the store reflects what its client has already seen on the stream."""
    if sequence:
        await here.control.projected(caller.instance_id, sequence, PROJECTION_PATIENCE)


Reflected = Depends(_reflected)


@router.post(
    "",
    response_model=JobAccepted,
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobRequest"}}},
        }
    },
)
async def submit(request: Request, here: Here, caller: Caller, for_ibm: ForIbm) -> Response:
    """Queue a job. `params` are checked against the program's schema and kept as the bytes that came."""
    body = await bodies.receive(request)
    key = once_key(request, caller, body.digest)
    beside = len(body.data) > _IN_THREAD
    asked = await asyncio.to_thread(submission.read, body.data) if beside else submission.read(body.data)
    wanted = asked.request
    offered = None
    if for_ibm and wanted.program_id in ibm.PRIMITIVES:
        offered = ibm.program(wanted.program_id, asked.value, await here.backends.simulates(wanted.backend))

    def look(connection: Connection) -> idempotency.Answer | Version:
        if key and (answer := idempotency.find(connection, key)):
            return answer
        try:
            meant = programs.find(connection, caller.instance_id, wanted.program_id) if offered else None
            if meant and meant.is_preinstalled:  # and not the instance's own of that name
                chosen = wanted.model_copy(update={"program_id": offered})
                return _version(here, connection, caller.instance_id, chosen)
            return _version(here, connection, caller.instance_id, wanted)
        except Refused:
            asked.check()  # what is wrong with the request itself comes first
            raise

    found = await here.store.read(look)
    if isinstance(found, idempotency.Answer):
        return answered(found)
    check = (asked.value, found.manifest.schemas.inputs)
    faults = await asyncio.to_thread(_input_faults, *check) if beside else _input_faults(*check)
    if faults or asked.faults:
        of_request = Refused.faults(ErrorCode.INVALID_REQUEST, asked.faults).problems
        raise Refused(422, of_request + Refused.faults(ErrorCode.INVALID_INPUT, faults).problems)
    remember = remembering(key, 201)

    def within(connection: Connection, accepted: JobAccepted) -> None:
        remember(connection, accepted.model_dump_json().encode())

    params: bytes | blobs.Info = b"{}"
    if asked.span and body.large:
        params = await blobs.stage(here.store, body.parts(*asked.span, blobs.CHUNK))
    elif asked.span:
        params = body.data[slice(*asked.span)]
    accepted = await here.control.submit(caller.instance_id, wanted, params, found, within=within)
    return Response(accepted.model_dump_json(), 201, media_type=JSON)


@router.get("", response_model=JobPage, dependencies=[Reflected])
async def index(
    here: Here,
    caller: Caller,
    for_ibm: ForIbm,
    limit: Annotated[int, Query(ge=1)] = 10,
    offset: Annotated[int, Query(ge=0)] = 0,
    pending: bool | None = None,
    status: Annotated[list[JobStatus] | None, Query()] = None,
    program: str | None = None,
    backend: str | None = None,
    session_id: str | None = None,
    tags: Annotated[list[str] | None, Query()] = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    sort: Literal["ASC", "DESC"] = "DESC",
) -> Response:
    """The instance's jobs. `status` may be repeated (any of them); `tags` too (all of them); `pending` is short for
    Queued and Running, or for the others."""
    if limit > ibm.MOST and not for_ibm:
        raise Refused.of(422, ErrorCode.INVALID_REQUEST, f"limit: at most {ibm.MOST}", path="limit")
    limit = min(limit, ibm.MOST)
    statuses = set(status or ())
    if pending is not None:
        chosen = {one for one in JobStatus if one.final is not pending}
        statuses = statuses & chosen if statuses else chosen
        if not statuses:
            empty = JobPage(jobs=[], count=0, limit=limit, offset=offset)
            return Response(empty.model_dump_json(), media_type=JSON)
    page = await here.store.read(
        lambda connection: jobs.page(
            connection,
            caller.instance_id,
            limit=limit,
            offset=offset,
            statuses=statuses,
            program=program,
            session_id=session_id,
            backend=backend,
            tags=tags or (),
            created_after=_naive(created_after),
            created_before=_naive(created_before),
            ascending=sort == "ASC",
        )
    )
    page.jobs = await here.control.line.placed(page.jobs)
    if for_ibm:
        told = {**page.model_dump(exclude={"jobs"}), "jobs": [ibm.job(one) for one in page.jobs]}
        return Response(json.dumps(told), media_type=JSON)
    return Response(page.model_dump_json(), media_type=JSON)


@router.get("/{job_id}", response_model=JobView, dependencies=[Reflected])
async def show(job_id: str, here: Here, caller: Caller, for_ibm: ForIbm, exclude_params: bool = False) -> Response:
    """A job, with `params` as the bytes that came, unless `exclude_params`."""

    def read(connection: Connection) -> tuple[JobView, str] | None:
        view = jobs.view(connection, caller.instance_id, job_id)
        row = jobs.find(connection, caller.instance_id, job_id) if view and not exclude_params else None
        return (view, row.inputs if row else "") if view else None

    found = await here.store.read(read)
    if found is None:
        raise _no_job(job_id)
    (view,) = await here.control.line.placed([found[0]])
    text = (json.dumps(ibm.job(view)) if for_ibm else view.model_dump_json()).encode()
    if exclude_params:
        return Response(text, media_type=JSON)
    info, chunks = await blobs.open_blob(here.store, found[1])

    async def spliced() -> AsyncIterator[bytes]:
        yield text[:-1] + b',"params":'
        async for chunk in chunks:
            yield chunk
        yield b"}"

    length = len(text) - 1 + len(b',"params":') + info.size + 1
    return StreamingResponse(spliced(), media_type=JSON, headers={"Content-Length": str(length)})


@router.delete("/{job_id}", status_code=204, dependencies=[Reflected])
async def delete(job_id: str, here: Here, caller: Caller) -> Response:
    """Delete a job that has ended, with its results and logs."""
    await _row(here, caller.instance_id, job_id)
    await here.control.delete(caller.instance_id, job_id)
    return Response(status_code=204)


@router.post("/{job_id}/cancel", status_code=204, dependencies=[Reflected])
async def cancel(job_id: str, here: Here, caller: Caller) -> Response:
    """Cancel a job that has not ended."""
    await _row(here, caller.instance_id, job_id)
    await here.control.cancel(caller.instance_id, job_id)
    return Response(status_code=204)


@router.get(
    "/{job_id}/results",
    response_class=Response,
    dependencies=[Reflected],
    responses={
        200: {
            "content": {"application/json": {}, "text/plain": {}},
            "description": "The result as the program wrote it",
        },
        204: {"description": "The job has not ended"},
    },
)
async def results(job_id: str, here: Here, caller: Caller) -> Response:
    """A job's result as the program encoded it; of one that failed or was cancelled, the reason as plain text."""
    row = await _row(here, caller.instance_id, job_id)
    if row.result:
        return await _blob(here, row.result)
    status = JobStatus(row.status)
    if not status.final or status is JobStatus.COMPLETED:
        return Response(status_code=204)
    return Response(row.reason or status.value, media_type="text/plain")


@router.get("/{job_id}/interim_results", response_class=Response, dependencies=[Reflected])
async def interim_results(job_id: str, here: Here, caller: Caller) -> Response:
    """The interim results so far, a JSON array of what the program encoded."""
    await _row(here, caller.instance_id, job_id)

    async def array() -> AsyncIterator[bytes]:
        opening = b"["
        async for value in here.control.interim_results(caller.instance_id, job_id):
            yield opening + value
            opening = b","
        yield b"[]" if opening == b"[" else b"]"

    return await _begun(array(), JSON)


@router.get("/{job_id}/logs", response_class=Response)
async def logs(job_id: str, here: Here, caller: Caller, format: Literal["text", "json"] = "text") -> Response:  # noqa: A002
    """A job's log as lines of text, or as JSON lines, a record each."""
    await _row(here, caller.instance_id, job_id)
    records = await here.control.logs(caller.instance_id, job_id)
    if format == "json":
        return Response(encode_log(records), media_type="application/x-ndjson")
    return Response("".join(f"{record.text}\n" for record in records), media_type="text/plain")


@router.get("/{job_id}/metrics", response_model=JobMetrics, dependencies=[Reflected])
async def metrics(job_id: str, here: Here, caller: Caller, for_ibm: ForIbm) -> Response:
    """When a job was created, started and finished, and what it used."""
    found = await here.store.read(lambda connection: jobs.view(connection, caller.instance_id, job_id))
    if found is None:
        raise _no_job(job_id)
    (view,) = await here.control.line.placed([found])
    told = jobs.metrics(view)
    return Response(json.dumps(ibm.metrics(told)) if for_ibm else told.model_dump_json(), media_type=JSON)


@router.put("/{job_id}/tags", status_code=204)
async def set_tags(job_id: str, body: Tags, here: Here, caller: Caller) -> Response:
    """Replace a job's tags."""
    if not await here.store.run(
        lambda connection: jobs.set_tags(connection, caller.instance_id, job_id, list(dict.fromkeys(body.tags)))
    ):
        raise _no_job(job_id)
    return Response(status_code=204)


def _input_faults(value: Any, declared: dict[str, Any] | None) -> list[Fault]:
    if not isinstance(value, dict):
        return [Fault(path="inputs", message="expected an object, the program's inputs by name")]
    found: list[Fault] = schema.faults(value, declared, "inputs")
    return found


def _version(here: Services, connection: Connection, instance_id: str, wanted: JobRequest) -> Version:
    """The version that a submission asks for."""
    found = programs.newest(connection, instance_id, wanted.program_id)
    if found is None:
        raise Refused.not_found("program", wanted.program_id, "neartime program list shows those that you can see")
    program_id, version_id = found
    version = here.version(connection, version_id)
    if wanted.program_version is not None:
        version = programs.find_version(connection, program_id, wanted.program_version)
    if version is None:
        raise Refused.not_found(f"version of program {wanted.program_id!r}", wanted.program_version or version_id)
    return version


async def _row(here: Services, instance_id: str, job_id: str) -> Row[Any]:
    found = await here.store.read(lambda connection: jobs.find(connection, instance_id, job_id))
    if found is None:
        raise _no_job(job_id)
    return found


async def _blob(here: Services, digest: str) -> Response:
    info, chunks = await blobs.open_blob(here.store, digest)
    return StreamingResponse(chunks, media_type=JSON, headers={"Content-Length": str(info.size)})


async def _begun(parts: AsyncIterator[bytes], media_type: str) -> Response:
    """A streamed response whose first part is there already, so that an error before it is still told as one."""
    first = await anext(parts)

    async def all_parts() -> AsyncIterator[bytes]:
        yield first
        async for part in parts:
            yield part

    return StreamingResponse(all_parts(), media_type=media_type)


def _naive(time: datetime | None) -> datetime | None:
    """As the database holds it; a time without a zone is UTC."""
    return time.astimezone(timezone.utc).replace(tzinfo=None) if time and time.tzinfo else time


def _no_job(job_id: str) -> Refused:
    return Refused.not_found("job", job_id, "neartime job list shows yours")
