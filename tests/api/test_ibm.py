"""What the genuine client of Qiskit Runtime asks of the server, request by request, without that client."""

from __future__ import annotations

import base64
import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from servers import Server
from uploads import body

from neartime.contract.ids import new_id
from neartime.contract.jobs import JobState, JobStatus, JobView, ProgramReference, ReasonCode
from neartime_server.api import ibm, identity
from neartime_server.api.gate import TOKEN_CACHE_SECONDS
from neartime_server.bus import Keys

ADD = "def main(backend, user_messenger, a, b=0):\n    print('adding')\n    return a + b\n"
WAIT = "import time\n\ndef main(backend, user_messenger):\n    time.sleep(60)\n"


@pytest.fixture
def theirs(client: httpx.Client) -> httpx.Client:
    """A client that says what theirs says."""
    client.headers["IBM-API-Version"] = "2026-04-15"
    assert client.post("/programs", json=body("add", ADD)).status_code == 201
    return client


def exchange(client: httpx.Client, **form: str) -> httpx.Response:
    """Without a token in the header, as it is there."""
    return httpx.post(f"{client.base_url}identity/token", data=form, trust_env=False, timeout=60)


def changed(client: httpx.Client, token: str) -> dict[str, Any]:
    response = exchange(client, grant_type=identity.GRANT, apikey=token, response_type="cloud_iam")
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    answer: dict[str, Any] = response.json()
    return answer


def claims(token: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return read


def done(client: httpx.Client, **asked: Any) -> str:
    """A job of the program that adds, when it has ended."""
    response = client.post("/jobs", json={"program_id": "add", "backend": "aer", "params": {"a": 1, "b": 2}, **asked})
    assert response.status_code == 201, response.text
    return ended(client, response.json()["id"])


def ended(client: httpx.Client, job_id: str) -> str:
    deadline = time.monotonic() + 60
    while client.get(f"/jobs/{job_id}").json()["status"] in ("Queued", "Running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return job_id


def test_a_token_is_changed_for_a_signed_one_that_does_as_well_and_says_when_it_ends(server: Server) -> None:
    token = server.instance()
    with server.client(token) as client:
        answer = changed(client, token)
        assert client.get("/instances/usage", headers={"Authorization": f"apikey {token}"}).status_code == 200
        mine = client.get("/instances/usage").json()["instance"]
    read = claims(answer["access_token"])
    assert read["exp"] - read["iat"] == answer["expires_in"] == identity.ACCESS_SECONDS
    assert abs(read["iat"] - time.time()) < 60
    assert token not in answer["access_token"]
    with server.client(answer["access_token"]) as client:
        assert client.get("/instances/usage").json()["instance"] == mine


def test_a_signed_token_says_that_it_ends_with_a_token_that_expires_before(server: Server) -> None:
    name = f"short-{new_id()}"
    server.admin.create_instance(name)
    soon = datetime.now(timezone.utc) + timedelta(minutes=5)
    token = server.admin.create_token(name, "ada", days=5 / (24 * 60))
    with server.client(token) as client:
        assert abs(claims(changed(client, token)["access_token"])["exp"] - soon.timestamp()) < 10


def test_what_is_no_token_is_changed_for_nothing(client: httpx.Client) -> None:
    unknown = exchange(client, grant_type=identity.GRANT, apikey="neartime_nothing")
    assert (unknown.status_code, unknown.json()["errors"][0]["code"]) == (401, "unauthorized")
    for form, path in (({"grant_type": identity.GRANT}, "apikey"), ({"apikey": "x"}, "grant_type"), ({}, "grant_type")):
        response = exchange(client, **form)
        assert (response.status_code, response.json()["errors"][0]["path"]) == (422, path)


def test_a_signed_token_that_was_altered_or_is_another_servers_or_has_ended_is_refused(server: Server) -> None:
    token = server.instance()
    with server.client(token) as client:
        access = changed(client, token)["access_token"]
    head, content, signature = access.split(".")
    now = int(time.time())
    keys = Keys.load(server.settings.secret_path)
    longer = base64.urlsafe_b64encode(json.dumps({**claims(access), "exp": now + 10**6}).encode()).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for bad in (
        f"{head}.{longer}.{signature}",
        f"{unsigned}.{content}.",
        f"{head}.{content}.é",
        "..",
        identity.sign(Keys(b"x" * 32), claims(access)["sub"], now, now + 60),
        identity.sign(keys, claims(access)["sub"], now - 60, now - 1),
        identity.sign(keys, new_id(), now, now + 60),
    ):
        with server.client() as client:
            response = client.get("/jobs", headers={"Authorization": f"Bearer {bad}".encode()})
            assert response.status_code == 401, bad


def test_a_signed_token_ends_with_the_one_that_it_stands_for(server: Server) -> None:
    name = f"signed-{new_id()}"
    server.admin.create_instance(name)
    token = server.admin.create_token(name, "ada")
    with server.client(token) as client:
        access = changed(client, token)["access_token"]
    with server.client(access) as client:
        assert client.get("/jobs").status_code == 200
        server.admin.end_user(name, "ada")
        deadline = time.monotonic() + TOKEN_CACHE_SECONDS + 1
        while client.get("/jobs").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_devices_are_described_in_the_list(theirs: httpx.Client) -> None:
    devices = theirs.get("/backends", params={"include_mocks": True}).json()["devices"]
    assert [one["name"] for one in devices] == ["aer", "generic_5q"]
    for one in devices:
        assert one["status"] == {"name": "online", "reason": ""}
        assert (one["qubits"] > 0, one["queue_length"]) == (True, 0)


def test_every_basis_gate_of_a_configuration_is_told_and_times_are_in_their_units(theirs: httpx.Client) -> None:
    for name in ("aer", "generic_5q"):
        told = theirs.get(f"/backends/{name}/configuration").json()
        assert told["basis_gates"] == [gate["name"] for gate in told["gates"]]
        assert {"cx", "sx", "x"} <= set(told["basis_gates"])
        assert datetime.fromisoformat(told["online_date"])
        assert "properties" not in told
        assert {"coupling_map", "n_qubits", "local", "simulator", "conditional", "open_pulse", "memory"} <= told.keys()
    nanoseconds = theirs.get("/backends/generic_5q/configuration").json()["dt"]
    del theirs.headers["IBM-API-Version"]
    assert nanoseconds == pytest.approx(theirs.get("/backends/generic_5q/configuration").json()["dt"] * 1e9)


def test_every_value_of_the_properties_has_a_date_and_a_unit_that_is_known_there(theirs: httpx.Client) -> None:
    told = theirs.get("/backends/generic_5q/properties").json()
    assert len(told["qubits"]) == 5
    values = [one for qubit in told["qubits"] for one in qubit]
    values += [one for gate in told["gates"] for one in gate["parameters"]]
    assert {one["date"] for one in values} == {told["last_update_date"]}
    assert {one["unit"] for one in values} == {"s", "GHz", ""}
    assert {"T1", "T2", "frequency", "readout_error", "readout_length"} == {one["name"] for one in told["qubits"][0]}
    assert theirs.get("/backends/aer/properties").json() == {}


def test_a_job_is_submitted_listed_shown_and_measured_in_their_words(theirs: httpx.Client) -> None:
    job_id = done(theirs, tags=["mine"], log_level="WARNING", cost=300)
    shown = theirs.get(f"/jobs/{job_id}", params={"exclude_params": "true"}).json()
    assert shown["program"] == {"id": "add"}
    assert shown["state"] == {"status": "Completed", "reason": None, "reason_code": None}
    assert shown["tags"] == ["mine"]
    assert "params" not in shown
    assert theirs.get(f"/jobs/{job_id}").json()["params"] == {"a": 1, "b": 2}
    assert theirs.get(f"/jobs/{job_id}/results").json() == 3
    measured = theirs.get(f"/jobs/{job_id}/metrics").json()
    assert measured["usage"]["status"] == "complete"
    assert measured["usage"]["qpu_charge_time_seconds"] == measured["usage"]["seconds"] > 0
    assert measured["timestamps"]["running"]
    listed = theirs.get("/jobs", params={"limit": 1000, "program": "add", "tags": ["mine"]}).json()
    assert (listed["count"], [one["program"]["id"] for one in listed["jobs"]]) == (1, ["add"])
    del theirs.headers["IBM-API-Version"]
    assert theirs.get("/jobs", params={"limit": 1000}).status_code == 422
    assert theirs.get(f"/jobs/{job_id}").json()["program"]["name"] == "add"


def test_what_is_not_offered_here_is_refused_and_not_ignored(theirs: httpx.Client) -> None:
    for member, value in (("private", True), ("runtime", "image:tag"), ("calibration_id", "x"), ("log_level", "LOUD")):
        response = theirs.post("/jobs", json={"program_id": "add", "params": {"a": 1}, member: value})
        assert (response.status_code, response.json()["errors"][0]["path"]) == (422, member)


def test_a_session_is_opened_shown_and_closed_in_their_words(theirs: httpx.Client) -> None:
    asked = {"mode": "dedicated", "backend": "aer", "instance": "crn:v1:neartime:::::::", "max_ttl": 100}
    made = theirs.post("/sessions", json=asked)
    assert made.status_code == 201, made.text
    session_id = made.json()["id"]
    opened = theirs.get(f"/sessions/{session_id}").json()
    assert (opened["state"], opened["accepting_jobs"], opened["active_ttl"]) == ("open", True, 100)
    done(theirs, session_id=session_id)
    active = theirs.get(f"/sessions/{session_id}").json()
    assert (active["state"], active["started_at"] is not None) == ("active", True)
    assert [one["status"] for one in active["timestamps"]] == ["open", "active"]
    assert theirs.patch(f"/sessions/{session_id}", json={"accepting_jobs": False}).status_code == 200
    closed = theirs.get(f"/sessions/{session_id}").json()
    assert closed["accepting_jobs"] is False
    assert closed["elapsed_time"] > 0


def test_a_session_that_is_cancelled_takes_its_jobs_along(theirs: httpx.Client) -> None:
    theirs.post("/programs", json=body("wait", WAIT))
    session_id = theirs.post("/sessions", json={"backend": "aer", "mode": "batch"}).json()["id"]
    job_id = theirs.post("/jobs", json={"program_id": "wait", "session_id": session_id}).json()["id"]
    assert theirs.delete(f"/sessions/{session_id}/close").status_code == 204
    ended(theirs, job_id)
    assert theirs.get(f"/jobs/{job_id}").json()["state"]["status"] == "Cancelled"


def test_usage_tells_what_was_consumed(theirs: httpx.Client) -> None:
    done(theirs)
    told = theirs.get("/instances/usage").json()
    assert told["usage_consumed_seconds"] == told["usage"]["seconds"] > 0
    assert told["usage_limit_reached"] is False
    assert "usage_limit_seconds" not in told


@pytest.mark.parametrize(
    ("name", "params", "simulator", "program"),
    [
        ("sampler", {}, False, "sampler"),
        ("sampler", {"options": {"dynamical_decoupling": {"enable": True}}}, True, "sampler-mitigated"),
        ("sampler", {"options": {"twirling": {"enable_measure": True}}}, False, "sampler-mitigated"),
        ("sampler", {"options": {"twirling": {"enable_gates": False, "num_randomizations": 3}}}, False, "sampler"),
        ("estimator", {}, False, "estimator-mitigated"),
        ("estimator", {}, True, "estimator"),
        ("estimator", {"resilience_level": 0}, False, "estimator"),
        ("estimator", {"resilience_level": 2}, True, "estimator-mitigated"),
        ("estimator", {"resilience_level": 0, "options": {"resilience": {"zne_mitigation": True}}}, True,
         "estimator-mitigated"),
        ("estimator", {"options": {"resilience": {"zne_mitigation": False}}}, True, "estimator"),
        ("estimator", {"options": []}, True, "estimator"),
        ("estimator", [], True, "estimator"),
    ],
)  # fmt: skip
def test_a_primitive_is_run_by_the_program_that_does_what_its_options_ask(
    name: str, params: Any, simulator: bool, program: str
) -> None:
    assert ibm.program(name, params, simulator) == program


def test_an_instances_own_program_of_a_primitives_name_is_run_as_it_is(theirs: httpx.Client) -> None:
    theirs.post("/programs", json=body("sampler", "def main(backend, user_messenger, options):\n    return 'own'\n"))
    params = {"options": {"dynamical_decoupling": {"enable": True}}}
    job_id = done(theirs, program_id="sampler", params=params)
    assert theirs.get(f"/jobs/{job_id}/results").json() == "own"


def test_a_limit_of_seconds_a_day_is_told_as_the_limit_of_usage() -> None:
    limits = {"seconds_per_day": {"limit": 60, "used": 61.5}}
    told = ibm.instance_usage({"instance": "x", "usage": {"seconds": 900.0}, "limits": limits})
    assert (told["usage_limit_seconds"], told["usage_consumed_seconds"]) == (60, 61.5)
    assert told["usage_limit_reached"] is True


def test_a_job_that_ran_out_of_time_has_the_code_that_is_known_there() -> None:
    state = JobState(status=JobStatus.FAILED, reason="ran for longer than 1 s", reason_code=ReasonCode.TIMED_OUT)
    view = JobView(
        id=new_id(),
        backend="aer",
        program=ProgramReference(id=new_id(), name="sampler", version=new_id()),
        session_id=new_id(),
        status=JobStatus.FAILED,
        state=state,
        created=datetime.now(timezone.utc),
        cost=1,
    )
    assert ibm.job(view)["state"] == {"status": "Failed", "reason": "ran for longer than 1 s", "reason_code": 1305}
