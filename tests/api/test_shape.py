"""What holds for every route: one shape of errors, a token, a trace."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import httpx
import pytest
from servers import Server

from neartime.contract.ids import is_id, new_id
from neartime.contract.problem import ErrorCode, Problems
from neartime_server.api.gate import OPEN_PATHS, TRACE_HEADER


def _problems(response: httpx.Response) -> Problems:
    assert response.headers["content-type"] == "application/json", response.text
    problems = Problems.model_validate_json(response.content)
    assert is_id(problems.trace)
    assert response.headers[TRACE_HEADER] == problems.trace
    assert problems.errors
    assert all(problem.message for problem in problems.errors)
    return problems


def _codes(response: httpx.Response) -> list[ErrorCode]:
    return [problem.code for problem in _problems(response).errors]


def _routes(client: httpx.Client) -> list[tuple[str, str]]:
    """(method, URL) of every route, with ids that name nothing."""
    document = client.get("/openapi.json").raise_for_status().json()
    return [
        (method.upper(), re.sub(r"\{\w+\}", new_id(), path))
        for path, methods in document["paths"].items()
        for method in methods
    ]


def test_every_route_refuses_a_request_without_a_good_token(server: Server, owner: httpx.Client) -> None:
    routes = [(method, path) for method, path in _routes(owner) if path not in OPEN_PATHS]
    assert len(routes) > 20
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp5"}):
        for method, path in routes:
            response = httpx.request(method, f"{server.url}{path}", headers=headers, trust_env=False)
            assert response.status_code == 401, (method, path)
            assert _codes(response) == [ErrorCode.UNAUTHORIZED]
            assert response.headers["www-authenticate"] == "Bearer"


def test_every_route_answers_nonsense_in_the_one_shape(server: Server, client: httpx.Client) -> None:
    for method, path in _routes(client):
        for content in (b"{", b'"text"', b'{"neither": "nor"}', b"\xff\xfe"):
            headers = {"Content-Type": "application/json"}
            response = client.request(method, f"{server.url}{path}", content=content, headers=headers)
            assert response.status_code < 500, (method, path, response.text)
            if response.status_code >= 400:
                _problems(response)


def test_unknown_ids_answer_404_and_say_what_is_missing(server: Server, client: httpx.Client) -> None:
    paths = [(method, path) for method, path in _routes(client) if method in ("GET", "DELETE") and path.count("/") > 3]
    assert len(paths) > 10
    for method, path in paths:
        if "/instances/" in path:
            continue
        response = client.request(method, f"{server.url}{path}")
        assert response.status_code == 404, (method, path, response.text)
        assert _codes(response)[0] in (ErrorCode.NOT_FOUND, ErrorCode.UNKNOWN_BACKEND)


def test_the_frameworks_own_refusals_have_the_shape_too(server: Server, client: httpx.Client) -> None:
    nowhere = client.get("/nowhere")
    assert (nowhere.status_code, _codes(nowhere)) == (404, [ErrorCode.NOT_FOUND])
    root = client.get(f"{server.url}/")
    assert (root.status_code, _codes(root)) == (404, [ErrorCode.NOT_FOUND])
    method = client.put("/jobs", json={})
    assert (method.status_code, _codes(method)) == (405, [ErrorCode.METHOD_NOT_ALLOWED])
    assert method.headers["allow"] == "GET, POST"
    query = client.get("/jobs?limit=0&sort=up&created_after=soon")
    assert query.status_code == 422
    assert [problem.path for problem in _problems(query).errors] == ["limit", "created_after", "sort"]


def test_all_faults_of_a_body_are_told_at_once_each_with_its_path(client: httpx.Client) -> None:
    response = client.post("/jobs", json={"params": {}, "max_attempts": 99, "shots": 1, "tags": ["a", ""]})
    assert response.status_code == 422
    found = {problem.path: problem.message for problem in _problems(response).errors}
    assert set(found) == {"program_id", "max_attempts", "shots", "tags[1]"}
    assert found["shots"] == "shots: is not known here; is it misspelt?"


def test_a_body_that_is_not_declared_as_json_is_refused_with_the_remedy(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl sends it, unless told
    problem = _problems(client.post("/sessions", content=b'{"backend": "aer"}', headers=headers)).errors[0]
    assert problem.solution == "send the body with Content-Type: application/json"


def test_another_contract_version_is_refused_with_both_numbers_and_the_remedy(client: httpx.Client) -> None:
    response = client.get("/jobs", headers={"Neartime-Contract": "0"})
    assert (response.status_code, _codes(response)) == (400, [ErrorCode.INCOMPATIBLE_VERSION])
    message = _problems(response).errors[0].message
    assert "version 0" in message
    assert "speaks 1" in message
    assert "pip install --upgrade neartime" in message
    assert client.get("/jobs", headers={"Neartime-Contract": "1"}).headers["neartime-contract"] == "1"
    assert client.get("/jobs", headers={"Neartime-Contract": "one"}).status_code == 400


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(client: httpx.Client, chunked: bool) -> None:
    body = b'{"mode": "' + b"x" * (1 << 20) + b'"}'
    response = client.post("/sessions", content=iter([body[:100], body[100:]]) if chunked else body)
    assert (response.status_code, _codes(response)) == (413, [ErrorCode.TOO_LARGE])


def test_the_description_lists_the_error_shape_and_every_model(owner: httpx.Client) -> None:
    document = owner.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert {"Problems", "Problem", "JobRequest", "JobView", "ProgramView", "SessionView", "StreamAccess"} <= set(
        schemas
    )
    assert "HTTPValidationError" not in schemas
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status in ("4XX", "5XX"):
                shape = operation["responses"][status]["content"]["application/json"]["schema"]
                assert shape == {"$ref": "#/components/schemas/Problems"}, (method, path)
    references = set(re.findall(r'"#/components/schemas/(\w+)"', owner.get("/openapi.json").text))
    assert references <= set(schemas)


def test_health_is_told_to_anybody_and_metrics_to_operators(
    server: Server, client: httpx.Client, owner: httpx.Client
) -> None:
    assert httpx.get(f"{server.url}/healthz", trust_env=False).json() == {"status": "ok"}
    assert httpx.get(f"{server.url}/readyz", trust_env=False).json() == {"status": "ready"}
    refused = client.get(f"{server.url}/metrics")
    assert (refused.status_code, _codes(refused)) == (403, [ErrorCode.FORBIDDEN])
    assert "neartime_jobs" in owner.get(f"{server.url}/metrics").raise_for_status().text


def test_what_the_server_keeps_is_for_its_owner_alone(server: Server) -> None:
    private = [Path("token"), Path("secret"), Path("run/server.json")]
    for path in private:
        assert stat.S_IMODE((server.home / path).stat().st_mode) == 0o600, path
