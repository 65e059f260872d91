"""Programs and their versions. A program has a name that its owner can use again; a version never changes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)

from neartime.contract.ids import new_id
from neartime.contract.programs import BuildState, Manifest
from neartime_server.store.engine import upsert, utc_now
from neartime_server.store.instances import PREINSTALLED
from neartime_server.store.jobs import LIVE as LIVE_JOBS
from neartime_server.store.tables import instances, jobs, program_versions, programs, workers
from neartime_server.store.workers import LIVE as LIVE_WORKERS


@dataclass(frozen=True)
class Version:
    """A program version, as it was built."""

    id: str
    program_id: str
    number: int
    digest: str
    manifest: Manifest
    archive: str
    """The blob that holds its files."""
    environment: str | None
    """Digest of the environment it runs in; None for the server's own."""
    lock: str | None
    """The environment's resolved requirements."""
    image: str | None
    """The image that holds all of it, by its digest; None where it was built for the server's own machine."""
    build: BuildState
    build_log: str | None
    created: datetime


@dataclass(frozen=True)
class Program:
    """A program with its newest version."""

    id: str
    instance_id: str
    name: str
    description: str
    is_public: bool
    created: datetime
    updated: datetime
    version: Version
    is_preinstalled: bool
    """Whether every server has it."""


@dataclass(frozen=True)
class NewVersion:
    """What `save` stores of an upload that was checked and built."""

    manifest: Manifest
    digest: str
    archive: str
    environment: str | None
    lock: str | None
    image: str | None = None


def find(connection: Connection, instance_id: str, name_or_id: str) -> Program | None:
    """A program that the instance can see, by id or name: its own before one that another made public."""
    row = connection.execute(_FIND, {"instance": instance_id, "reference": name_or_id}).one_or_none()
    return _program(row) if row else None


def newest(connection: Connection, instance_id: str, name_or_id: str) -> tuple[str, str] | None:
    """Ids of such a program and of its newest version: all that a submission asks for."""
    row = connection.execute(_NEWEST, {"instance": instance_id, "reference": name_or_id}).one_or_none()
    return (row.id, row.version_id) if row else None


def page(
    connection: Connection,
    instance_id: str,
    *,
    name: str | None = None,
    search: str | None = None,
    limit: int = 20,
    offset: int = 0,
) -> tuple[list[Program], int]:
    """The instance's own programs, then the public ones, each by name; and how many there are in all.

    `search` finds its text in name or description, in any case.
    """
    where = [_visible(instance_id)]
    if name is not None:
        where.append(programs.c.name == name)
    if search:
        where.append(
            programs.c.name.icontains(search, autoescape=True)
            | programs.c.description.icontains(search, autoescape=True)
        )
    count = connection.execute(select(func.count()).select_from(programs).where(*where)).scalar_one()
    rows = connection.execute(
        _select()
        .where(*where)
        .order_by((programs.c.instance_id == instance_id).desc(), programs.c.name, programs.c.id)
        .limit(limit)
        .offset(offset)
    )
    return [_program(row) for row in rows], count


def versions(connection: Connection, program_id: str) -> list[Version]:
    """Every version of a program, newest first."""
    rows = connection.execute(
        select(program_versions)
        .where(program_versions.c.program_id == program_id)
        .order_by(program_versions.c.number.desc())
    )
    return [_version(row) for row in rows]


def version(connection: Connection, version_id: str) -> Version | None:
    """A version by its id, of a program that may have been deleted since."""
    row = connection.execute(select(program_versions).where(program_versions.c.id == version_id)).one_or_none()
    return _version(row) if row else None


def archive_of(connection: Connection, instance_id: str, worker_id: str) -> str | None:
    """The blob that holds the files of what a worker of this instance runs; None where it does not run."""
    found: str | None = connection.execute(
        select(program_versions.c.archive)
        .join(workers, workers.c.version_id == program_versions.c.id)
        .where(workers.c.id == worker_id, workers.c.instance_id == instance_id, workers.c.state.in_(LIVE_WORKERS))
    ).scalar_one_or_none()
    return found


def find_version(connection: Connection, program_id: str, reference: str) -> Version | None:
    """A version of a program by id, number or digest."""
    which: ColumnElement[bool] = or_(program_versions.c.id == reference, program_versions.c.digest == reference)
    if reference.isdecimal() and len(reference) < 10:
        which |= program_versions.c.number == int(reference)
    row = connection.execute(
        select(program_versions).where(program_versions.c.program_id == program_id, which)
    ).one_or_none()
    return _version(row) if row else None


def needed(connection: Connection) -> list[Version]:
    """Versions that can still be run: of programs that are there, and of jobs and workers that have not ended."""
    of_program = select(programs.c.id).where(programs.c.live)
    of_job = select(jobs.c.version_id).where(jobs.c.status.in_(LIVE_JOBS))
    of_worker = select(workers.c.version_id).where(workers.c.state.in_(LIVE_WORKERS))
    rows = connection.execute(
        select(program_versions).where(
            or_(
                program_versions.c.program_id.in_(of_program),
                program_versions.c.id.in_(of_job),
                program_versions.c.id.in_(of_worker),
            )
        )
    )
    return [_version(row) for row in rows]


def names(connection: Connection) -> list[str]:
    """Those of all programs that there ever were."""
    return list(connection.execute(select(programs.c.name).distinct()).scalars())


def save(connection: Connection, instance_id: str, new: NewVersion, is_public: bool | None) -> tuple[Program, bool]:
    """Make a program, or give the instance's own of that name a newest version. Returns it, and whether it was made.

    A version of the same content is there once: uploading it again makes it the newest again.
    """
    now = utc_now()
    own = programs.c.instance_id == instance_id
    # The row is locked so that two uploads under one name number their versions one after the other.
    taken = select(programs.c.id).where(own, programs.c.name == new.manifest.name, programs.c.live).with_for_update()
    program_id = connection.execute(taken).scalar_one_or_none()
    made = False
    if program_id is None:
        row = {
            "id": new_id(),
            "instance_id": instance_id,
            "name": new.manifest.name,
            "description": new.manifest.description,
            "is_public": bool(is_public),
            "created": now,
            "updated": now,
            "live": True,
        }
        made = bool(connection.execute(upsert(connection, programs).values(row).on_conflict_do_nothing()).rowcount)
        program_id = connection.execute(taken).scalar_one()
    version_id = connection.execute(
        select(program_versions.c.id).where(
            program_versions.c.program_id == program_id, program_versions.c.digest == new.digest
        )
    ).scalar_one_or_none()
    if version_id is None:
        version_id = new_id()
        number = connection.execute(
            select(func.coalesce(func.max(program_versions.c.number), 0)).where(
                program_versions.c.program_id == program_id
            )
        ).scalar_one()
        values = {
            "id": version_id,
            "program_id": program_id,
            "number": number + 1,
            "digest": new.digest,
            "manifest": json.dumps(new.manifest.model_dump(mode="json")),
            "archive": new.archive,
            "environment": new.environment,
            "lock": new.lock,
            "image": new.image,
            "build": BuildState.READY.value,
            "created": now,
        }
        connection.execute(insert(program_versions), values)
    elif new.image is not None:  # built anew, for another base or another registry
        built = {"environment": new.environment, "lock": new.lock, "image": new.image}
        connection.execute(update(program_versions).where(program_versions.c.id == version_id).values(built))
    changes: dict[str, Any] = {"description": new.manifest.description, "version_id": version_id, "updated": now}
    if is_public is not None:
        changes["is_public"] = is_public
    connection.execute(update(programs).where(programs.c.id == program_id).values(changes))
    return _program(connection.execute(_select().where(programs.c.id == program_id)).one()), made


def keep_build(
    connection: Connection, version_id: str, environment: str | None, lock: str | None, image: str | None
) -> None:
    """What a version runs in that was built after it had been saved. What is kept already stays."""
    columns = program_versions.c
    unbuilt = (columns.id == version_id) & columns.environment.is_(None) & columns.image.is_(None)
    built = {"environment": environment, "lock": lock, "image": image}
    connection.execute(update(program_versions).where(unbuilt).values(built))


def change(
    connection: Connection, program_id: str, *, description: str | None = None, is_public: bool | None = None
) -> None:
    """What of a program is not part of a version."""
    changes: dict[str, Any] = {"updated": utc_now()}
    if description is not None:
        changes["description"] = description
    if is_public is not None:
        changes["is_public"] = is_public
    connection.execute(update(programs).where(programs.c.id == program_id).values(changes))


def remove(connection: Connection, program_id: str) -> None:
    """Delete a program: its name is free again, its jobs keep their version."""
    connection.execute(
        update(programs).where(programs.c.id == program_id).values(live=None, is_public=False, updated=utc_now())
    )


def _visible(instance_id: str) -> ColumnElement[bool]:
    return programs.c.live & or_(programs.c.instance_id == instance_id, programs.c.is_public)


def _select() -> Select[Any]:
    # Both tables have an id, a digest and a time of creation: the version's columns go by a prefix.
    columns = [column.label(f"v_{column.name}") for column in program_versions.c]
    owner = select(instances.c.name).where(instances.c.id == programs.c.instance_id).scalar_subquery()
    return select(programs, (owner == PREINSTALLED).label("is_preinstalled"), *columns).join(
        program_versions, program_versions.c.id == programs.c.version_id
    )


def _of_reference(query: Select[Any]) -> Select[Any]:
    """The first of the programs that an instance sees under an id or name."""
    instance: BindParameter[str] = bindparam("instance", type_=programs.c.id.type)
    reference: BindParameter[str] = bindparam("reference", type_=programs.c.name.type)
    return (
        query.where(
            or_(programs.c.id == reference, programs.c.name == reference),
            programs.c.live & or_(programs.c.instance_id == instance, programs.c.is_public),
        )
        .order_by((programs.c.instance_id == instance).desc(), programs.c.id)
        .limit(1)
    )


# Built once: building a statement costs more than running it.
_FIND = _of_reference(_select())
_NEWEST = _of_reference(select(programs.c.id, programs.c.version_id))


def _program(row: Row[Any]) -> Program:
    return Program(
        row.id,
        row.instance_id,
        row.name,
        row.description,
        row.is_public,
        row.created,
        row.updated,
        _version(row, "v_"),
        bool(row.is_preinstalled),
    )


def _version(row: Row[Any], prefix: str = "") -> Version:
    def value(name: str) -> Any:
        return row._mapping[prefix + name]

    return Version(
        id=value("id"),
        program_id=value("program_id"),
        number=value("number"),
        digest=value("digest"),
        manifest=Manifest.model_validate(json.loads(value("manifest"))),
        archive=value("archive"),
        environment=value("environment"),
        lock=value("lock"),
        image=value("image"),
        build=BuildState(value("build")),
        build_log=value("build_log"),
        created=value("created"),
    )
