"""Jobs and sessions over HTTP, run by real workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest
from servers import Server
from uploads import MAIN, SCHEMA, body, faults

from neartime.contract.ids import new_id
from neartime.contract.jobs import JobView

TALKING = """
def main(backend, user_messenger, count=3, fail=False):
    for number in range(count):
        print("line", number)
        user_messenger.publish(number)
    if fail:
        raise ValueError("as it was told")
    return {"count": count}
"""


def submit(client: httpx.Client, program: str = "talking", params: Any = None, **members: Any) -> dict[str, Any]:
    response = client.post("/jobs", json={"program_id": program, "params": params or {}, **members})
    assert response.status_code == 201, response.text
    accepted: dict[str, Any] = response.json()
    return accepted


def events(client: httpx.Client, job_id: str, after: int | None = None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(id, event, data) of the job's Server-Sent Events, until the server ends them."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    with client.stream("GET", f"/jobs/{job_id}/events", headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name:
                fields[name] = value
            elif "id" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                fields = {}


@pytest.fixture
def talking(client: httpx.Client) -> httpx.Client:
    """A client whose instance has the program."""
    assert client.post("/programs", json=body("talking", TALKING)).status_code == 201
    return client


def test_params_come_back_as_the_bytes_that_came(talking: httpx.Client) -> None:
    params = '{ "count":1,"fail" : false }'
    response = talking.post("/jobs", content=f'{{"params": {params}, "program_id": "talking", "tags": ["é"]}}'.encode())
    assert response.status_code == 201, response.text
    job_id = response.json()["id"]
    shown = talking.get(f"/jobs/{job_id}")
    assert shown.content.endswith(f',"params":{params}}}'.encode())
    assert JobView.model_validate_json(shown.content).tags == ["é"]
    assert "params" not in talking.get(f"/jobs/{job_id}", params={"exclude_params": True}).json()


def test_inputs_of_many_megabytes_come_back_as_they_were(client: httpx.Client) -> None:
    client.post("/programs", json=body("echo", "def main(backend, user_messenger, a, b):\n    return len(a)\n"))
    params = json.dumps({"a": "x" * (5 << 20), "b": ["é" * (1 << 20), 1.5]}, ensure_ascii=False).encode()

    def sent() -> Iterator[bytes]:
        yield b'{"program_id": "echo", "params": '
        for at in range(0, len(params), 100_000):
            yield params[at : at + 100_000]
        yield b"}"

    response = client.post("/jobs", content=sent())
    assert response.status_code == 201, response.text
    shown = client.get(f"/jobs/{response.json()['id']}")
    assert shown.content.endswith(b',"params":' + params + b"}")
    list(events(client, response.json()["id"]))
    assert client.get(f"/jobs/{response.json()['id']}/results").json() == 5 << 20


def test_inputs_that_do_not_fit_the_schema_are_refused_all_at_once_and_nothing_is_queued(client: httpx.Client) -> None:
    schema = {**SCHEMA, "additionalProperties": False}
    client.post("/programs", json=body(schemas={"inputs": schema}))
    response = client.post("/jobs", json={"program_id": "hello", "params": {"count": -3, "shots": 1}})
    assert set(faults(response).values()) == {"invalid_input"}
    messages = [problem["message"] for problem in response.json()["errors"]]
    assert "inputs.count: -3 is less than the minimum of 1" in messages
    assert len(messages) == 2
    assert faults(client.post("/jobs", json={"program_id": "hello", "params": {"count": "x" * (2 << 20)}}))
    assert faults(client.post("/jobs", json={"program_id": "hello"}))
    assert faults(client.post("/jobs", json={"program_id": "hello", "params": [1]})) == {"inputs": "invalid_input"}
    every = client.post("/jobs", json={"program_id": "hello", "params": {"count": -3, "shots": 1}, "tag": 1, "cost": 0})
    assert faults(every) == {
        "tag": "invalid_request",
        "cost": "invalid_request",
        "inputs.count": "invalid_input",
        "inputs.shots": "invalid_input",
    }
    assert faults(client.post("/jobs", json={"program_id": "nothing", "tag": 1})) == {"tag": "invalid_request"}
    assert client.get("/jobs").json()["count"] == 0


def test_what_a_submission_names_must_be_there(talking: httpx.Client) -> None:
    def refusal(**members: Any) -> tuple[int, str, str]:
        response = talking.post("/jobs", json={"program_id": "talking", **members})
        problem = response.json()["errors"][0]
        return response.status_code, problem["code"], problem["message"]

    assert refusal(program_id="nothing")[:2] == (404, "not_found")
    assert refusal(program_version="9")[:2] == (404, "not_found")
    assert refusal(session_id=new_id())[:2] == (404, "not_found")
    status, code, message = refusal(backend="nowhere")
    assert (status, code) == (422, "unknown_backend")
    for name in talking.get("/backends").json()["devices"]:
        assert name in message
    assert talking.get("/jobs").json()["count"] == 0


def test_a_job_pins_the_version_that_was_newest_or_asked_for(talking: httpx.Client) -> None:
    first = submit(talking)
    second_version = talking.post("/programs", json=body("talking", TALKING + "\n")).json()["version"]
    second = submit(talking)
    assert second["program_version"] == second_version["id"] != first["program_version"]
    assert submit(talking, program_version="1")["program_version"] == first["program_version"]
    assert talking.get(f"/jobs/{first['id']}").json()["program"]["version"] == first["program_version"]


def test_requests_with_one_key_make_one_job_even_at_once(server: Server, talking: httpx.Client) -> None:
    headers = {"Idempotency-Key": "again"}

    def post(number: int) -> tuple[int, bytes]:
        with server.client(talking.headers["authorization"].removeprefix("Bearer ")) as one:
            response = one.post("/jobs", json={"program_id": "talking"}, headers=headers)
            return response.status_code, response.content

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(post, range(8)))
    assert len(answers) == 1
    assert answers.pop()[0] == 201
    assert talking.get("/jobs").json()["count"] == 1
    other = talking.post("/jobs", json={"program_id": "talking", "tags": ["x"]}, headers=headers)
    assert (other.status_code, other.json()["errors"][0]["code"]) == (409, "idempotency_conflict")


def test_jobs_are_listed_by_every_filter(talking: httpx.Client) -> None:
    talking.post("/programs", json=body("other", TALKING))
    before = datetime.now(timezone.utc)
    first = submit(talking, tags=["a", "b"])["id"]
    second = submit(talking, tags=["b"])["id"]
    third = submit(talking, "other")["id"]

    def found(**query: Any) -> list[str]:
        page = talking.get("/jobs", params=query).raise_for_status().json()
        assert page["count"] >= len(page["jobs"])
        return [job["id"] for job in page["jobs"]]

    assert found() == [third, second, first]
    assert found(sort="ASC") == [first, second, third]
    assert found(limit=1, offset=1) == [second]
    assert found(tags=["b"]) == [second, first]
    assert found(tags=["a", "b"]) == [first]
    assert found(program="other") == [third]
    assert found(backend="nothing") == []
    session = talking.get(f"/jobs/{second}").json()["session_id"]
    assert found(session_id=session) == [second]
    assert found(created_after=before.isoformat()) == [third, second, first]
    assert found(created_before=(before - timedelta(hours=1)).isoformat()) == []
    for job in (first, second, third):
        list(events(talking, job))
    last = talking.get(f"/jobs/{third}").json()["sequence"]
    headers = {"Neartime-Sequence": str(last)}
    done = talking.get("/jobs", params={"status": ["Completed", "Failed"]}, headers=headers).json()
    assert done["count"] == 3
    assert found(pending=True) == []
    assert found(pending=True, status="Completed") == []
    assert len(found(pending=False)) == 3
    assert talking.put(f"/jobs/{third}/tags", json={"tags": ["c", "c"]}).status_code == 204
    assert found(tags=["c"]) == [third]


def test_a_job_leaves_results_interim_results_logs_and_metrics(talking: httpx.Client) -> None:
    job_id = submit(talking)["id"]
    said = list(events(talking, job_id))
    kinds = [kind for _, kind, _ in said]
    assert [kind for kind in kinds if kind != "status"] == ["interim"] * 3 + ["result"]
    assert kinds[-1] == "status"
    assert json.loads(said[-1][2]["text"])["status"] == "Completed"
    assert [data["text"] for _, kind, data in said if kind == "interim"] == ["0", "1", "2"]
    seen = {"Neartime-Sequence": str(said[-1][0])}
    assert talking.get(f"/jobs/{job_id}", headers=seen).json()["status"] == "Completed"
    assert talking.get(f"/jobs/{job_id}/results", headers=seen).json() == {"count": 3}
    assert talking.get(f"/jobs/{job_id}/interim_results").json() == [0, 1, 2]
    assert "line 2\n" in talking.get(f"/jobs/{job_id}/logs").text
    lines = talking.get(f"/jobs/{job_id}/logs", params={"format": "json"}).text.splitlines()
    assert {"line 0", "line 1", "line 2"} <= {json.loads(line)["text"] for line in lines}
    metrics = talking.get(f"/jobs/{job_id}/metrics", headers=seen).json()
    assert metrics["interims"] == 3
    assert metrics["timestamps"]["finished"]
    usage = talking.get("/instances/usage").json()
    assert usage["jobs"] == {"Completed": 1}


def test_a_stream_of_events_goes_on_after_the_last_one_seen(talking: httpx.Client) -> None:
    job_id = submit(talking)["id"]
    said = list(events(talking, job_id))
    for at, (sequence, _, _) in enumerate(said[:-1]):
        assert list(events(talking, job_id, after=sequence)) == said[at + 1 :]


def test_the_results_of_a_failed_job_are_its_reason(talking: httpx.Client) -> None:
    job_id = submit(talking, params={"fail": True})["id"]
    last = list(events(talking, job_id))[-1][0]
    response = talking.get(f"/jobs/{job_id}/results", headers={"Neartime-Sequence": str(last)})
    assert response.headers["content-type"].startswith("text/plain")
    assert "ValueError: as it was told" in response.text
    assert talking.get(f"/jobs/{job_id}").json()["state"]["reason_code"] == "ProgramError"


def test_a_job_that_has_ended_can_be_deleted_and_not_cancelled(talking: httpx.Client) -> None:
    job_id = submit(talking)["id"]
    last = list(events(talking, job_id))[-1][0]
    talking.get(f"/jobs/{job_id}", headers={"Neartime-Sequence": str(last)})
    cancelled = talking.post(f"/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["errors"][0]["code"]) == (409, "job_finished")
    assert talking.delete(f"/jobs/{job_id}").status_code == 204
    assert talking.get(f"/jobs/{job_id}").status_code == 404


def test_another_instances_jobs_and_sessions_are_not_there(talking: httpx.Client, stranger: httpx.Client) -> None:
    job = submit(talking)
    for method, path in [
        ("GET", ""), ("GET", "/results"), ("GET", "/interim_results"), ("GET", "/logs"), ("GET", "/metrics"),
        ("GET", "/events"), ("DELETE", ""), ("POST", "/cancel"), ("PUT", "/tags"),
    ]:  # fmt: skip
        content = {"tags": ["mine"]} if path == "/tags" else None
        assert stranger.request(method, f"/jobs/{job['id']}{path}", json=content).status_code == 404, path
    session = talking.post("/sessions", json={"backend": "aer"}).json()["id"]
    assert stranger.get(f"/sessions/{session}").status_code == 404
    assert stranger.delete(f"/sessions/{session}/close").status_code == 404
    stranger.post("/programs", json=body("talking", TALKING))
    response = stranger.post("/jobs", json={"program_id": "talking", "session_id": session})
    assert response.status_code == 404
    assert stranger.get("/jobs").json()["count"] == 0


def test_a_session_takes_jobs_until_it_is_closed(talking: httpx.Client) -> None:
    made = talking.post("/sessions", json={"backend": "aer", "mode": "batch", "max_ttl": 60})
    assert made.status_code == 201, made.text
    session = made.json()
    assert (session["mode"], session["accepting_jobs"], session["max_ttl"]) == ("batch", True, 60)
    job_id = submit(talking, session_id=session["id"])["id"]
    list(events(talking, job_id))
    assert [one["id"] for one in talking.get("/sessions").json()["sessions"]] == [session["id"]]
    closed = talking.patch(f"/sessions/{session['id']}", json={"accepting_jobs": False}).json()
    assert closed["accepting_jobs"] is False
    refused = talking.post("/jobs", json={"program_id": "talking", "session_id": session["id"]})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (409, "session_closed")
    assert talking.delete(f"/sessions/{session['id']}/close").status_code == 204


def test_a_session_opened_twice_under_one_key_is_one(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "session"}
    answers = {client.post("/sessions", json={"backend": "aer"}, headers=headers).content for _ in range(3)}
    assert len(answers) == 1
    assert client.get("/sessions").json()["count"] == 1


def test_backends_are_described(client: httpx.Client) -> None:
    listed = client.get("/backends").json()
    assert listed["devices"] == [one["name"] for one in listed["backends"]]
    assert "aer" in listed["devices"]
    for name in listed["devices"]:
        assert client.get(f"/backends/{name}/configuration").json()["num_qubits"] > 0
        assert client.get(f"/backends/{name}/properties").status_code == 200
        status = client.get(f"/backends/{name}/status").json()
        assert (status["name"], status["state"]) == (name, True)


def test_a_program_that_was_deleted_leaves_its_jobs(client: httpx.Client) -> None:
    client.post("/programs", json=body("gone", MAIN))
    job_id = submit(client, "gone")["id"]
    client.delete("/programs/gone")
    assert client.get(f"/jobs/{job_id}").json()["program"]["name"] == "gone"
    assert client.post("/jobs", json={"program_id": "gone"}).status_code == 404
