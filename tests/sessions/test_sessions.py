"""Sessions under load and under failure, on a real runtime."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
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
    began = time.monotonic_ns()  # of the machine's clock, which all processes share
    time.sleep(pause)
    return began, time.monotonic_ns()
"""

MEASURES = """
import time

from qiskit import QuantumCircuit

bell = QuantumCircuit(2)
bell.h(0)
bell.cx(0, 1)
bell.measure_all()

def main(backend, user_messenger):
    began = time.monotonic_ns()
    counts = backend.run(bell, shots=100).result().get_counts()
    return began, time.monotonic_ns(), sum(counts.values())
"""

OTHER = """
import os, time

def main(backend, user_messenger, end=None):
    if end == "crash":
        os.kill(os.getpid(), 9)
    while end == "sleep":
        time.sleep(0.01)
    while end == "stubborn":
        try:
            time.sleep(0.01)
        except Exception:
            pass
    return backend.name
"""

COUNTS = """
jobs = 0

def main(backend, user_messenger):
    global jobs
    jobs += 1
    return jobs
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
        service.upload_program(COUNTS, name="counts")
        yield service


def resident(pid: int | None) -> int:
    """Bytes of memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) << 10


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a measured figure into the test output, also of a test that passes."""

    def print_it(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", file=sys.stderr, flush=True)  # which pytest-xdist passes on too

    return print_it


def opened_used_and_closed(runtime: Runtime, count: int) -> None:
    """So many sessions, by twenty clients at once; every tenth of them has its backend to itself."""
    numbers = iter(range(count))
    turn = threading.Lock()

    def next_number() -> int | None:
        with turn:
            return next(numbers, None)

    def client(_: int) -> int:
        done = 0
        with runtime.service() as service:
            while (number := next_number()) is not None:
                mode = "batch" if number % 10 else "dedicated"
                with Session(service, backend="aer", mode=mode) as session:
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
    runtime: Runtime, service: RuntimeService, say: Callable[[str], None]
) -> None:
    assert runtime._server is not None
    server = runtime._server.pid
    service.run("uses", options={"backend": "aer"}).result(timeout=60)
    until(lambda: len(processes.runners_of(runtime.home)) == 1)
    zygotes = processes.runners_of(runtime.home)
    opened_used_and_closed(runtime, 100)
    until(lambda: processes.runners_of(runtime.home) == zygotes)
    before = resident(server)
    began = time.monotonic()
    opened_used_and_closed(runtime, 200)
    took = time.monotonic() - began
    until(lambda: processes.runners_of(runtime.home) == zygotes)
    until(lambda: resident(server) < 1.1 * before)
    after = resident(server)
    say(f"200 sessions in {took:.1f} s; the server's memory: {before >> 10:,} KiB before, {after >> 10:,} KiB after")
    assert [one.id for one in service.sessions(limit=200) if one.state is not SessionState.CLOSED] == []
    assert service.jobs(pending=True) == []


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
    runtime: Runtime, service: RuntimeService, say: Callable[[str], None]
) -> None:
    environment = os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}
    client = subprocess.Popen(
        [sys.executable, "-c", VANISHES], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    session_id = client.stdout.readline().strip()
    idle = time.monotonic_ns()
    next_in_line = service.run("uses", options={"backend": "generic_5q"})
    client.kill()
    client.wait()
    assert next_in_line.queued()
    assert Session.from_id(session_id, service).status() is SessionState.ACTIVE
    began, _ = next_in_line.result(timeout=60)
    view = Session.from_id(session_id, service).details()
    assert view["state"] == "closed"
    assert "interactive" in view["reason"]
    delay = (began - idle) / 1e9 - 2
    say(f"the next in line began {delay:.2f} s after the timeout of 2 s")
    assert -0.5 < delay < 10  # the job ended a little before its client could say so; a busy machine takes its time


def test_dedicated_sessions_of_two_instances_never_overlap(runtime: Runtime, say: Callable[[str], None]) -> None:
    tokens = [runtime.new_instance(name) for name in ("one", "two")]

    def client(token: str) -> list[list[tuple[int, int]]]:
        with runtime.service(token) as mine:
            mine.upload_program(MEASURES, name="measures")
            held = []
            for _ in range(8):
                with Session(mine, backend="generic_5q") as session:
                    spans = [session.run("measures").result(timeout=100) for _ in range(5)]
                assert [shots for *_, shots in spans] == [100] * 5
                held.append([(begin, end) for begin, end, _ in spans])
            return held

    with ThreadPoolExecutor(2) as clients:
        held = [(owner, spans) for owner, all_ in enumerate(clients.map(client, tokens)) for spans in all_]
    uses = sorted(span for _, spans in held for span in spans)
    assert len(uses) == 80
    assert all(end <= begin for (_, end), (begin, _) in pairwise(uses))
    in_order = sorted(held, key=lambda one: one[1][0])
    assert all(earlier[-1][1] <= later[0][0] for (_, earlier), (_, later) in pairwise(in_order)), "a session was torn"
    changes = sum(one != other for (one, _), (other, _) in pairwise(in_order))
    say(f"80 jobs of 16 sessions, none overlaps another; the backend changed hands {changes} times")
    assert changes >= 4  # they did contend for it


def test_a_session_goes_on_with_several_programs_through_a_crash_a_cancel_and_a_timeout(
    service: RuntimeService,
) -> None:
    with Session(service, backend="generic_5q") as session:

        def both(turn: int) -> None:
            assert session.run("other").result(timeout=60) == "generic_5q"
            assert (
                session.run("counts").result(timeout=60) == turn
            )  # its child is the same, whatever befell the other's

        both(1)
        outsider = service.run("uses", options={"backend": "generic_5q"})
        both(2)
        with pytest.raises(JobFailed) as crashed:
            session.run("other", {"end": "crash"}).result(timeout=60)
        assert crashed.value.reason_code == ReasonCode.PROCESS_DIED
        both(3)
        with pytest.raises(JobFailed) as late:
            session.run("other", {"end": "sleep"}, {"max_execution_time": 1}).result(timeout=60)
        assert late.value.reason_code == ReasonCode.TIMED_OUT
        both(4)
        for turn, end in enumerate(("sleep", "stubborn"), 5):  # the second is killed, after all else
            job = session.run("other", {"end": end})
            until(job.running)
            job.cancel()
            job.wait_for_final_state(timeout=60)
            assert job.cancelled()
            both(turn)
        assert session.status() is SessionState.ACTIVE
        assert outsider.queued()
        last = session.run("uses")
    began, _ = outsider.result(timeout=60)
    assert last.result(timeout=60)[1] <= began
