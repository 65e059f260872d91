"""The queue over HTTP: who waits for what, whose it is, and who may change its order."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from servers import Server
from uploads import body

WAITS = "import time\n\ndef main(backend, user_messenger):\n    time.sleep(60)\n"


def submit(client: httpx.Client, **members: Any) -> str:
    response = client.post("/jobs", json={"program_id": "waits", "params": {}, **members})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


@pytest.fixture
def waiting(client: httpx.Client, stranger: httpx.Client) -> Any:
    """A backend that a dedicated session of one instance has, and the jobs that wait for it: (session, job that has it,
    own job, job of another instance)."""
    for one in (client, stranger):
        assert one.post("/programs", json=body("waits", WAITS)).status_code == 201
    name = client.get("/backends").json()["devices"][0]
    session = client.post("/sessions", json={"backend": name}).json()["id"]
    first = submit(client, session_id=session)
    own, other = submit(client, backend=name), submit(stranger, backend=name)
    while client.get(f"/jobs/{first}").json()["status"] == "Queued":
        time.sleep(0.05)
    yield name, session, first, own, other
    for one, job_id in ((client, own), (stranger, other)):
        one.post(f"/jobs/{job_id}/cancel")
    client.delete(f"/sessions/{session}/close")


def test_who_waits_is_told_its_place_and_for_what(
    waiting: tuple[str, ...], client: httpx.Client, stranger: httpx.Client
) -> None:
    name, _, first, own, other = waiting
    mine = client.get("/queue", params={"backend": name}).json()["jobs"]
    assert [(one["id"], one["position"]) for one in mine] == [
        (first, None),
        (own, 2),
    ]  # its instance has a job that runs
    assert mine[1]["waits_for"].startswith("another dedicated session, which has the backend until ")
    (theirs,) = stranger.get("/queue").json()["jobs"]
    assert (theirs["id"], theirs["position"]) == (other, 1)
    assert theirs["waits_for"].startswith("somebody else's dedicated session")
    assert stranger.get(f"/jobs/{other}").json()["position"] == 1
    assert stranger.get(f"/jobs/{other}/metrics").json()["position_in_queue"] == 1
    (listed,) = stranger.get("/jobs").json()["jobs"]
    assert listed["waits_for"] == theirs["waits_for"]


def test_an_operator_sees_all_and_lets_a_job_go_first(
    waiting: tuple[str, ...], owner: httpx.Client, client: httpx.Client
) -> None:
    name, _, first, own, other = waiting
    query = {"backend": name, "every_instance": True}
    seen = [one["id"] for one in owner.get("/queue", params=query).json()["jobs"]]
    assert seen == [first, other, own]
    assert owner.put(f"/queue/{own}/priority", json={"priority": 7}).status_code == 204
    entries = owner.get("/queue", params=query).json()["jobs"]
    assert [(one["id"], one["priority"]) for one in entries] == [(first, 0), (own, 7), (other, 0)]
    assert len({one["instance"] for one in entries}) == 2
    assert client.get(f"/jobs/{own}").json()["priority"] == 7


def test_a_user_sees_no_others_and_changes_no_order(waiting: tuple[str, ...], client: httpx.Client) -> None:
    own = waiting[3]
    for response in (
        client.get("/queue", params={"every_instance": True}),
        client.put(f"/queue/{own}/priority", json={"priority": 1}),
    ):
        assert response.status_code == 403
        assert response.json()["errors"][0]["code"] == "forbidden"


def test_what_can_not_be_put_first_is_told_with_the_reason(
    waiting: tuple[str, ...], owner: httpx.Client, client: httpx.Client
) -> None:
    _, _, first, own, _ = waiting
    codes = []
    client.post(f"/jobs/{own}/cancel")
    while client.get(f"/jobs/{own}").json()["status"] != "Cancelled":
        time.sleep(0.05)
    for job_id, priority in ((first, 1), (own, 1), ("z" * 20, 1), (own, 1001)):
        response = owner.put(f"/queue/{job_id}/priority", json={"priority": priority})
        codes.append((response.status_code, response.json()["errors"][0]["code"]))
    assert codes == [(409, "job_started"), (409, "job_finished"), (404, "not_found"), (422, "invalid_request")]
    assert client.get("/queue", params={"backend": "nowhere"}).status_code == 404


def test_usage_tells_the_limits_and_where_they_stand(
    waiting: tuple[str, ...], client: httpx.Client, server: Server
) -> None:
    usage = client.get("/instances/usage").json()
    instance = next(one for one in server.admin.instances() if one.id == usage["instance"])
    server.admin.limit_instance(instance.name, {"live_jobs": 2, "open_sessions": 1})
    limits = client.get("/instances/usage").json()["limits"]
    assert limits["live_jobs"] == {"limit": 2, "used": 2}
    assert limits["open_sessions"] == {"limit": 1, "used": 1}
    assert limits["running_jobs"] == {"limit": None, "used": 1}
    refused = client.post("/sessions", json={})
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (429, "limit_reached")
    server.admin.limit_instance(instance.name, {"live_jobs": None, "open_sessions": None})
    assert client.get("/instances/usage").json()["limits"]["live_jobs"]["limit"] is None
