"""What is asked of Kubernetes, and what is read of what it says: pure functions, compared as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from executors.harness import Where
from pydantic import ValidationError
from unit import samples

from neartime.contract.backends import BackendConfig, Placement
from neartime.contract.jobs import ReasonCode
from neartime.contract.launch import Launch
from neartime.contract.programs import Resources
from neartime_server.executors import Exited, manifests, pods
from neartime_server.executors.patches import merged

PLACE = Where(None, Path("/usr/bin/python3"), "lab.example/vqe@sha256:" + "12" * 32)


def launch(**manifest: Any) -> Launch:
    update = {"worker_id": "w1", "session_id": "s1", "manifest": {"name": "vqe", **manifest}}
    return samples.worker.model_copy(update=update)


def pod(placement: Placement | None = None, **manifest: Any) -> dict[str, Any]:
    return manifests.pod(
        launch(**manifest), PLACE, installation="cafe", longest=60.5, placement=placement or Placement()
    )


OUTLASTED = [
    {"key": f"node.kubernetes.io/{state}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    for state in ("not-ready", "unreachable")
]


def test_a_spare_is_a_worker_that_is_nobodys_yet() -> None:
    given = Placement(node_selector={"tier": "quantum"})
    kind = manifests.kind(PLACE, given, Resources())
    made = manifests.spare("spare-1", PLACE, kind, installation="cafe", placement=given, patience=3600)
    worker = pod(given)
    labels = {"app.kubernetes.io/name", "app.kubernetes.io/managed-by", "neartime.io/installation"}
    kept = {name: value for name, value in worker["metadata"]["labels"].items() if name in labels}
    assert made["metadata"] == {"name": "spare-1", "labels": {**kept, "neartime.io/spare": kind}}
    del worker["spec"]["activeDeadlineSeconds"]  # it gets one with its worker
    worker["spec"]["containers"][0]["command"] += ["--patience", "3600"]
    assert made["spec"] == worker["spec"]


def test_what_makes_a_spare_a_workers_is_one_patch_that_fails_where_it_is_taken() -> None:
    assert manifests.claim(launch(), "beef", 100.2) == [
        {"op": "test", "path": "/metadata/labels/neartime.io~1spare", "value": "beef"},
        {"op": "remove", "path": "/metadata/labels/neartime.io~1spare"},
        {"op": "add", "path": "/metadata/labels/neartime.io~1worker", "value": "w1"},
        {"op": "add", "path": "/metadata/labels/neartime.io~1session", "value": "s1"},
        {"op": "add", "path": "/metadata/labels/neartime.io~1program", "value": "vqe"},
        {"op": "add", "path": "/metadata/labels/neartime.io~1backend", "value": launch().backend.name},
        {"op": "add", "path": "/spec/activeDeadlineSeconds", "value": 101},
    ]


@pytest.mark.parametrize(
    "other",
    [
        (Where("sha256:1", PLACE.python, PLACE.image), Placement(), Resources()),
        (Where(None, Path("/usr/bin/python4"), PLACE.image), Placement(), Resources()),
        (Where(None, PLACE.python, "lab.example/vqe@sha256:" + "34" * 32), Placement(), Resources()),
        (PLACE, Placement(promised=0.5), Resources()),
        (PLACE, Placement(), Resources(cpu=2)),
        (PLACE, Placement(), Resources(memory="3Gi")),
    ],
)
def test_spares_of_a_kind_are_alike_in_all_that_a_worker_could_miss(other: Any) -> None:
    assert manifests.kind(PLACE, Placement(), Resources()) == manifests.kind(PLACE, Placement(), Resources())
    assert manifests.kind(*other) != manifests.kind(PLACE, Placement(), Resources())


def test_the_pod_of_a_worker_is_restricted_and_has_nothing_that_is_secret() -> None:
    given = launch()
    assert pod(resources={"cpu": 0.5, "memory": "1Gi"}) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "neartime-w1",
            "labels": {
                "app.kubernetes.io/name": "neartime-worker",
                "app.kubernetes.io/managed-by": "neartime",
                "neartime.io/installation": "cafe",
                "neartime.io/worker": "w1",
                "neartime.io/session": "s1",
                "neartime.io/program": "vqe",
                "neartime.io/backend": given.backend.name,
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": 61,
            "terminationGracePeriodSeconds": 10,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": OUTLASTED,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "worker",
                    "image": PLACE.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["/usr/bin/python3", "-m", "neartime_runner", "worker", "-", "--answer"],
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "1Gi"},
                        "limits": {"cpu": "500m", "memory": "1Gi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
                    "stdin": True,
                }
            ],
            "volumes": [{"name": "temporary", "emptyDir": {"medium": "Memory", "sizeLimit": str(512 << 20)}}],
        },
    }
    assert given.nats.credential not in str(pod())
    assert given.control_key not in str(pod())


def test_a_placement_says_where_a_pod_runs_and_what_else_it_has() -> None:
    before = pod()
    toleration = {"key": "quantum", "operator": "Exists", "effect": "NoSchedule"}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    made = pod(
        Placement(
            node_selector={"lab": "cold"},
            affinity=affinity,
            tolerations=[toleration],
            resources={"nvidia.com/gpu": "1"},
            promised=0.25,
            runtime_class="gvisor",
            priority_class="batch",
            image_pull_secrets=["registry"],
            service_account="worker",
            patch={"metadata": {"annotations": {"a": "b"}}, "spec": {"dnsPolicy": "Default", "schedulerName": None}},
        )
    )
    spec = before["spec"]
    container = spec["containers"][0] | {
        "resources": {
            "requests": {"cpu": "250m", "memory": "2Gi", "nvidia.com/gpu": "1"},
            "limits": {"cpu": "1000m", "memory": "2Gi", "nvidia.com/gpu": "1"},
        }
    }
    assert made == before | {
        "metadata": before["metadata"] | {"annotations": {"a": "b"}},
        "spec": spec
        | {
            "containers": [container],
            "nodeSelector": {"lab": "cold"},
            "affinity": affinity,
            "tolerations": [toleration, *OUTLASTED],
            "runtimeClassName": "gvisor",
            "priorityClassName": "batch",
            "imagePullSecrets": [{"name": "registry"}],
            "serviceAccountName": "worker",
            "dnsPolicy": "Default",
        },
    }


def test_a_patch_adds_to_lists_that_have_a_key_and_to_tolerations() -> None:
    before = pod()["spec"]
    toleration = {"key": "quantum", "operator": "Exists", "effect": "NoSchedule"}
    spread = {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway"}
    mount = {"name": "calibration", "mountPath": "/calibration", "readOnly": True}
    volume = {"name": "calibration", "configMap": {"name": "calibration"}}
    variable = {"name": "OMP_NUM_THREADS", "value": "2"}
    patch = {
        "spec": {
            "containers": [{"name": "worker", "env": [variable], "volumeMounts": [mount]}],
            "volumes": [volume],
            "tolerations": [toleration, OUTLASTED[0]],
            "topologySpreadConstraints": [spread],
            "dnsConfig": {"nameservers": ["10.0.0.2"]},
        }
    }
    [container] = before["containers"]
    assert pod(Placement(patch=patch))["spec"] == before | {
        "containers": [container | {"env": [variable], "volumeMounts": [*container["volumeMounts"], mount]}],
        "volumes": [*before["volumes"], volume],
        "tolerations": [*OUTLASTED, toleration],
        "topologySpreadConstraints": [spread],
        "dnsConfig": {"nameservers": ["10.0.0.2"]},
    }


def test_of_two_entries_with_one_key_the_patchs_fields_count() -> None:
    target = {
        "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}],
        "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Gi"}}],
        "args": ["a"],
        "gone": 1,
    }
    patch = {
        "env": [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
        "volumes": [{"name": "a", "emptyDir": {"medium": "Memory"}}],
        "args": ["b"],
        "gone": None,
    }
    assert merged(target, patch) == {
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}, {"name": "C", "value": "3"}],
        "volumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Gi", "medium": "Memory"}}],
        "args": ["b"],
    }
    assert target["env"][1] == {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}, "it was not touched"


def of_worker(**fields: Any) -> dict[str, Any]:
    return {"patch": {"spec": {"containers": [{"name": "worker", **fields}]}}}


def volumes(*given: Any) -> dict[str, Any]:
    return {"patch": {"spec": {"volumes": list(given)}}}


@pytest.mark.parametrize(
    ("placement", "words"),
    [
        ({"patch": {"spec": {"hostNetwork": True}}}, "spec.hostNetwork: it can't be patched"),
        ({"patch": {"spec": {"containers": []}}}, "spec.containers: it can't be patched"),
        (
            {"patch": {"spec": {"containers": [{"name": "beside", "image": "x"}]}}},
            "spec.containers: it can't be patched",
        ),
        (of_worker(image="x"), "image: it can't be patched"),
        (of_worker(securityContext={"privileged": True}), "securityContext: it can't be patched"),
        (of_worker(command=["sh"]), "command: it can't be patched"),
        (of_worker(env=["A"]), "env: expected tables with a `name` each"),
        (of_worker(env=[{"name": "PYTHONPATH", "value": "/x"}]), "since the runner is found by it"),
        (of_worker(env=[{"name": "A", "valueFrom": {"secretKeyRef": {}}}]), "programs would read that Secret"),
        (of_worker(volumeMounts=[{"name": "a", "mountPath": "/opt/neartime/runner"}]), "hide what a worker needs"),
        (of_worker(volumeMounts=[{"name": "a", "mountPath": "/opt/../opt"}]), "hide what a worker needs"),
        (of_worker(volumeMounts=[{"name": "a", "mountPath": "/tmp/"}]), "hide what a worker needs"),
        (volumes(), "spec.volumes: expected tables"),
        (volumes({"name": "temporary", "emptyDir": {}}), "since it is a worker's /tmp"),
        (volumes({"name": "a", "hostPath": {"path": "/"}}), "hostPath: it can't be patched in"),
        (volumes({"name": "a", "secret": {"secretName": "a"}}), "secret: it can't be patched in"),
        (volumes({"name": "a", "projected": {}}), "projected: it can't be patched in"),
        ({"patch": {"spec": {"initContainers": []}}}, "spec.initContainers: it can't be patched"),
        ({"patch": {"spec": {"serviceAccount": "other"}}}, "spec.serviceAccount: it can't be patched"),
        ({"patch": {"spec": {"enableServiceLinks": True}}}, "spec.enableServiceLinks: it can't be patched"),
        ({"patch": {"spec": "none"}}, "spec: expected a table"),
        ({"patch": {"metadata": {"labels": {}}}}, "metadata.labels: it can't be patched"),
        ({"patch": {"status": {}}}, "status: a pod has `metadata` and `spec`"),
        ({"resources": {"cpu": "2"}}, "cpu: a program's own `resources` say that"),
        ({"node_selctor": {}}, "node_selctor"),
    ],
)
def test_a_placement_that_would_widen_what_programs_can_do_is_refused(placement: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BackendConfig.model_validate({"name": "aer", "factory": "a:b", "placement": placement})


def test_workers_may_reach_nats_and_the_clusters_dns() -> None:
    made = manifests.network_policy("cafe", "nats/app.kubernetes.io/name=nats:4222")
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    nats = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "nats"}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": "nats"}},
    }
    assert made == {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "neartime-workers-cafe", "labels": {"neartime.io/installation": "cafe"}},
        "spec": {
            "podSelector": {"matchLabels": {"neartime.io/installation": "cafe"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [],
            "egress": [
                {"to": [nats], "ports": [{"protocol": "TCP", "port": 4222}]},
                {"to": [dns], "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]},
            ],
        },
    }
    (door, _) = manifests.network_policy("cafe", "10.0.0.5:4222")["spec"]["egress"]
    assert door["to"] == [{"ipBlock": {"cidr": "10.0.0.5/32"}}]
    (door, _) = manifests.network_policy("cafe", "10.0.0.5/32, 10.9.0.0/16:4222")["spec"]["egress"]
    assert door["to"] == [{"ipBlock": {"cidr": "10.0.0.5/32"}}, {"ipBlock": {"cidr": "10.9.0.0/16"}}]
    (door, _) = manifests.network_policy("cafe", "nats/app=nats,tier=one:4222")["spec"]["egress"]
    assert door["to"][0]["podSelector"] == {"matchLabels": {"app": "nats", "tier": "one"}}
    for wrong in ("10.0.0.5", "nats.example:port", ":4222"):
        with pytest.raises(ValueError, match="has no port"):
            manifests.network_policy("cafe", wrong)
    for wrong in ("nats.example:4222", "10.0.0.5/40:4222", "/app=nats:4222", "nats/app=a,b:4222"):
        with pytest.raises(ValueError):
            manifests.network_policy("cafe", wrong)


def test_a_job_that_fetches_packages_is_restricted_bounded_and_not_tried_twice() -> None:
    labels = {
        "app.kubernetes.io/name": "neartime-packages",
        "app.kubernetes.io/managed-by": "neartime",
        "neartime.io/builder": "cafe",
    }
    placement = Placement(
        node_selector={"lab": "cold"},
        image_pull_secrets=["pull"],
        resources={"nvidia.com/gpu": "1"},
        service_account="worker",
        patch={"spec": {"dnsPolicy": "Default"}},
    )
    made = manifests.job(
        "neartime-packages-1", "lab.example/tools@sha256:1", ["python3", "bench"],
        installation="cafe", bounds=manifests.Bounds("1Gi", "3Gi", 60.5), placement=placement,
    )  # fmt: skip
    worker = pod()["spec"]
    assert made == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "neartime-packages-1", "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 61,
            "ttlSecondsAfterFinished": 20,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": worker["securityContext"],
                    "nodeSelector": {"lab": "cold"},
                    "tolerations": OUTLASTED,
                    "imagePullSecrets": [{"name": "pull"}],
                    "containers": [
                        {
                            "name": "packages",
                            "image": "lab.example/tools@sha256:1",
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["python3", "bench"],
                            "resources": {
                                "requests": {"cpu": "100m", "memory": str(128 << 20)},
                                "limits": {"cpu": "2000m", "memory": "1Gi"},
                            },
                            "securityContext": worker["containers"][0]["securityContext"],
                            "volumeMounts": [{"name": "temporary", "mountPath": "/tmp"}],
                        }
                    ],
                    "volumes": [{"name": "temporary", "emptyDir": {"sizeLimit": "3Gi"}}],
                },
            },
        },
    }


def test_no_policy_and_no_watch_of_workers_takes_a_job_for_one() -> None:
    policy = manifests.packages_policy("cafe", "10.0.0.5/32:443")
    assert policy["metadata"]["name"] == "neartime-packages-cafe"
    assert policy["spec"]["podSelector"] == {"matchLabels": {"neartime.io/builder": "cafe"}}
    assert policy["spec"]["ingress"] == []
    workers = manifests.network_policy("cafe", "10.0.0.5/32:4222")["spec"]["podSelector"]["matchLabels"]
    assert not workers.keys() & policy["spec"]["podSelector"]["matchLabels"].keys()


def test_a_label_stands_for_one_name() -> None:
    assert manifests.slug("aer_5q.x") == "aer_5q.x"
    long = ["a" * 63 + end for end in ("b", "c")]
    found = [manifests.slug(name) for name in (*long, "ends-", "ends.", "ends", "-", "…")]
    assert len(set(found)) == len(found)
    assert all(len(one) <= 63 and one[0].isalnum() and one[-1].isalnum() for one in found)


# --- what a pod says

BASE: dict[str, Any] = {
    "metadata": {"name": "neartime-w1", "labels": {"neartime.io/worker": "w1"}},
    "spec": {"activeDeadlineSeconds": 60},
}


def saying(deleted: bool = False, **status: Any) -> dict[str, Any]:
    metadata = BASE["metadata"] | ({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})
    return BASE | {"metadata": metadata, "status": status}


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "worker", "state": state}]


def ended(code: int, reason: str = "Error", **more: Any) -> dict[str, Any]:
    return {"containerStatuses": container(terminated={"exitCode": code, "reason": reason, **more})}


LOST, MEMORY, FAILED = ReasonCode.WORKER_LOST, ReasonCode.OUT_OF_MEMORY, ReasonCode.START_FAILED
DISRUPTED = [
    {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API"}
]


@pytest.mark.parametrize(
    ("pod", "code", "reason_code", "words"),
    [
        (saying(phase="Succeeded", **ended(0, "Completed")), 0, None, None),
        (saying(phase="Failed", **ended(3)), 3, LOST, "its worker ended with exit code 3"),
        (saying(phase="Failed", **ended(137)), -9, LOST, "its worker was killed by SIGKILL"),
        (saying(phase="Failed", **ended(137, "OOMKilled")), -9, MEMORY, "no memory left for it"),
        (saying(phase="Failed", **ended(128, "StartError", message="no such file")), -0, FAILED, "no such file"),
        (saying(phase="Failed", reason="DeadlineExceeded", **ended(137)), -9, LOST, "for 60 s, which is as long"),
        (saying(phase="Failed", reason="Evicted", message="The node was low on memory."), None, LOST, "low on"),
        (saying(phase="Failed", reason="OutOfcpu", message="Node didn't have enough"), None, FAILED, "refused the pod"),
        (saying(phase="Failed", reason="NodeShutdown", message="shutdown"), None, LOST, "is gone or shuts down"),
        (saying(True, phase="Failed", conditions=DISRUPTED, **ended(143)), 143, LOST, "is being drained"),
        (saying(True, phase="Failed", **ended(143)), 143, LOST, "its pod was deleted from outside"),
        (saying(True, phase="Succeeded", **ended(0)), 0, LOST, "its pod was deleted from outside"),
    ],
)  # fmt: skip
def test_the_end_of_a_pod_is_told_as_what_it_was(
    pod: dict[str, Any], code: int | None, reason_code: ReasonCode | None, words: str | None
) -> None:
    found = pods.exited(pod, stopped=False)
    assert found is not None
    assert (found.worker_id, found.reason_code) == ("w1", reason_code)
    if reason_code is not FAILED:
        assert found.exit_code == code
    assert (words is None and found.reason is None) or str(words) in str(found.reason)


def test_a_pod_that_was_to_be_ended_has_no_reason() -> None:
    pod = saying(True, phase="Failed", conditions=DISRUPTED, **ended(137))
    assert pods.exited(pod, stopped=True) == Exited("w1", -9, None, "it was stopped")


def test_a_pod_that_is_gone_has_ended() -> None:
    running = saying(phase="Running", containerStatuses=container(running={}))
    assert pods.runs(running)
    assert pods.exited(running, stopped=False) is None
    found = pods.exited(running, stopped=False, deleted=True)
    assert found == Exited("w1", None, LOST, "its pod was deleted from outside")


@pytest.mark.parametrize(
    ("status", "words", "hopeless"),
    [
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1 nodes: Insufficient cpu."}]},
            "the cluster has no place for it: 0/1 nodes: Insufficient cpu.",
            False,
        ),
        (
            {"containerStatuses": container(waiting={"reason": "ErrImagePull", "message": "vqe:1: not found"})},
            "its image can't be pulled: vqe:1: not found",
            True,
        ),
        (
            {"containerStatuses": container(waiting={"reason": "ImagePullBackOff", "message": "connection refused"})},
            "its image can't be pulled: connection refused",
            False,
        ),
        (
            {"containerStatuses": container(waiting={"reason": "CreateContainerConfigError", "message": "no user"})},
            "its container can't be made: CreateContainerConfigError: no user",
            True,
        ),
    ],
)
def test_what_keeps_a_pod_from_running_is_told_in_the_clusters_words(
    status: dict[str, Any], words: str, hopeless: bool
) -> None:
    assert pods.obstacle(saying(phase="Pending", **status)) == pods.Obstacle(words, hopeless)


def test_a_pod_that_is_on_its_way_has_no_obstacle() -> None:
    assert pods.obstacle(saying(phase="Pending")) is None
    assert pods.obstacle(saying(containerStatuses=container(waiting={"reason": "ContainerCreating"}))) is None


def test_an_image_is_being_pulled_where_that_is_the_last_thing_that_was_said_of_it() -> None:
    def said(*reasons: str) -> list[dict[str, str]]:
        return [{"reason": reason} for reason in reasons]

    assert pods.pulls(said("Scheduled", "Pulling"))
    assert pods.pulls(said("Pulling", "Failed", "BackOff", "Pulling"))
    assert not pods.pulls(said("Pulling", "Failed", "BackOff"))
    assert not pods.pulls(said("Scheduled", "FailedMount"))
    assert not pods.pulls(said("Pulling", "Pulled", "Created"))
    assert not pods.pulls([])


def test_of_what_is_said_about_a_pod_the_newest_warning_is_told() -> None:
    pulling, failed = {"type": "Normal", "message": "Pulling image"}, {"type": "Warning", "message": "no volume "}
    assert pods.told([failed, pulling]) == "no volume"
    assert pods.told([pulling, {"type": "Normal", "message": ""}]) == "Pulling image"
    assert pods.told([]) == ""
