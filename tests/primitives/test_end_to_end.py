"""SamplerV2 and EstimatorV2 on a real runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.primitives import PrimitiveResult, PubResult, SamplerPubResult, StatevectorEstimator
from qiskit.primitives.base import BaseEstimatorV2, BaseSamplerV2

from neartime import Batch, JobFailed, RuntimeService, Session
from neartime.primitives import EstimatorV2, SamplerV2
from neartime_server.testing import Runtime


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        yield service


def rotated(measured: bool = False) -> QuantumCircuit:
    circuit = QuantumCircuit(2)
    circuit.ry(Parameter("a"), 0)
    circuit.cx(0, 1)
    if measured:
        circuit.measure_all()
    return circuit


def test_a_session_takes_both_and_stays_warm(service: RuntimeService) -> None:
    values = np.linspace(0, np.pi, 5).reshape(5, 1)
    observables = [["ZZ"], ["IZ"], ["XX"]]
    exact = StatevectorEstimator().run([(rotated(), observables, values)], precision=0).result()[0].data.evs
    with Session(service, backend="aer") as session:
        estimator, sampler = EstimatorV2(session), SamplerV2(session, {"default_shots": 500})
        assert isinstance(estimator, BaseEstimatorV2)
        assert isinstance(sampler, BaseSamplerV2)
        jobs = [estimator.run([(rotated(), observables, values)], precision=0.0) for _ in range(3)]
        for job in jobs:
            result = job.result(timeout=100)
            assert isinstance(result, PrimitiveResult)
            assert isinstance(result[0], PubResult)
            assert result[0].data.evs.shape == (3, 5)
            np.testing.assert_allclose(result[0].data.evs, exact, atol=1e-9)
        # The first one imports and builds; those after it find all that ready.
        assert max(job.usage() for job in jobs[1:]) < 0.3
        found = sampler.run([(rotated(True), [[0.0], [np.pi]])]).result(timeout=100)[0]
        assert isinstance(found, SamplerPubResult)
        assert found.data.meas.get_counts(0) == {"00": 500}
        assert found.data.meas.get_counts(1) == {"11": 500}
        assert sampler.run([(rotated(True), [0.0])], shots=7).result(timeout=100)[0].data.meas.num_shots == 7


def test_a_backend_its_name_and_a_batch_are_modes_too(service: RuntimeService) -> None:
    pub = (rotated(), "ZZ", [0.3])
    with Batch(service, backend="aer") as batch:
        jobs = [EstimatorV2(mode, service=service).run([pub]) for mode in ("aer", batch, None)]
        jobs.append(EstimatorV2(service.backend("aer")).run([pub]))
        for job in jobs:
            assert abs(job.result(timeout=100)[0].data.evs - 1.0) < 0.1
    with pytest.raises(TypeError, match="mode: a backend, its name, a Session or a Batch, not int"):
        SamplerV2(5)


def test_finished_pubs_reach_a_callback_while_the_job_runs(service: RuntimeService) -> None:
    seen: list[Any] = []
    estimator = EstimatorV2("aer", service=service)
    job = estimator.run([(rotated(), "ZZ", [0.1]), (rotated(), "IZ", [[0.2], [0.4]])], precision=0.0,
                        callback=lambda job_id, interim: seen.append(interim))  # fmt: skip
    result = job.result(timeout=100)
    assert [one["pub"] for one in seen] == [0, 1]
    for one in seen:
        np.testing.assert_array_equal(one["result"].data.evs, result[one["pub"]].data.evs)
    assert service.job(job.job_id()).result()[1].data.evs.shape == (2,)


def test_a_circuit_that_the_backend_does_not_have_fails_the_job_with_its_place(service: RuntimeService) -> None:
    job = SamplerV2("generic_5q", service=service).run([(rotated(True), [0.1])])
    with pytest.raises(JobFailed, match=r"pubs\[0\]: .*'generic_5q', which has no instruction 'ry' on qubits \(0,\)"):
        job.result(timeout=100)


def test_a_transpiled_circuit_runs_on_a_device(service: RuntimeService) -> None:
    with Session(service, backend="generic_5q") as session:
        told = session.run("transpile", {"circuits": [rotated(True)], "optimization_level": 3}).result(timeout=100)
        assert told["depths"] == [1]
        found = SamplerV2(session).run([(told["circuits"][0], [np.pi])]).result(timeout=100)[0].data.meas
    assert found.get_counts()["11"] > 3500


def test_the_default_level_does_nothing_where_there_is_no_noise_and_more_where_there_is(
    service: RuntimeService,
) -> None:
    assert service.backend("aer").configuration()["noise_free"] is True
    assert service.backend("generic_5q").configuration()["noise_free"] is False
    quiet = EstimatorV2("aer", service=service).run([(rotated(), "ZZ", [0.1])])
    assert service.program(quiet.program_id).name == "estimator"
    quiet.result(timeout=100)
    device = EstimatorV2("generic_5q", {"resilience_level": 0}, service=service).run([(rotated(), "ZZ", [0.1])])
    assert service.program(device.program_id).name == "estimator"
    device.wait_for_final_state(100)


def test_no_pub_and_no_shots_are_refused_before_anything_is_sent(service: RuntimeService) -> None:
    with pytest.raises(ValueError, match="pubs: there are none"):
        SamplerV2("aer", service=service).run([])
    with pytest.raises(ValueError, match="shots"):
        SamplerV2("aer", service=service).run([rotated(True).assign_parameters([0.1])], shots=-3)
