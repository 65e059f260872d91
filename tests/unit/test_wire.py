"""The wire, pinned: every model of the contract, and every header, subject, digest and signature.

A change of it is a visible change of a file in `golden`. Write them again on purpose, and look at the difference:

    GOLDEN_WRITE=1 .venv/bin/python -m pytest tests/unit
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from unit.samples import ID, OTHER, SAMPLES, TIME, manifest

import neartime.contract
from neartime.contract import backends, events, gateways, launch, programs, subjects, version

GOLDEN = Path(__file__).parent / "golden"
WRITE = "GOLDEN_WRITE"
MODULES = [module.name for module in pkgutil.iter_modules(neartime.contract.__path__)]
BASES = {launch.Model, programs.Strict}
"""Models that no message is of."""


def models(module: str) -> list[type[BaseModel]]:
    """The models that a module of the contract defines, by name."""
    found = importlib.import_module(f"neartime.contract.{module}")
    return sorted(
        (
            one
            for one in vars(found).values()
            if isinstance(one, type) and issubclass(one, BaseModel) and one.__module__ == found.__name__
            and one not in BASES
        ),
        key=lambda one: one.__name__,
    )  # fmt: skip


WITH_MODELS = [module for module in MODULES if models(module)]


def plain(schema: Any) -> Any:
    """A JSON Schema without the words that are for people."""
    if isinstance(schema, list):
        return [plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: plain(part) for name, part in value.items()} if key in ("properties", "$defs") else plain(value)
        for key, value in schema.items()
        if key not in ("title", "description")
    }


def compare(name: str, actual: Any) -> None:
    """Holds a value against its golden file, or writes the file where it is asked for."""
    file = GOLDEN / f"{name}.json"
    if os.environ.get(WRITE):
        file.write_text(json.dumps(actual, indent=2, ensure_ascii=False) + "\n")
    known = json.loads(file.read_text()) if file.exists() else None
    assert actual == known, f"the wire has changed; if it was meant to: {WRITE}=1 python -m pytest tests/unit"


@pytest.mark.parametrize("module", WITH_MODELS)
def test_a_model_is_on_the_wire_what_it_was(module: str) -> None:
    samples = {type(sample): sample for sample in SAMPLES}
    compare(
        module,
        {
            kind.__name__: {
                "schema": plain(kind.model_json_schema()),
                "sample": json.loads(samples[kind].model_dump_json(by_alias=True)),
            }
            for kind in models(module)
        },
    )


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_a_model_is_read_back_from_the_wire(sample: BaseModel) -> None:
    assert type(sample).model_validate_json(sample.model_dump_json(by_alias=True)) == sample


def test_every_model_has_a_sample_that_says_all_of_its_fields() -> None:
    assert {type(sample) for sample in SAMPLES} == {kind for module in MODULES for kind in models(module)}
    for sample in SAMPLES:
        assert set(sample.model_dump(exclude_none=True, by_alias=False)) == set(type(sample).model_fields), type(
            sample
        ).__name__


def test_no_golden_file_is_left_over() -> None:
    assert {file.stem for file in GOLDEN.iterdir()} == {*WITH_MODELS, "forms"}


def test_headers_subjects_digests_and_signatures_are_what_they_were() -> None:
    reference = events.Reference(subject="job.s.j.blob.1", first=4, last=5, chunks=2, size=600_000, digest="ab" * 32)
    envelope = events.Envelope(ID, 2, 7, index=3, interims=2, reference=reference)
    record = events.LogRecord(time=TIME, stream="stdout", text="é")
    start = launch.Start(job_id=ID, max_execution_time=60.0)
    key = "ab" * 32
    compare(
        "forms",
        {
            "contract versions": [version.CONTRACT_VERSION, sorted(version.SUPPORTED_VERSIONS)],
            "limits": {"inline": events.INLINE_LIMIT, "chunk": events.CHUNK_SIZE, "archive": programs.MAX_ARCHIVE_SIZE},
            "envelope": envelope.headers(OTHER, subjects.JOBS),
            "log": events.encode_log([record]).decode(),
            "subjects": {
                "event": subjects.event(OTHER, ID, "interim"),
                "blob": subjects.blob(OTHER, ID, "1"),
                "control": subjects.control(ID),
                "beat": subjects.beat(ID),
                "fetch": subjects.fetch(ID),
                "gateway": subjects.gateway("lab.7q", OTHER, ID, "run"),
                "lease": subjects.lease("lab.7q"),
                "describe": subjects.describe("lab.7q"),
                "inbox": subjects.inbox("w"),
            },
            "streams": subjects.STREAM_SUBJECTS,
            "permissions": {
                "worker": [*subjects.worker_permissions(ID, OTHER)],
                "worker of a backend behind a gateway": [*subjects.worker_permissions(ID, OTHER, "lab.7q")],
                "reader": [*subjects.reader_permissions("c")],
                "gateway": [*subjects.gateway_permissions("g", "lab.7q")],
            },
            "message": gateways.pack(gateways.Asked(call="c"), b"body").decode(),
            "command": launch.encode_command(start),
            "signed": launch.signed_headers(key, subjects.control(ID), 7, launch.encode_command(start), b"body"),
            "manifest": manifest.canonical().decode(),
            "digest": programs.digest(manifest, {"program.py": "ab" * 32, "é.txt": "cd" * 32}),
        },
    )


def test_a_worker_without_a_gateway_is_told_what_runners_of_before_can_read() -> None:
    spec = backends.BackendSpec(name="aer", factory="qiskit_aer:AerSimulator")
    assert json.loads(spec.model_dump_json()) == {"name": "aer", "factory": "qiskit_aer:AerSimulator", "options": {}}


def test_a_worker_is_told_nothing_of_how_a_gateway_builds_its_backend() -> None:
    config = backends.BackendConfig(name="machine", factory="lab:Machine", options={"host": "10.0.0.5"}, gateway={})
    told = {"name": "machine", "factory": "lab:Machine", "options": {}, "home": "gateway"}
    assert json.loads(config.for_worker().model_dump_json()) == told
