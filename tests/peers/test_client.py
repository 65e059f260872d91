"""The genuine client, unmodified, against a real server: a script as its users have it.

Server and client are processes of two environments, since their requirements contradict each other.
"""

from __future__ import annotations

import copy
import json
import re
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qiskit_ibm_runtime
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from qiskit_ibm_runtime import (
    Batch,
    Executor,
    NoiseLearner,
    NoiseLearnerV3,
    QiskitRuntimeService,
    QuantumProgram,
    Session,
)
from qiskit_ibm_runtime import EstimatorV2 as ServersEstimator
from qiskit_ibm_runtime.exceptions import (
    IBMRuntimeError,
    RuntimeInvalidStateError,
    RuntimeJobFailureError,
    RuntimeJobNotFound,
)
from qiskit_ibm_runtime.executor_estimator import EstimatorV2
from qiskit_ibm_runtime.executor_noise_learner import NoiseLearnerV3 as ClientsNoiseLearner
from qiskit_ibm_runtime.executor_sampler import SamplerV2
from qiskit_ibm_runtime.results.noise_learner import NoiseLearnerResult

from neartime import ibm
from neartime.errors import ConfigurationError, ConnectionFailed, Unauthorized

ROOT = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a job may take: for the first one, its environment is made and all that is in it imported."""
DEVICE = "generic_5q"


@pytest.fixture(scope="module")
def server() -> Iterator[SimpleNamespace]:
    command = [ROOT / ".venv" / "bin" / "python", Path(__file__).with_name("serve.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the server did not start; what it said is above"
        yield SimpleNamespace(**json.loads(line))
        process.stdin.close()
        process.wait(30)


@pytest.fixture
def environment(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a user sets, on the page about it."""
    monkeypatch.setenv("IAM_URL", f"{server.url}/api/v1")
    monkeypatch.setenv("QISKIT_FUNCTIONS_EXPERIMENTAL", "1")
    monkeypatch.setenv("QISKIT_IBM_RUNTIME_LOG_LEVEL", "ERROR")
    return server


def connect(server: SimpleNamespace, token: str) -> QiskitRuntimeService:
    return QiskitRuntimeService(
        channel="ibm_quantum_platform",
        token=token,
        url=f"{server.url}/api/v1",
        instance="crn:v1:neartime:public:quantum-computing:local:::",
        url_resolver=lambda url, *_: url,
    )


@pytest.fixture
def service(environment: SimpleNamespace) -> QiskitRuntimeService:
    return connect(environment, environment.token)


def bell(backend: Any, *, measured: bool) -> QuantumCircuit:
    """|00> + |11>, turned by a parameter: 0 is |00>, π is |11>."""
    angle = Parameter("angle")
    circuit = QuantumCircuit(2)
    circuit.ry(angle, 0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return generate_preset_pass_manager(1, backend=backend, seed_transpiler=1).run(circuit)


ANGLES = np.linspace(0, np.pi, 3)[:, None]


def observables(circuit: QuantumCircuit) -> list[list[SparsePauliOp]]:
    """ZZ is 1 at each of the angles, ZI their cosine."""
    return [[SparsePauliOp(text).apply_layout(circuit.layout)] for text in ("ZZ", "ZI")]


def test_backends_are_listed_and_described(service: QiskitRuntimeService) -> None:
    assert {one.name for one in service.backends()} == {"aer", DEVICE}
    assert [one.name for one in service.backends(simulator=False, operational=True)] == [DEVICE]
    assert [one.name for one in service.backends(min_num_qubits=10)] == ["aer"]
    assert service.least_busy(min_num_qubits=2).name in ("aer", DEVICE)
    backend = service.backend(DEVICE)
    status = backend.status()
    assert (status.operational, status.status_msg, status.pending_jobs) == (True, "active", 0)
    configuration = backend.configuration()
    assert (configuration.n_qubits, configuration.backend_name) == (5, DEVICE)
    assert set(configuration.basis_gates) == {"cx", "id", "rz", "sx", "x"}
    properties = backend.properties()
    assert 0 < properties.t1(0) < 1e-2
    assert 0 < properties.gate_error("cx", [0, 1]) < 0.1
    assert 1e9 < properties.frequency(0) < 1e10
    assert backend.target.num_qubits == backend.num_qubits == 5
    assert {"cx", "measure", "reset", "delay"} <= set(backend.target.operation_names)
    assert backend.target["measure"][(0,)].error == pytest.approx(properties.readout_error(0))
    assert 1e-10 < backend.dt < 1e-8
    assert backend.coupling_map.distance(0, 3) == 3
    assert service.backend("aer").target.num_qubits > 20
    assert copy.deepcopy(backend).status().operational  # a copy asks for a token of its own


def test_circuits_are_transpiled_for_what_is_described(service: QiskitRuntimeService) -> None:
    for name, gates in ((DEVICE, {"rz", "sx", "x", "cx", "measure", "barrier"}), ("aer", None)):
        found = set(bell(service.backend(name), measured=True).count_ops())
        assert gates is None or found <= gates


def test_a_session_of_sampler_and_estimator(service: QiskitRuntimeService) -> None:
    backend = service.backend(DEVICE)
    with Session(backend, max_time="10m") as session:
        assert session.status() == "Pending"
        sampler = SamplerV2(mode=session, options={"environment": {"job_tags": ["first"]}})
        job = sampler.run([(bell(backend, measured=True), ANGLES)], shots=500)
        counts = [job.result(timeout=PATIENCE)[0].data.meas[place].get_counts() for place in range(3)]
        assert counts[0]["00"] > 450
        assert counts[1]["00"] + counts[1]["11"] > 450
        assert min(counts[1]["00"], counts[1]["11"]) > 150
        assert counts[2]["11"] > 450
        assert session.status() == "In progress, accepting new jobs"
        estimator = EstimatorV2(mode=session)
        circuit = bell(backend, measured=False)
        values = estimator.run([(circuit, observables(circuit), ANGLES)], precision=0.02).result(timeout=PATIENCE)
        assert values[0].data.evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.15)
        assert values[0].data.stds.max() < 0.05
        jobs = service.jobs(session_id=session.session_id)
        assert len(jobs) == 2
        again = Session.from_id(session.session_id, service)
        assert jobs[-1].job_id() == job.job_id()
    assert session.details()["accepting_jobs"] is False
    assert session.usage() > 0
    late = SamplerV2(mode=again)
    with pytest.raises(IBMRuntimeError, match="takes no more jobs"):
        late.run([(bell(backend, measured=True), [0.0])])


@pytest.mark.filterwarnings("ignore:The .* class is deprecated")
def test_the_primitives_that_are_programs_of_the_server(service: QiskitRuntimeService) -> None:
    backend = service.backend(DEVICE)
    measured, circuit = bell(backend, measured=True), bell(backend, measured=False)
    with Batch(backend) as batch:
        plain = qiskit_ibm_runtime.SamplerV2(mode=batch).run([(measured, ANGLES)], shots=200)
        suppressed = qiskit_ibm_runtime.SamplerV2(mode=batch, options={"dynamical_decoupling": {"enable": True}})
        estimators = [
            qiskit_ibm_runtime.EstimatorV2(mode=batch, options={"resilience_level": level}) for level in (0, 1, 2)
        ]
        jobs = [one.run([(circuit, observables(circuit), ANGLES)], precision=0.02) for one in estimators]
        for job in (plain, suppressed.run([(measured, ANGLES)], shots=200)):
            assert job.result(timeout=PATIENCE)[0].data.meas[2].get_counts()["11"] > 170
        for job in jobs:
            evs = job.result(timeout=PATIENCE)[0].data.evs
            assert evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.15)
    assert {service.job(job.job_id()).primitive_id for job in jobs} == {"estimator"}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_the_estimator_mitigates_at_each_level(service: QiskitRuntimeService, level: int) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=False)
    estimator = EstimatorV2(mode=backend, options={"resilience_level": level})
    result = estimator.run([(circuit, observables(circuit), ANGLES)], precision=0.02).result(timeout=PATIENCE)
    assert result[0].data.evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.15)


def test_options_of_mitigation_and_suppression_are_carried_out(service: QiskitRuntimeService) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=False)
    estimator = EstimatorV2(mode=backend)
    estimator.options.resilience.measure_mitigation = True
    estimator.options.resilience.zne_mitigation = True
    estimator.options.resilience.zne.noise_factors = (1, 3, 5)
    estimator.options.resilience.zne.extrapolator = "linear"
    estimator.options.twirling.enable_gates = True
    estimator.options.dynamical_decoupling.enable = True
    estimator.options.dynamical_decoupling.sequence_type = "XY4"
    data = estimator.run([(circuit, observables(circuit), ANGLES)], precision=0.02).result(timeout=PATIENCE)[0].data
    assert data.evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.2)
    assert data.evs_noise_factors.shape == (2, 3, 3)


SOME = {"num_randomizations": 8, "layer_pair_depths": [0, 2, 8]}
"""What is learnt of, less than the default."""


def test_the_noise_learner_is_answered_and_the_estimator_cancels_what_it_found(service: QiskitRuntimeService) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=False)
    pub = (circuit, observables(circuit), ANGLES)
    with pytest.deprecated_call():
        learner = NoiseLearner(mode=backend, options=SOME)
    result = learner.run([pub]).result(timeout=PATIENCE)
    assert isinstance(result, NoiseLearnerResult)
    assert [len(layer.qubits) for layer in result] == [2]
    assert 0 < result[0].error.rates.sum() < 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = ServersEstimator(mode=backend, options={"default_precision": 0.05})
    estimator.options.resilience.pec_mitigation = True
    estimator.options.resilience.layer_noise_model = result
    data = estimator.run([pub]).result(timeout=PATIENCE)[0]
    assert data.data.evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.3)
    told = data.metadata["resilience"]["pec"]
    assert told["gamma"] == pytest.approx(np.exp(2 * result[0].error.rates.sum()))


@pytest.mark.parametrize("learner", [NoiseLearnerV3, ClientsNoiseLearner])
def test_the_newer_noise_learners_are_answered(service: QiskitRuntimeService, learner: Any) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=False)
    pub = (circuit, observables(circuit), ANGLES)
    estimator = EstimatorV2(mode=backend, options={"default_precision": 0.05})
    estimator.options.resilience.pec_mitigation = True
    layers = estimator.find_unique_layers([pub])
    maps = learner(backend, SOME).run(layers).result(timeout=PATIENCE).to_pauli_lindblad_maps()
    assert [one.num_qubits for one in maps] == [2]
    assert 0 < maps[0].rates.sum() < 0.1
    estimator.options.resilience.layer_noise_model = list(zip(layers, maps, strict=True))
    data = estimator.run([pub]).result(timeout=PATIENCE)[0].data
    assert data.evs == pytest.approx(np.array([[1, 1, 1], [1, 0, -1]]), abs=0.3)


def test_jobs_of_a_batch_are_found_again_by_another_service(
    environment: SimpleNamespace, service: QiskitRuntimeService
) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=True)
    with Batch(backend) as batch:
        sampler = SamplerV2(mode=batch)
        jobs = [sampler.run([(circuit, [angle])], shots=100) for angle in (0.0, np.pi)]
    later = connect(environment, environment.token)
    for job, most in zip(jobs, ("00", "11"), strict=True):
        found = later.job(job.job_id())
        assert found.result(timeout=PATIENCE)[0].data.meas.get_counts()[most] > 80
        assert (found.status(), found.session_id, found.primitive_id) == ("DONE", batch.session_id, "executor")
        assert found.backend().name == DEVICE
        assert found.creation_date == job.creation_date
        assert found.inputs["quantum_program"].shots == 100
        assert found.error_message() is None


def test_a_quantum_program_runs_on_the_simulator(service: QiskitRuntimeService) -> None:
    backend = service.backend("aer")
    program = QuantumProgram(shots=50)
    program.append_circuit_item(bell(backend, measured=True), circuit_arguments=ANGLES)
    executor = Executor(backend)
    executor.options.experimental = {"seed_simulator": 7}
    results = [executor.run(program).result(timeout=PATIENCE) for _ in range(2)]
    bits = [result[0]["meas"] for result in results]
    assert bits[0].shape == (3, 50, 2)
    assert np.array_equal(*bits)
    assert not bits[0][0].any()
    assert bits[0][2].all()
    assert len(list(results[0].timing)) == 1


def test_tags_metrics_usage_and_logs_of_a_job(service: QiskitRuntimeService) -> None:
    backend = service.backend("aer")
    sampler = SamplerV2(mode=backend, options={"environment": {"job_tags": ["one", "two"], "log_level": "WARNING"}})
    sampler.options.execution.init_qubits = False
    job = sampler.run([(bell(backend, measured=True), [0.0])], shots=10)
    job.wait_for_final_state(timeout=PATIENCE)
    assert [one.job_id() for one in service.jobs(job_tags=["one", "two"])] == [job.job_id()]
    assert sorted(job.update_tags(["three"])) == ["three"]
    assert service.jobs(job_tags=["one"]) == []
    assert job.metrics()["timestamps"]["finished"]
    assert 0 < job.usage() <= service.usage()["usage_consumed_seconds"]
    assert "init_qubits" in job.logs()
    assert job.job_id() in {one.job_id() for one in service.jobs(limit=500, program_id="executor", pending=False)}
    service.delete_job(job.job_id())
    with pytest.raises(RuntimeJobNotFound):
        service.job(job.job_id())


def test_a_job_that_waits_is_cancelled_and_one_that_has_ended_is_not(service: QiskitRuntimeService) -> None:
    backend = service.backend(DEVICE)
    circuit = bell(backend, measured=True)
    session = Session(backend)  # in a `with` block, the client would put the other job into it, too
    first = SamplerV2(mode=session).run([(circuit, [0.0])], shots=10)
    first.wait_for_final_state(timeout=PATIENCE)
    waiting = SamplerV2(mode=backend).run([(circuit, [0.0])], shots=10)
    assert waiting.status() == "QUEUED"
    assert waiting.job_id() in {one.job_id() for one in service.jobs(pending=True)}
    waiting.cancel()
    assert service.job(waiting.job_id()).cancelled()
    with pytest.raises(RuntimeInvalidStateError):
        waiting.result(timeout=PATIENCE)
    with pytest.raises(RuntimeInvalidStateError):
        first.cancel()
    session.cancel()
    assert session.status() == "Closed"


def test_a_circuit_that_is_not_of_the_backends_kind_fails_with_the_gate_named(service: QiskitRuntimeService) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.measure_all()
    program = QuantumProgram(shots=10)
    program.append_circuit_item(circuit)
    job = Executor(service.backend(DEVICE)).run(program)
    with pytest.raises(RuntimeJobFailureError, match=r"item 0 .*\bh\b"):
        job.result(timeout=PATIENCE)
    assert "no ISA circuit" in job.error_message()


def test_instances_do_not_see_each_other(environment: SimpleNamespace, service: QiskitRuntimeService) -> None:
    backend = service.backend("aer")
    job = SamplerV2(mode=backend).run([(bell(backend, measured=True), [0.0])], shots=10)
    other = connect(environment, environment.other)
    assert other.jobs() == []
    with pytest.raises(RuntimeJobNotFound):
        other.job(job.job_id())
    job.wait_for_final_state(timeout=PATIENCE)


def test_the_page_about_it_runs_as_it_is_shown(
    environment: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEARTIME_URL", environment.url)
    monkeypatch.setenv("NEARTIME_TOKEN", environment.token)
    page = (ROOT / "docs" / "how-to" / "ibm-client.md").read_text()
    exec(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[0], {})
    assert "'11': " in capsys.readouterr().out


def test_the_helper_gives_a_ready_service(environment: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IAM_URL")
    monkeypatch.setenv("NEARTIME_URL", environment.url)
    monkeypatch.setenv("NEARTIME_TOKEN", environment.token)
    service = ibm.service()
    assert {one.name for one in service.backends()} == {"aer", DEVICE}
    with pytest.raises(Unauthorized, match="not known here"):
        ibm.service(environment.url, "neartime_nothing")
    with pytest.raises(ConfigurationError, match="for each server"):
        ibm.service("http://127.0.0.1:9", "neartime_nothing")
    monkeypatch.delenv("IAM_URL")
    with pytest.raises(ConnectionFailed):
        ibm.service("http://127.0.0.1:9", "neartime_nothing")
