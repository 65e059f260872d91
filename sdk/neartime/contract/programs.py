"""Programs: the manifest, its schemas, versions and their digest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, field_validator

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
DEFAULT_MAX_EXECUTION_TIME = 3600
MAX_ARCHIVE_SIZE = 64 << 20
"""Bytes of a program's archive."""
PICKLE_FILE = "function.pkl"
"""Where the archive of a program of kind `function` holds the cloudpickled function."""
_ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Visibility(str, Enum):
    PRIVATE = "private"
    """Seen and run by its own instance."""
    PUBLIC = "public"
    """Seen and run by every instance of this server."""


class Strict(BaseModel):
    """Unknown keys are faults: a misspelt key must not be ignored in silence."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
        serialize_by_alias=True,
    )


class Schemas(Strict):
    """JSON Schemas (draft 2020-12) of the *encoded* values; None accepts anything.

    Qiskit and numpy types have names, `{"$ref": "neartime:QuantumCircuit"}` and the like; `neartime.schema` knows them.
    """

    inputs: dict[str, Any] | None = None
    interim: dict[str, Any] | None = None
    result: dict[str, Any] | None = None


class Resources(Strict):
    """What one worker may use."""

    cpu: Annotated[float, Field(gt=0, le=256)] = 1.0
    """Cores."""
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi)$")] = "2Gi"

    @property
    def memory_bytes(self) -> int:
        return int(self.memory[:-2]) << (20 if self.memory.endswith("Mi") else 30)


class BackendRequirements(Strict):
    """Which backends can run the program."""

    min_num_qubits: Annotated[int, Field(ge=1)] | None = Field(
        default=None, validation_alias=AliasChoices("min-num-qubits", "min_num_qubits")
    )
    simulator: bool | None = None
    names: list[str] = Field(default_factory=list)
    """Names of backends it is meant for; empty for any."""


class Image(Strict):
    """What a container image of the program is built on, where the server runs programs in containers."""

    base: Annotated[str, Field(pattern=r"^[a-z0-9]\S*$")]
    """Reference of an image with Python, for example `quay.io/lab/base:3`; in place of the server's own."""
    complete: bool = False
    """Whether it carries the runner and every package already: nothing but the program's files is added."""


class PickledWith(Strict):
    """What wrote the pickle of a program of kind `function`; only the same Python minor version reads it."""

    python: str
    cloudpickle: str


class Manifest(Strict):
    """A program's declaration: `program.toml`, completed on the author's machine, checked again by the server."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    description: str = ""
    entry_point: str = "program:main"
    """`module:function` in the archive."""
    max_execution_time: Annotated[int, Field(ge=1, le=7 * 86400)] = DEFAULT_MAX_EXECUTION_TIME
    """Seconds that one job may run."""
    python: str | None = None
    """A version specifier, for example `>=3.11`; None for any."""
    requirements: list[str] = Field(default_factory=list)
    """PEP 508 requirements; empty runs in the server's own environment."""
    resources: Resources = Field(default_factory=Resources)
    image: Image | None = None
    """None builds on the server's own base image."""
    backends: BackendRequirements = Field(default_factory=BackendRequirements)
    schemas: Schemas = Field(default_factory=Schemas)
    typed: bool = False
    """Whether main takes `inputs: Inputs`, one object, rather than keyword arguments."""
    kind: Literal["module", "function"] = "module"
    pickled_with: PickledWith | None = None
    checkpoints: bool = False
    """Whether the program saves checkpoints: then a lost job is started again and resumes."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    """Whatever else the author wants to keep with it."""

    @field_validator("entry_point")
    @classmethod
    def _names_a_function(cls, value: str) -> str:
        if not _ENTRY.fullmatch(value):
            raise ValueError(f"{value!r} is not of the form module:function, for example program:main")
        return value

    @field_validator("requirements")
    @classmethod
    def _no_options(cls, value: list[str]) -> list[str]:
        for requirement in value:
            text = requirement.strip()
            if text.startswith("-") or "file:" in text or not text:
                raise ValueError(f"{requirement!r}: only named packages are taken, no options, paths or index lines")
        return value

    def canonical(self) -> bytes:
        """The manifest as bytes that are the same for equal manifests."""
        leaving_out = {"image"} if self.image is None else None  # as it was before there was such a field
        return json.dumps(
            self.model_dump(mode="json", exclude=leaving_out), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()


def digest(manifest: Manifest, files: Mapping[str, str]) -> str:
    """The digest of a program version's content: `sha256:` and 64 hexadecimal digits.

    `files` maps each path in the archive to the SHA-256 (hexadecimal) of its content; of a pickled function, of its
    source, since one function's pickle differs between processes.
    """
    total = hashlib.sha256(manifest.canonical())
    for path in sorted(files):
        total.update(f"\n{path}\0{files[path]}".encode())
    return f"sha256:{total.hexdigest()}"


class ProgramUpload(BaseModel):
    """The body of POST /programs and PATCH /programs/{id}.

    Either `manifest`, or the fields of Qiskit Runtime's custom programs (`name`, `description`, `cost`, `spec`), which
    `neartime.contract.ibm.manifest` turns into one.
    """

    model_config = ConfigDict(extra="forbid")

    manifest: dict[str, Any] | None = None
    """A `Manifest`, checked on its own, so that each of its faults is named."""
    data: str | None = None
    """The archive: a zip, base64. May be left out of PATCH, where only description or visibility change."""
    source_digest: str | None = None
    """Of a pickled function: the SHA-256 of its source (hexadecimal), for the digest in place of the pickle's."""
    is_public: bool | None = None
    name: str | None = None
    description: str | None = None
    cost: int | None = None
    spec: dict[str, Any] | None = None


class BuildState(str, Enum):
    PENDING = "pending"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"


class VersionView(BaseModel):
    """One program version; immutable but for the state of its build."""

    id: str
    number: int
    """1, 2, 3, …: what people say."""
    digest: str
    created: datetime
    manifest: dict[str, Any]
    environment: str | None = None
    """Digest of the environment it runs in; None for the server's own."""
    build: BuildState
    build_log: str | None = None
    """The tail of a failed build's output."""


class ProgramView(BaseModel):
    """The body of GET /programs/{id}; `cost` and `spec` as a Qiskit Runtime client reads them."""

    id: str
    name: str
    description: str
    cost: int
    is_public: bool
    creation_date: datetime
    update_date: datetime
    version: VersionView
    spec: dict[str, Any] = Field(default_factory=dict)
    is_preinstalled: bool = False
    """Whether every server has it."""


class ProgramPage(BaseModel):
    """The body of GET /programs."""

    programs: list[ProgramView]
    count: int


class VersionPage(BaseModel):
    """The body of GET /programs/{id}/versions."""

    versions: list[VersionView]
    count: int
