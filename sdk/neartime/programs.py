"""A program as the server describes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from neartime.connection import Connection
from neartime.contract.programs import Manifest, ProgramView, VersionPage, VersionView


class RuntimeProgram:
    """An uploaded program, with its newest version. Made by `RuntimeService.program` and `programs`."""

    def __init__(self, connection: Callable[[], Connection], view: ProgramView) -> None:
        self._connect = connection
        self._view = view

    @property
    def program_id(self) -> str:
        return self._view.id

    @property
    def name(self) -> str:
        return self._view.name

    @property
    def description(self) -> str:
        return self._view.description

    @property
    def max_execution_time(self) -> int:
        """Seconds that one job may run."""
        return self._view.cost

    @property
    def is_public(self) -> bool:
        """Whether every instance of the server may run it."""
        return self._view.is_public

    @property
    def is_preinstalled(self) -> bool:
        """Whether every server has it."""
        return self._view.is_preinstalled

    @property
    def creation_date(self) -> datetime:
        return self._view.creation_date

    @property
    def update_date(self) -> datetime:
        return self._view.update_date

    @property
    def version(self) -> int:
        """1, 2, 3, …: the newest."""
        return self._view.version.number

    @property
    def version_id(self) -> str:
        return self._view.version.id

    @property
    def version_is_new(self) -> bool:
        """Whether the last change to the program made this version; False where its content had been there before."""
        return self._view.version.created == self._view.update_date

    @property
    def digest(self) -> str:
        """Of the version's content."""
        return self._view.version.digest

    @property
    def manifest(self) -> Manifest:
        """All that the program declares."""
        return Manifest.model_validate(self._view.version.manifest)

    @property
    def input_schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the inputs, None where they are not declared."""
        return self.manifest.schemas.inputs

    def parameters(self) -> dict[str, Any]:
        """The inputs that it takes, in Qiskit Runtime's form."""
        found: dict[str, Any] = self._view.spec.get("parameters", {})
        return found

    @property
    def return_values(self) -> dict[str, Any]:
        return _part(self._view.spec, "return_values")

    @property
    def interim_results(self) -> dict[str, Any]:
        return _part(self._view.spec, "interim_results")

    @property
    def backend_requirements(self) -> dict[str, Any]:
        return _part(self._view.spec, "backend_requirements")

    @property
    def data(self) -> bytes:
        """Its files, as a zip archive."""
        connection = self._connect()
        return connection.run(connection.transport.request("GET", f"/programs/{self.program_id}/data"))

    def versions(self) -> list[VersionView]:
        """Every version, newest first."""
        answer = self._connect().json("GET", f"/programs/{self.program_id}/versions")
        return VersionPage.model_validate(answer).versions

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        return self._view.model_dump(mode="json")

    def __str__(self) -> str:
        lines = [
            f"{self.name}:",
            f"  id: {self.program_id}",
            f"  version: {self.version}",
            f"  description: {self.description}",
            f"  max execution time: {self.max_execution_time} s",
            f"  public: {'yes' if self.is_public else 'no'}",
            f"  updated: {self.update_date:%Y-%m-%d %H:%M:%S} UTC",
        ]
        if requirements := self.manifest.requirements:
            lines.append(f"  requirements: {', '.join(requirements)}")
        if schema := self.input_schema:
            lines.append("  inputs:")
            required = schema.get("required", [])
            for name, one in schema.get("properties", {}).items():
                default = one.get("default")
                must = "required" if name in required else "optional" if default is None else f"default {default!r}"
                lines.append(f"    {name}: {_kind(one)} ({must}) {one.get('description', '')}".rstrip())
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<RuntimeProgram {self.name!r}, version {self.version}, id {self.program_id!r}>"


def _part(spec: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = spec.get(name, {})
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    """The type that a schema declares, in a word."""
    if reference := schema.get("$ref"):
        return str(reference).rpartition(":")[2].rpartition("/")[2]
    kind = schema.get("type")
    if kind is None and (choices := schema.get("anyOf") or schema.get("oneOf")):
        return " or ".join(_kind(one) for one in choices)
    return " or ".join(kind) if isinstance(kind, list) else str(kind or "any")
