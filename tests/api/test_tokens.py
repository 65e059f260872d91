"""Tokens and instances: made and ended while the server runs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time

import httpx
import pytest
from servers import Server

from neartime.contract.ids import new_id
from neartime.contract.streams import StreamAccess
from neartime.stream import Link
from neartime_server.api.gate import TOKEN_CACHE_SECONDS
from neartime_server.errors import AdminError


def _admin(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "neartime_server", "admin", *arguments]
    return subprocess.run(command, env=server.environment, capture_output=True, text=True, check=False)


def test_an_instance_and_its_token_made_by_command_work_at_once(server: Server) -> None:
    assert _admin(server, "instance", "create", "commanded").returncode == 0
    made = _admin(server, "user", "create", "ada", "--instance", "commanded", "--days", "1")
    assert made.returncode == 0, made.stderr
    with server.client(made.stdout.strip()) as client:
        assert client.get("/jobs").json()["count"] == 0
        assert client.post("/streams/token").status_code == 200
    listed = json.loads(_admin(server, "token", "list", "--instance", "commanded", "--json").stdout)
    assert [(one["user"], one["role"]) for one in listed] == [("ada", "user")]
    assert made.stdout.strip() not in json.dumps(listed)
    again = _admin(server, "instance", "create", "commanded")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: ")
    assert "choose another name" in again.stderr
    unknown = _admin(server, "user", "end", "bob", "--instance", "commanded")
    assert unknown.stderr.startswith("Error: 'bob' has no live token")
    assert "neartime admin user list --instance commanded" in unknown.stderr
    limited = ["instance", "limit", "commanded"]
    assert _admin(server, *limited, "--live-jobs", "3", "--open-sessions", "none").returncode == 0
    assert "live_jobs=3 open_sessions=none" in _admin(server, "instance", "list").stdout
    assert _admin(server, *limited, "--live-jobs", "default").returncode == 0
    listed = json.loads(_admin(server, "instance", "list", "--json").stdout)
    assert next(one["limits"] for one in listed if one["name"] == "commanded") == "open_sessions=none"
    assert "name a limit: --running-jobs" in _admin(server, *limited).stderr
    assert "neither a number" in _admin(server, *limited, "--live-jobs", "few").stderr
    assert _admin(server, "instance", "end", "commanded").returncode == 0


def test_an_ended_token_is_refused_within_the_seconds_that_are_stated(server: Server) -> None:
    server.admin.create_instance("ending")
    token = server.admin.create_token("ending", "ada")
    with server.client(token) as client:
        assert client.get("/jobs").status_code == 200
        server.admin.end_user("ending", "ada")
        deadline = time.monotonic() + TOKEN_CACHE_SECONDS + 1
        while client.get("/jobs").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    with pytest.raises(AdminError, match="no live token"):
        server.admin.end_user("ending", "ada")


async def test_what_was_given_out_for_a_token_ends_with_it(server: Server) -> None:
    name = f"ending-{new_id()}"
    server.admin.create_instance(name)
    token, other = (server.admin.create_token(name, user) for user in ("ada", "bob"))
    links = []
    for one in (token, other):
        with server.client(one) as client:
            access = StreamAccess.model_validate_json(client.post("/streams/token").content)
        links.append(await Link.open(access, name="test"))
    server.admin.end_user(name, "ada")
    async with asyncio.timeout(10):
        while links[0].client.is_connected:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.05)
    assert links[1].client.is_connected
    with server.client(other) as client:
        assert client.get("/jobs").status_code == 200
    for link in links:
        await link.close()


def test_a_stream_credential_is_handed_out_and_is_not_kept_by_caches(client: httpx.Client) -> None:
    response = client.post("/streams/token")
    assert response.headers["cache-control"] == "no-store"
    access = response.json()
    assert access["url"].startswith("nats://")
    assert "BEGIN NATS USER JWT" in access["credential"]
