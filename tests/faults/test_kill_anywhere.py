"""A server that is killed at any instruction, again and again, while sessions open, jobs run and sessions close: no job
is lost, none begins twice, no worker is left.

All of it is real: servers, NATS, databases, workers. The servers kill themselves, at lines that are drawn at random in
the code that must bear it (`doomed`). The seed and where they died are printed; NEARTIME_TEST_SEED draws the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Postgres, postgres
from faults.doomed import Order, encode
from sqlalchemy import delete, select

from neartime import RuntimeJob, RuntimeService, Session
from neartime.contract.jobs import JobStatus
from neartime.contract.sessions import SessionMode
from neartime.errors import Conflict
from neartime_server.bus import Keys, NatsServer
from neartime_server.embedded import processes
from neartime_server.executors import addresses
from neartime_server.executors.zygote import look
from neartime_server.settings import Settings
from neartime_server.store import Store
from neartime_server.store.tables import jobs, leases, sessions, workers

__all__ = ["postgres"]

BACKENDS = """
[[backends]]
name = "pair"
factory = "qiskit_aer:AerSimulator"
parallelism = 2

[[backends]]
name = "single"
factory = "qiskit_aer:AerSimulator"
"""

PROGRAM = """
import os, time

def main(backend, user_messenger, number, ledger, seconds=0.0):
    def note(what):
        end = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(end, f"{number} {what} {time.monotonic()}\\n".encode())
        os.close(end)

    note("began")
    try:
        user_messenger.publish(number)
        for _ in range(int(seconds / 0.01)):
            time.sleep(0.01)
        user_messenger.publish(-number)
    finally:
        note("ended")
    return number * number
"""

KILLS = 30
"""How often servers are killed in the test that draws where."""
BEGINNINGS, FIRST = 5, 3000
"""How often of these in a home that is still empty, and lines that a server runs there before it takes requests."""
STEPS = 24
"""At how many places they are killed in the test that draws none."""
START, LATER = (30, 1500), (1500, 12_000)
"""Lines that a server runs before it is killed, from and to: while it starts, and later. Small numbers are as likely as
large ones."""
LONG = 60.0
"""Seconds that a job takes which is to be cancelled."""
STAY = 1.2
"""Seconds after which a server that has not come to its line is told to end: it may die on the way."""
SETTLED = 20.0
"""Seconds in which all must be in order when nothing is killed any more."""


class Replica:
    """One API server, started and killed many times."""

    def __init__(self, home: Path, name: str, environment: dict[str, str]) -> None:
        self._ready, self._place = home / f"{name}.ready.json", home / f"{name}.place.json"
        self._log = home / f"{name}.log"
        self.port, self.url = 0, ""
        self._process: processes.Process | None = None
        self._said: queue.Queue[dict[str, int]] = queue.Queue()
        with self._log.open("ab") as log:
            command = [sys.executable, str(Path(__file__).with_name("doomed.py"))]
            self._starter = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self._hearing = threading.Thread(target=self._hear, daemon=True)
        self._hearing.start()

    def _hear(self) -> None:
        assert self._starter.stdout is not None
        for line in self._starter.stdout:
            self._said.put(json.loads(line))

    def start(self, **order: Any) -> bool:
        """Starts a server. False where it died before it took requests."""
        assert self._process is None
        self._ready.unlink(missing_ok=True)
        self._place.unlink(missing_ok=True)
        assert self._starter.stdin is not None
        self._starter.stdin.write(encode(Order(str(self._ready), str(self._place), self.port, **order)) + "\n")
        self._starter.stdin.flush()
        self._process = processes.Process.of(self._said.get(timeout=30)["pid"])
        while not self._ready.exists():
            if not self._said.empty():
                return False
            time.sleep(0.005)
        told = json.loads(self._ready.read_text())
        self.port, self.url = told["port"], told["url"]
        return True

    def kill(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.signal(number)

    def ended(self, timeout: float) -> dict[str, Any] | None:
        """Where it died, and how many lines it had run; None where it lives on."""
        try:
            code = self._said.get(timeout=timeout)["code"]
        except queue.Empty:
            return None
        self._process = None
        assert code in (0, -signal.SIGKILL), self.log[-4000:]
        return json.loads(self._place.read_text()) if self._place.exists() else {}

    def until_ended(self, timeout: float) -> dict[str, Any]:
        """The same; where it lives on, it is told to end, and may die on the way."""
        found = self.ended(timeout)
        if found is None:
            self.kill(signal.SIGTERM)
            found = self.ended(30)
        assert found is not None, "the server does not end"
        return found

    def close(self) -> None:
        self.kill(signal.SIGKILL)
        assert self._starter.stdin is not None
        self._starter.stdin.close()
        self._starter.wait(30)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class House:
    """A home with a NATS server, a database and one or two API servers over it."""

    def __init__(self, home: Path, database: str, replicas: int = 1) -> None:
        home.mkdir()
        self.home, self.ledger = home, home / "ledger"
        self.ledger.touch()
        (home / "backends.toml").write_text(BACKENDS)
        self.settings = Settings(home=home, database=database)
        self.nats = NatsServer(home / "nats", Keys.load(self.settings.secret_path, create=True))
        asyncio.run(self.nats.start())
        environment = {
            **os.environ,
            "NEARTIME_HOME": str(home),
            "NEARTIME_DATABASE": database,
            "NEARTIME_BACKENDS_FILE": str(home / "backends.toml"),
            "NEARTIME_WORKER_HEARTBEAT": "0.5",
        }
        self.replicas = [Replica(home, f"server-{number}", environment) for number in range(replicas)]
        self.store = Store(database)
        self.deaths: list[dict[str, Any]] = []

    def services(self) -> list[RuntimeService]:
        """A client of each server, from its first start on; the program is uploaded."""
        token = (self.home / "token").read_text().strip()
        services = [RuntimeService(one.url, token) for one in self.replicas]
        services[0].upload_program(PROGRAM, name="ledger")
        for service in services:
            service.program("ledger")
        return services

    def free_lease(self) -> None:
        """What three seconds do to the lease of a server that is dead. Where the other one of two lives and has it, it
        is as if that had stood still so long: it must not write any more, and may find that out late."""
        self.store.transact(lambda connection: connection.execute(delete(leases)))

    def died(self, found: dict[str, Any]) -> None:
        if "function" in found:
            self.deaths.append(found)

    @property
    def functions(self) -> list[str]:
        """Where servers have died."""
        return [death["function"] for death in self.deaths]

    def close(self) -> None:
        for replica in self.replicas:
            replica.close()
        processes.end_runners(self.home, 1)
        self.store.close()
        asyncio.run(self.nats.stop())


@dataclass
class Asked:
    """A job as its client knows it."""

    number: int
    backend: str
    session_id: str
    dedicated: bool
    job: RuntimeJob
    cancelled: bool = False
    over: float = 0.0
    """When its client heard of its end; monotonic."""

    def wait(self) -> None:
        self.job.wait_for_final_state(60)
        self.over = time.monotonic()


@dataclass
class Crowd:
    """Clients that open sessions and run jobs until they are told that it is enough."""

    services: list[RuntimeService]
    ledger: Path
    chance: random.Random
    enough: threading.Event = field(default_factory=threading.Event)
    asked: list[Asked] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _number: int = 0

    def submit(self, runner: Any, backend: str, *, dedicated: bool = False, seconds: float = 0.0) -> Asked:
        with self._lock:
            self._number += 1
            number = self._number
        inputs = {"number": number, "ledger": str(self.ledger), "seconds": seconds}
        options = {} if isinstance(runner, Session) else {"backend": backend}
        job = runner.run("ledger", inputs=inputs, options=options)
        asked = Asked(number, backend, job.session_id, dedicated, job)
        with self._lock:
            self.asked.append(asked)
        return asked

    @staticmethod
    def cancel(asked: Asked) -> None:
        asked.cancelled = True
        try:
            asked.job.cancel()
        except Conflict:
            pass  # a server heard it before, and died before it could say so

    def sessions(self, mode: SessionMode, backend: str) -> None:
        """One session after the other: two jobs at once, then one that finds its worker ready."""
        while not self.enough.is_set():
            with Session(self.chance.choice(self.services), backend, mode) as session:
                dedicated = mode is SessionMode.DEDICATED
                for jobs_at_once in (2, 1):
                    asked = [
                        self.submit(session, backend, dedicated=dedicated, seconds=self.chance.choice((0, 0.05)))
                        for _ in range(jobs_at_once)
                    ]
                    for one in asked:
                        one.wait()

    def lone(self, backend: str) -> None:
        """A job after the other, each of a session of its own; some are cancelled."""
        while not self.enough.is_set():
            asked = self.submit(self.chance.choice(self.services), backend, seconds=0.02)
            long = self.submit(self.chance.choice(self.services), backend, seconds=LONG)
            time.sleep(self.chance.uniform(0, 0.6))
            self.cancel(long)
            for one in (asked, long):
                one.wait()


def begin(house: House, replica: Replica, chance: random.Random) -> None:
    """Has a server die while it makes its home and its database, then lets it come up."""
    for _ in range(BEGINNINGS):
        replica.start(lines=chance.randrange(1, FIRST))
        house.died(replica.until_ended(0))
    assert replica.start()


def watch_over(house: House, replica: Replica, chance: random.Random) -> None:
    """Has one server die again and again, and come back at once each time."""
    while len(house.deaths) < KILLS:
        first, last = START if chance.random() < 0.25 else LATER
        lines = int(first * (last / first) ** chance.random())
        replica.start(lines=lines, spared=house.functions)
        house.died(replica.until_ended(STAY))
        house.free_lease()


# --- what must hold in the end


def wait_for(what: str, condition: Callable[[], Any], timeout: float = SETTLED) -> None:
    """Until nothing is left of what `condition` returns."""
    deadline = time.monotonic() + timeout
    while left := condition():
        assert time.monotonic() < deadline, f"{what}: {left}"
        time.sleep(0.05)


def check(house: House, crowd: Crowd) -> None:
    read = house.store.transact
    open_sessions = select(sessions.c.id, sessions.c.mode, sessions.c.state).where(sessions.c.state != "closed")
    wait_for("sessions are not closed", lambda: read(lambda one: one.execute(open_sessions).all()))
    living = select(workers.c.id, workers.c.state).where(workers.c.state != "gone")
    wait_for("workers are not gone", lambda: read(lambda one: one.execute(living).all()))
    wait_for("processes are left", lambda: left_running(house.home))
    missing = select(jobs.c.id).where(jobs.c.interim_archive.is_(None) | jobs.c.log_archive.is_(None))
    wait_for("jobs are not archived", lambda: read(lambda one: one.execute(missing).all()))

    rows = {row.id: row for row in read(lambda one: one.execute(select(jobs)).all())}
    assert len(rows) == len(crowd.asked)
    for asked in crowd.asked:
        row = rows[asked.job.job_id()]
        assert row.attempt == 1
        if asked.cancelled and row.status == JobStatus.CANCELLED.value:
            continue
        assert row.status == JobStatus.COMPLETED.value, (row.status, row.reason_code, row.reason)
        assert asked.job.result(30) == asked.number**2
        assert asked.job.interim_results() == [asked.number, -asked.number]
    check_ledger(house, crowd)
    used: Counter[str] = Counter()
    for row in rows.values():
        used[row.session_id] += row.seconds
    for session in read(lambda one: one.execute(select(sessions)).all()):
        assert session.seconds == pytest.approx(used[session.id])
    for replica in house.replicas:
        assert httpx.get(f"{replica.url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{replica.url}/readyz").json() == {"status": "ready"}
        assert " ERROR " not in replica.log, replica.log[replica.log.index(" ERROR ") - 200 :][:4000]


def check_ledger(house: House, crowd: Crowd) -> None:
    """What the programs themselves saw: each began once, and nothing overlapped that must not."""
    began: dict[int, float] = {}
    ended: dict[int, float] = {}
    for line in house.ledger.read_text().splitlines():
        number, what, when = line.split()
        times = began if what == "began" else ended
        assert int(number) not in times, f"job {number} {what} twice"
        times[int(number)] = float(when)
    assert began.keys() == ended.keys()
    for asked in crowd.asked:
        assert asked.number in began or asked.cancelled, f"job {asked.number} never began"
        assert ended.get(asked.number, 0.0) < asked.over, f"job {asked.number} ran on when it was said to be over"
    spans: dict[str, tuple[float, float]] = {}
    for asked in crowd.asked:
        if asked.dedicated:
            first, last = spans.get(asked.session_id, (float("inf"), 0.0))
            spans[asked.session_id] = min(first, began[asked.number]), max(last, ended[asked.number])
    single = sorted(spans.values())
    for (_, last), (first, _) in pairwise(single):
        assert last < first, "two dedicated sessions had the backend at once"


def left_running(home: Path) -> list[str]:
    """Workers, and what programs have started: all but the zygotes, which wait for the next ones."""
    zygotes = [asyncio.run(look(path)) for path in addresses.folder(home).glob(f"*{addresses.SUFFIX}")]
    found = processes.runners_of(home)
    left = [f"{len(found)} processes, of {len(zygotes)} zygotes"] if len(found) != len(zygotes) else []
    left += [f"worker {one.worker_id} runs" for zygote in zygotes for one in zygote.running]
    return left + [f"worker {one.worker_id} is not forgotten" for zygote in zygotes for one in zygote.exited]


def report(house: House, seed: object) -> None:
    print(f"\nseed {seed}; {len(house.deaths)} servers died here:")
    for name, count in sorted(Counter(house.functions).items()):
        print(f"{count:4} {name}")


# --- the tests


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("NEARTIME_TEST_SEED") or random.randrange(2**32))


@pytest.fixture(
    params=["sqlite", *(pytest.param(one, marks=pytest.mark.postgres) for one in ("postgresql", "two servers"))]
)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    """An API server on each database, and two of them at once."""
    database = f"sqlite:///{tmp_path / 'neartime.db'}"
    if request.param != "sqlite":
        server: Postgres = request.getfixturevalue("postgres")
        database = server.create(f"kills_{request.param[:3].strip()}_{os.getpid()}")
    house = House(tmp_path / "home", database, 2 if request.param == "two servers" else 1)
    yield house
    house.close()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_servers_that_are_killed_anywhere_lose_no_job_and_start_none_twice(house: House, seed: int) -> None:
    chance = random.Random(seed)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda one: begin(house, one, random.Random(chance.random())), house.replicas))
    crowd = Crowd(house.services(), house.ledger, random.Random(seed))
    for replica in house.replicas:
        replica.until_ended(0)
    works: list[tuple[Callable[..., None], Any]] = [
        (crowd.sessions, (SessionMode.DEDICATED, "single")),
        (crowd.sessions, (SessionMode.DEDICATED, "single")),
        (crowd.sessions, (SessionMode.BATCH, "pair")),
        (crowd.lone, ("pair",)),
    ]
    try:
        with ThreadPoolExecutor(len(works) + len(house.replicas)) as pool:
            clients = [pool.submit(work, *arguments) for work, arguments in works]
            watches = [
                pool.submit(watch_over, house, replica, random.Random(chance.random())) for replica in house.replicas
            ]
            try:
                for watch in watches:
                    watch.result()
            finally:
                crowd.enough.set()
            for replica in house.replicas:
                assert replica.start()
            for client in clients:
                client.result(60)
        check(house, crowd)
    finally:
        report(house, seed)


def a_session_with_a_job(crowd: Crowd) -> None:
    with Session(crowd.services[0], "single") as session:
        crowd.submit(session, "single", dedicated=True).wait()


def a_job_that_is_cancelled(crowd: Crowd) -> None:
    asked = crowd.submit(crowd.services[0], "single", seconds=LONG)
    wait_for("has not begun", lambda: f"{asked.number} began" not in crowd.ledger.read_text() and asked.number)
    crowd.cancel(asked)
    asked.wait()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("script", [a_session_with_a_job, a_job_that_is_cancelled])
def test_a_server_may_die_at_every_step_of_a_job(tmp_path: Path, script: Callable[[Crowd], None]) -> None:
    """At `STEPS` places, evenly spread over the lines that the control plane runs for one job. The next server, which
    dies a step later, brings the job to its end before it begins with the next one."""
    house, lines = House(tmp_path / "home", f"sqlite:///{tmp_path / 'neartime.db'}"), 0
    (replica,) = house.replicas
    try:
        assert replica.start()
        crowd = Crowd(house.services(), house.ledger, random.Random(0))
        replica.until_ended(0)
        assert replica.start(wait=True, rooms=["control"])
        replica.kill(signal.SIGUSR2)
        script(crowd)
        lines = replica.until_ended(0)["run"]
        with ThreadPoolExecutor(1) as pool:
            scripts = [pool.submit(lambda: None)]
            for step in range(1, STEPS + 1):
                assert replica.start(wait=True, lines=step * lines // STEPS, rooms=["control"])
                scripts[-1].result(60)
                replica.kill(signal.SIGUSR2)
                scripts.append(pool.submit(script, crowd))
                house.died(replica.until_ended(STAY))
                house.free_lease()
            assert replica.start()
            scripts[-1].result(60)
        check(house, crowd)
    finally:
        report(house, f"none, of {lines} lines")
        house.close()
