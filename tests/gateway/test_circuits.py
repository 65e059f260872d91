"""Circuits of programs on a machine behind a gateway, on a real runtime."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gateway.lab import MEASURES, Lab, lab, until

from neartime import Session
from neartime.contract.jobs import ReasonCode
from neartime.errors import JobFailed

LOOKS = """
def main(backend, user_messenger):
    from qiskit import QuantumCircuit, transpile
    from qiskit.providers import BackendV2, JobStatus
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    circuit.measure_all()
    ready = transpile(circuit, backend)
    job = backend.run([ready, ready], shots=6)
    counts = job.result().get_counts()
    target = backend.target
    return {
        "is": isinstance(backend, BackendV2),
        "name": backend.name,
        "description": backend.description,
        "max_circuits": backend.max_circuits,
        "shots": backend.options.shots,
        "operations": sorted(target.operation_names),
        "error": target["sx"][(1,)].error,
        "length": target["cx"][(0, 1)].duration,
        "t1": target.qubit_properties[0].t1,
        "dt": target.dt,
        "width": target.operation_from_name("shake").num_qubits,
        "ran": sorted(ready.count_ops()),
        "counts": counts,
        "done": job.status() is JobStatus.DONE,
    }
"""

LARGE = """
def main(backend, user_messenger):
    from qiskit import QuantumCircuit
    import random
    circuits = []
    for number in range(4):
        made = QuantumCircuit(2, name="large")
        for _ in range(20000):
            made.rz(random.random(), 0)
        made.measure_all()
        circuits.append(made)
    result = backend.run(circuits, shots=50).result()
    return [sum(result.get_counts(number).values()) for number in range(4)], len(result.data(3)["padding"])
"""

SHAKES = """
def main(backend, user_messenger):
    import threading
    from qiskit import QuantumCircuit
    from qiskit.circuit import Gate
    made = QuantumCircuit(2, name="shaken")
    made.append(Gate("shake", 2, [0.5]), [1, 0])
    made.measure_all()
    found = []
    def measure():
        found.append(backend.run(made, shots=8).result().get_counts())
    threads = [threading.Thread(target=measure) for _ in range(5)]
    [one.start() for one in threads]
    [one.join() for one in threads]
    return found
"""

CANCELS = """
def main(backend, user_messenger):
    from qiskit import QuantumCircuit
    from qiskit.providers import JobError, JobStatus, JobTimeoutError
    made = QuantumCircuit(2, name="slow")
    made.measure_all()
    job = backend.run(made)
    try:
        job.result(timeout=0.2)
    except JobTimeoutError as error:
        late = str(error)
    before = job.status()
    cancelled = job.cancel()
    try:
        job.result()
    except JobError as error:
        return late, before is JobStatus.RUNNING, cancelled, str(error), job.status() is JobStatus.CANCELLED
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab")) as made:
        for name, source in (
            ("measures", MEASURES),
            ("looks", LOOKS),
            ("large", LARGE),
            ("shakes", SHAKES),
            ("cancels", CANCELS),
        ):
            made.service.upload_program(source, name=name)
        yield made


@pytest.fixture(autouse=True)
def no_log(machine: Lab) -> None:
    machine.forget_log()


def test_a_program_sees_the_machine_as_its_provider_shows_it(machine: Lab) -> None:
    told = machine.service.run("looks", {}, {"backend": "machine"}).result(timeout=60)
    assert told == {
        "is": True,
        "name": "machine",
        "description": "two ions and a laser",
        "max_circuits": 10,
        "shots": 100,
        "operations": ["cx", "measure", "rz", "shake", "sx"],
        "error": 0.001,
        "length": 2e-5,
        "t1": 1.0,
        "dt": 1e-9,
        "width": 2,
        "ran": ["barrier", "cx", "measure", "rz", "sx"],
        "counts": [{"00": 3, "11": 3}] * 2,
        "done": True,
    }
    assert {one["single"] for one in machine.log()} == {False}


def test_a_session_measures_again_and_again_with_options(machine: Lab) -> None:
    with Session(machine.service, backend="machine") as session:
        for shots in (4, 8):
            found = session.run("measures", {"times": 3, "shots": shots, "tag": "mine"}).result(timeout=60)
            assert found == [{"00": shots // 2, "11": shots // 2}] * 3
    assert [(one["event"], one["tag"], one["single"]) for one in machine.log()] == [
        (event, "mine", True) for _ in range(6) for event in ("start", "end")
    ]


def test_circuits_and_results_of_megabytes_go_in_parts(machine: Lab) -> None:
    assert machine.service.run("large", {}, {"backend": "machine"}).result(timeout=90) == ([50] * 4, 3_000_000)


def test_threads_of_a_program_measure_at_once_with_a_gate_of_the_providers_own(machine: Lab) -> None:
    assert machine.service.run("shakes", {}, {"backend": "machine"}).result(timeout=60) == [{"00": 4, "11": 4}] * 5


def test_a_providers_error_comes_back_in_its_own_words_without_the_key(machine: Lab) -> None:
    refused = machine.service.run("measures", {"name": "refuse", "shots": 7}, {"backend": "machine"})
    with pytest.raises(JobFailed, match=r"ValueError: 7 shots are too many for two ions") as caught:
        refused.result(timeout=60)
    assert caught.value.reason_code == ReasonCode.PROGRAM_ERROR
    raised = machine.service.run("measures", {"name": "raise"}, {"backend": "machine"})
    with pytest.raises(JobFailed, match=r"RuntimeError: the laser is off; it was asked for with •••") as caught:
        raised.result(timeout=60)
    assert machine.key not in f"{caught.value}{raised.logs()}"


def test_a_program_cancels_at_the_provider(machine: Lab) -> None:
    late, ran, cancelled, why, status = machine.service.run("cancels", {}, {"backend": "machine"}).result(timeout=60)
    assert "there is no result of 'machine' after 0.2 s" in late
    assert (ran, cancelled, status) == (True, True, True)
    assert "was cancelled" in why
    assert [one["event"] for one in until(lambda: len(machine.log()) == 3 and machine.log())] == [
        "start",
        "cancel",
        "end",
    ]


def test_a_job_that_is_cancelled_cancels_at_the_provider(machine: Lab) -> None:
    job = machine.service.run("measures", {"name": "slow"}, {"backend": "machine"})
    until(lambda: machine.log())
    job.cancel()
    job.wait_for_final_state(30)
    assert job.details().state.reason_code == ReasonCode.CANCELLED_BY_USER
    until(lambda: "cancel" in [one["event"] for one in machine.log()], 3)


def test_what_a_job_leaves_behind_is_cancelled(machine: Lab) -> None:
    machine.service.run("measures", {"name": "slow", "wait": False}, {"backend": "machine"}).result(timeout=60)
    until(lambda: "cancel" in [one["event"] for one in machine.log()], 3)
