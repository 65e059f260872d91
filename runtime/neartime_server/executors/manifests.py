"""What is asked of Kubernetes, as pure functions: the pod of a worker, and what its network may reach.

Pods meet the level `restricted` of Pod Security. Nothing in them is secret: whoever may look at pods can read them, so
a worker's launch document reaches it over its standard input.
Source of the fields: Kubernetes API, core/v1 Pod and networking.k8s.io/v1 NetworkPolicy; Pod Security Standards.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neartime.contract.backends import Placement
from neartime.contract.launch import Launch
from neartime.contract.programs import Manifest, Resources
from neartime_server.executors.patches import merged
from neartime_server.executors.protocol import Place

LABEL: Final = "neartime.io/"
INSTALLATION, WORKER, SPARE = f"{LABEL}installation", f"{LABEL}worker", f"{LABEL}spare"
"""Labels: which servers' pod it is, and which worker's; or, of one that is nobody's yet, of what kind it is."""
BUILDER: Final = f"{LABEL}builder"
"""Label of Jobs that fetch packages, and of their pods: which servers' they are. An executor looks past them."""
CONTAINER: Final = "worker"
PROGRAM: Final = "/tmp/neartime/program"
"""Where a worker that took a spare has its program's files."""
USER: Final = 65532
"""Nobody's number."""
TEMPORARY_SHARE: Final = 2
"""Which part of its memory a program may fill with files in /tmp: half of it. They count as memory."""
GRACE: Final = 10
"""Seconds between SIGTERM and SIGKILL where a node is drained: a supervisor tells what it has to tell."""
NODE_SECONDS: Final = 60
"""How long a worker stays on a node that is not heard of. Kubernetes' own five minutes are long for who waits."""
PROMISED_SHARE: Final = 8
"""Which part of its memory a Job that fetches packages requests: it rarely needs more."""
FINISHED_SECONDS: Final = 20
"""How long an ended Job stays, where the server that made it is gone."""
_SLUG: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")

Object = dict[str, Any]


def pod_name(worker_id: str) -> str:
    return f"neartime-{worker_id}"


def pod(launch: Launch, place: Place, *, installation: str, longest: float, placement: Placement) -> Object:
    """The pod of a worker.

    Args:
        installation: stands for the servers whose pod it is.
        longest: seconds that a worker may live; Kubernetes ends it then.
    """
    resources = Manifest.model_validate(launch.manifest).resources
    labels = {**_of_workers(installation), **_whose(launch)}
    made = _restricted(
        pod_name(launch.worker_id), labels, place.image or "", _worker(place), resources, placement, longest
    )
    made["spec"]["containers"][0] |= {"stdin": True}
    return merged(made, placement.patch)


def spare(name: str, place: Place, kind: str, *, installation: str, placement: Placement, patience: int) -> Object:
    """A pod that becomes a worker when it gets a launch document.

    Args:
        patience: seconds after which it ends if it gets none. It has no deadline until then: one that is set can only
            be shortened.
    """
    labels = {**_of_workers(installation), SPARE: kind}
    command = [*_worker(place), "--patience", str(patience)]
    made = _restricted(name, labels, place.image or "", command, Resources(), placement, None)
    made["spec"]["containers"][0] |= {"stdin": True}
    return merged(made, placement.patch)


def kind(place: Place, placement: Placement, resources: Resources) -> str:
    """What a spare is, as a label's value: only a worker of the same kind can take it."""
    parts = [place.digest, place.image, str(place.python), placement.model_dump(mode="json"), resources.model_dump()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def claim(launch: Launch, kind: str, seconds: float) -> list[Object]:
    """What makes a spare of this kind a launch's worker, and fails where it is another's. Source: RFC 6902.

    Args:
        seconds: after its start, when Kubernetes ends it.
    """
    labels = [
        {"op": "add", "path": f"/metadata/labels/{_pointer(name)}", "value": value}
        for name, value in _whose(launch).items()
    ]
    own = f"/metadata/labels/{_pointer(SPARE)}"
    return [
        {"op": "test", "path": own, "value": kind},
        {"op": "remove", "path": own},
        *labels,
        {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": math.ceil(seconds)},
    ]


def _pointer(name: str) -> str:
    """Source: RFC 6901."""
    return name.replace("~", "~0").replace("/", "~1")


def _of_workers(installation: str) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "neartime-worker",
        "app.kubernetes.io/managed-by": "neartime",
        INSTALLATION: installation,
    }


def _whose(launch: Launch) -> dict[str, str]:
    return {
        WORKER: launch.worker_id,
        f"{LABEL}session": launch.session_id,
        f"{LABEL}program": slug(str(launch.manifest["name"])),
        f"{LABEL}backend": slug(launch.backend.name),
    }


def _worker(place: Place) -> list[str]:
    return [str(place.python), "-m", "neartime_runner", "worker", "-", "--answer"]


def check(place: Place, name: str, *, installation: str, seconds: float, placement: Placement) -> Object:
    """A pod that says which contract an image's runner speaks, and ends."""
    labels = {"app.kubernetes.io/name": "neartime-check", INSTALLATION: installation}
    command = [str(place.python), "-m", "neartime_runner", "version"]
    return merged(
        _restricted(name, labels, place.image or "", command, Resources(cpu=1, memory="256Mi"), placement, seconds),
        placement.patch,
    )


@dataclass(frozen=True)
class Bounds:
    """What a Job that fetches packages may have."""

    memory: str = "2Gi"
    disk: str = "10Gi"
    seconds: float = 1800.0
    """From its beginning, a wait for its image and for a place included."""


def job(
    name: str, image: str, command: Sequence[str], *, installation: str, bounds: Bounds, placement: Placement
) -> Object:
    """A Job that fetches packages: a pod with a folder on its node's disk, and no second try."""
    labels = {
        "app.kubernetes.io/name": "neartime-packages",
        "app.kubernetes.io/managed-by": "neartime",
        BUILDER: installation,
    }
    resources = Resources(cpu=2, memory=bounds.memory)
    sharing: Object = {"resources": {}, "service_account": None, "promised": 0.05, "patch": {}}
    made = _restricted(
        name, labels, image, list(command), resources, placement.model_copy(update=sharing), bounds.seconds
    )
    spec = made["spec"]
    spec["terminationGracePeriodSeconds"] = 1  # it has nothing to lose
    del spec["activeDeadlineSeconds"]  # the Job has one
    [container] = spec["containers"]
    container["name"] = "packages"
    container["resources"]["requests"] |= {"memory": str(resources.memory_bytes // PROMISED_SHARE)}
    spec["volumes"] = [{"name": "temporary", "emptyDir": {"sizeLimit": bounds.disk}}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": math.ceil(bounds.seconds),
            "ttlSecondsAfterFinished": FINISHED_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def _restricted(
    name: str,
    labels: Mapping[str, str],
    image: str,
    command: list[str],
    resources: Resources,
    placement: Placement,
    longest: float | None,
) -> Object:
    limits = {"cpu": f"{round(resources.cpu * 1000)}m", "memory": resources.memory, **placement.resources}
    requests = {**limits, "cpu": f"{max(1, round(resources.cpu * placement.promised * 1000))}m"}
    spec: Object = {
        "restartPolicy": "Never",
        **({} if longest is None else {"activeDeadlineSeconds": math.ceil(longest)}),
        "terminationGracePeriodSeconds": GRACE,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "resources": {"requests": requests, "limits": limits},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
            }
        ],
        "volumes": [
            {
                "name": "temporary",
                "emptyDir": {"medium": "Memory", "sizeLimit": str(resources.memory_bytes // TEMPORARY_SHARE)},
            }
        ],
    }
    for field, value in (
        ("nodeSelector", placement.node_selector),
        ("affinity", placement.affinity),
        ("tolerations", [*placement.tolerations, *map(_outlasted, ("not-ready", "unreachable"))]),
        ("runtimeClassName", placement.runtime_class),
        ("priorityClassName", placement.priority_class),
        ("imagePullSecrets", [{"name": secret} for secret in placement.image_pull_secrets]),
        ("serviceAccountName", placement.service_account),
    ):
        if value:
            spec[field] = value
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": dict(labels)}, "spec": spec}


def _outlasted(state: str) -> Object:
    key = f"node.kubernetes.io/{state}"
    return {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_SECONDS}


def network_policy(installation: str, nats: str) -> Object:
    """That workers reach NATS and the cluster's DNS, and nobody reaches them.

    Args:
        nats: ranges of addresses and a port, `10.0.0.5/32,10.0.0.6/32:4222`; or labels of NATS' pods in their
            namespace, `nats/app.kubernetes.io/name=nats,tier=one:4222`.

    Raises:
        ValueError: it is neither.
    """
    return _only(f"neartime-workers-{installation}", {INSTALLATION: installation}, nats)


def packages_policy(installation: str, index: str) -> Object:
    """That Jobs which fetch packages reach the package index and the cluster's DNS, and nobody reaches them.

    Args:
        index: as NATS is for `network_policy`.

    Raises:
        ValueError: it is neither.
    """
    return _only(f"neartime-packages-{installation}", {BUILDER: installation}, index)


def _only(name: str, selected: Mapping[str, str], there: str) -> Object:
    place, _, port = there.rpartition(":")
    if not port.isdecimal() or not place:
        raise ValueError(f"{there!r} has no port: write 10.0.0.5/32:4222, or namespace/label=value:4222")
    if "=" in place:
        namespace, _, labels = place.partition("/")
        pairs = [one.partition("=") for one in labels.split(",")]
        if not namespace or not all(key and equals for key, equals, _ in pairs):
            raise ValueError(f"{there!r}: write namespace/label=value:4222")
        to: list[Object] = [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "podSelector": {"matchLabels": {key: value for key, _, value in pairs}},
            }
        ]
    else:  # a policy knows no names
        to = [{"ipBlock": {"cidr": str(ipaddress.ip_network(one.strip()))}} for one in place.split(",")]
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": dict(selected)},
        "spec": {
            "podSelector": {"matchLabels": dict(selected)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [
                {"to": to, "ports": [{"protocol": "TCP", "port": int(port)}]},
                {"to": [dns], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            ],
        },
    }


def slug(name: str) -> str:
    """A name as a label's value: itself where it can be one, else its beginning and a digest, so that no two are the
    same. Source: Kubernetes, "Labels and Selectors", syntax."""
    if _SLUG.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:10]
    kept = re.sub(r"[^A-Za-z0-9]+", "-", name)[:52].strip("-")
    return f"{kept}-{digest}" if kept else digest
