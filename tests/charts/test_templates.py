"""What the chart comes to with several values, as objects; and which values it refuses."""

from __future__ import annotations

import base64
import json
import re
import tarfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from charts.helm import BEFORE, CHART, VALUES, Object, Objects, environment, helm, objects, refused
from packaging.version import Version

import neartime
from neartime.contract.backends import BackendConfig, Gateway, Placement
from neartime.contract.version import SUPPORTED_VERSIONS
from neartime_server.backends import Backends
from neartime_server.bus import Keys
from neartime_server.executors.manifests import BUILDER
from neartime_server.settings import Settings

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

pytestmark = pytest.mark.cluster  # helm is one of its tools

ALL = sorted(path.stem for path in VALUES.glob("*.yaml"))
everywhere = pytest.mark.parametrize("values", ALL)
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@everywhere
def test_helm_finds_nothing_to_say(values: str) -> None:
    done = helm("lint", CHART, "--strict", "--values", VALUES / f"{values}.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@everywhere
def test_every_object_is_in_a_namespace_and_has_names_by_which_it_is_found(values: str) -> None:
    for one in objects(values).all:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "neartime"
        assert labels["app.kubernetes.io/instance"] == "lab"
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"]


@everywhere
def test_every_pod_meets_the_level_restricted_and_is_bounded(values: str) -> None:
    for name, spec in objects(values).pods().items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["enableServiceLinks"] is False, name
        assert spec.get("automountServiceAccountToken") is (None if name == "Deployment lab-neartime" else False), name
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name


@everywhere
def test_a_services_selector_finds_pods_of_one_kind_alone(values: str) -> None:
    made = objects(values)
    templates = [
        one["spec"]["template"]["metadata"]["labels"]
        for one in made.all
        if one["kind"] in ("Deployment", "StatefulSet")
    ]
    for one in made.all:
        if one["kind"] == "Service":
            selector = one["spec"]["selector"].items()
            assert len([labels for labels in templates if selector <= labels.items()]) == 1, one["metadata"]["name"]


@everywhere
def test_no_pod_has_a_secret_in_a_variable_but_the_databases(values: str) -> None:
    for name, spec in objects(values).pods().items():
        for container in spec["containers"] + spec.get("initContainers", []):
            secret = {one["name"] for one in container.get("env", []) if "secretKeyRef" in one.get("valueFrom", {})}
            assert secret <= {"PGPASSWORD", "NEARTIME_DATABASE"}, name


@everywhere
def test_the_server_may_touch_pods_of_workers_and_nothing_else(values: str) -> None:
    made = objects(values)
    assert made.has("ClusterRole") == made.has("ClusterRoleBinding") == []
    [role] = [one for one in made.all if one["kind"] == "Role"]
    [binding] = [one for one in made.all if one["kind"] == "RoleBinding"]
    workers = environment(made.pods()["Deployment lab-neartime"])["NEARTIME_KUBERNETES_NAMESPACE"]
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == workers != "neartime"
    allowed = {resource: rule["verbs"] for rule in role["rules"] for resource in rule["resources"]}
    assert allowed == {
        "pods": ["create", "get", "list", "watch", "patch", "delete"],
        "pods/attach": ["create", "get"],
        "pods/log": ["get"],
        "events": ["list"],
        "pods/portforward": ["create", "get"],
        "jobs": ["create", "get", "list", "delete"],
    }


@everywhere
def test_the_variables_of_the_server_are_settings_that_there_are(values: str) -> None:
    names = {f"NEARTIME_{one.name.upper()}" for one in fields(Settings)} | {"NEARTIME_LOG_LEVEL"}
    for name, spec in objects(values).pods().items():
        for container in spec["containers"] + spec.get("initContainers", []):
            used = {one["name"] for one in container.get("env", []) if one["name"].startswith("NEARTIME_")}
            assert used <= names, name


@everywhere
def test_the_settings_that_the_server_reads_are_what_the_values_say(values: str, tmp_path: Path) -> None:
    variables = environment(objects(values).pods()["Deployment lab-neartime"])
    plain = {name: value for name, value in variables.items() if isinstance(value, str)}
    settings = Settings.read(plain)
    given = yaml.safe_load((VALUES / f"{values}.yaml").read_text())
    assert settings.executor == "kubernetes"
    assert settings.registry == given["registry"]["prefix"]
    for name, value in given.get("settings", {}).items():
        assert getattr(settings, name) == value, name


def test_the_smallest_values_make_all_that_is_needed() -> None:
    made = objects("simple")
    assert {kind: made.has(kind) for kind in ("Deployment", "StatefulSet", "Job", "Namespace", "Ingress")} == {
        "Deployment": ["lab-neartime"],
        "StatefulSet": ["lab-neartime-nats", "lab-neartime-postgresql"],
        "Job": ["lab-neartime-migrate"],
        "Namespace": ["lab-neartime-workers"],
        "Ingress": [],
    }
    assert environment(made.pods()["Deployment lab-neartime"]) == {
        "PGPASSWORD": {"secretKeyRef": {"name": "lab-neartime-postgresql", "key": "password"}},
        "NEARTIME_DATABASE": "postgresql+psycopg://neartime@lab-neartime-postgresql.neartime/neartime",
        "HOME": "/var/lib/neartime",
        "NEARTIME_HOME": "/var/lib/neartime/home",
        "NEARTIME_HOST": "0.0.0.0",
        "NEARTIME_PORT": "8787",
        "NEARTIME_LOG_LEVEL": "INFO",
        "NEARTIME_SECRET_FILE": "/run/neartime/operator/secret",
        "NEARTIME_NATS_URL": "nats://lab-neartime-nats.neartime:4222",
        "NEARTIME_STREAM_REPLICAS": "1",
        "NEARTIME_EXECUTOR": "kubernetes",
        "NEARTIME_KUBERNETES_NAMESPACE": "lab-neartime-workers",
        "NEARTIME_KUBERNETES_PENDING": "300",
        "NEARTIME_KUBERNETES_SPARES": "0",
        "NEARTIME_BUILDER": "registry",
        "NEARTIME_PACKAGES": "job",
        "NEARTIME_PACKAGES_MEMORY": "2Gi",
        "NEARTIME_PACKAGES_DISK": "10Gi",
        "NEARTIME_PACKAGES_SECONDS": "1800",
        "NEARTIME_REGISTRY": "registry.lab.example/programs",
    }
    labels = made("Namespace", "lab-neartime-workers")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_server_ends_after_it_has_taken_the_last_requests() -> None:
    deployment = objects("production")("Deployment", "lab-neartime")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    spec = deployment["template"]["spec"]
    [server] = spec["containers"]
    assert server["lifecycle"] == {"preStop": {"sleep": {"seconds": 15}}}
    assert spec["terminationGracePeriodSeconds"] > 15 + 5, "more than draining, and the end of requests under way"
    assert server["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert server["livenessProbe"]["httpGet"]["path"] == server["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert objects("production")("PodDisruptionBudget", "lab-neartime")["spec"]["maxUnavailable"] == 1
    assert objects("external").has("PodDisruptionBudget") == []


def test_migrations_run_before_an_upgrade_and_before_an_installation_where_the_database_is_there() -> None:
    def hook(made: Objects) -> str:
        return str(made("Job", "lab-neartime-migrate")["metadata"]["annotations"]["helm.sh/hook"])

    assert hook(objects("simple")) == "pre-upgrade"
    assert hook(objects("production")) == "pre-install,pre-upgrade"
    for values in ("simple", "production"):
        pods = objects(values).pods()
        [first] = pods["Deployment lab-neartime"]["initContainers"]
        assert [first] == pods["Job lab-neartime-migrate"]["containers"]
        assert "migrate" in first["command"]


def test_a_hook_needs_nothing_that_is_installed_after_it() -> None:
    made = objects("production")
    assert "serviceAccountName" not in made.pods()["Job lab-neartime-migrate"]
    needed = {
        one["name"]: one.get("valueFrom") for one in made.pods()["Job lab-neartime-migrate"]["containers"][0]["env"]
    }
    assert needed == {"NEARTIME_DATABASE": {"secretKeyRef": {"name": "database", "key": "url"}}, "HOME": None}
    assert made.has("Secret") == []


def test_three_nats_servers_know_each_other_and_keep_each_stream_thrice() -> None:
    made = objects("production")
    assert made("StatefulSet", "lab-neartime-nats")["spec"]["replicas"] == 3
    text = made("ConfigMap", "lab-neartime-nats")["data"]["nats.conf"]
    routes = re.findall(r'"nats://(\S+):6222"', text)
    assert routes == [f"lab-neartime-nats-{number}.lab-neartime-nats-peers.neartime" for number in range(3)]
    assert environment(made.pods()["Deployment lab-neartime"])["NEARTIME_STREAM_REPLICAS"] == "3"
    assert "lab-neartime-nats" in made.has("PodDisruptionBudget")
    assert "cluster {" not in objects("simple")("ConfigMap", "lab-neartime-nats")["data"]["nats.conf"]
    [claim] = made("StatefulSet", "lab-neartime-nats")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["resources"] == {"requests": {"storage": "100Gi"}}


def test_the_operators_secret_reaches_nats_init_container_and_not_nats_itself() -> None:
    spec = objects("production").pods()["StatefulSet lab-neartime-nats"]
    mounts = {one["name"]: {mount["name"] for mount in one["volumeMounts"]} for one in spec["containers"]}
    assert "operator-secret" not in mounts["nats"]
    [volume] = [one for one in spec["volumes"] if one["name"] == "operator-secret"]
    assert volume["secret"]["secretName"] == "operator"


def test_a_secret_is_made_as_the_server_reads_it_unless_one_is_named(tmp_path: Path) -> None:
    secret = objects("simple")("Secret", "lab-neartime-operator")
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    file = tmp_path / "secret"
    file.touch(0o600)
    file.write_bytes(base64.b64decode(secret["data"]["secret"]))
    assert Keys.load(file).installation
    assert objects("simple")("Secret", "lab-neartime-operator")["data"] != secret["data"]


def test_backends_become_the_file_that_the_server_reads(tmp_path: Path) -> None:
    text = objects("production")("ConfigMap", "lab-neartime-backends")["data"]["backends.toml"]
    given = yaml.safe_load((VALUES / "production.yaml").read_text())["backends"]
    assert tomllib.loads(text) == {"backends": given}
    file = tmp_path / "backends.toml"
    file.write_text(text)
    backends = Backends.load(Settings(home=tmp_path, backends_file=file))
    assert backends.names() == ["aer", "line", "machine"]
    assert [one.name for one in backends.gateways()] == ["machine"]
    assert backends.get("aer").placement.resources == {"nvidia.com/gpu": "1"}
    numbers = backends.get("aer").options["coupling_map"]
    assert all(type(number) is int for pair in numbers for number in pair)


def test_a_changed_backend_rolls_the_servers_out_anew() -> None:
    def checksum(*arguments: object) -> str:
        made = objects("production", *arguments)("Deployment", "lab-neartime")
        return str(made["spec"]["template"]["metadata"]["annotations"]["checksum/backends"])

    assert checksum() == checksum() != checksum("--set", "backends[0].parallelism=5")


def test_an_ingress_has_tls_and_tells_the_server_its_address() -> None:
    made = objects("production")
    assert made("Ingress", "lab-neartime")["spec"] == {
        "ingressClassName": "nginx",
        "tls": [{"hosts": ["quantum.lab.example"], "secretName": "lab-neartime-tls"}],
        "rules": [
            {
                "host": "quantum.lab.example",
                "http": {
                    "paths": [
                        {
                            "path": "/",
                            "pathType": "Prefix",
                            "backend": {"service": {"name": "lab-neartime", "port": {"name": "http"}}},
                        }
                    ]
                },
            }
        ],
    }
    variables = environment(made.pods()["Deployment lab-neartime"])
    assert variables["NEARTIME_PUBLIC_URL"] == "https://quantum.lab.example"
    assert variables["NEARTIME_NATS_PUBLIC_URL"] == "tls://nats.lab.example:4222"


def test_what_is_somebody_elses_is_not_made() -> None:
    made = objects("external")
    assert made.has("StatefulSet") == made.has("Namespace") == made.has("ServiceMonitor") == []
    variables = environment(made.pods()["Deployment lab-neartime"])
    assert variables["NEARTIME_NATS_URL"] == "nats://10.0.0.5:4222,nats://10.0.0.6:4222"
    assert variables["NEARTIME_NATS_WORKER_URL"] == "nats://nats.lab.example:4222"
    assert variables["NEARTIME_REGISTRY_INSECURE"] == "10.0.0.9:5000,10.0.0.10:5000"
    policy = made("NetworkPolicy", "lab-neartime-workers")["spec"]
    assert policy["ingress"] == []
    assert policy["egress"] == [
        {"to": [{"ipBlock": {"cidr": "10.0.0.0/29"}}], "ports": [{"protocol": "TCP", "port": 4222}]}
    ]
    assert policy["podSelector"] == {"matchExpressions": [{"key": BUILDER, "operator": "DoesNotExist"}]}
    others = made("NetworkPolicy", "lab-neartime-packages")["spec"]
    assert others["podSelector"] == {"matchExpressions": [{"key": BUILDER, "operator": "Exists"}]}
    assert others["ingress"] == []


def test_prometheus_gets_an_operators_token() -> None:
    [endpoint] = objects("production")("ServiceMonitor", "lab-neartime")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "metrics-token", "key": "token"}}
    assert objects("simple").has("ServiceMonitor") == []


def test_quotas_of_workers_are_in_their_namespace() -> None:
    made = objects("production")
    quota = made("ResourceQuota", "lab-neartime")
    assert quota["metadata"]["namespace"] == "quantum-workers"
    assert quota["spec"]["hard"] == {"requests.cpu": "32", "pods": 100}
    assert made("LimitRange", "lab-neartime")["spec"]["limits"][0]["max"] == {"cpu": "16", "memory": "64Gi"}


# --- what is refused


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("server.replica=2", ["/server", "'replica'"]),
        ("settings.limit_runing_jobs=3", ["/settings", "'limit_runing_jobs'"]),
        ("nats.replicas=2", ["/nats/replicas", "1, 3"]),
        ("image.repository=", ["/image/repository"]),
        ("registry.prefix=registry.lab.example", ["/registry/prefix"]),
        ("backends[0].name=x,backends[0].factory=x:y,backends[0].paralelism=3", ["/backends/0", "'paralelism'"]),
        (
            "backends[0].name=x,backends[0].factory=x:y,backends[0].placement.nodeSelector.a=b",
            ["/backends/0/placement", "'nodeSelector'"],
        ),
        ("backends[0].name=x,backends[0].factory=x", ["/backends/0/factory"]),
        (
            "backends[0].name=x,backends[0].factory=x:y,backends[0].gateway.credentials.key=the-key-itself",
            ["/backends/0/gateway/credentials/key"],
        ),
        ("ingress.enabled=maybe", ["/ingress/enabled"]),
        ("postgres.enabled=false", ["'postgres'"]),
    ],
)
def test_a_value_that_is_misspelt_is_refused_with_its_name(argument: str, said: list[str]) -> None:
    words = refused("simple", "--set", argument)
    assert all(word in words for word in said), words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["database.existingSecret=mine"], "set postgresql.enabled=false"),
        (["postgresql.enabled=false"], "there is no database"),
        (["nats.enabled=false", "networkPolicies.enabled=false"], "nats.external.url"),
        (["nats.enabled=false", "nats.external.url=nats://x:4222"], "nats.external.egress"),
        (["ingress.enabled=true"], "ingress.host is missing"),
        (["serviceMonitor.enabled=true"], "serviceMonitor.tokenSecret.name"),
        (["workers.namespace.name=default"], "can't be the server's own"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(arguments: list[str], said: str) -> None:
    assert said in refused("simple", *(word for one in arguments for word in ("--set", one)))


def test_all_faults_are_told_at_once() -> None:
    words = refused("simple", "--set", "postgresql.enabled=false", "--set", "ingress.enabled=true")
    assert "there is no database" in words
    assert "ingress.host is missing" in words


# --- what has to be the same in two places


def test_every_value_has_a_place_in_the_schema_and_the_schema_has_no_other() -> None:
    def resolved(schema: Object) -> Object:
        while "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        for part in schema.get("allOf", []):
            if "additionalProperties" in (found := resolved(part)):
                return found
        return schema

    def compare(values: Any, schema: Object, path: str) -> None:
        schema = resolved(schema)
        if "properties" not in schema or path == ".settings" or not isinstance(values, dict):
            return
        assert schema["additionalProperties"] is False, path
        known = set(schema["properties"]) - {"global"}
        if not path.endswith("resources"):
            assert known == set(values), path
        for name, value in values.items():
            compare(value, schema["properties"][name], f"{path}.{name}")

    compare(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA, "")


def test_settings_are_those_of_the_server_that_the_chart_does_not_set_itself() -> None:
    settings = set(SCHEMA["properties"]["settings"]["properties"])
    variables: set[str] = set()
    for values in ALL:
        given = yaml.safe_load((VALUES / f"{values}.yaml").read_text()).get("settings", {})
        found = environment(objects(values).pods()["Deployment lab-neartime"])
        variables |= {name.removeprefix("NEARTIME_").lower() for name in found} - set(given)
    not_here = {"docker_host", "docker_network", "kubeconfig", "kubernetes_nats", "packages_index"}
    """Of other executors; and the policies are the chart's own."""
    assert settings == {one.name for one in fields(Settings)} - variables - not_here


def test_fields_of_backends_are_those_that_the_server_reads() -> None:
    backend = SCHEMA["properties"]["backends"]["items"]["properties"]
    assert set(backend) == set(BackendConfig.model_fields)
    assert set(backend["placement"]["properties"]) == set(Placement.model_fields)
    assert set(backend["gateway"]["properties"]) == set(Gateway.model_fields)


def test_the_chart_is_newer_than_the_one_that_is_upgraded_from() -> None:
    with tarfile.open(BEFORE) as packed:
        file = packed.extractfile("neartime/Chart.yaml")
        assert file is not None
        before = yaml.safe_load(file)["version"]
    now = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    assert Version(before) < Version(now)


def test_the_chart_states_the_version_and_the_contract_of_its_server() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == neartime.__version__
    assert chart["annotations"]["neartime.io/contract"] == ",".join(map(str, sorted(SUPPORTED_VERSIONS)))
