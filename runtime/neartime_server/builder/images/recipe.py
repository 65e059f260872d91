"""What an image is made of: a pure function from a program version, a base and what the runner is.

    base image                   Python, and whatever the operator or the author put there
    packages                     what the lock says, in one folder; the same for all programs of one lock
    runner                       Neartime's own packages; the same for all programs of one release
    program                      the version's files

The recipe's digest is the image's tag, so the same content is the same image, and what is there is not built again.
Source of configuration and labels: OCI image specification 1.1, config.md and annotations.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from packaging.version import InvalidVersion, Version

from neartime import __version__
from neartime.contract.problem import ErrorCode
from neartime.contract.programs import Manifest
from neartime.contract.version import CONTRACT_VERSION, incompatible
from neartime_server.errors import Refused

ROOT: Final = PurePosixPath("/opt/neartime")
PACKAGES: Final = ROOT / "packages"
RUNNER: Final = ROOT / "runner"
PROGRAM: Final = ROOT / "program"
TOOLS: Final = ROOT / "tools"
"""Where the image has them that makes layers of packages."""
USER: Final = "65532:65532"
"""Whom workers run as: nobody's number, who owns nothing in the image."""
WRITABLE: Final = "/tmp"
"""The one folder that a program can write to."""
ENVIRONMENTS: Final = "environments"
"""The repository of what programs of one lock share."""
LABEL: Final = "neartime."
"""What the labels of Neartime begin with. Whatever has `neartime.recipe` was made by it."""
EPOCH: Final = "1970-01-01T00:00:00Z"
"""When every image was made: the same content is the same image."""


@dataclass(frozen=True)
class Base:
    """An image to build on."""

    reference: str
    """By its digest."""
    python: str
    """Path of the interpreter in it."""
    minor: str
    """Its version, `3.11`."""
    complete: bool = False
    """Whether it carries the runner, and all packages that its programs want."""

    @classmethod
    def of(cls, reference: str, config: Mapping[str, Any], *, complete: bool) -> Base:
        """A base from its configuration: labels `neartime.python` and `neartime.python-version`, or what the official
        Python images say in their environment.

        Raises:
            Refused: 422, it does not say which Python it has; or it is to carry the runner, and does not say so, or one
                that speaks another contract.
        """
        said = config.get("config") or {}
        labels: dict[str, str] = said.get("Labels") or {}
        environment = dict(line.split("=", 1) for line in said.get("Env") or [] if "=" in line)
        version = labels.get(f"{LABEL}python-version") or environment.get("PYTHON_VERSION", "")
        try:
            minor = ".".join(map(str, Version(version).release[:2]))
        except InvalidVersion:
            solution = f'add to its Dockerfile: LABEL {LABEL}python-version="3.11" {LABEL}python="/usr/bin/python3"'
            raise _unfit(f"the base image {reference} does not say which Python it has", solution) from None
        python = labels.get(f"{LABEL}python") or "/usr/local/bin/python3"
        if complete:
            _check_runner(reference, labels.get(f"{LABEL}contract"))
        return cls(reference, python, minor, complete)


def _check_runner(reference: str, contract: str | None) -> None:
    if contract is None:
        label = f"LABEL {LABEL}contract={CONTRACT_VERSION}"
        solution = f"install neartime[runner] in it, and add to its Dockerfile: {label}"
        raise _unfit(f"the image {reference} does not carry Neartime's runner", solution)
    said = int(contract) if contract.isdecimal() else 0
    if reason := incompatible(said, f"the runner in {reference}"):
        raise _unfit(reason, "install the neartime release of this server in it")


def _unfit(message: str, solution: str) -> Refused:
    return Refused.of(422, ErrorCode.UNSUPPORTED_IMAGE, message, solution=solution, path="manifest.image")


@dataclass(frozen=True)
class Recipe:
    """An image, before it is made."""

    base: Base
    lock: str | None
    """Every package with its version and hashes; None where the base has them."""
    runner: str
    """Digest of Neartime's own packages."""
    manifest: Manifest
    program: str
    """Digest of manifest and files, `sha256:…`."""

    @property
    def tag(self) -> str:
        """64 hexadecimal digits that stand for all of it."""
        parts = [self.base.reference, self.lock or "", self.runner, self.program]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @property
    def environment(self) -> str:
        """64 hexadecimal digits that stand for what programs of one lock share."""
        return hashlib.sha256("\0".join([self.base.reference, self.lock or ""]).encode()).hexdigest()

    @property
    def labels(self) -> dict[str, str]:
        """What the image says of itself."""
        return {
            "org.opencontainers.image.title": self.manifest.name,
            "org.opencontainers.image.description": self.manifest.description,
            "org.opencontainers.image.base.name": self.base.reference.partition("@")[0],
            "org.opencontainers.image.base.digest": self.base.reference.partition("@")[2],
            f"{LABEL}contract": str(CONTRACT_VERSION),
            f"{LABEL}version": __version__,
            f"{LABEL}python": self.base.python,
            f"{LABEL}python-version": self.base.minor,
            f"{LABEL}environment": self.environment,
            f"{LABEL}runner": "" if self.base.complete else self.runner,
            f"{LABEL}program": self.program,
            f"{LABEL}manifest": self.manifest.canonical().decode(),
            f"{LABEL}recipe": self.tag,
        }

    @property
    def command(self) -> list[str]:
        return [self.base.python, "-m", "neartime_runner", "worker", "-"]

    def configured(self, base: Mapping[str, Any]) -> dict[str, Any]:
        """The `config` member of the image's configuration, from that of its base."""
        environment = dict(line.split("=", 1) for line in base.get("Env") or [] if "=" in line)
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": WRITABLE}
        if not self.base.complete:
            environment["PYTHONPATH"] = f"{RUNNER}:{PACKAGES}"
        return {
            **base,
            "User": USER,
            "WorkingDir": str(PROGRAM),
            "Entrypoint": None,
            "Cmd": self.command,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "Labels": {**(base.get("Labels") or {}), **self.labels},
        }

    def configuration(self, base: Mapping[str, Any], layers: Mapping[str, str]) -> bytes:
        """The image's whole configuration, from that of its base and the new layers: what each is, and the digest of
        its uncompressed tar."""
        return extended(base, self.configured(base.get("config") or {}), layers, self.tag[:12])


def extended(base: Mapping[str, Any], config: Mapping[str, Any], layers: Mapping[str, str], comment: str) -> bytes:
    """An image's configuration, from that of its base, the new `config` member and the new layers."""
    rootfs = base.get("rootfs") or {"diff_ids": []}
    history = [
        {"created": EPOCH, "created_by": f"neartime {__version__}: {what}", "comment": comment} for what in layers
    ]
    whole = {
        **{name: base[name] for name in ("architecture", "os", "variant", "os.version") if name in base},
        "created": EPOCH,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [*rootfs["diff_ids"], *layers.values()]},
        "history": [*(base.get("history") or []), *history],
    }
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()
