"""Kill -9, one at a time, in the middle of a running job: what the user sees, and that nothing published is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from neartime import RuntimeService
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.errors import JobFailed
from neartime_server.testing import Runtime

COUNT = 60

COUNTING = """
import os, time

def main(backend, user_messenger, count, pause=0.05):
    print("counting in", os.getpid(), flush=True)
    user_messenger.publish({"child": os.getpid(), "supervisor": os.environ.get("NEARTIME_SUPERVISOR_PID")})
    for number in range(count):
        time.sleep(pause)
        user_messenger.publish(number)
    return count
"""


class Heard:
    """What a callback was given, and a way to wait for the n-th."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._changed = threading.Condition()

    def __call__(self, job_id: str, value: Any) -> None:
        with self._changed:
            self.values.append(value)
            self._changed.notify_all()

    def wait(self, count: int, timeout: float = 30) -> list[Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.values) >= count, timeout), f"heard {len(self.values)}"
            return list(self.values)


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    """A runtime of this module's own: its parts are killed."""
    with Runtime() as runtime:
        yield runtime


@pytest.fixture
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        service.upload_program(COUNTING, name="counting")
        yield service


def test_a_killed_api_server_comes_back_and_the_running_job_completes(
    runtime: Runtime, service: RuntimeService
) -> None:
    heard = Heard()
    job = service.run("counting", inputs={"count": COUNT}, callback=heard)
    heard.wait(10)
    runtime.kill_server()
    heard.wait(20)  # the worker and NATS need no API server
    runtime.start_server()
    assert job.result(timeout=60) == COUNT
    assert heard.values[1:] == list(range(COUNT))
    assert job.status() == JobStatus.COMPLETED


def test_a_killed_nats_server_comes_back_and_nothing_is_lost_or_repeated(
    runtime: Runtime, service: RuntimeService
) -> None:
    heard = Heard()
    job = service.run("counting", inputs={"count": COUNT}, callback=heard)
    heard.wait(10)
    runtime.kill_nats()
    runtime.start_nats()
    assert job.result(timeout=60) == COUNT
    assert heard.values[1:] == list(range(COUNT))
    assert list(job.interim_results())[1:] == list(range(COUNT))


CLIENT = """
import json, os, sys
from neartime import RuntimeService

def tell(job_id, value):
    print(json.dumps(value), flush=True)

service = RuntimeService()
job = service.run("counting", inputs={"count": 60}, callback=tell)
print(json.dumps(job.job_id()), flush=True)
job.result()
"""


def test_a_killed_client_is_followed_by_one_that_resumes_at_the_next_message(
    runtime: Runtime, service: RuntimeService
) -> None:
    environment = os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}
    client = subprocess.Popen([sys.executable, "-c", CLIENT], stdout=subprocess.PIPE, text=True, env=environment)
    assert client.stdout is not None
    lines = [json.loads(client.stdout.readline()) for _ in range(12)]
    client.send_signal(signal.SIGKILL)
    lines += [json.loads(line) for line in client.stdout]
    client.wait()
    (job_id,) = (line for line in lines if isinstance(line, str))
    seen = [line for line in lines if line != job_id]
    heard = Heard()
    job = service.job(job_id)
    job.stream_results(heard, after=len(seen))
    assert job.result(timeout=60) == COUNT
    assert (seen + heard.values)[1:] == list(range(COUNT))


def test_a_killed_child_fails_its_job_with_the_signal_and_the_logs_tail(service: RuntimeService) -> None:
    heard = Heard()
    job = service.run("counting", inputs={"count": 10_000}, callback=heard)
    child = heard.wait(5)[0]["child"]
    os.kill(child, signal.SIGKILL)
    with pytest.raises(JobFailed, match="SIGKILL") as caught:
        job.result(timeout=60)
    assert caught.value.reason_code in (ReasonCode.PROCESS_DIED, ReasonCode.OUT_OF_MEMORY)
    assert f"counting in {child}" in str(caught.value) + caught.value.log_tail
    assert heard.values[1:] == list(range(len(heard.values) - 1))


def test_a_session_goes_on_after_its_child_was_killed(service: RuntimeService) -> None:
    from neartime import Session

    with Session(service, backend="aer") as session:
        heard = Heard()
        job = session.run("counting", inputs={"count": 10_000}, callback=heard)
        os.kill(heard.wait(2)[0]["child"], signal.SIGKILL)
        with pytest.raises(JobFailed):
            job.result(timeout=60)
        assert session.run("counting", inputs={"count": 1}).result(timeout=60) == 1


def test_a_killed_supervisor_fails_its_job_with_that_reason_and_the_logs_tail(service: RuntimeService) -> None:
    heard = Heard()
    job = service.run("counting", inputs={"count": 10_000}, callback=heard)
    first = heard.wait(5)[0]
    os.kill(int(first["supervisor"]), signal.SIGKILL)
    with pytest.raises(JobFailed) as caught:
        job.result(timeout=60)
    assert caught.value.reason_code == ReasonCode.WORKER_LOST
    assert f"counting in {first['child']}" in str(caught.value) + caught.value.log_tail
    assert job.status() == JobStatus.FAILED
