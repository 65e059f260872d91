"""Programs over HTTP."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from typing import Any

import httpx
import pytest
from uploads import MAIN, SCHEMA, archive, body, faults

from neartime.contract.programs import ProgramView


def own(client: httpx.Client) -> list[dict[str, object]]:
    """The programs of the instance itself: those that every server has left out."""
    return [one for one in client.get("/programs").json()["programs"] if not one["is_preinstalled"]]


def test_a_program_is_uploaded_shown_by_id_and_name_and_downloaded(client: httpx.Client) -> None:
    sent = body(description="says hello", schemas={"inputs": SCHEMA})
    made = client.post("/programs", json=sent)
    assert made.status_code == 201, made.text
    program = ProgramView.model_validate_json(made.content)
    assert (program.name, program.description, program.is_public) == ("hello", "says hello", False)
    assert (program.version.number, program.version.build) == (1, "ready")
    assert program.version.manifest["schemas"]["inputs"] == SCHEMA
    for reference in (program.id, "hello"):
        assert client.get(f"/programs/{reference}").json() == made.json()
    assert client.get("/programs/hello/data").content == base64.b64decode(sent["data"])
    assert own(client) == [made.json()]


def test_the_same_content_again_is_the_same_version_and_new_code_the_next(client: httpx.Client) -> None:
    first = client.post("/programs", json=body()).json()
    again = client.post("/programs", json=body())
    assert (again.status_code, again.json()["version"]) == (200, first["version"])
    second = client.post("/programs", json=body(code=MAIN + "# changed\n"))
    assert (second.status_code, second.json()["version"]["number"]) == (200, 2)
    assert second.json()["id"] == first["id"]
    found = client.get("/programs/hello/versions").json()
    assert [version["number"] for version in found["versions"]] == [2, 1]
    assert found["versions"][1] == first["version"]
    old = client.get("/programs/hello/data", params={"version": "1"}).content
    assert zipfile.ZipFile(io.BytesIO(old)).read("program.py").decode() == MAIN
    missing = client.get("/programs/hello/data", params={"version": "7"})
    assert missing.status_code == 404


def test_every_fault_of_manifest_and_archive_is_told_at_once(client: httpx.Client) -> None:
    sent = {
        "manifest": {"name": "No Name", "entry_point": "nothing", "max_execution_time": 0, "colour": "red"},
        "data": "not base64!",
    }
    found = faults(client.post("/programs", json=sent))
    assert {"manifest.name", "manifest.colour", "data"} <= set(found)
    assert len(found) == 5
    assert found["manifest.name"] == "invalid_manifest"
    assert found["data"] == "invalid_archive"
    assert own(client) == []


@pytest.mark.parametrize(
    "data",
    [
        None,
        base64.b64encode(b"no zip").decode(),
        base64.b64encode(archive({"other.py": MAIN})).decode(),
        base64.b64encode(archive({"program.py": MAIN, "../outside.py": MAIN})).decode(),
    ],
    ids=["missing", "no zip", "no entry point", "unsafe path"],
)
def test_an_archive_that_can_not_be_run_is_refused(client: httpx.Client, data: str | None) -> None:
    found = faults(client.post("/programs", json={"manifest": {"name": "hello"}, "data": data}))
    assert set(found.values()) == {"invalid_archive"}


def test_ibms_form_of_an_upload_is_taken_and_read_back(client: httpx.Client) -> None:
    spec = {"parameters": SCHEMA, "backend_requirements": {"min_num_qubits": 5}}
    sent = {"name": "hello", "description": "old", "cost": 600, "spec": spec, "data": body()["data"]}
    made = client.post("/programs", json=sent)
    assert made.status_code == 201, made.text
    program = made.json()
    assert (program["cost"], program["description"]) == (600, "old")
    assert program["spec"]["parameters"]["required"] == ["count"]
    changed = client.patch("/programs/hello", json={"cost": 60}).json()
    assert (changed["cost"], changed["version"]["number"]) == (60, 2)
    assert changed["spec"] == program["spec"]
    replaced = client.put("/programs/hello/data", content=archive({"program.py": MAIN + "\n"}))
    assert replaced.json()["version"]["number"] == 3


def test_a_spec_that_changes_leaves_the_rest_of_the_manifest_as_it_was(client: httpx.Client) -> None:
    name = "Trotter Sample"  # as Qiskit Runtime's programs were called
    client.post("/programs", json=body("trotter-sample", python=">=3.10", resources={"memory": "1Gi"}, schemas={}))
    spec = {"parameters": SCHEMA, "backend_requirements": {"min_num_qubits": 2}}
    changed = client.patch("/programs/trotter-sample", json={"name": name, "spec": spec})
    assert changed.status_code == 200, changed.text
    manifest = changed.json()["version"]["manifest"]
    assert (manifest["python"], manifest["resources"]["memory"]) == (">=3.10", "1Gi")
    assert manifest["backends"]["min-num-qubits"] == 2
    assert manifest["schemas"]["inputs"]["required"] == ["count"]


def test_a_qiskit_that_is_too_old_is_refused_by_its_own_code(client: httpx.Client) -> None:
    refused = client.post("/programs", json=body(requirements=["qiskit==1.3.3"]))
    assert faults(refused) == {"manifest.requirements[0]": "unsupported_requirement"}
    assert "1.4.2" in refused.json()["errors"][0]["message"]


def test_description_and_visibility_change_without_a_new_version(client: httpx.Client, stranger: httpx.Client) -> None:
    made = client.post("/programs", json=body()).json()
    changed = client.patch("/programs/hello", json={"description": "new", "is_public": True}).json()
    assert (changed["description"], changed["is_public"]) == ("new", True)
    assert changed["version"] == made["version"]
    assert stranger.get(f"/programs/{made['id']}").status_code == 200
    assert client.put("/programs/hello/private").status_code == 204
    assert stranger.get(f"/programs/{made['id']}").status_code == 404
    assert client.put("/programs/hello/public").status_code == 204
    assert stranger.get(f"/programs/{made['id']}").status_code == 200
    client.delete("/programs/hello")


def test_a_new_manifest_must_keep_the_name(client: httpx.Client) -> None:
    client.post("/programs", json=body())
    assert faults(client.patch("/programs/hello", json={"manifest": {"name": "other"}})) == {
        "manifest.name": "invalid_manifest"
    }
    assert faults(client.patch("/programs/hello", json={"name": "other"})) == {"name": "invalid_request"}


def test_another_instances_program_can_not_be_seen_or_if_public_not_be_changed(
    client: httpx.Client, stranger: httpx.Client
) -> None:
    program_id = client.post("/programs", json=body("theirs")).json()["id"]
    requests = [
        ("GET", "", None),
        ("PATCH", "", {"description": "mine now"}),
        ("DELETE", "", None),
        ("GET", "/data", None),
        ("PUT", "/public", None),
    ]
    for reference in (program_id, "theirs"):
        for method, path, content in requests:
            assert stranger.request(method, f"/programs/{reference}{path}", json=content).status_code == 404
    client.put("/programs/theirs/public")
    for method, path, content in requests[1:]:
        assert stranger.request(method, f"/programs/{program_id}{path}", json=content).status_code == 403
    refused = stranger.get(f"/programs/{program_id}/data").json()["errors"][0]
    assert refused["solution"] == "you can run it; its files are its owner's"
    client.delete(f"/programs/{program_id}")


def test_a_deleted_program_frees_its_name(client: httpx.Client) -> None:
    first = client.post("/programs", json=body()).json()
    assert client.delete("/programs/hello").status_code == 204
    assert client.get("/programs/hello").status_code == 404
    second = client.post("/programs", json=body())
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]


def test_programs_are_listed_in_pages_and_searched(client: httpx.Client) -> None:
    everywhere = client.get("/programs").json()["count"]
    for name in ("alpha", "beta", "gamma"):
        client.post("/programs", json=body(name, description=f"about {name}s"))
    page = client.get("/programs", params={"limit": 2, "offset": 1}).json()
    assert ([one["name"] for one in page["programs"]], page["count"]) == (["beta", "gamma"], 3 + everywhere)
    found = client.get("/programs", params={"search": "BETAS"}).json()
    assert [one["name"] for one in found["programs"]] == ["beta"]
    assert client.get("/programs", params={"name": "gamma"}).json()["count"] == 1


def test_an_upload_sent_twice_under_one_key_is_answered_alike(client: httpx.Client) -> None:
    headers = {"Idempotency-Key": "once", "Content-Type": "application/json"}
    content = json.dumps(body())
    first = client.post("/programs", content=content, headers=headers)
    client.delete("/programs/hello")
    second = client.post("/programs", content=content, headers=headers)
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert client.get("/programs/hello").status_code == 404
    other = client.post("/programs", json=body("other"), headers=headers)
    assert (other.status_code, other.json()["errors"][0]["code"]) == (409, "idempotency_conflict")
    assert (
        client.post("/programs", content=content, headers={**headers, "Idempotency-Key": "x" * 200}).status_code == 422
    )


def test_who_asks_for_lines_hears_the_build_and_then_the_answer(client: httpx.Client) -> None:
    headers = {"Accept": "application/x-ndjson", "Idempotency-Key": "told"}

    def lines(upload: dict[str, Any], **more: str) -> list[dict[str, Any]]:
        response = client.post("/programs", json=upload, headers={**headers, **more})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]

    (made,) = lines(body("told"))
    assert (made["status"], made["body"]["name"]) == (201, "told")
    again = client.post("/programs", json=body("told"), headers=headers)
    assert (again.status_code, again.json()) == (201, made["body"])  # it was answered before, and is not told again
    first, *_, last = lines(body("told", requirements=["there-is-no-such-package==9"]), **{"Idempotency-Key": "no"})
    assert first["log"].startswith("resolving there-is-no-such-package==9 for Python 3.")
    assert (last["status"], last["body"]["errors"][0]["code"]) == (422, "build_failed")
    refused = client.post("/programs", json={"manifest": {}}, headers={**headers, "Idempotency-Key": "bad"})
    assert refused.status_code == 422


def test_a_program_of_the_servers_own_environment_has_no_bill_of_materials(client: httpx.Client) -> None:
    assert client.post("/programs", json=body("bare")).status_code == 201
    for path in ("/programs/bare/sbom", "/programs/bare/sbom?version=9", "/programs/other/sbom"):
        response = client.get(path)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (404, "not_found")


def test_requirements_that_can_not_be_had_fail_the_upload_with_the_tools_last_lines(client: httpx.Client) -> None:
    response = client.post("/programs", json=body(requirements=["neartime-no-such-package==0.0.1"]))
    assert faults(response) == {"manifest.requirements": "build_failed"}
    assert "neartime-no-such-package" in response.json()["errors"][0]["message"]
    assert client.get("/programs/hello").status_code == 404
