"""`helm install` on a real cluster, and a client outside of it: nothing is mocked."""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from charts.helm import BEFORE, CHART, Objects, template, tool
from charts.installed import NAME, Installed, installed, ready
from clusters import STATE, Cluster, fresh_namespace, until
from databases import Postgres
from executors.harness import Door
from kubernetes import client
from registries import Authority, Registry, require_registry
from sqlalchemy import make_url

from neartime import RuntimeService, Session

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(400)]

TEMPLATES = Path(__file__).parents[2] / "program-templates"
COUNT = """
import time

def main(backend, user_messenger, count=100, pause=0.1):
    for number in range(count):
        user_messenger.publish(number)
        time.sleep(pause)
    return count
"""


@pytest.fixture(scope="module")
def lab(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with installed(cluster, tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture
def service(lab: Installed) -> Iterator[RuntimeService]:
    with lab.service() as service:
        yield service


def test_an_installed_server_was_never_started_twice_and_answers_helms_test(lab: Installed) -> None:
    for component in ("server", "nats", "postgresql"):
        for pod in lab.pods(component):
            assert ready(pod), component
            assert [status.restart_count for status in pod.status.container_statuses] == [0], component
    assert "Phase:          Succeeded" in lab.helm("test", lab.release, "--timeout", "90s")


def test_notes_say_what_to_do_next(lab: Installed) -> None:
    notes = lab.helm("get", "notes", lab.release)
    assert f"deploy/{NAME} --container server -- neartime admin token create" in notes
    assert lab.workers_namespace in notes


def test_a_client_outside_of_the_cluster_sees_the_backends_and_what_they_are(service: RuntimeService) -> None:
    assert [backend.name for backend in service.backends()] == ["aer"]
    assert service.backend("aer").configuration()["simulator"] is True


def test_the_vqe_template_runs_in_a_pod_and_its_energies_come_while_it_runs(
    lab: Installed, service: RuntimeService
) -> None:
    service.upload_program(TEMPLATES / "vqe")
    heard: list[Any] = []
    with Session(service, backend="aer") as session:
        job = session.run("vqe", {"maxiter": 5}, callback=lambda _, value: heard.append(value))
        result = job.result(timeout=240)
        job.wait_for_final_state(20)
        assert len(lab.workers()) == 1
    assert len(heard) > 2
    assert result["energy"] == pytest.approx(result["exact_energy"], abs=0.5)
    until(lambda: not lab.workers(), 60)


def test_metrics_are_an_operators(lab: Installed) -> None:
    def ask(token: str) -> httpx.Response:
        return httpx.get(f"{lab.url}/metrics", headers={"Authorization": f"Bearer {token}"}, trust_env=False)

    assert ask(lab.token("user")).status_code == 403
    assert "neartime_jobs" in ask(lab.token("operator", "operator")).text


def through(lab: Installed, service: RuntimeService, happens: Callable[[], object]) -> None:
    """A job of a hundred messages, in the middle of which something happens: each is heard once, in order."""
    service.upload_program(COUNT, name="count")
    heard: list[int] = []
    begun = threading.Event()

    def hear(_: str, value: int) -> None:
        heard.append(value)
        if len(heard) == 10:
            begun.set()

    job = service.run("count", {}, {"backend": "aer"}, callback=hear)
    assert begun.wait(180), lab.told()
    happens()
    assert job.result(timeout=180) == 100
    job.wait_for_final_state(30)
    assert heard == list(range(100))


@pytest.mark.parametrize("component", ["server", "nats", "postgresql"])
def test_a_pod_that_is_deleted_in_the_middle_of_a_job_costs_no_message(
    lab: Installed, service: RuntimeService, component: str
) -> None:
    through(lab, service, lambda: lab.delete(component))


def test_an_upgrade_keeps_secrets_and_a_session_that_runs(lab: Installed, service: RuntimeService) -> None:
    def kept() -> dict[str, dict[str, str]]:
        names = (f"{NAME}-operator", f"{NAME}-postgresql")
        return {name: lab.cluster.core.read_namespaced_secret(name, lab.namespace).data for name in names}

    before, pods = kept(), {pod.metadata.uid for pod in lab.pods("server")}
    through(lab, service, lambda: lab.upgrade(server={"replicas": 2, "podAnnotations": {"upgraded": "yes"}}))
    assert kept() == before
    assert len(base64.b64decode(before[f"{NAME}-operator"]["secret"])) == 64
    now = {pod.metadata.uid for pod in lab.pods("server") if ready(pod)}
    assert len(now) == 2
    assert not now & pods


def test_requests_go_on_while_servers_are_rolled_out(lab: Installed) -> None:
    lab.upgrade(server={"replicas": 2})
    token, ended, failed, answered = lab.token(), threading.Event(), [], [0]

    def ask() -> None:
        while not ended.is_set():
            headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
            try:
                answer = httpx.get(f"{lab.url}/api/v1/backends", headers=headers, trust_env=False, timeout=20)
                if answer.status_code != 200:
                    failed.append(answer.text)
            except httpx.HTTPError as error:
                failed.append(repr(error))
            answered[0] += 1
            time.sleep(0.05)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        lab.kubectl("rollout", "restart", f"deploy/{NAME}")
        lab.kubectl("rollout", "status", f"deploy/{NAME}", "--timeout", "180s", seconds=200)
        until(lambda: len(lab.pods("server")) == 2, 90)  # those that drain have ended, too
    finally:
        ended.set()
        asking.join()
    assert answered[0] > 50
    assert failed == []


def test_the_server_may_not_do_what_it_need_not(lab: Installed) -> None:
    def may(verb: str, what: str, namespace: str) -> bool:
        who = f"system:serviceaccount:{lab.namespace}:{NAME}"
        resource, _, subresource = what.partition("/")
        attributes = {"verb": verb, "resource": resource, "subresource": subresource, "namespace": namespace}
        if resource in (groups := {"networkpolicies": "networking.k8s.io", "jobs": "batch"}):
            attributes["group"] = groups[resource]
        review = {"spec": {"user": who, "resourceAttributes": attributes}}
        return bool(client.AuthorizationV1Api(lab.cluster.api).create_subject_access_review(review).status.allowed)

    workers = lab.workers_namespace
    assert may("create", "pods", workers)
    assert may("create", "pods/attach", workers)
    assert may("create", "jobs", workers)
    assert not may("patch", "jobs", workers)
    assert not may("create", "jobs", lab.namespace)
    assert not may("create", "pods/exec", workers)
    for verb in ("get", "list", "create", "delete"):
        assert not may(verb, "secrets", workers)
        assert not may(verb, "secrets", lab.namespace)
        assert not may(verb, "pods", lab.namespace)
        assert not may(verb, "networkpolicies", workers)


def test_a_pod_that_could_do_more_is_not_let_into_the_namespace_of_workers(lab: Installed) -> None:
    pod = {"metadata": {"name": "bold"}, "spec": {"containers": [{"name": "main", "image": "x"}]}}
    with pytest.raises(client.ApiException, match="restricted"):
        lab.cluster.core.create_namespaced_pod(lab.workers_namespace, pod)


@pytest.mark.parametrize("values", ["simple", "production", "external"])
def test_the_api_server_takes_every_object(cluster: Cluster, namespace: str, values: str, tmp_path: Path) -> None:
    with fresh_namespace(cluster) as workers:
        given = Objects(template(values, "--set", f"workers.namespace.name={workers}", namespace=namespace)).all
        taken = [one for one in given if one["kind"] not in ("ServiceMonitor", "Namespace")]
        file = tmp_path / "all.yaml"
        file.write_text(yaml.safe_dump_all(taken))
        command = [tool("kubectl"), "--kubeconfig", str(cluster.kubeconfig), "create", "--dry-run=server"]
        done = subprocess.run([*command, "-f", str(file)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "it has something to say of Pod Security"
    assert len(done.stdout.splitlines()) == len(taken)


def test_a_backup_is_restored_in_another_installation(lab: Installed, cluster: Cluster, tmp_path: Path) -> None:
    """As docs/how-to/operate.md says: the database, and the operator's secret."""

    def database(of: Installed, *command: str, given: str | None = None) -> str:
        script = 'export PGPASSWORD="$(cat /run/password/password)"; exec "$@" -h 127.0.0.1 -U neartime neartime'
        place = ("exec", "--stdin", f"statefulset/{NAME}-postgresql", "--", "sh", "-c", script, "-")
        return of.kubectl(*place, *command, given=given)

    token = lab.token("keeps")
    with RuntimeService(lab.url, token) as before:
        before.upload_program(COUNT, name="kept")
        job = before.run("kept", {"count": 4, "pause": 0}, {"backend": "aer"})
        assert job.result(timeout=120) == 4
        job_id = job.job_id()
    dump = database(lab, "pg_dump", "--clean", "--if-exists")
    secret = cluster.core.read_namespaced_secret(f"{NAME}-operator", lab.namespace).data
    with installed(cluster, tmp_path, operator=secret) as other:
        other.kubectl("scale", f"deploy/{NAME}", "--replicas", "0")
        until(lambda: not other.pods("server"), 60)
        database(other, "psql", "--quiet", "--set", "ON_ERROR_STOP=1", given=dump)
        other.kubectl("scale", f"deploy/{NAME}", "--replicas", "1")
        other.kubectl("rollout", "status", f"deploy/{NAME}", "--timeout", "120s")
        with RuntimeService(other.url, token) as after:
            assert after.job(job_id).result(timeout=30) == 4
            heard: list[int] = []
            again = after.run("kept", {"count": 3}, {"backend": "aer"}, callback=lambda _, value: heard.append(value))
            assert again.result(timeout=120) == 3
            assert heard == [0, 1, 2]


def test_an_upgrade_from_the_chart_of_before_keeps_a_session_that_runs(cluster: Cluster, tmp_path: Path) -> None:
    """The server is of now: what it wants beyond that chart is turned off there."""
    with installed(cluster, tmp_path, chart=BEFORE) as made:
        assert "neartime-0.1.0" in made.helm("list", "--filter", made.release)
        variables = made.values["server"]["extraEnv"]
        heard: list[int] = []
        begun = threading.Event()

        def hear(_: str, value: int) -> None:
            heard.append(value)
            if len(heard) == 10:
                begun.set()

        with made.service() as service:
            service.upload_program(COUNT, name="count")
            with Session(service, backend="aer") as session:
                job = session.run("count", {"pause": 0.3}, callback=hear)
                assert begun.wait(180), made.told()
                [worker] = made.workers()
                servers = {pod.metadata.uid for pod in made.pods("server")}
                without = [one for one in variables if one["name"] != "NEARTIME_PACKAGES"]
                made.upgrade(server={"extraEnv": without})
                during = len(heard)
                assert job.result(timeout=180) == 100
                job.wait_for_final_state(30)
                assert heard == list(range(100))
                assert during < 100, "the job was over before the upgrade was"
                assert not servers & {pod.metadata.uid for pod in made.pods("server") if ready(pod)}
                assert session.run("count", {"count": 3}).result(timeout=60) == 3
                assert made.workers() == [worker]
            service.upload_program(COUNT, name="another", requirements=["idna"])
            assert service.run("another", {"count": 3}, {"backend": "aer"}).result(timeout=180) == 3
        version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
        assert f"neartime-{version}" in made.helm("list", "--filter", made.release)


def test_one_nats_server_becomes_three_as_it_is_documented(cluster: Cluster, tmp_path: Path) -> None:
    with installed(cluster, tmp_path) as made:
        token = made.token()
        with RuntimeService(made.url, token) as service:
            service.upload_program(COUNT, name="count")
            job = service.run("count", {"count": 4}, {"backend": "aer"})
            assert job.result(timeout=120) == 4
            job_id = job.job_id()
        assert "nats.replicas: there are 1" in made.refuses("--set", "nats.replicas=3")
        made.kubectl("delete", "statefulset", f"{NAME}-nats")
        made.upgrade(nats={"replicas": 3, "storage": {"enabled": False}})
        with RuntimeService(made.url, token) as service:
            assert service.job(job_id).result(timeout=60) == 4
            through(made, service, lambda: None)


@pytest.fixture(scope="module")
def three(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Three NATS servers, behind a door with TLS; workers come without."""
    folder = tmp_path_factory.mktemp("three")
    authority = Authority(folder)
    with installed(cluster, folder, nats=3, authority=authority) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(authority.certificate))  # the client trusts it alone
        yield made


def test_one_of_three_nats_servers_is_lost_in_the_middle_of_a_job_and_no_message(three: Installed) -> None:
    [first, *_] = sorted(pod.metadata.name for pod in three.pods("nats"))

    def lose() -> None:
        three.cluster.core.delete_namespaced_pod(first, three.namespace, grace_period_seconds=0)

    with three.service() as service:
        through(three, service, lose)


def test_a_client_that_does_not_trust_the_authority_of_the_door_gets_its_result_all_the_same(
    three: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with three.service() as service:
        service.upload_program(COUNT, name="count")
        assert service.run("count", {"count": 3}, {"backend": "aer"}).result(timeout=120) == 3


def test_three_nats_servers_are_rolled_out_one_by_one_under_a_job(three: Installed) -> None:
    def roll() -> None:
        three.kubectl("rollout", "restart", f"statefulset/{NAME}-nats")

    with three.service() as service:
        through(three, service, roll)
    three.kubectl("rollout", "status", f"statefulset/{NAME}-nats", "--timeout", "300s", seconds=320)


@pytest.fixture
def locked(cluster: Cluster, tmp_path: Path) -> Iterator[Registry]:
    """A registry with TLS by an authority of its own, and a password, that the nodes trust."""
    require_registry()
    if not cluster.own:
        pytest.skip("this machine has no say in whom the nodes trust")
    authority = Authority(tmp_path)
    with Registry(address=cluster.machine, authority=authority, users={"neartime": "secret"}) as registry:
        trusted = STATE / "certs.d" / registry.host
        trusted.mkdir(parents=True)
        try:
            (trusted / "ca.crt").write_text(authority.certificate.read_text())
            (trusted / "hosts.toml").write_text(f'[host."{registry.url}"]\nca = "{trusted / "ca.crt"}"\n')
            yield registry
        finally:
            shutil.rmtree(trusted)


@pytest.fixture
def database(cluster: Cluster, postgres: Postgres) -> Iterator[str]:
    """The URL, as pods reach it, of an empty database on this machine."""
    name = f"chart_{secrets.token_hex(6)}"
    url = make_url(postgres.create(name))
    door = Door(cluster.machine, postgres.port)
    yield url.set(host=cluster.machine, port=door.port).render_as_string(hide_password=False)
    door.close()
    postgres.drop(name)


@pytest.mark.postgres
def test_registry_and_database_are_the_operators_own_with_tls_and_passwords(
    cluster: Cluster, locked: Registry, database: str, tmp_path: Path
) -> None:
    """Tables are made before anything is installed; images are pushed, and pulled by the node, with credentials."""
    login = base64.b64encode(b"neartime:secret").decode()
    config = json.dumps({"auths": {locked.host: {"auth": login}}})
    secret = {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config}}
    authority = {"metadata": {"name": "lab-ca"}, "data": {"ca.crt": (tmp_path / "authority.pem").read_text()}}

    def prepare(made: Installed) -> None:
        cluster.core.create_namespaced_secret(made.namespace, {"metadata": {"name": "push"}, **secret})
        cluster.core.create_namespaced_config_map(made.namespace, authority)
        url = {"metadata": {"name": "database"}, "stringData": {"url": database}}
        cluster.core.create_namespaced_secret(made.namespace, url)

    registry = {"prefix": f"{locked.host}/programs", "credentialsSecret": "push", "ca": {"configMap": "lab-ca"}}
    placement = {"promised": 0.05, "image_pull_secrets": ["pull"]}
    backend = {"name": "aer", "factory": "qiskit_aer:AerSimulator", "placement": placement}
    own = {"registry": registry, "database": {"existingSecret": "database"}, "postgresql": {"enabled": False}}
    with installed(cluster, tmp_path, prepare=prepare, backends=[backend], **own) as made:
        assert made.pods("postgresql") == []
        events = cluster.core.list_namespaced_event(made.namespace, field_selector="involvedObject.kind=Job").items
        assert "Completed" in {event.reason for event in events}, "the hook"
        cluster.core.create_namespaced_secret(made.workers_namespace, {"metadata": {"name": "pull"}, **secret})
        with made.service() as service:
            service.upload_program(COUNT, name="count")
            assert service.run("count", {"count": 3}, {"backend": "aer"}).result(timeout=180) == 3
        assert "programs/" in locked.log
        worker = cluster.core.list_namespaced_event(made.workers_namespace).items
        assert any(event.reason == "Pulled" and locked.host in event.message for event in worker)


def test_what_is_uninstalled_leaves_the_secrets_and_the_disks(three: Installed) -> None:
    """The last one: there is nothing of it after that."""
    core = three.cluster.core
    three.helm("uninstall", three.release, "--wait", "--timeout", "120s")
    until(lambda: not any(three.pods(component) for component in ("server", "nats", "postgresql")), 90)
    left = {one.metadata.name for one in core.list_namespaced_secret(three.namespace).items} - {"door"}
    assert left == {f"{NAME}-operator", f"{NAME}-postgresql"}
    assert len(core.list_namespaced_persistent_volume_claim(three.namespace).items) == 4
    namespaces = {one.metadata.name for one in core.list_namespace().items if not one.metadata.deletion_timestamp}
    assert three.workers_namespace not in namespaces
