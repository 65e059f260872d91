"""HTTP as the client speaks it, against a small peer that speaks the contract."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from neartime.config import Account
from neartime.contract.version import CONTRACT_VERSION, VERSION_HEADER
from neartime.errors import (
    Conflict,
    ConnectionFailed,
    IncompatibleVersion,
    InvalidRequest,
    LimitReached,
    NotFound,
    RequestFailed,
    ServerFailed,
    Unauthorized,
)
from neartime.transport import Transport

Answer = httpx.Response | Exception


class Peer(httpx.AsyncBaseTransport):
    """Answers requests in turn, the last answer for ever, and keeps what it was asked."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(await request.aread())
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(status: int, *codes: str, **fields: Any) -> httpx.Response:
    errors = [{"code": code, "message": f"it is {code}", **fields} for code in codes]
    return httpx.Response(status, json={"errors": errors, "trace": "abc"})


def transport(peer: Peer, patience: float = 5.0) -> Transport:
    return Transport(Account("http://127.0.0.1:1", "secret"), patience=patience, http=peer)


OK = httpx.Response(200, json={"ok": True}, headers={VERSION_HEADER: str(CONTRACT_VERSION)})
LOST = httpx.ReadError("connection lost")


async def test_a_request_carries_the_token_and_the_contract_version() -> None:
    peer = Peer(OK)
    assert await transport(peer).json("GET", "/jobs", query={"limit": 3, "status": None, "tags": ["a", "b"]}) == {
        "ok": True
    }
    (request,) = peer.requests
    assert str(request.url) == "http://127.0.0.1:1/api/v1/jobs?limit=3&tags=a&tags=b"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers[VERSION_HEADER] == str(CONTRACT_VERSION)


@pytest.mark.parametrize(
    "trouble", [LOST, httpx.ConnectError("refused"), said(503, "unavailable"), httpx.Response(502)]
)
async def test_a_server_that_was_away_is_not_noticed(trouble: Answer) -> None:
    peer = Peer(OK, trouble, trouble, OK)
    client = transport(peer)
    await client.json("GET", "/jobs")
    assert await client.json("GET", "/jobs") == {"ok": True}
    assert len(peer.requests) == 4


async def test_a_post_is_repeated_under_one_idempotency_key() -> None:
    peer = Peer(LOST, LOST, OK)
    client = transport(peer)
    await client.json("POST", "/jobs", {"a": 1})
    keys = {request.headers["Idempotency-Key"] for request in peer.requests}
    assert (len(peer.requests), len(keys), set(peer.bodies)) == (3, 1, {b'{"a": 1}'})
    await client.json("POST", "/jobs", {"a": 1})
    assert peer.requests[-1].headers["Idempotency-Key"] not in keys


async def test_a_key_of_the_users_own_is_sent_as_it_is() -> None:
    peer = Peer(OK)
    await transport(peer).json("POST", "/jobs", {}, key="mine")
    assert peer.requests[0].headers["Idempotency-Key"] == "mine"


async def test_a_body_in_pieces_is_made_anew_for_each_try() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"a":'
        yield b"1}"

    peer = Peer(LOST, OK)
    await transport(peer).request("POST", "/jobs", pieces)
    assert peer.bodies == [b'{"a":1}', b'{"a":1}']


async def test_a_server_that_stays_away_is_given_up_with_what_to_do() -> None:
    with pytest.raises(ConnectionFailed, match="neartime up"):
        await transport(Peer(httpx.ConnectError("refused")), patience=0.1).json("GET", "/jobs")


async def test_an_error_after_which_something_may_have_happened_is_not_repeated() -> None:
    peer = Peer(said(500, "internal_error"))
    with pytest.raises(ServerFailed, match="it is internal_error"):
        await transport(peer).json("POST", "/jobs", {})
    assert len(peer.requests) == 1


async def test_a_delete_whose_answer_was_lost_counts_as_done() -> None:
    peer = Peer(LOST, said(404, "not_found"))
    assert await transport(peer).json("DELETE", "/jobs/x") is None
    with pytest.raises(NotFound):
        await transport(Peer(said(404, "not_found"))).json("DELETE", "/jobs/x")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (403, Unauthorized),
        (404, NotFound),
        (409, Conflict),
        (413, InvalidRequest),
        (422, InvalidRequest),
        (429, LimitReached),
        (500, ServerFailed),
    ],
)
async def test_each_refusal_has_its_class_and_tells_every_problem(status: int, kind: type[RequestFailed]) -> None:
    answer = said(status, "invalid_request", "too_large", solution="try less")
    with pytest.raises(kind) as caught:
        await transport(Peer(answer)).json("POST", "/jobs", {})
    assert caught.value.status == status
    assert caught.value.trace == "abc"
    assert str(caught.value) == "it is invalid_request (try less)\nit is too_large (try less)"


async def test_what_is_no_neartime_server_is_told_so() -> None:
    for answer in (httpx.Response(404, text="<html>nginx"), httpx.Response(200, text="<html>hello")):
        with pytest.raises(ConnectionFailed, match="no Neartime server"):
            await transport(Peer(answer)).json("GET", "/jobs")


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(200, json={}, headers={VERSION_HEADER: "999"}), said(400, "incompatible_version")],
    ids=["by its header", "by its refusal"],
)
async def test_a_server_of_another_contract_version_is_refused(answer: httpx.Response) -> None:
    with pytest.raises(IncompatibleVersion):
        await transport(Peer(answer)).json("GET", "/jobs")


async def test_both_versions_and_the_command_that_mends_it_are_named() -> None:
    newer = httpx.Response(200, json={}, headers={VERSION_HEADER: "999"})
    with pytest.raises(IncompatibleVersion, match=rf"999.*{CONTRACT_VERSION}: pip install --upgrade neartime here"):
        await transport(Peer(newer)).json("GET", "/jobs")


async def test_requests_tell_what_the_client_has_seen_of_the_stream() -> None:
    peer = Peer(OK)
    client = transport(peer)
    await client.json("GET", "/jobs/x")
    client.seen = 17
    await client.json("GET", "/jobs/x")
    await client.json("DELETE", "/jobs/x")
    assert [request.headers.get("Neartime-Sequence") for request in peer.requests] == [None, "17", "17"]


class Whole:
    def __init__(self) -> None:
        self.data = b""

    def feed(self, chunk: bytes) -> None:
        self.data += chunk

    def finish(self) -> Any:
        return json.loads(self.data)


class Torn(httpx.AsyncByteStream):
    """A body that breaks off."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"[1,"
        raise LOST


async def test_a_download_that_breaks_off_starts_again_with_a_new_sink() -> None:
    peer = Peer(httpx.Response(200, stream=Torn()), httpx.Response(200, content=b"[1,2]"))
    sink = await transport(peer).download("/jobs/x/results", Whole)
    assert sink is not None
    assert sink.finish() == [1, 2]


async def test_a_value_that_is_not_there_is_none() -> None:
    assert await transport(Peer(httpx.Response(204))).download("/jobs/x/results", Whole) is None


@pytest.mark.parametrize("make", [lambda: LOST, lambda: said(404, "not_found")], ids=["lost", "refused"])
async def test_the_token_is_in_no_error(make: Callable[[], Answer]) -> None:
    with pytest.raises((ConnectionFailed, RequestFailed)) as caught:
        await transport(Peer(make()), patience=0.05).json("GET", "/jobs")
    assert "secret" not in f"{caught.value!r} {caught.value}"
