"""Jobs that say more than their instance's streams hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from neartime import RuntimeService
from neartime.contract.jobs import ReasonCode
from neartime.errors import JobFailed
from neartime_server.testing import Runtime

MEBIBYTE = 1 << 20
COUNT = 20_000

TALKATIVE = f"""
def main(backend, user_messenger):
    for number in range({COUNT}):
        user_messenger.publish(number)
    return "done"
"""

LARGE = """
def main(backend, user_messenger, count):
    for number in range(count):
        user_messenger.publish(bytes(1 << 20))
    return count
"""


@pytest.fixture(scope="module")
def service() -> Iterator[RuntimeService]:
    small = Runtime(jobs_stream_bytes=2 * MEBIBYTE, bulk_stream_bytes=32 * MEBIBYTE)
    with small as runtime, runtime.service() as service:
        service.upload_program(TALKATIVE, name="talkative")
        service.upload_program(LARGE, name="large")
        yield service


def test_a_job_whose_first_events_are_gone_is_read_from_what_there_is(service: RuntimeService) -> None:
    heard: list[Any] = []
    job = service.run("talkative", callback=lambda job_id, value: heard.append(value))
    assert job.result(timeout=60) == "done"
    assert heard == list(range(COUNT))
    kept = job.interim_results()
    assert 0 < len(kept) < COUNT
    assert kept == list(range(COUNT - len(kept), COUNT))


def test_a_job_that_fills_the_storage_fails_with_that_reason_and_the_next_one_has_room(service: RuntimeService) -> None:
    with pytest.raises(JobFailed, match="full") as caught:
        service.run("large", {"count": 60}).result(timeout=60)
    assert caught.value.reason_code == ReasonCode.QUOTA_EXCEEDED
    for _ in range(4):
        while not _has_room(service):  # what can go is looked for every two seconds
            pass


def _has_room(service: RuntimeService) -> bool:
    """Whether there is room for a job's eight mebibytes; they stay there."""
    job = service.run("large", {"count": 8})
    job.wait_for_final_state(timeout=60)
    return job.done()
