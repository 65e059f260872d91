"""A program, packaged: its files and its manifest, checked, ready to be uploaded."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from neartime.contract import ibm
from neartime.contract.problem import Fault
from neartime.contract.programs import PICKLE_FILE, BackendRequirements, Manifest, ProgramUpload, Resources, digest
from neartime.errors import PackagingError
from neartime.packaging import entry, folder, function
from neartime.packaging.archive import pack, read_files
from neartime.packaging.derive import NotImported, derive
from neartime.packaging.folder import Files
from neartime.schema import manifest_faults, read_manifest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST_FILE: Final = "program.toml"
_FOUND_OUT = ("kind", "pickled-with", "typed")
"""Keys of a manifest that packaging finds out, and nobody writes."""
_TABLES: dict[str, list[str]] = {
    "resources": [str(one.alias) for one in Resources.model_fields.values()],
    "backends": [name.replace("_", "-") for name in BackendRequirements.model_fields],
    "schemas": ["inputs", "interim", "result"],
    "metadata": [],
}
"""Tables of a manifest, whose keys are merged one by one."""
_KEYS = frozenset(str(one.alias) for one in Manifest.model_fields.values())


@dataclass(frozen=True)
class Package:
    """What is uploaded of a program."""

    manifest: Manifest
    archive: bytes
    """A zip."""
    source_digest: str | None = None
    """Of a pickled function, SHA-256 (hexadecimal) of what it is; its pickle differs between processes."""

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 (hexadecimal) of each file, by path; of a pickled function, that of its source."""
        found = read_files(self.archive)
        return {**found, PICKLE_FILE: self.source_digest} if self.source_digest else found

    @property
    def digest(self) -> str:
        """Of the content, `sha256:…`: that of the version which the server makes of it."""
        return digest(self.manifest, self.files)

    def to_upload(self, is_public: bool | None = None) -> ProgramUpload:
        """The body of the request."""
        return ProgramUpload(
            manifest=self.manifest.model_dump(mode="json", by_alias=True),
            data=base64.b64encode(self.archive).decode("ascii"),
            source_digest=self.source_digest,
            is_public=is_public,
        )


def package(
    data: str | os.PathLike[str] | Callable[..., Any],
    *,
    metadata: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> Package:
    """Packages a program.

    Args:
        data: a folder, a .py file or a zip; the source itself, as text; or a function.
        metadata: Qiskit Runtime's metadata, which wins over a program.toml.
        overrides: keys of the manifest (`name`, `description`, `requirements`, …), which win over both.

    Raises:
        PackagingError: it can't be packaged; every fault of the manifest is named.
    """
    if metadata is not None and not isinstance(metadata, Mapping):
        raise PackagingError(f"metadata is a dictionary, not {type(metadata).__name__}")
    misplaced = ibm.misplaced(metadata or {}, "metadata")
    said = [_normal(ibm.fields(metadata or {})), _normal(overrides)]
    if callable(data) and not isinstance(data, (str, os.PathLike)):
        return _of_function(data, said, misplaced)
    files = _files(data)
    declared = _merged([{"name": files.name}, _program_toml(files), *said])
    _check(declared, misplaced)
    if "entry-point" not in declared:
        declared["entry-point"] = entry.find(files.contents)
    _complete(declared, files)
    _check(declared, packaged=True)
    return Package(read_manifest(declared), pack(files.contents, files.executable))


def _of_function(data: Callable[..., Any], said: list[dict[str, Any]], misplaced: list[Fault]) -> Package:
    pickled = function.pickle(data)
    declared = _merged([{"name": ibm.slug(pickled.name)}, *said])
    _check(declared, misplaced)
    if pickled.inputs is not None:
        declared["typed"] = True
        declared["schemas"] = {"inputs": pickled.inputs, **declared.get("schemas", {})}
    declared |= {"kind": "function", "pickled-with": pickled.pickled_with}
    _check(declared, packaged=True)
    return Package(read_manifest(declared), pack(pickled.contents), pickled.source_digest)


def _files(data: object) -> Files:
    if isinstance(data, os.PathLike):
        return folder.read(Path(data))
    if not isinstance(data, str):
        raise PackagingError(f"a program is a path, source text or a function, not {type(data).__name__}")
    if "\n" in data:
        return folder.of_source(data.encode("utf-8", "surrogatepass"))
    if Path(data).exists():
        return folder.read(Path(data))
    if "(" in data:
        return folder.of_source(data.encode("utf-8", "surrogatepass"))
    raise PackagingError(f"{data!r} is not there; `neartime program init NAME` begins a program")


def _program_toml(files: Files) -> dict[str, Any]:
    """What program.toml declares, with the schemas that it keeps in files of their own."""
    text = files.contents.get(MANIFEST_FILE)
    if text is None:
        return {}
    try:
        declared = _normal(tomllib.loads(text.decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PackagingError(f"{MANIFEST_FILE} can't be read: {error}") from error
    schemas = declared.get("schemas")
    if isinstance(schemas, dict):
        for part, value in schemas.items():
            if isinstance(value, str):
                schemas[part] = _schema_file(files, value, f"manifest.schemas.{part}")
    return declared


def _schema_file(files: Files, path: str, where: str) -> Any:
    import json

    try:
        return json.loads(files.contents[path])
    except KeyError:
        message = f"{path!r} is no file of the program; it is a path from the program's folder, to a JSON Schema"
    except ValueError as error:
        message = f"{path} is no JSON: {error}"
    raise PackagingError("The manifest has faults.", [Fault(path=where, message=message)])


def _normal(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a manifest with known keys written with dashes, as program.toml has them; those of None left out."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        name = key.replace("_", "-") if key.replace("_", "-") in _KEYS else key
        if isinstance(value, Mapping) and name in _TABLES:
            known = _TABLES[name]
            value = {
                (inner.replace("_", "-") if isinstance(inner, str) and inner.replace("_", "-") in known else inner): one
                for inner, one in value.items()
            }
        if value is not None:
            found[name] = value
    return found


def _merged(layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Fields of a manifest, each from the last layer that has it."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            both = key in _TABLES and isinstance(value, dict) and isinstance(below, dict)
            merged[key] = {**below, **value} if both and isinstance(below, dict) else value
    return {key: value for key, value in merged.items() if value is not None}


def _complete(declared: dict[str, Any], files: Files) -> None:
    """Adds what the program's own models say, where the manifest doesn't."""
    said = entry.read(files.contents, declared["entry-point"])
    if not said.declares:
        return
    try:
        derived = derive(files.contents, declared["entry-point"])
    except NotImported:
        if said.surely:
            raise
        return  # it only looked as if it had a model; that it can't be imported shows where it runs
    declared["typed"] = derived.typed
    if derived.schemas:
        declared["schemas"] = {**derived.schemas, **declared.get("schemas", {})}


def _check(declared: dict[str, Any], misplaced: Sequence[Fault] = (), *, packaged: bool = False) -> None:
    """Raises PackagingError with every fault of the manifest, and of what it was made of."""
    found = [*misplaced, *([] if packaged else [*_reserved(declared), *_in_metadata(declared)])]
    if not declared.get("name"):
        found.append(Fault(path="manifest.name", message="is missing: pass name=…, or write it into program.toml"))
    known = {fault.path for fault in found}
    found += [fault for fault in manifest_faults(declared) if fault.path not in known]
    if found:
        raise PackagingError("The manifest has faults.", found)


def _reserved(declared: Mapping[str, Any]) -> list[Fault]:
    message = "is found out when the program is packaged, and not written"
    return [Fault(path=f"manifest.{key}", message=message) for key in _FOUND_OUT if key in declared]


def _in_metadata(declared: Mapping[str, Any]) -> list[Fault]:
    """Keys of the manifest that came to lie in its metadata, as they do in TOML below the line `[metadata]`."""
    kept = declared.get("metadata")
    keys = [str(key) for key in kept] if isinstance(kept, Mapping) else []
    astray = _KEYS - {"name", "description", "metadata", *_FOUND_OUT}
    message = "is a key of the manifest itself; in program.toml it stands above the first [table]"
    return [Fault(path=f"manifest.metadata.{key}", message=message) for key in keys if key.replace("_", "-") in astray]
