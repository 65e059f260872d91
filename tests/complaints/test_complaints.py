"""What users of the nearest systems complained of most often; each complaint is a test that it does not hold here."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neartime import RuntimeService, Session
from neartime.contract.ids import new_id
from neartime.contract.jobs import JobStatus, ReasonCode
from neartime.errors import JobFailed
from neartime_server.testing import Runtime


@pytest.fixture
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        yield service


def test_an_import_error_shows_at_once_with_its_traceback_in_the_error_and_the_logs(service: RuntimeService) -> None:
    service.upload_program("import no_such_module\n\ndef main(backend, user_messenger): ...\n", name="broken-import")
    job = service.run("broken-import")
    with pytest.raises(JobFailed, match="No module named 'no_such_module'") as caught:
        job.result(timeout=60)
    assert caught.value.reason_code == ReasonCode.PROGRAM_ERROR
    assert "import no_such_module" in (job.error_message() or "")
    assert "neartime_runner" not in (job.error_message() or "")
    assert "ModuleNotFoundError" in job.logs()


def test_logs_stream_while_the_job_runs(service: RuntimeService) -> None:
    source = """
import logging, sys, time

def main(backend, user_messenger):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").warning("by logging")
    user_messenger.publish("said")
    while True:
        time.sleep(0.05)
"""
    service.upload_program(source, name="talkative")
    said = threading.Event()
    job = service.run("talkative", callback=lambda job_id, value: said.set())
    assert said.wait(30)
    for _ in range(100):
        text = job.logs()
        if all(words in text for words in ("to stdout", "to stderr", "by logging")):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"the logs of a running job hold only {text!r}")
    assert job.status() == JobStatus.RUNNING
    job.cancel()
    job.wait_for_final_state(timeout=30)
    assert job.status() == JobStatus.CANCELLED


def test_two_interim_results_in_the_same_millisecond_both_arrive(service: RuntimeService) -> None:
    source = """
def main(backend, user_messenger):
    user_messenger.publish("one")
    user_messenger.publish("two")
"""
    service.upload_program(source, name="twins")
    heard: list[Any] = []
    service.run("twins", callback=lambda job_id, value: heard.append(value)).result(timeout=60)
    assert heard == ["one", "two"]


def test_a_thousand_interim_results_of_a_tight_loop_arrive_in_order(service: RuntimeService) -> None:
    source = """
def main(backend, user_messenger):
    for number in range(1000):
        user_messenger.publish(number)
"""
    service.upload_program(source, name="tight-loop")
    heard: list[Any] = []
    job = service.run("tight-loop", callback=lambda job_id, value: heard.append(value))
    job.result(timeout=60)
    assert heard == list(range(1000))
    assert list(job.interim_results()) == heard


def test_a_callback_that_raises_is_reported_and_delivery_goes_on(
    service: RuntimeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.upload_program(
        "def main(backend, user_messenger):\n    for k in range(5):\n        user_messenger.publish(k)\n", name="five"
    )
    heard: list[int] = []

    def callback(job_id: str, value: int) -> None:
        heard.append(value)
        if value == 1:
            raise RuntimeError("the callback's own fault")

    with caplog.at_level(logging.WARNING, logger="neartime"):
        service.run("five", callback=callback).result(timeout=60)
    assert heard == [0, 1, 2, 3, 4]
    assert "the callback's own fault" in caplog.text


def test_a_payload_over_the_brokers_limit_just_works_in_and_out(service: RuntimeService) -> None:
    source = """
def main(backend, user_messenger, blob):
    user_messenger.publish(blob[::-1])
    return blob + b"!"
"""
    service.upload_program(source, name="mirror")
    blob = os.urandom(5 << 20)
    heard: list[bytes] = []
    job = service.run("mirror", inputs={"blob": blob}, callback=lambda job_id, value: heard.append(value))
    assert job.result(timeout=60) == blob + b"!"
    assert heard == [blob[::-1]]


def test_an_interim_result_of_fifty_megabytes_arrives(service: RuntimeService) -> None:
    source = """
def main(backend, user_messenger):
    import numpy as np
    user_messenger.publish(np.arange(50_000_000 // 8, dtype=np.float64))
"""
    import numpy as np

    service.upload_program(source, name="fifty")
    heard: list[Any] = []
    service.run("fifty", callback=lambda job_id, value: heard.append(value)).result(timeout=110)
    assert np.array_equal(heard[0], np.arange(50_000_000 // 8, dtype=np.float64))


LARGE = """
import resource, sys
from neartime import RuntimeService

service = RuntimeService()
job = service.run("large")
job.wait_for_final_state(timeout=110)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = job.result(timeout=110)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
assert result.nbytes == 200_000_000 and result[-1] == 24_999_999, result
print(grown)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_large_result_neither_fails_nor_is_held_twice(runtime: Runtime, service: RuntimeService) -> None:
    source = """
import resource

def main(backend, user_messenger):
    import numpy as np
    return np.arange(25_000_000, dtype=np.float64)
"""
    service.upload_program(source, name="large")
    environment = os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}
    run = subprocess.run([sys.executable, "-c", LARGE], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2 * 190, "the client held the result twice (MiB grown)"


def test_uploading_again_runs_the_new_code_while_older_jobs_keep_theirs(service: RuntimeService) -> None:
    template = """
import time

def main(backend, user_messenger, wait=0):
    user_messenger.publish("begun")
    time.sleep(wait)
    return {version}
"""
    service.upload_program(template.format(version=1), name="renewed")
    begun = threading.Event()
    old = service.run("renewed", inputs={"wait": 2}, callback=lambda job_id, value: begun.set())
    assert begun.wait(30)
    service.upload_program(template.format(version=2), name="renewed")
    assert service.run("renewed").result(timeout=60) == 2
    assert old.result(timeout=60) == 1


def test_one_slow_start_stalls_no_other_job(service: RuntimeService) -> None:
    service.upload_program(
        "import time\ntime.sleep(15)\n\ndef main(backend, user_messenger):\n    return 'slow'\n", name="slow-start"
    )
    service.upload_program("def main(backend, user_messenger):\n    return 'quick'\n", name="quick")
    slow = service.run("slow-start", options={"backend": "aer"})
    assert service.run("quick", options={"backend": "aer"}).result(timeout=60) == "quick"
    assert not slow.in_final_state()
    slow.cancel()


def test_submitting_twice_with_one_idempotency_key_makes_one_job(runtime: Runtime, service: RuntimeService) -> None:
    import httpx

    service.upload_program("def main(backend, user_messenger):\n    return 1\n", name="once")
    headers = {"Authorization": f"Bearer {runtime.token}", "Idempotency-Key": new_id()}
    with httpx.Client(base_url=runtime.url, headers=headers, trust_env=False) as client:
        first = client.post("/api/v1/jobs", json={"program_id": "once", "params": {}})
        second = client.post("/api/v1/jobs", json={"program_id": "once", "params": {}})
        other = client.post("/api/v1/jobs", json={"program_id": "once", "params": {"other": 1}})
    assert first.json()["id"] == second.json()["id"]
    assert other.status_code == 409
    assert other.json()["errors"][0]["code"] == "idempotency_conflict"


VERSION = """
def main(backend, user_messenger, circuit):
    import qiskit
    from qiskit import transpile
    counts = backend.run(transpile(circuit, backend), shots=10).result().get_counts()
    return {"qiskit": qiskit.__version__, "counts": dict(counts), "circuit": circuit}
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_program_pinned_to_another_qiskit_runs_beside_one_on_the_current(
    service: RuntimeService, tmp_path: Path
) -> None:
    import qiskit

    circuit = qiskit.QuantumCircuit(1)
    circuit.x(0)
    circuit.measure_all()
    for name, requirements in (("old-qiskit", '["qiskit==1.4.3"]'), ("new-qiskit", "[]")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "program.py").write_text(VERSION)
        (folder / "program.toml").write_text(f'name = "{name}"\nrequirements = {requirements}\n')
        service.upload_program(folder)
    jobs = [service.run(name, inputs={"circuit": circuit}) for name in ("old-qiskit", "new-qiskit")]
    old, new = (job.result(timeout=120) for job in jobs)
    assert old["qiskit"] == "1.4.3"
    assert new["qiskit"] == qiskit.__version__
    assert old["counts"] == new["counts"] == {"1": 10}
    assert old["circuit"] == new["circuit"] == circuit


def test_an_old_qiskit_is_refused_by_name_at_upload(service: RuntimeService, tmp_path: Path) -> None:
    from neartime.errors import NeartimeError

    (tmp_path / "program.py").write_text("def main(backend, user_messenger): ...\n")
    (tmp_path / "program.toml").write_text('name = "too-old"\nrequirements = ["qiskit==1.3.3"]\n')
    with pytest.raises(NeartimeError, match=r"requirements\[0\].*1\.4\.2"):
        service.upload_program(tmp_path)


INTERRUPTED = """
from neartime import RuntimeService

service = RuntimeService()
job = service.run("endless", callback=lambda job_id, value: print(job_id, flush=True))
job.result()
"""


def test_ctrl_c_in_the_client_leaves_the_job_in_a_state_that_is_told_truly(
    runtime: Runtime, service: RuntimeService
) -> None:
    service.upload_program(
        "import time\n\ndef main(backend, user_messenger):\n    user_messenger.publish(1)\n"
        "    while True:\n        time.sleep(0.05)\n",
        name="endless",
    )
    environment = os.environ | {"NEARTIME_URL": runtime.url, "NEARTIME_TOKEN": runtime.token}
    client = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert client.stdout is not None
    job = service.job(client.stdout.readline().strip())
    try:
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=60)
        assert client.returncode != 0
        assert "KeyboardInterrupt" in errors
        assert job.status() == JobStatus.RUNNING
    finally:  # or everybody after it waits for its backend
        job.cancel()
    job.wait_for_final_state(timeout=30)
    assert job.status() == JobStatus.CANCELLED


def test_a_batch_runs_its_jobs_and_a_session_keeps_its_worker_warm(service: RuntimeService) -> None:
    source = """
calls = 0

def main(backend, user_messenger):
    global calls
    calls += 1
    return calls
"""
    service.upload_program(source, name="warm")
    with Session(service, backend="aer") as session:
        assert [session.run("warm").result(timeout=60) for _ in range(3)] == [1, 2, 3]
