"""An upload, checked: every fault of manifest and archive at once, before anything is built or stored."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from neartime import packaging, schema
from neartime.contract import ibm
from neartime.contract.problem import ErrorCode, Fault, Problem
from neartime.contract.programs import MAX_ARCHIVE_SIZE, PICKLE_FILE, Manifest, ProgramUpload, digest
from neartime.errors import PackagingError
from neartime_server.errors import Refused
from neartime_server.store.programs import Program


@dataclass(frozen=True)
class Upload:
    """A version that can be built."""

    manifest: Manifest
    archive: bytes
    digest: str
    """Of the content, `sha256:…`."""


def check(upload: ProgramUpload, current: tuple[Program, bytes] | None = None) -> Upload:
    """The version that an upload asks for; what it leaves out is as in `current`, a program and its archive.

    Raises:
        Refused: 422, with every fault.
    """
    problems: list[Problem] = []
    declared = _declared(upload, current[0].version.manifest if current else None)
    manifest: Manifest | None = None
    if upload.manifest is None and upload.spec is not None:
        misplaced = ibm.misplaced({ibm.SPEC: upload.spec})
        problems += [_fault(ErrorCode.INVALID_MANIFEST, fault) for fault in misplaced]
    if declared is None:
        problems.append(_problem(ErrorCode.INVALID_MANIFEST, "manifest", "is missing"))
    elif found := schema.manifest_faults(declared):
        problems += [_fault(_code(fault), fault) for fault in found]
    else:
        manifest = schema.read_manifest(declared)
        if current and manifest.name != current[0].name:
            message = f"the program is called {current[0].name!r}; upload it as a new one to give it another name"
            problems.append(_problem(ErrorCode.INVALID_MANIFEST, "manifest.name", message))
    archive, files = b"", {}
    try:
        archive = _archive(upload.data, current[1] if current else None)
        files = packaging.read_files(archive)
        if manifest:
            problems += [_fault(ErrorCode.INVALID_ARCHIVE, fault) for fault in _missing(manifest, files)]
    except PackagingError as error:
        found = error.faults or [Fault(path="data", message=str(error))]
        problems += [_fault(ErrorCode.INVALID_ARCHIVE, fault) for fault in found]
    if problems or manifest is None:
        raise Refused(422, problems)
    if manifest.kind == "function" and upload.source_digest:
        files = {**files, PICKLE_FILE: upload.source_digest}
    return Upload(manifest, archive, digest(manifest, files))


def _declared(upload: ProgramUpload, current: Manifest | None) -> dict[str, Any] | None:
    if upload.manifest is not None:
        return upload.manifest
    if upload.name is not None and current is None:
        return ibm.manifest(upload.name, upload.description or "", upload.cost, upload.spec)
    if current is None:
        return None
    if upload.cost is None and upload.spec is None:
        return current.model_dump(mode="json")
    description = current.description if upload.description is None else upload.description
    cost = current.max_execution_time if upload.cost is None else upload.cost
    whole = {**current.model_dump(mode="json"), "description": description, "max-execution-time": cost}
    if upload.spec is None:
        return whole
    told = ibm.manifest(current.name, description, cost, upload.spec)
    of_spec = {part: told.get(part, {}) for part in ("schemas", "backends", "metadata")}
    kept = {key: value for key, value in current.metadata.items() if key != ibm.SPEC}
    return {**whole, **of_spec, "metadata": {**kept, **of_spec["metadata"]}}


def _archive(data: str | None, current: bytes | None) -> bytes:
    if data is None:
        if current is None:
            raise PackagingError("is missing", [Fault(path="data", message="is missing: a zip archive, base64")])
        return current
    try:
        archive = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PackagingError("not base64", [Fault(path="data", message=f"is not base64: {error}")]) from error
    if len(archive) > MAX_ARCHIVE_SIZE:
        message = f"the archive has {len(archive)} bytes, more than the {MAX_ARCHIVE_SIZE} that are taken"
        raise PackagingError("too large", [Fault(path="data", message=message)])
    return archive


def _missing(manifest: Manifest, files: dict[str, str]) -> list[Fault]:
    """What the manifest names and the archive lacks."""
    if manifest.kind == "function":
        wanted = [PICKLE_FILE]
    else:
        module = manifest.entry_point.partition(":")[0].replace(".", "/")
        wanted = [f"{module}.py", f"{module}/__init__.py"]
    if any(path in files for path in wanted):
        return []
    return [Fault(path="data", message=f"the archive has no {wanted[0]}, which the entry point names")]


def _code(fault: Fault) -> ErrorCode:
    unsupported = isinstance(fault, schema.UnsupportedRequirement)
    return ErrorCode.UNSUPPORTED_REQUIREMENT if unsupported else ErrorCode.INVALID_MANIFEST


def _problem(code: ErrorCode, path: str, message: str) -> Problem:
    return _fault(code, Fault(path=path, message=message))


def _fault(code: ErrorCode, fault: Fault) -> Problem:
    return Problem(code=code, message=str(fault), path=fault.path)
