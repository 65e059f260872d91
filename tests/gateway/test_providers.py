"""Backends of providers that nobody here wrote, each in an environment of its own that its gateway was given.

They are installed from the package index, and run without a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from gateway.lab import until
from qiskit import QuantumCircuit
from qiskit.circuit import Parameter
from qiskit.quantum_info import SparsePauliOp

from neartime import RuntimeService, Session
from neartime.errors import JobFailed
from neartime.primitives import EstimatorV2, SamplerV2
from neartime_server.testing import Runtime

pytestmark = pytest.mark.slow

FILE = """
[[backends]]
name = "ions"
factory = "qiskit_aqt_provider:AQTProvider().offline.ideal"
description = "AQT's simulator of trapped ions, without noise"
simulator = true
[backends.gateway]
requirements = ["qiskit-aqt-provider>=2"]

[[backends]]
name = "braket"
factory = "qiskit_braket_provider:BraketLocalBackend"
description = "Amazon Braket's local simulator"
simulator = true
[backends.gateway]
requirements = ["qiskit-braket-provider>=0.11"]

[[backends]]
name = "fake_manila"
factory = "qiskit_ibm_runtime.fake_provider:FakeManilaV2"
[backends.gateway]
requirements = ["qiskit-ibm-runtime", "qiskit-aer"]

[[backends]]
name = "fake_sherbrooke"
factory = "qiskit_ibm_runtime.fake_provider:FakeSherbrooke"
[backends.gateway]
requirements = ["qiskit-ibm-runtime", "qiskit-aer"]
"""

BELL = """
import importlib.util
from importlib.metadata import version
from qiskit import QuantumCircuit, transpile

def main(backend, user_messenger, shots):
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    ready = transpile(bell, backend, optimization_level=1, seed_transpiler=1)
    counts = backend.run(ready, shots=shots).result().get_counts()
    there = [name for name in ("qiskit_aqt_provider", "qiskit_braket_provider") if importlib.util.find_spec(name)]
    return counts, sorted(ready.count_ops()), there, version("qiskit")
"""

REFUSED = """
from qiskit import QuantumCircuit

def main(backend, user_messenger):
    made = QuantumCircuit(1)
    made.rz(0.1, 0)
    made.measure_all()
    backend.run(made, shots=10**7).result()
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    file = tmp_path_factory.mktemp("providers") / "backends.toml"
    file.write_text(FILE)
    with Runtime(backends_file=file) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def service(runtime: Runtime) -> Iterator[RuntimeService]:
    with runtime.service() as service:
        service.upload_program(BELL, name="bell")
        for name in (
            "ions",
            "braket",
            "fake_manila",
            "fake_sherbrooke",
        ):  # environments are made, which takes what the index takes
            until(lambda name=name: service.backend(name).operational, 110)
        yield service


def qiskit_of(runtime: Runtime, name: str) -> str:
    """The Qiskit that a gateway runs in."""
    pid = int((runtime.home / "run" / "gateways" / f"{name}.lock").read_text())
    python = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    lock = (Path(python).parent.parent / "requirements.lock").read_text()
    return re.search(r"^qiskit==(\S+)", lock, re.MULTILINE)[1]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "gates"),
    [
        ("ions", {"r", "rxx", "rz", "measure", "barrier"}),
        ("braket", {"h", "cx", "measure", "barrier"}),
    ],
)
def test_a_bell_pair_in_a_session(runtime: Runtime, service: RuntimeService, name: str, gates: set[str]) -> None:
    with Session(service, backend=name) as session:
        for _ in range(2):
            counts, ran, there, _ = session.run("bell", {"shots": 200}).result(timeout=60)
            assert set(counts) == {"00", "11"}
            assert sum(counts.values()) == 200
            assert 60 < counts["00"] < 140
            assert set(ran) <= gates
            assert there == []  # the provider is in the gateway's environment alone
    configuration = service.backend(name).configuration()
    assert configuration["num_qubits"] >= 20
    assert configuration["simulator"] is True
    assert set(configuration["basis_gates"]) >= gates - {"measure", "barrier"}


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("name", "qubits"), [("fake_manila", 5), ("fake_sherbrooke", 127)])
def test_fake_devices_have_noise_and_a_date(service: RuntimeService, name: str, qubits: int) -> None:
    counts, ran, _, _ = service.run("bell", {"shots": 4000}, {"backend": name}).result(timeout=100)
    assert sum(counts.values()) == 4000
    assert counts["00"] + counts["11"] > 3200
    assert counts.get("01", 0) + counts.get("10", 0) > 10
    assert set(ran) <= {"cx", "ecr", "rz", "sx", "x", "measure", "barrier"}
    backend = service.backend(name)
    assert backend.num_qubits == qubits
    assert len(backend.configuration()["coupling_map"]) >= qubits - 1
    properties = backend.properties()
    assert len(properties["qubits"]) == qubits
    age = datetime.now(timezone.utc) - datetime.fromisoformat(properties["last_update_date"])
    assert age > timedelta(days=1)  # it is the provider's own, of the device that it was taken from


@pytest.mark.timeout(200)
def test_the_ions_pin_another_qiskit_than_the_program_has(runtime: Runtime, service: RuntimeService) -> None:
    *_, ours = service.run("bell", {"shots": 10}, {"backend": "ions"}).result(timeout=60)
    theirs = qiskit_of(runtime, "ions")
    assert theirs != ours


@pytest.mark.timeout(200)
def test_what_a_provider_refuses_is_told_in_its_words(service: RuntimeService) -> None:
    service.upload_program(REFUSED, name="refused")
    with pytest.raises(JobFailed, match=r"ProviderError: ValueError: Shots must be in the range \[1, 2000\]"):
        service.run("refused", {}, {"backend": "ions"}).result(timeout=60)


@pytest.mark.timeout(200)
def test_primitives_run_on_the_ions(service: RuntimeService) -> None:
    theta = Parameter("theta")
    circuit = QuantumCircuit(2)
    circuit.ry(theta, 0)
    circuit.cx(0, 1)
    with Session(service, backend="ions") as session:
        measured = circuit.measure_all(inplace=False)
        found = session.run("transpile", {"circuits": [circuit, measured], "optimization_level": 1}).result(timeout=60)
        bare, measured = found["circuits"]
        sampled = SamplerV2(session).run([(measured, [[0.0], [np.pi]])], shots=100).result(timeout=60)[0]
        assert sampled.data.meas.get_counts(0) == {"00": 100}
        assert sampled.data.meas.get_counts(1) == {"11": 100}
        observable = SparsePauliOp("ZZ").apply_layout(bare.layout)
        single = SparsePauliOp("IZ").apply_layout(bare.layout)
        angles = np.array([[0.0], [np.pi / 3], [np.pi]])
        estimator = EstimatorV2(session, {"resilience_level": 0})
        values = estimator.run([(bare, [[observable], [single]], angles)], precision=0.03).result(timeout=90)[0].data
        np.testing.assert_allclose(values.evs, [[1, 1, 1], [1, 0.5, -1]], atol=0.15)
