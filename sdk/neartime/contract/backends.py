"""Backends: what an operator configures, and what the REST API tells of one."""

from __future__ import annotations

import posixpath
import re
from enum import Enum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

_SECRET = re.compile(r"file:.+|variable:[A-Za-z_]\w*")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:([A-Za-z_]\w*(\(\))?\.)*[A-Za-z_]\w*")


class BackendHome(str, Enum):
    IN_WORKER = "in-worker"
    """Built inside the worker, no hop: Aer and the fake backends."""
    GATEWAY = "gateway"
    """Behind a trusted process that holds the machine's credential."""


class BackendSpec(BaseModel):
    """How a worker builds a backend: any callable with keyword arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$")]
    factory: str
    """`module:callable`, for example `qiskit_aer:AerSimulator`. What is on the way to the callable may be called, too:
    `qiskit_aqt_provider:AQTProvider().offline.ideal`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the factory."""
    home: BackendHome = BackendHome.IN_WORKER

    @model_serializer(mode="wrap")
    def _said(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A runner in an image of before, which knows no gateways, is told of no home."""
        told: dict[str, Any] = plain(self)
        if self.home is BackendHome.IN_WORKER:
            told.pop("home", None)
        return told

    @field_validator("factory")
    @classmethod
    def _names_a_callable(cls, value: str) -> str:
        if not _FACTORY.fullmatch(value):
            raise ValueError(f"{value!r} is not of the form module:callable, for example qiskit_aer:AerSimulator")
        return value


class Placement(BaseModel):
    """Where and how pods run that use a backend, in Kubernetes' own terms. Only the executor `kubernetes` reads it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node_selector: dict[str, str] = Field(default_factory=dict)
    affinity: dict[str, Any] = Field(default_factory=dict)
    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    resources: dict[str, str] = Field(default_factory=dict)
    """Beside the program's cores and memory, as requests and limits: `nvidia.com/gpu = "1"`."""
    promised: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Which part of a program's cores its pod requests. What is above it has when nobody else wants it: nodes of
    simulators hold more pods with less."""
    runtime_class: str | None = None
    priority_class: str | None = None
    image_pull_secrets: list[str] = Field(default_factory=list)
    """Names of Secrets in the namespace of workers."""
    service_account: str | None = None
    """Its token is never mounted."""
    patch: dict[str, Any] = Field(default_factory=dict)
    """A strategic merge patch over the pod, for what these don't name: lists that have a key in the Pod API are merged
    by it, tolerations are added, others are replaced."""

    @field_validator("resources")
    @classmethod
    def _further_ones(cls, value: dict[str, str]) -> dict[str, str]:
        if own := sorted({"cpu", "memory"} & set(value)):
            raise ValueError(f"{', '.join(own)}: a program's own `resources` say that")
        return value

    @field_validator("patch")
    @classmethod
    def _leaves_the_worker(cls, value: dict[str, Any]) -> dict[str, Any]:
        if unknown := sorted(set(value) - {"metadata", "spec"}):
            raise ValueError(f"{', '.join(unknown)}: a pod has `metadata` and `spec`")
        for place, names in _NOT_PATCHED.items():
            if not isinstance(value.get(place, {}), dict):
                raise ValueError(f"{place}: expected a table")
            if found := sorted(set(value.get(place) or {}) & names):
                raise ValueError(f"{place}.{found[0]}: it can't be patched, since it is what keeps a worker what it is")
        spec = value.get("spec") or {}
        if (problem := _of_containers(spec.get("containers")) or _of_volumes(spec.get("volumes"))) is not None:
            raise ValueError(problem)
        return value


def _of_containers(containers: Any) -> str | None:
    """What is wrong with a patch of them: variables and further folders of the one that there is can be added."""
    if containers is None:
        return None
    if not _tables(containers) or len(containers) != 1 or containers[0].get("name") != _CONTAINER:
        return f"spec.containers: it can't be patched, but for the container `{_CONTAINER}`: name it, and no other"
    [container] = containers
    where = f"spec.containers[name={_CONTAINER}]"
    if unknown := sorted(set(container) - {"name", "env", "volumeMounts"}):
        return f"{where}.{unknown[0]}: it can't be patched; `env` and `volumeMounts` can"
    for name, key in (("env", "name"), ("volumeMounts", "mountPath")):
        entries = container.get(name, [])
        if not _tables(entries) or not all(isinstance(one.get(key), str) for one in entries):
            return f"{where}.{name}: expected tables with a `{key}` each"
    for one in container.get("env", []):
        if one["name"].startswith(_RUNNERS_OWN):
            return f"{where}.env[name={one['name']}]: it can't be patched, since the runner is found by it"
        if "secretKeyRef" in (one.get("valueFrom") or {}):
            return f"{where}.env[name={one['name']}]: programs would read that Secret; name a `value`"
    for one in container.get("volumeMounts", []):
        mounted = PurePosixPath(posixpath.normpath(one["mountPath"]))
        if any(mounted == own or mounted in own.parents for own in _OWN_FOLDERS) or _OWN_FOLDERS[0] in mounted.parents:
            return f"{where}.volumeMounts[mountPath={mounted}]: it would hide what a worker needs"
    return None


def _of_volumes(volumes: Any) -> str | None:
    if volumes is None:
        return None
    if not volumes or not _tables(volumes) or not all(isinstance(one.get("name"), str) for one in volumes):
        return "spec.volumes: expected tables with a `name` each"
    for one in volumes:
        where = f"spec.volumes[name={one['name']}]"
        if one["name"] == _TEMPORARY:
            return f"{where}: it can't be patched, since it is a worker's /tmp"
        if unknown := sorted(set(one) - {"name"} - _VOLUMES):
            return f"{where}.{unknown[0]}: it can't be patched in; a volume is one of {', '.join(sorted(_VOLUMES))}"
    return None


def _tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_CONTAINER, _TEMPORARY = "worker", "temporary"
"""Names in the pod of a worker."""
_RUNNERS_OWN = ("PYTHON", "LD_PRELOAD", "NEARTIME_")
"""How variables begin that make another runner of it."""
_OWN_FOLDERS = tuple(map(PurePosixPath, ("/opt/neartime", "/tmp", "/proc", "/sys", "/dev")))
_VOLUMES = frozenset({"configMap", "csi", "emptyDir", "ephemeral", "image", "persistentVolumeClaim"})
"""What a volume may be: neither a part of the node nor a Secret, which programs would read."""
_NOT_PATCHED = {
    "metadata": frozenset({"name", "namespace", "labels", "ownerReferences", "finalizers"}),
    "spec": frozenset(
        {
            *("initContainers", "ephemeralContainers", "securityContext", "restartPolicy"),
            *(
                "automountServiceAccountToken",
                "serviceAccountName",
                "serviceAccount",
                "enableServiceLinks",
                "hostNetwork",
                "hostPID",
                "hostIPC",
                "hostUsers",
            ),
            *("activeDeadlineSeconds", "nodeName", "shareProcessNamespace"),
        }
    ),
}
"""What a placement's patch may not touch: it would widen what a program can do, or hide a worker from its server."""


def _place_of_secret(value: str) -> str:
    """Where a gateway finds a credential: `file:` and a path, or `variable:` and a name. What it is stands in no file
    of the server's, and a message does not repeat what was written in its place."""
    if not _SECRET.fullmatch(value):
        raise ValueError("expected `file:` and a path, or `variable:` and the name of an environment variable")
    return value


Secret = Annotated[str, AfterValidator(_place_of_secret)]


class Gateway(BaseModel):
    """The process that holds a backend, with its credential, and runs circuits on it for those who have the lease."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requirements: list[str] = Field(default_factory=list)
    """Of the environment that the gateway gets: the provider's package, with the Qiskit that it pins."""
    python: str | None = None
    """A version specifier for that environment's Python; None for any."""
    interpreter: str | None = None
    """The Python of an environment that the operator has made, in place of `requirements`."""
    credentials: dict[str, Secret] = Field(default_factory=dict)
    """Keyword arguments of the factory that nobody but the gateway may know."""
    variables: dict[str, Secret] = Field(default_factory=dict)
    """Environment variables of the gateway's, for providers that read their credential there."""
    started_by: Literal["server", "operator"] = "server"
    """Who starts it and starts it again: this server, or the operator, beside the machine."""
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that the provider may take for one call of run(), until its result is there."""
    refresh: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which the backend is looked at again: its calibration may be a new one."""


class BackendConfig(BackendSpec):
    """One entry of the operator's backends file."""

    description: str = ""
    parallelism: Annotated[int, Field(ge=1)] = 1
    """Jobs that may run at once."""
    simulator: bool | None = None
    """Whether it is one, where the operator knows better than the backend says."""
    placement: Placement = Placement()
    gateway: Gateway | None = None
    """Of a backend whose home is one."""

    @model_validator(mode="before")
    @classmethod
    def _at_home(cls, value: Any) -> Any:
        """A table `gateway` says where its home is, and a home `gateway` needs no table."""
        if not isinstance(value, dict):
            return value
        if "gateway" in value:
            return {"home": BackendHome.GATEWAY, **value}
        return {**value, "gateway": {}} if value.get("home") == BackendHome.GATEWAY.value else value

    @model_validator(mode="after")
    def _one_home(self) -> BackendConfig:
        if self.gateway is not None and self.home is not BackendHome.GATEWAY:
            raise ValueError(f"a table `gateway`, and home = {self.home.value!r}: one of the two is wrong")
        return self

    def spec(self) -> BackendSpec:
        """All of it that who builds the backend is told."""
        return BackendSpec(name=self.name, factory=self.factory, options=self.options, home=self.home)

    def for_worker(self) -> BackendSpec:
        """What a worker is told: of a backend behind a gateway, that it is there."""
        if self.home is BackendHome.GATEWAY:
            return BackendSpec(name=self.name, factory=self.factory, home=self.home)
        return self.spec()


class BackendStatus(BaseModel):
    """The body of GET /backends/{name}/status."""

    name: str
    backend_version: str = "1.0"
    state: bool
    """Whether it takes jobs."""
    status: str
    message: str
    length_queue: int


class BackendList(BaseModel):
    """The body of GET /backends."""

    devices: list[str]
    backends: list[BackendDevice]


class BackendDevice(BaseModel):
    name: str
    description: str
    simulator: bool | None = None
    num_qubits: int | None = None
    parallelism: int
    status: BackendStatus


BackendList.model_rebuild()
