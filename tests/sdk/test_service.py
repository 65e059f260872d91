"""The client against a real runtime: programs, jobs, sessions, backends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from neartime import (
    Batch,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobStatus,
    JobTimeout,
    NotFound,
    ResultDecoder,
    RuntimeOptions,
    RuntimeService,
    Session,
    Unauthorized,
)
from neartime.contract.jobs import ReasonCode
from neartime.errors import Conflict, InvalidRequest
from neartime_server.testing import Runtime

COUNTING = """
import time

def main(backend, user_messenger, count=3, pause=0.0, fail=False):
    print("counting to", count)
    for number in range(count):
        user_messenger.publish(number)
        time.sleep(pause)
    if fail:
        raise ValueError("counted too far")
    return {"count": count, "backend": backend.name}
"""

TYPED = """
from pydantic import BaseModel, Field

class Inputs(BaseModel):
    maxiter: int = Field(ge=1)
    name: str = "x"

def main(backend, user_messenger, inputs: Inputs):
    return inputs.maxiter * 2
"""


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        service.upload_program(COUNTING, name="counting", description="Counts.")
        service.upload_program(TYPED, name="typed")
        yield service


# --- programs


def test_a_program_is_uploaded_listed_shown_changed_downloaded_and_deleted(
    service: RuntimeService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program_id = service.upload_program(COUNTING, name="kept", description="First.")
    assert "kept" in [program.name for program in service.programs(limit=100)]
    assert [program.name for program in service.programs(search="KEPT")] == ["kept"]
    assert service.program(program_id).name == service.program("kept").name == "kept"
    service.update_program("kept", description="Second.")
    assert (service.program("kept").description, service.program("kept").version) == ("Second.", 1)
    service.update_program(program_id, COUNTING + "\n# changed\n")
    assert service.program("kept").version == 2
    assert [version.number for version in service.program("kept").versions()] == [2, 1]
    service.set_program_visibility("kept", True)
    assert service.program("kept").is_public
    folder = service.download_program("kept", tmp_path / "kept")
    assert (folder / "program.py").read_text().endswith("# changed\n")
    service.pprint_programs(limit=100)
    assert "kept" in capsys.readouterr().out
    service.delete_program("kept")
    with pytest.raises(NotFound, match="kept"):
        service.program("kept")


def test_metadata_of_qiskit_runtime_is_taken_as_it_is(service: RuntimeService) -> None:
    metadata = {
        "name": "ibm-style",
        "description": "As it was.",
        "max_execution_time": 120,
        "spec": {
            "backend_requirements": {"min_num_qubits": 2},
            "parameters": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]},
        },
    }
    service.upload_program("def main(backend, user_messenger, **kwargs):\n    return kwargs['n']\n", metadata)
    program = service.program("ibm-style")
    assert (program.description, program.max_execution_time) == ("As it was.", 120)
    assert program.parameters()["required"] == ["n"]
    assert program.backend_requirements["min_num_qubits"] == 2
    with pytest.raises(InvalidInput, match=r"inputs\.n"):
        service.run("ibm-style", {"n": 0})


def test_a_function_is_a_program(service: RuntimeService) -> None:
    factor = 3

    def triple(backend: Any, user_messenger: Any, number: int) -> int:
        return factor * number

    service.upload_program(triple, name="triple")
    assert service.run("triple", {"number": 14}).result(timeout=60) == 42


# --- jobs


def test_a_job_tells_what_it_is_and_what_came_of_it(service: RuntimeService) -> None:
    heard: list[tuple[str, Any]] = []
    options = RuntimeOptions(backend="aer", job_tags=["first", "of many"], max_execution_time="2m")
    job = service.run("counting", {"count": 4}, options, callback=lambda *said: heard.append(said))
    assert job.result(timeout=60) == {"count": 4, "backend": "aer"}
    assert heard == [(job.job_id(), number) for number in range(4)]
    assert job.status() is JobStatus.COMPLETED
    assert (job.done(), job.in_final_state(), job.errored(), job.cancelled()) == (True, True, False, False)
    assert job.inputs == {"count": 4}
    assert job.tags == ["first", "of many"]
    assert job.interim_results() == [0, 1, 2, 3]
    assert job.error_message() is None
    assert "counting to 4" in job.logs()
    assert job.metrics()["interims"] == 4
    assert job.usage() >= 0
    assert datetime.now(timezone.utc) - job.creation_date < timedelta(minutes=5)
    assert job.result() is job.result()
    assert job.update_tags(["other"]) == ["other"]
    assert job.backend().name == "aer"
    assert job.job_id() in repr(job)


def test_a_job_of_before_is_the_same_from_another_client(runtime: Runtime, service: RuntimeService) -> None:
    job = service.run("counting", {"count": 5})
    job.wait_for_final_state(timeout=60)
    with runtime.service() as other:
        again = other.job(job.job_id())
        assert again.result(timeout=60) == job.result()
        assert again.inputs == {"count": 5}
        assert again.program_id == job.program_id
        assert again.session_id == job.session_id
        heard: list[int] = []
        again.stream_results(lambda job_id, value: heard.append(value))
        again.stream_results(lambda job_id, value: heard.append(10 * value), after=3)
        again.wait_for_final_state(timeout=60)
        assert heard == [0, 1, 2, 3, 4, 30, 40]
        assert [event.value for event in again.events() if event.kind == "interim"] == [0, 1, 2, 3, 4]


def test_a_running_job_is_taken_up_by_another_client_from_its_first_interim_result(
    runtime: Runtime, service: RuntimeService
) -> None:
    begun = threading.Event()
    job = service.run("counting", {"count": 20, "pause": 0.05}, callback=lambda job_id, value: begun.set())
    assert begun.wait(30)
    with runtime.service() as other:
        heard: list[int] = []
        again = other.job(job.job_id())
        again.stream_results(lambda job_id, value: heard.append(value))
        assert again.result(timeout=60)["count"] == 20
        assert heard == list(range(20))
        assert again.status() is JobStatus.COMPLETED


def test_a_job_is_watched_as_a_loop_over_its_events(service: RuntimeService) -> None:
    events = list(service.run("counting", {"count": 2}).events(timeout=60))
    statuses = [event.status for event in events if event.kind == "status"]
    assert [event.value for event in events if event.kind == "interim"] == [0, 1]
    assert statuses[-1] is JobStatus.COMPLETED
    assert JobStatus.RUNNING in statuses


def test_a_fault_names_the_option_as_the_caller_calls_it(service: RuntimeService) -> None:
    asked = {"max_execution_time": "6d", "log_level": "loud", "job_tags": [""]}
    for name, value in asked.items():
        with pytest.raises(InvalidRequest, match=rf"^options\.{name}"):
            service.run("counting", {"count": 1}, {name: value})
    with pytest.raises(InvalidRequest, match=r"^max_time: ") as caught:
        Session(service, max_time="99d")
    assert [problem.path for problem in caught.value.problems] == ["max_time"]


def test_a_status_that_there_is_not_is_refused_with_those_there_are(service: RuntimeService) -> None:
    with pytest.raises(InvalidInput, match="'Faild' is none of Queued, Running, Completed, Failed, Cancelled"):
        service.jobs(status="Faild")


def test_a_failed_job_raises_with_the_programs_traceback_and_the_end_of_its_log(service: RuntimeService) -> None:
    job = service.run("counting", {"count": 2, "fail": True})
    with pytest.raises(JobFailed, match="ValueError: counted too far") as caught:
        job.result(timeout=60)
    assert caught.value.reason_code is ReasonCode.PROGRAM_ERROR
    assert caught.value.job_id == job.job_id()
    assert "counting to 2" in caught.value.log_tail
    assert 'raise ValueError("counted too far")' in (job.error_message() or "")
    assert str(caught.value).count('raise ValueError("counted too far")') == 1, "the log's traceback is the reason's"
    assert str(caught.value).endswith("The end of its log:\ncounting to 2")
    assert job.errored()
    assert job.interim_results() == [0, 1]


def test_a_cancelled_job_raises_that_it_was(service: RuntimeService) -> None:
    begun = threading.Event()
    job = service.run("counting", {"count": 1000, "pause": 0.05}, callback=lambda job_id, value: begun.set())
    assert begun.wait(30)
    job.cancel()
    with pytest.raises(JobCancelled) as caught:
        job.result(timeout=60)
    assert caught.value.reason_code is ReasonCode.CANCELLED_BY_USER
    assert job.cancelled()
    with pytest.raises(Conflict):
        job.cancel()


def test_a_callback_may_cancel_its_job(service: RuntimeService) -> None:
    def enough(job_id: str, value: int) -> None:
        if value == 3:
            service.job(job_id).cancel()

    job = service.run("counting", {"count": 1000, "pause": 0.05}, callback=enough)
    job.wait_for_final_state(timeout=60)
    assert job.cancelled()


def test_a_wait_that_runs_out_of_time_says_that_the_job_goes_on(service: RuntimeService) -> None:
    job = service.run("counting", {"count": 1000, "pause": 0.05})
    with pytest.raises(JobTimeout, match="goes on"):
        job.result(timeout=0.2)
    with pytest.raises(TimeoutError):
        list(job.events(timeout=0.2))
    assert not job.in_final_state()
    job.cancel()


def test_streaming_can_be_ended_and_the_job_goes_on(service: RuntimeService) -> None:
    heard: list[int] = []
    third = threading.Event()

    def callback(job_id: str, value: int) -> None:
        heard.append(value)
        if value == 3:
            job.cancel_result_streaming()
            third.set()

    job = service.run("counting", {"count": 30, "pause": 0.02}, callback=callback)
    assert third.wait(60)
    assert job.result(timeout=60)["count"] == 30
    assert heard == [0, 1, 2, 3]


def test_logs_can_be_followed_while_the_job_runs(service: RuntimeService) -> None:
    job = service.run("counting", {"count": 10, "pause": 0.05})
    assert [record.text for record in job.log_records(follow=True)] == ["counting to 10"]
    assert [record.text for record in job.log_records()] == ["counting to 10"]


def test_bad_inputs_are_refused_with_every_fault_and_nothing_is_queued(service: RuntimeService) -> None:
    before = len(service.jobs(limit=None, program_id="typed"))
    with pytest.raises(InvalidInput) as caught:
        service.run("typed", {"maxiter": -3, "name": 7})
    assert {fault.path for fault in caught.value.faults} == {"inputs.maxiter", "inputs.name"}
    assert "minimum of 1" in str(caught.value)
    assert len(service.jobs(limit=None, program_id="typed")) == before


def test_inputs_may_be_an_object_of_the_programs_model(service: RuntimeService) -> None:
    class Inputs(BaseModel):
        maxiter: int
        name: str = "x"

    assert service.run("typed", Inputs(maxiter=21)).result(timeout=60) == 42


def test_a_schema_that_another_client_has_changed_is_not_held_against_good_inputs(
    runtime: Runtime, service: RuntimeService
) -> None:
    service.upload_program(TYPED, name="moving")
    assert service.run("moving", {"maxiter": 1}).result(timeout=60) == 2
    with runtime.service() as other:
        other.upload_program(TYPED.replace("ge=1", "ge=-10"), name="moving")
    assert service.run("moving", {"maxiter": -3}).result(timeout=60) == -6


def test_a_decoder_of_ones_own_reads_interim_results_and_result(service: RuntimeService) -> None:
    class Shouting(ResultDecoder):
        @classmethod
        def decode(cls, data: str) -> Any:
            return f"{super().decode(data)}!"

    heard: list[str] = []
    job = service.run("counting", {"count": 2}, callback=lambda _, value: heard.append(value), result_decoder=Shouting)
    assert job.result(timeout=60) == "{'count': 2, 'backend': 'aer'}!"
    assert heard == ["0!", "1!"]
    assert job.interim_results() == ["0!", "1!"]
    assert job.result(decoder=ResultDecoder)["count"] == 2


def test_jobs_are_found_by_what_they_are(service: RuntimeService) -> None:
    begin = datetime.now(timezone.utc)
    first = service.run("counting", {"count": 1}, {"job_tags": ["hunt", "one"]})
    second = service.run("counting", {"count": 1, "fail": True}, {"job_tags": ["hunt", "two"]})
    for job in (first, second):
        job.wait_for_final_state(timeout=60)

    def found(**filters: Any) -> list[str]:
        return [job.job_id() for job in service.jobs(created_after=begin - timedelta(seconds=1), **filters)]

    ids = [first.job_id(), second.job_id()]
    assert found(job_tags=["hunt"]) == ids[::-1]
    assert found(job_tags=["hunt"], descending=False) == ids
    assert found(job_tags=["hunt", "two"]) == ids[1:]
    assert found(job_tags=["hunt"], status="Failed") == ids[1:]
    assert found(job_tags=["hunt"], status=[JobStatus.FAILED, JobStatus.COMPLETED], limit=1, skip=1) == ids[:1]
    assert found(job_tags=["hunt"], pending=True) == []
    assert found(job_tags=["hunt"], program_id="counting", session_id=first.session_id) == ids[:1]
    assert found(job_tags=["hunt"], backend_name="generic_5q") == []
    assert found(job_tags=["hunt"], created_before=begin - timedelta(hours=1)) == []
    assert first.job_id() in [job.job_id() for job in service.jobs(limit=None)]


def test_a_job_is_deleted_with_all_that_it_left(service: RuntimeService) -> None:
    job = service.run("counting", {"count": 1})
    job.wait_for_final_state(timeout=60)
    service.delete_job(job.job_id())
    with pytest.raises(NotFound):
        service.job(job.job_id())


def test_the_same_idempotency_key_is_the_same_job(service: RuntimeService) -> None:
    key = f"once-{time.time_ns()}"
    jobs = [service.run("counting", {"count": 1}, idempotency_key=key) for _ in range(2)]
    assert jobs[0].job_id() == jobs[1].job_id()
    with pytest.raises(Conflict):
        service.run("counting", {"count": 2}, idempotency_key=key)


async def test_it_works_in_a_notebook_cell_where_a_loop_runs_already(service: RuntimeService) -> None:
    assert asyncio.get_running_loop().is_running()
    assert service.run("counting", {"count": 1}).result(timeout=60)["count"] == 1


# --- sessions


def test_a_session_runs_jobs_on_its_backend_and_closes(service: RuntimeService) -> None:
    with Session(service, backend="aer", max_time="1h", interactive_timeout=120) as session:
        assert session.details()["max_time"] == 3600
        jobs = [session.run("counting", {"count": 2}) for _ in range(3)]
        assert [job.result(timeout=60)["count"] for job in jobs] == [2, 2, 2]
        assert {job.session_id for job in jobs} == {session.session_id}
        assert session.session_id in [view.id for view in service.sessions()]
        assert session.usage() >= 0
    assert not session.details()["accepting_jobs"]
    with pytest.raises(Conflict):
        session.run("counting", {"count": 1})


def test_a_session_is_taken_up_by_id(runtime: Runtime, service: RuntimeService) -> None:
    with Session(service, backend="aer") as session, runtime.service() as other:
        again = Session.from_id(session.session_id, other)
        assert again.backend() == "aer"
        heard: list[int] = []
        job = again.run("counting", {"count": 3}, callback=lambda job_id, value: heard.append(value))
        job.result(timeout=60)
        assert heard == [0, 1, 2]
    with pytest.raises(NotFound):
        Session.from_id("0" * 20, service)


def test_a_session_that_is_cancelled_takes_its_jobs_with_it(service: RuntimeService) -> None:
    session = Session(service, backend="aer")
    begun = threading.Event()
    job = session.run("counting", {"count": 1000, "pause": 0.05}, callback=lambda job_id, value: begun.set())
    assert begun.wait(30)
    session.cancel()
    with pytest.raises(JobCancelled) as caught:
        job.result(timeout=60)
    assert caught.value.reason_code is ReasonCode.SESSION_CLOSED


def test_jobs_queued_in_a_session_that_is_closed_run_to_their_end(service: RuntimeService) -> None:
    with Session(service, backend="aer") as session:
        jobs = [session.run("counting", {"count": 5, "pause": 0.02}) for _ in range(3)]
    assert [job.result(timeout=60)["count"] for job in jobs] == [5, 5, 5]


def test_a_batch_runs_its_jobs(service: RuntimeService) -> None:
    with Batch(service, backend="aer") as batch:
        jobs = [batch.run("counting", {"count": number}) for number in range(4)]
        assert [job.result(timeout=60)["count"] for job in jobs] == [0, 1, 2, 3]


def test_a_job_can_open_its_session(service: RuntimeService) -> None:
    job = service.run("counting", {"count": 1}, {"backend": "aer", "session_time": "10m"}, start_session=True)
    job.result(timeout=60)
    session = Session.from_id(job.session_id, service)
    assert session.details()["max_time"] == 600
    session.cancel()


# --- backends, usage, who calls


def test_backends_are_listed_filtered_and_described(service: RuntimeService) -> None:
    assert {"aer", "generic_5q"} <= {backend.name for backend in service.backends()}
    assert service.backend("generic_5q").num_qubits == 5
    assert [backend.name for backend in service.backends(name="aer")] == ["aer"]
    assert "generic_5q" not in [backend.name for backend in service.backends(min_num_qubits=6)]
    assert service.backend("aer").status().state
    assert service.backend("generic_5q").configuration()["basis_gates"]
    assert service.least_busy(filters=lambda backend: backend.name == "aer").name == "aer"
    with pytest.raises(LookupError):
        service.least_busy(min_num_qubits=100_000)


def test_a_backend_that_is_not_there_is_refused_with_those_there_are(service: RuntimeService) -> None:
    from neartime import RequestFailed

    with pytest.raises(RequestFailed, match="aer"):
        service.backend("nowhere")
    with pytest.raises(RequestFailed, match="aer"):
        service.run("counting", options={"backend": "nowhere"})


def test_usage_is_told(service: RuntimeService) -> None:
    assert service.usage()["jobs"]["Completed"] >= 1


def test_a_token_that_is_unknown_is_refused(runtime: Runtime) -> None:
    with RuntimeService(runtime.url, "no-such-token") as stranger, pytest.raises(Unauthorized):
        stranger.jobs()


def test_a_program_that_is_not_there_is_refused_by_name(service: RuntimeService) -> None:
    with pytest.raises(NotFound, match="no-such-program"):
        service.run("no-such-program")


def test_closing_the_service_ends_a_wait_and_says_that_the_job_goes_on(runtime: Runtime) -> None:
    from neartime import StreamError

    service = runtime.service()
    begun = threading.Event()
    job = service.run("counting", {"count": 1000, "pause": 0.05}, callback=lambda job_id, value: begun.set())
    assert begun.wait(30)
    threading.Timer(0.2, service.close).start()
    with pytest.raises(StreamError, match="goes on"):
        job.result(timeout=60)
    with runtime.service() as other:
        other.job(job.job_id()).cancel()


def test_a_backend_that_is_too_small_for_the_program_is_refused_and_nothing_is_queued(service: RuntimeService) -> None:
    wide = {"min-num-qubits": 20, "simulator": True}
    service.upload_program("def main(backend, user_messenger):\n    return 1\n", name="wide", backends=wide)
    with pytest.raises(InvalidRequest, match="20"):
        service.run("wide", options={"backend": "generic_5q"})
    with Session(service, backend="generic_5q") as session, pytest.raises(InvalidRequest, match="20"):
        session.run("wide")
    assert service.run("wide", options={"backend": "aer"}).result(timeout=60) == 1
    assert len(service.jobs(program_id="wide")) == 1


@pytest.mark.parametrize(
    "name", ["../programs/counting", "counting?x", "counting#x", "", "..", "a/b", "counting%2f", "\\"]
)
def test_a_name_with_anything_in_it_leads_to_nothing_else(service: RuntimeService, name: str) -> None:
    for ask in (service.program, service.job, service.delete_program, service.delete_job, service.backend):
        with pytest.raises(NotFound):
            ask(name)
    with pytest.raises(NotFound):
        Session.from_id(name, service)
    assert service.program("counting").name == "counting"


def test_a_backend_that_can_not_be_built_is_told_at_once_and_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    entry = '[[backends]]\nname = "{}"\nfactory = "qiskit_aer:{}"\n'
    file.write_text(entry.format("good", "AerSimulator") + entry.format("bad", "AerSim"))
    with Runtime(backends_file=file) as runtime, runtime.service() as service:
        began = time.monotonic()
        good, bad = (service.backend(name) for name in ("good", "bad"))
        assert (good.operational, bad.operational, bad.num_qubits) == (True, False, 0)
        assert "AerSim" in bad.status().message
        with pytest.raises(Conflict, match="can't be built"):
            bad.configuration()
        assert [one.name for one in service.backends(operational=True)] == ["good"]
        assert time.monotonic() - began < 30  # it is a definite answer, and not asked for again and again
