"""A gateway that dies, a provider that hangs, a key that is turned, a server that is killed: what becomes of jobs."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.lab import MEASURES, Lab, lab, until

from neartime import Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import Conflict, JobFailed

PATIENT = """
import time
from qiskit import QuantumCircuit

def main(backend, user_messenger, name="slow"):
    made = QuantumCircuit(2, name=name)
    made.measure_all()
    job = backend.run(made)
    user_messenger.publish("it runs")
    return job.result().get_counts()
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    def entries(made: Lab) -> str:
        return made.entry(gateway="refresh = 0.5\n") + made.entry("hasty", gateway="timeout = 1.0\n")

    with lab(tmp_path_factory.mktemp("lab"), entries) as made:
        made.service.upload_program(MEASURES, name="measures")
        made.service.upload_program(PATIENT, name="patient")
        yield made


@pytest.fixture(autouse=True)
def no_log(machine: Lab) -> None:
    machine.forget_log()


def test_a_gateway_that_is_killed_in_a_job_is_its_reason_and_the_next_job_runs(machine: Lab) -> None:
    machine.service.run("measures", {}, {"backend": "machine"}).result(timeout=60)
    pid = machine.gateway_pid()
    job = machine.service.run("patient", {}, {"backend": "machine"})
    until(lambda: len(machine.log()) == 3)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(JobFailed, match="'machine': its gateway was started again while the circuits ran") as caught:
        job.result(timeout=60)
    assert caught.value.reason_code == ReasonCode.BACKEND_LOST
    assert machine.gateway_pid() != pid
    found = machine.service.run("measures", {}, {"backend": "machine"}).result(timeout=60)
    assert found == [{"00": 50, "11": 50}]


def test_a_provider_that_kills_its_process_is_a_reason_too(machine: Lab) -> None:
    with pytest.raises(JobFailed, match="'machine': its gateway was started again") as caught:
        machine.service.run("patient", {"name": "die"}, {"backend": "machine"}).result(timeout=60)
    assert caught.value.reason_code == ReasonCode.BACKEND_LOST
    machine.service.run("measures", {}, {"backend": "machine"}).result(timeout=60)


def test_a_provider_that_hangs_is_a_reason_and_its_gateway_begins_anew(machine: Lab) -> None:
    until(lambda: machine.service.backend("hasty").operational)
    pid = machine.gateway_pid("hasty")
    with pytest.raises(JobFailed, match="the provider of 'hasty' has not come back within 1 s") as caught:
        machine.service.run("patient", {"name": "hang"}, {"backend": "hasty"}).result(timeout=60)
    assert caught.value.reason_code == ReasonCode.BACKEND_LOST
    found = machine.service.run("measures", {}, {"backend": "hasty"}).result(timeout=60)
    assert found == [{"00": 50, "11": 50}]
    assert machine.gateway_pid("hasty") != pid


def test_a_key_that_is_turned_is_used_from_the_next_call_on(machine: Lab) -> None:
    def keys() -> list[str]:
        return [one["key"] for one in machine.log() if one["event"] == "start"]

    with Session(machine.service, backend="machine") as session:
        session.run("measures", {}).result(timeout=60)
        machine.turn_key("another-key-of-the-machine")
        session.run("measures", {}).result(timeout=60)
        pid = machine.gateway_pid()
        assert keys() == [
            hashlib.sha256(key.encode()).hexdigest() for key in (machine.key, "another-key-of-the-machine")
        ]
        machine.turn_key("wrong-key-of-somebody")
        with pytest.raises(JobFailed, match="the machine does not know the key •••") as caught:
            session.run("measures", {}).result(timeout=60)
        assert "wrong-key" not in str(caught.value)
        status = until(lambda: not (found := machine.service.backend("machine").status()).state and found)
        assert "the machine does not know the key •••" in status.message
        machine.key_file.unlink()
        with pytest.raises(JobFailed, match="a credential of the backend 'machine' is not there"):
            session.run("measures", {}).result(timeout=60)
        machine.turn_key(machine.key)
        session.run("measures", {}).result(timeout=60)
    assert machine.gateway_pid() == pid
    assert len(keys()) == 3


def test_a_new_calibration_shows_as_a_new_date_and_an_old_one_does_not(machine: Lab) -> None:
    def seen() -> tuple[str, float]:
        known = until(lambda: (found := machine.service.backend("machine")).operational and found)
        gates = {gate["name"]: gate for gate in known.properties()["gates"]}
        return known.configuration()["described"], gates["sx0"]["parameters"][0]["value"]

    first = until(lambda: seen()[1] == 0.001 and seen())
    time.sleep(4)
    assert seen() == first
    machine.calibrate(0.002)
    second = until(lambda: seen() != first and seen())
    assert second[1] == 0.002
    assert second[0] > first[0]
    machine.calibrate(0.001)


def test_a_job_goes_on_while_the_server_is_away_and_finds_the_same_gateway(machine: Lab) -> None:
    until(lambda: machine.service.backend("machine").operational)
    pid = machine.gateway_pid()
    job = machine.service.run("patient", {}, {"backend": "machine"})
    until(lambda: machine.log())
    machine.runtime.kill_server()
    machine.runtime.start_server()
    assert job.result(timeout=60) == {"00": 50, "11": 50}
    assert machine.gateway_pid() == pid
    machine.service.run("measures", {}, {"backend": "machine"}).result(timeout=60)
    assert "runs already" in machine.runtime.server_log


def test_one_whose_backend_has_changed_is_another_one_and_one_whose_backend_has_gone_ends(tmp_path: Path) -> None:
    def entries(made: Lab) -> str:
        return made.entry() + made.entry("gone.soon")

    with lab(tmp_path, entries) as made:
        for name in ("machine", "gone.soon"):
            until(lambda name=name: made.service.backend(name).operational)
        before, gone = made.gateway_pid(), made.gateway_pid("gone.soon")
        made.runtime.kill_server()
        (tmp_path / "backends.toml").write_text(made.entry().replace("folder =", "qubits = 3, folder ="))
        made.runtime.start_server()
        until(lambda: made.service.backend("machine").num_qubits == 3)
        assert made.gateway_pid() != before
        until(lambda: not Path(f"/proc/{gone}").exists())


def test_one_that_is_not_there_says_what_it_lacks(tmp_path: Path) -> None:
    def entries(made: Lab) -> str:
        return """
[[backends]]
name = "nowhere"
factory = "no_such_provider:Backend"
home = "gateway"

[[backends]]
name = "unmade"
factory = "a:B"
[backends.gateway]
requirements = ["no-such-package-at-all"]

[[backends]]
name = "theirs"
factory = "a:B"
[backends.gateway]
started_by = "operator"
"""

    with lab(tmp_path, entries) as made:
        made.service.upload_program(MEASURES, name="measures")
        for name, words in (
            ("nowhere", "No module named 'no_such_provider'"),
            ("unmade", "no-such-package-at-all"),
            ("theirs", "the gateway of the backend 'theirs' is not there; the operator starts it"),
        ):
            backend = made.service.backend(name)
            status = until(lambda backend=backend, words=words: words in backend.status().message and backend.status())
            assert (status.state, status.status) == (False, "internal")
            with pytest.raises(Conflict, match=words):
                backend.configuration()
        with pytest.raises(JobFailed, match="No module named 'no_such_provider'") as caught:
            made.service.run("measures", {}, {"backend": "nowhere"}).result(timeout=60)
        assert caught.value.reason_code == ReasonCode.START_FAILED
