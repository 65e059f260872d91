"""What nobody foresaw: told as no more than a trace, in the one shape; the log has the rest."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from neartime.contract.problem import ErrorCode, Problems
from neartime_server import api
from neartime_server.api.gate import Gate, TokenCache
from neartime_server.errors import BusError, StoreUnavailable
from neartime_server.store.tokens import Principal, Role

TOKEN = {"Authorization": "Bearer good"}


@asynccontextmanager
async def _nothing(app: FastAPI) -> AsyncIterator[None]:
    yield


async def _find(token: str) -> Principal | None:
    return Principal("t", "i", "ada", Role.USER) if token == "good" else None


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of an API with routes that fail."""
    app = api.create(_nothing)

    @app.get("/raises/{kind}")
    async def raises(kind: str) -> None:
        raise {"store": StoreUnavailable("gone"), "bus": BusError("gone")}.get(kind, RuntimeError("the secret is 42"))

    @app.get("/breaks")
    async def breaks() -> StreamingResponse:
        async def half() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the other half")

        return StreamingResponse(half())

    gate = Gate(app, authenticate=TokenCache(_find), max_body_bytes=1 << 20)
    transport = httpx.ASGITransport(gate)
    async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=TOKEN) as client:
        yield client


async def test_an_unforeseen_error_is_told_by_its_trace_and_logged_once_and_whole(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/raises/anything")
    assert response.status_code == 500
    problems = Problems.model_validate_json(response.content)
    assert [problem.code for problem in problems.errors] == [ErrorCode.INTERNAL_ERROR]
    assert "42" not in response.text
    assert response.headers["x-request-id"] == problems.trace
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert problems.trace in record.getMessage()
    assert record.exc_info
    assert "42" in str(record.exc_info[1])


@pytest.mark.parametrize("kind", ["store", "bus"])
async def test_a_part_that_is_away_is_unavailable_and_worth_another_try(client: httpx.AsyncClient, kind: str) -> None:
    response = await client.get(f"/raises/{kind}")
    assert response.status_code == 503
    assert Problems.model_validate_json(response.content).errors[0].code is ErrorCode.UNAVAILABLE
    assert response.headers["retry-after"] == "1"


async def test_half_a_response_breaks_off_rather_than_seem_whole(client: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError, match="the other half"):
        await client.get("/breaks")


async def test_a_good_token_is_asked_for_once_in_a_while_and_a_bad_one_each_time() -> None:
    asked: list[str] = []

    async def find(token: str) -> Principal | None:
        asked.append(token)
        return await _find(token)

    cache = TokenCache(find)
    for _ in range(3):
        assert await cache("good")
        assert await cache("bad") is None
    assert asked.count("good") == 1
    assert asked.count("bad") == 3
