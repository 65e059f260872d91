"""What a pod says of its worker: whether it runs, how it ended, and what keeps it from running. Pure functions.

Source of the fields: Kubernetes API, core/v1 PodStatus; "Pod disruption conditions"; the kubelet's reasons of waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from neartime.contract.jobs import ReasonCode
from neartime_server.executors import reasons
from neartime_server.executors.manifests import SPARE, WORKER
from neartime_server.executors.protocol import Exited

Object = dict[str, Any]

HOPELESS: Final = frozenset(
    {
        *("InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
    }
)
"""Why a container waits that won't mend itself."""
_PULLING: Final = frozenset({"ErrImagePull", "ImagePullBackOff"})
_REFUSED: Final = ("not found", "unauthorized", "forbidden", "denied", "manifest unknown", "no match for platform")
"""What a registry says that will say it again."""
_OF_IMAGE: Final = frozenset({"Pulling", "Pulled", "Failed", "BackOff", "ErrImageNeverPull", "InspectFailed"})
"""Reasons of events about a pod's image."""
_CROWDED: Final = "No preemption victims found"
"""What the scheduler says where a pod would fit on a node that had nothing else to do."""
_DISRUPTED: Final = {
    "EvictionByEvictionAPI": "its pod was evicted: its node is being drained, or somebody made room",
    "PreemptionByScheduler": "its pod had to make room for one of a higher priority",
    "DeletionByTaintManager": "its node is lost, or was closed to it",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ended it, since it shuts down or lacks memory or disk",
}


@dataclass(frozen=True)
class Obstacle:
    """Why a pod does not run yet."""

    words: str
    hopeless: bool
    """Whether waiting won't help."""
    crowded: bool = False
    """Whether it only waits for room that others have now."""


def worker_of(pod: Object) -> str | None:
    worker: str | None = pod["metadata"].get("labels", {}).get(WORKER)
    return worker


def moment(text: str) -> float:
    """Seconds since the epoch, of a time as the API writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def spare_of(pod: Object) -> str | None:
    """What kind of a spare it is; None where it is none, or none any more."""
    kind: str | None = pod.get("metadata", {}).get("labels", {}).get(SPARE)
    return kind


def runs(pod: Object) -> bool:
    """Whether its container runs."""
    return "running" in _state(pod)


def leaves(pod: Object | None) -> bool:
    """Whether it was told to end, by whomever."""
    return pod is not None and "deletionTimestamp" in pod["metadata"]


def obstacle(pod: Object) -> Obstacle | None:
    """What keeps it from running."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message") or condition.get("reason") or "it has no node"
            return Obstacle(f"the cluster has no place for it: {message}", False, crowded=_CROWDED in message)
    waiting = _state(pod).get("waiting") or {}
    reason, message = waiting.get("reason", ""), waiting.get("message") or ""
    if reason in _PULLING:
        refused = any(word in message.lower() for word in _REFUSED)
        return Obstacle(f"its image can't be pulled: {message or reason}", hopeless=refused)
    if reason in HOPELESS:
        return Obstacle(f"its container can't be made: {reason}: {message}".rstrip(": "), hopeless=True)
    return None


def told(events: Sequence[Object]) -> str:
    """What is said about a pod: the newest warning, or the newest event where there is none. `events` are in order."""
    said = [one for one in events if one.get("message")]
    warnings = [one for one in said if one.get("type") == "Warning"]
    return str((warnings or said)[-1]["message"]).strip() if said else ""


def pulls(events: Sequence[Object]) -> bool:
    """Whether a node pulls an image at the moment, as far as is said about a pod. `events` are in order.

    A pull that makes no progress is given up by the node itself, which says so.
    """
    of_image = [one.get("reason") for one in events if one.get("reason") in _OF_IMAGE]
    return bool(of_image) and of_image[-1] == "Pulling"


def exited(pod: Object, *, stopped: bool, deleted: bool = False) -> Exited | None:
    """How its worker ended; None while it has not.

    Args:
        stopped: whether the executor was asked to end it.
        deleted: whether the pod is gone.
    """
    worker_id, status = worker_of(pod) or "", pod.get("status") or {}
    ended = _state(pod).get("terminated")
    if ended is None and status.get("phase") not in ("Failed", "Succeeded") and not deleted:
        return None
    code = None if ended is None else reasons.of_container(int(ended["exitCode"]))
    if stopped:
        reason = None if code == 0 else "it was stopped"
        return Exited(worker_id, code, None, reason)
    if told := _told_by_the_cluster(pod, status):
        return Exited(worker_id, code, *told)
    if ended is None or code is None:
        what = "was deleted from outside" if deleted else f"ended: {status.get('message') or status.get('reason')}"
        return Exited(worker_id, None, ReasonCode.WORKER_LOST, f"its pod {what}")
    if ended.get("reason") in ("ContainerCannotRun", "StartError"):
        return Exited(worker_id, code, ReasonCode.START_FAILED, f"its container can't run: {ended.get('message')}")
    if "deletionTimestamp" in pod["metadata"]:  # also where it took its leave in good order
        return Exited(worker_id, code, ReasonCode.WORKER_LOST, "its pod was deleted from outside")
    return reasons.of_exit(worker_id, code, stopped=False, out_of_memory=ended.get("reason") == "OOMKilled")


def _told_by_the_cluster(pod: Object, status: Object) -> tuple[ReasonCode, str] | None:
    """Where the cluster ended a pod, why."""
    reason, message = status.get("reason") or "", status.get("message") or ""
    if reason == "DeadlineExceeded":
        seconds = pod["spec"].get("activeDeadlineSeconds")
        return ReasonCode.WORKER_LOST, f"its pod has run for {seconds} s, which is as long as a worker may"
    if reason == "Evicted":
        return ReasonCode.WORKER_LOST, f"its pod was evicted: {message}"
    if reason in ("NodeLost", "NodeShutdown", "Terminated", "Shutdown", "Preempting"):
        return ReasonCode.WORKER_LOST, f"its node is gone or shuts down: {message or reason}"
    if reason.startswith("OutOf") or reason in ("UnexpectedAdmissionError", "NodeAffinity", "NodePorts"):
        return ReasonCode.START_FAILED, f"its node refused the pod: {message or reason}"
    for condition in status.get("conditions") or []:
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            words = _DISRUPTED.get(condition.get("reason", ""), f"its pod was disrupted: {condition.get('reason')}")
            detail = condition.get("message")
            return ReasonCode.WORKER_LOST, f"{words} ({detail})" if detail else words
    return None


def _state(pod: Object) -> Object:
    """Of its one container: `waiting`, `running` or `terminated`."""
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    state: Object = statuses[0].get("state") or {} if statuses else {}
    return state
