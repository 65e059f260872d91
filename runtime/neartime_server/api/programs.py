"""/programs: upload, list, show, update, download, delete."""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import Connection

from neartime.contract import ibm
from neartime.contract.problem import ErrorCode, Problem
from neartime.contract.programs import ProgramPage, ProgramUpload, ProgramView, VersionPage, VersionView
from neartime_server.api import uploads
from neartime_server.api.services import JSON, Caller, Here, OnceKey, Services, earlier, remembering
from neartime_server.api.told import told
from neartime_server.builder import Built, Source, Tell
from neartime_server.builder.sbom import MEDIA_TYPE as SBOM
from neartime_server.builder.sbom import of_lock as bill_of_materials
from neartime_server.errors import BuildFailed, Refused
from neartime_server.store import blobs, programs
from neartime_server.store.engine import utc
from neartime_server.store.programs import Program, Version

router = APIRouter(prefix="/programs", tags=["programs"])
_LOG_TAIL = 4000
"""Characters of a failed build's output that are told."""

Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0)]


@router.post("", response_model=ProgramView, status_code=201, responses={200: {"model": ProgramView}})
async def upload(body: ProgramUpload, request: Request, here: Here, caller: Caller, key: OnceKey) -> Response:
    """Upload a program. Where the instance has one of that name, this is its newest version, and the status is 200.
    A client that accepts `application/x-ndjson` hears the build's log, line by line."""
    if answer := await earlier(here, key):
        return answer
    checked = await asyncio.to_thread(uploads.check, body)

    async def work(tell: Tell) -> Response:
        built = await _build(here, checked, tell)
        status = 200

        def save(connection: Connection) -> bytes:
            nonlocal status
            stored = _stored(connection, checked, built)
            program, made = programs.save(connection, caller.instance_id, stored, body.is_public)
            status = 201 if made else 200
            response = view(program).model_dump_json().encode()
            remembering(key, status)(connection, response)
            return response

        response = await here.store.run(save)
        return Response(response, status, media_type=JSON)

    return await told(request, work)


@router.get("", response_model=ProgramPage)
async def index(
    here: Here,
    caller: Caller,
    name: str | None = None,
    search: str | None = None,
    limit: Limit = 20,
    offset: Offset = 0,
) -> Response:
    """The instance's own programs, then the public ones, each by name. `search` looks in names and descriptions."""

    def read(connection: Connection) -> bytes:
        found, count = programs.page(
            connection, caller.instance_id, name=name, search=search, limit=limit, offset=offset
        )
        return ProgramPage(programs=[view(one) for one in found], count=count).model_dump_json().encode()

    return Response(await here.store.read(read), media_type=JSON)


@router.get("/{program_id}", response_model=ProgramView)
async def show(program_id: str, here: Here, caller: Caller) -> Response:
    """A program, by id or name, with its newest version."""
    program = await _find(here, caller.instance_id, program_id)
    return Response(view(program).model_dump_json(), media_type=JSON)


@router.get("/{program_id}/versions", response_model=VersionPage)
async def versions(program_id: str, here: Here, caller: Caller) -> Response:
    """Every version of a program, newest first."""
    program = await _find(here, caller.instance_id, program_id)
    found = await here.store.read(lambda connection: programs.versions(connection, program.id))
    page = VersionPage(versions=[version_view(one) for one in found], count=len(found))
    return Response(page.model_dump_json(), media_type=JSON)


@router.get("/{program_id}/sbom", response_class=Response, responses={200: {"content": {SBOM: {}}}})
async def sbom(program_id: str, here: Here, caller: Caller, version: str | None = None) -> Response:
    """The software bill of materials of a version, the newest unless `version` says which: CycloneDX, JSON."""
    program = await _find(here, caller.instance_id, program_id)
    chosen = await _chosen(here, program, version)
    if chosen.lock is None:
        raise Refused.of(
            404,
            ErrorCode.NOT_FOUND,
            f"version {chosen.number} of {program.name!r} runs in the server's environment, and has no packages",
        )
    document = await asyncio.to_thread(bill_of_materials, chosen.manifest, chosen.lock)
    return Response(document, media_type=SBOM)


@router.patch("/{program_id}", response_model=ProgramView)
async def update(program_id: str, body: ProgramUpload, request: Request, here: Here, caller: Caller) -> Response:
    """Change a program. New manifest, data, cost or spec make a new version; jobs that were accepted keep theirs.
    A client that accepts `application/x-ndjson` hears the build's log."""
    program = await _own(here, caller.instance_id, program_id)
    if body.name is not None and ibm.slug(body.name) != program.name:
        raise Refused.of(
            422, ErrorCode.INVALID_REQUEST, "name: a program keeps its name; upload it under the new one", path="name"
        )
    makes_version = any(value is not None for value in (body.manifest, body.data, body.cost, body.spec))
    if makes_version:
        return await _new_version(request, here, caller.instance_id, program, body)

    def change(connection: Connection) -> Program | None:
        programs.change(connection, program.id, description=body.description, is_public=body.is_public)
        return programs.find(connection, caller.instance_id, program.id)

    return _shown(await here.store.run(change), program_id)


@router.get("/{program_id}/data", response_class=Response, responses={200: {"content": {"application/zip": {}}}})
async def download(program_id: str, here: Here, caller: Caller, version: str | None = None) -> Response:
    """The archive of a version, the newest unless `version` (id, number or digest) says which; for its owner."""
    program = await _own(here, caller.instance_id, program_id, "you can run it; its files are its owner's")
    chosen = await _chosen(here, program, version)
    info, chunks = await blobs.open_blob(here.store, chosen.archive)
    name = f"{program.name}-{chosen.number}.zip"
    headers = {"Content-Length": str(info.size), "Content-Disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(chunks, headers=headers, media_type="application/zip")


@router.put(
    "/{program_id}/data",
    response_model=ProgramView,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def replace_data(program_id: str, request: Request, here: Here, caller: Caller) -> Response:
    """A new version with the same manifest and another archive: the body is the zip as it is."""
    program = await _own(here, caller.instance_id, program_id)
    data = base64.b64encode(await request.body()).decode()
    return await _new_version(request, here, caller.instance_id, program, ProgramUpload(data=data))


@router.put("/{program_id}/public", status_code=204)
async def make_public(program_id: str, here: Here, caller: Caller) -> Response:
    """Let every instance see and run it."""
    return await _set_public(here, caller.instance_id, program_id, True)


@router.put("/{program_id}/private", status_code=204)
async def make_private(program_id: str, here: Here, caller: Caller) -> Response:
    """Keep it to its own instance."""
    return await _set_public(here, caller.instance_id, program_id, False)


@router.delete("/{program_id}", status_code=204)
async def delete(program_id: str, here: Here, caller: Caller) -> Response:
    """Delete a program. Jobs that were accepted go on; the name is free again."""
    program = await _own(here, caller.instance_id, program_id)
    await here.store.run(lambda connection: programs.remove(connection, program.id))
    return Response(status_code=204)


async def _build(here: Services, checked: uploads.Upload, tell: Tell) -> Built:
    """Make what the version runs in, unless it is there."""

    async def archive() -> bytes:
        return checked.archive

    try:
        built = await here.builder.build(Source(checked.manifest, checked.digest, archive), tell)
    except BuildFailed as error:
        tail = error.log[-_LOG_TAIL:]
        problem = Problem(
            code=ErrorCode.BUILD_FAILED,
            message=f"{error}\n{tail}".rstrip(),
            path="manifest.requirements" if error.solution is None else None,
            solution=error.solution or "mend the requirements and upload it again",
        )
        raise Refused(422, [problem]) from error
    # The first job shall find what it runs in ready, and the upload need not wait for it.
    here.background(here.executor.prepare(built))
    return built


def _stored(connection: Connection, checked: uploads.Upload, built: Built) -> programs.NewVersion:
    archive = blobs.put(connection, checked.archive)
    return programs.NewVersion(checked.manifest, checked.digest, archive, built.digest, built.lock, built.image)


async def _new_version(
    request: Request, here: Services, instance_id: str, program: Program, body: ProgramUpload
) -> Response:
    archive = await here.store.read(lambda connection: blobs.get(connection, program.version.archive))
    checked = await asyncio.to_thread(uploads.check, body, (program, archive))

    async def work(tell: Tell) -> Response:
        built = await _build(here, checked, tell)

        def save(connection: Connection) -> Program | None:
            stored = _stored(connection, checked, built)
            saved, _ = programs.save(connection, instance_id, stored, body.is_public)
            if body.description is not None:
                programs.change(connection, saved.id, description=body.description)
            return programs.find(connection, instance_id, saved.id)

        return _shown(await here.store.run(save), program.name)

    return await told(request, work)


async def _set_public(here: Services, instance_id: str, program_id: str, is_public: bool) -> Response:
    program = await _own(here, instance_id, program_id)
    await here.store.run(lambda connection: programs.change(connection, program.id, is_public=is_public))
    return Response(status_code=204)


async def _find(here: Services, instance_id: str, program_id: str) -> Program:
    found = await here.store.read(lambda connection: programs.find(connection, instance_id, program_id))
    if found is None:
        raise Refused.not_found("program", program_id, "neartime program list shows those that you can see")
    return found


async def _chosen(here: Services, program: Program, version: str | None) -> Version:
    """The version of that id, number or digest; the newest where none is asked for."""
    if version is None:
        return program.version
    found: Version | None = await here.store.read(
        lambda connection: programs.find_version(connection, program.id, version)
    )
    if found is None:
        raise Refused.not_found(f"version of {program.name!r}", version)
    return found


async def _own(
    here: Services, instance_id: str, program_id: str, solution: str = "upload one of your own to change it"
) -> Program:
    found = await _find(here, instance_id, program_id)
    if found.instance_id != instance_id:
        raise Refused.of(
            403,
            ErrorCode.FORBIDDEN,
            f"the program {found.name!r} is public, and another instance's",
            solution=solution,
        )
    return found


def _shown(program: Program | None, reference: str) -> Response:
    if program is None:
        raise Refused.not_found("program", reference)
    return Response(view(program).model_dump_json(), media_type=JSON)


def view(program: Program) -> ProgramView:
    """A program as the API shows it."""
    manifest = program.version.manifest.model_dump(mode="json")
    return ProgramView(
        id=program.id,
        name=program.name,
        description=program.description,
        cost=program.version.manifest.max_execution_time,
        is_public=program.is_public,
        creation_date=utc(program.created),
        update_date=utc(program.updated),
        version=version_view(program.version),
        spec=ibm.spec(manifest),
        is_preinstalled=program.is_preinstalled,
    )


def version_view(version: Version) -> VersionView:
    return VersionView(
        id=version.id,
        number=version.number,
        digest=version.digest,
        created=utc(version.created),
        manifest=version.manifest.model_dump(mode="json"),
        environment=version.environment,
        build=version.build,
        build_log=version.build_log,
    )
