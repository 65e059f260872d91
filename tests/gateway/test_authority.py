"""Who may use a machine behind a gateway, and when: the lease decides, and NATS says who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from gateway.lab import MEASURES, Lab, lab, until
from nats.aio.client import Client, RawCredentials

from neartime import Batch, RuntimeService, Session, codec
from neartime.contract import subjects
from neartime.contract.gateways import Asked, Told, Verb, pack, unpack
from neartime.contract.ids import new_id
from neartime_server.bus import Bus, Keys
from neartime_server.settings import Settings

LINGERS = """
import threading, time
from qiskit import QuantumCircuit

said = []

def main(backend, user_messenger, look=False):
    if look:
        return said
    made = QuantumCircuit(2, name="bell")
    made.measure_all()
    backend.run(made, tag="mine").result()
    def linger():
        time.sleep(1.0)
        try:
            backend.run(made, tag="lingers").result()
            said.append("it ran")
        except Exception as error:
            said.append(str(error))
    threading.Thread(target=linger, daemon=True).start()
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    def entries(made: Lab) -> str:
        return made.entry() + made.entry("wide", "parallelism = 4\n")

    with lab(tmp_path_factory.mktemp("lab"), entries) as made:
        for name, source in (("measures", MEASURES), ("lingers", LINGERS)):
            made.service.upload_program(source, name=name)
        yield made


@pytest.fixture(autouse=True)
def no_log(machine: Lab) -> None:
    machine.forget_log()


def spans(log: list[dict[str, Any]]) -> list[tuple[float, float, str]]:
    """Begin, end and tag of every run that the provider has noted, by their beginning."""
    begun: dict[str, dict[str, Any]] = {}
    found = []
    for one in log:
        if one["event"] == "start":
            begun[one["job"]] = one
        elif one["event"] == "end":
            found.append((begun[one["job"]]["time"], one["time"], one["tag"]))
    return sorted(found)


def overlapping(log: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Tags of different sessions whose runs overlapped."""
    found = spans(log)
    return [
        (mine, theirs)
        for number, (_, end, mine) in enumerate(found)
        for begin, _, theirs in found[number + 1 :]
        if begin < end and mine != theirs
    ]


# --- two at once


@pytest.mark.parametrize("mode", [Session, Batch])
def test_sessions_of_two_tenants_never_interleave(machine: Lab, mode: type[Session]) -> None:
    with machine.runtime.service(machine.runtime.new_instance(f"tenant{mode.__name__}".lower())) as other:
        other.upload_program(MEASURES, name="measures")
        with mode(machine.service, backend="machine") as mine, mode(other, backend="machine") as theirs:
            jobs = []
            for _ in range(3):
                for tag, session in (("mine", mine), ("theirs", theirs)):
                    jobs.append(session.run("measures", {"times": 4, "tag": tag}))
            # Dedicated, the second one waits until the first is closed.
            mine.close()
            theirs.close()
            for job in jobs:
                job.result(timeout=100)
    log = machine.log()
    assert len(spans(log)) == 24
    assert overlapping(log) == []
    if mode is Session:
        changes = sum(one[2] != next_one[2] for one, next_one in pairwise(spans(log)))
        assert changes == 1


def test_a_dedicated_session_is_alone_also_where_others_may_share(machine: Lab) -> None:
    with Batch(machine.service, backend="wide") as batch:
        shared = [batch.run("measures", {"times": 6, "tag": "shared", "name": "slow"}) for _ in range(2)]
        until(lambda: len(machine.log()) >= 2)
        with Session(machine.service, backend="wide") as session:
            alone = session.run("measures", {"times": 3, "tag": "alone"})
            for job in shared:
                job.cancel()
            alone.result(timeout=60)
    assert overlapping(machine.log()) == []
    assert "alone" in {tag for *_, tag in spans(machine.log())}


def test_the_next_session_waits_for_a_run_that_hears_no_cancel(machine: Lab) -> None:
    first = machine.service.run("measures", {"name": "stubborn", "tag": "first"}, {"backend": "machine"})
    until(lambda: machine.log())
    second = machine.service.run("measures", {"tag": "second"}, {"backend": "machine"})
    first.cancel()
    first.wait_for_final_state(20)
    second.result(timeout=60)
    (_, end, one), (begin, _, two) = spans(machine.log())
    assert (one, two) == ("first", "second")
    assert begin >= end


def test_a_thread_that_a_job_left_behind_is_refused(machine: Lab) -> None:
    with Session(machine.service, backend="machine") as session:
        session.run("lingers", {}).result(timeout=60)
        time.sleep(2.5)  # no job of the session runs meanwhile
        (said,) = session.run("lingers", {"look": True}).result(timeout=60)
        assert "no job runs that could use the backend now" in said
    assert {one["tag"] for one in machine.log()} == {"mine"}


# --- outsiders


class Outsider:
    """Whoever has a credential of a worker's, or of a client's, and asks the gateway with it."""

    def __init__(self, machine: Lab) -> None:
        self.runtime = machine.runtime
        settings = Settings(home=machine.runtime.home)
        self.bus = Bus(settings, Keys.load(settings.secret_path))
        self.errors: list[str] = []

    async def __aenter__(self) -> Outsider:
        await self.bus.connect(self.runtime.nats_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.close()

    async def ask(self, access: Any, subject: str, verb: Verb, asked: Asked, body: bytes = b"") -> Told | None:
        """What the gateway says; None where NATS lets nothing through."""
        client = Client()

        async def note(error: Exception) -> None:
            self.errors.append(str(error))

        await client.connect(
            self.runtime.nats_url, user_credentials=RawCredentials(access.credential),
            inbox_prefix=access.inbox.encode(), allow_reconnect=False, error_cb=note,
        )  # fmt: skip
        try:
            answer = await client.request(f"{subject}.{verb.value}", pack(asked, body), timeout=2)
            return unpack(Told, answer.data)[0]
        except (TimeoutError, asyncio.TimeoutError):
            return None
        finally:
            await client.close()


def circuits() -> bytes:
    from qiskit import QuantumCircuit

    made = QuantumCircuit(1, name="stolen")
    made.measure_all()
    return codec.encode({"circuits": made, "options": {"tag": "stolen"}})


def place(backend: str, session_id: str, worker_id: str) -> str:
    return subjects.gateway(backend, session_id, worker_id, "run").rpartition(".")[0]


async def test_a_session_without_the_lease_is_refused_with_the_reason(machine: Lab) -> None:
    instance = machine.service.run("measures", {}, {"backend": "machine"})
    await asyncio.to_thread(instance.result, timeout=60)
    machine.forget_log()
    instance_id = instance_of(machine.service)
    async with Outsider(machine) as outsider:
        session, worker = new_id(), new_id()
        access, _ = outsider.bus.worker_credential(instance_id, worker, session, 60, "machine")
        told = await outsider.ask(access, place("machine", session, worker), Verb.RUN, Asked(call="c1"), circuits())
        assert told is not None
        assert told.refused == "no job runs that could use the backend now: the job before has ended"
        # The same, as a worker of the session that did have it.
        access, _ = outsider.bus.worker_credential(instance_id, worker, instance.session_id, 60, "machine")
        told = await outsider.ask(
            access, place("machine", instance.session_id, worker), Verb.RUN, Asked(call="c2"), circuits()
        )
        assert told is not None
        assert told.refused is not None
    assert machine.log() == []


async def test_nobody_speaks_for_another_session_worker_or_backend(machine: Lab) -> None:
    job = machine.service.run("measures", {"name": "slow", "tag": "mine"}, {"backend": "machine"})
    await asyncio.to_thread(until, lambda: machine.log())
    instance_id = instance_of(machine.service)
    async with Outsider(machine) as outsider:
        session, worker = new_id(), new_id()
        access, _ = outsider.bus.worker_credential(instance_id, worker, session, 60, "machine")
        for stolen in (
            place("machine", job.session_id, worker),
            place("machine", session, new_id()),
            place("wide", session, worker),
        ):
            assert await outsider.ask(access, stolen, Verb.CANCEL, Asked()) is None
        reader = outsider.bus.reader_access(instance_id, 60)
        assert (
            await outsider.ask(reader, place("machine", session, worker), Verb.RUN, Asked(call="c"), circuits()) is None
        )
        in_worker, _ = outsider.bus.worker_credential(instance_id, worker, session, 60)
        asked = Asked(call="c")
        assert await outsider.ask(in_worker, place("machine", session, worker), Verb.RUN, asked, circuits()) is None
    assert len(outsider.errors) == 5
    assert all("permissions violation" in error for error in outsider.errors)
    assert await asyncio.to_thread(job.result, timeout=60) == [{"00": 50, "11": 50}]
    assert {one["tag"] for one in machine.log()} == {"mine"}


async def test_a_gateway_speaks_for_its_own_backend_alone(machine: Lab) -> None:
    async with Outsider(machine) as outsider:
        access = outsider.bus.gateway_access("machine", 60)
        assert await outsider.ask(access, "lease", Verb.RUN, Asked()) is None
        assert (
            await outsider.ask(access, f"gateway.{new_id()}.machine.{new_id()}.{new_id()}", Verb.RUN, Asked()) is None
        )
    assert len(outsider.errors) == 2


def instance_of(service: RuntimeService) -> str:
    """The id of the instance that a service is of."""
    found: str = service.usage()["instance"]
    return found
