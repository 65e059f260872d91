"""Sessions under load and under failure, on a real runtime."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neartime import RuntimeService, Session
from neartime.contract.jobs import ReasonCode
from neartime.contract.sessions import SessionState
from neartime.errors import JobFailed
from neartime_server.embedded import processes
from neartime_server.testing import Runtime

CLIENTS = 20

USES = """
import time

def main(backend, user_messenger, pause=0.0):
    began = time.monotonic_ns()
    time.sleep(pause)
    return began, time.monotonic_ns()
"""

OTHER = """
import os, time

def main(backend, user_messenger, end=None):
    if end == "crash":
        os.kill(os.getpid(), 9)
    while end == "sleep":
        time.sleep(0.01)
    return backend.name
"""


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    with Runtime() as runtime:
        yield runtime


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        service.upload_program(USES, name="uses")
        service.upload_program(OTHER, name="other")
        yield service


def resident(pid: int | None) -> int:
    """Bytes of memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) << 10


def workers(runtime: Runtime) -> int:
    """Processes of the runtime's workers, its zygotes not counted."""
    found = [Path(f"/proc/{one.pid}/stat").read_text() for one in processes.runners_of(runtime.home)]
    parents = {int(text.rpartition(")")[2].split()[1]) for text in found}
    pids = {int(text.split()[0]) for text in found}
    return len([text for text in found if int(text.rpartition(")")[2].split()[1]) in pids & parents])


def opened_used_and_closed(runtime: Runtime, count: int) -> None:
    """So many sessions, by twenty clients at once."""

    def client(number: int) -> int:
        done = 0
        with runtime.service() as service:
            for _ in range(count // CLIENTS):
                with Session(service, backend="aer", mode="batch") as session:
                    began, ended = session.run("uses").result(timeout=100)
                    done += began <= ended
        return done

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert sum(clients.map(client, range(CLIENTS))) == count


def until(holds: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_hundred_sessions_of_twenty_clients_leave_nothing_behind(
    runtime: Runtime, service: RuntimeService, record_property: Any
) -> None:
    opened_used_and_closed(runtime, 100)
    until(lambda: workers(runtime) == 0)
    assert runtime._server is not None
    before = resident(runtime._server.pid)
    began = time.monotonic()
    opened_used_and_closed(runtime, 200)
    print(f"200 sessions in {time.monotonic() - began:.1f} s")
    until(lambda: workers(runtime) == 0)
    until(lambda: resident(runtime._server.pid) < 1.1 * before)  # type: ignore[union-attr]
    open_ones = [one for one in service.sessions(limit=200) if one.state is not SessionState.CLOSED]
    assert open_ones == []


VANISHES = """
import sys
from neartime import RuntimeService, Session
service = RuntimeService()
session = Session(service, backend="generic_5q", interactive_timeout=2)
session.run("uses").result()
print(session.session_id, flush=True)
sys.stdin.read()
"""


def test_a_session_whose_client_vanished_closes_itself_and_the_next_in_line_begins(
    runtime: Runtime, service: RuntimeService
) -> None:
    environment = os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}
    client = subprocess.Popen(
        [sys.executable, "-c", VANISHES], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    session_id = client.stdout.readline().strip()
    idle = time.monotonic_ns()
    client.send_signal(signal.SIGKILL)
    client.wait()
    began, _ = service.run("uses", options={"backend": "generic_5q"}).result(timeout=60)
    view = Session.from_id(session_id, service).details()
    assert view["state"] == "closed"
    assert "interactive" in view["reason"]
    delay = (began - idle) / 1e9 - 2
    print(f"the next in line began {delay:.2f} s after the timeout of 2 s")
    assert delay > -0.5  # not before; how soon after is for the reader of the output


def test_dedicated_sessions_of_two_instances_never_overlap(runtime: Runtime, service: RuntimeService) -> None:
    tokens = [runtime.new_instance(name) for name in ("one", "two")]

    def client(token: str) -> list[tuple[int, int]]:
        with runtime.service(token) as mine:
            mine.upload_program(USES, name="uses")
            held = []
            for _ in range(4):
                with Session(mine, backend="generic_5q") as session:
                    spans = [session.run("uses", {"pause": 0.02}).result(timeout=100) for _ in range(3)]
                    held.append((spans[0][0], spans[-1][1]))
            return held

    with ThreadPoolExecutor(2) as clients:
        first, second = clients.map(client, tokens)
    assert len(first) == len(second) == 4
    for begin, end in first:
        assert all(end < other or begin > until_ for other, until_ in second)


def test_a_session_goes_on_with_several_programs_through_a_crash_a_cancel_and_a_timeout(
    service: RuntimeService,
) -> None:
    with Session(service, backend="generic_5q") as session:
        for _ in range(2):
            assert session.run("other").result(timeout=60) == "generic_5q"
            began, ended = session.run("uses").result(timeout=60)
            assert began <= ended
        with pytest.raises(JobFailed) as crashed:
            session.run("other", {"end": "crash"}).result(timeout=60)
        assert crashed.value.reason_code == ReasonCode.PROCESS_DIED
        assert session.run("other").result(timeout=60) == "generic_5q"
        with pytest.raises(JobFailed) as late:
            session.run("other", {"end": "sleep"}, {"max_execution_time": 1}).result(timeout=60)
        assert late.value.reason_code == ReasonCode.TIMED_OUT
        assert session.run("other").result(timeout=60) == "generic_5q"
        job = session.run("other", {"end": "sleep"})
        until(job.running)
        job.cancel()
        job.wait_for_final_state(timeout=60)
        assert job.cancelled()
        assert session.run("other").result(timeout=60) == "generic_5q"
        assert session.status() is SessionState.ACTIVE
