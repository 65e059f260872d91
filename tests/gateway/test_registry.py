"""The kinds of backends that a server can offer, each built and run where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest
from gateway.lab import until

from neartime.errors import Conflict, JobFailed
from neartime_server.testing import Runtime

METHODS = ("automatic", "statevector", "stabilizer", "matrix_product_state")
BELL = """
from qiskit import QuantumCircuit, transpile

def main(backend, user_messenger):
    bell = QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    bell.measure_all()
    result = backend.run(transpile(bell, backend), shots=2000).result()
    counts = result.get_counts()
    method = result.to_dict()["results"][0].get("metadata", {}).get("method")
    return counts, method
"""


def entry(name: str, factory: str, options: str = "", more: str = "") -> str:
    return f'[[backends]]\nname = "{name}"\nfactory = "{factory}"\noptions = {{ {options} }}\n{more}\n'


FILE = "\n".join(
    [
        *(entry(method, "qiskit_aer:AerSimulator", f'method = "{method}"') for method in METHODS),
        entry("gpu", "qiskit_aer:AerSimulator", 'device = "GPU"'),
        entry("generic", "qiskit.providers.fake_provider:GenericBackendV2", "num_qubits = 3, seed = 4"),
        entry("generic_there", "qiskit.providers.fake_provider:GenericBackendV2", "num_qubits = 3, seed = 4",
              'home = "gateway"'),
        entry("mps_there", "qiskit_aer:AerSimulator", 'method = "matrix_product_state"', 'home = "gateway"'),
    ]
)  # fmt: skip


def test_simulators_made_up_devices_and_the_same_behind_gateways_run_a_bell_pair(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(FILE)
    with Runtime(backends_file=file) as runtime, runtime.service() as service:
        service.upload_program(BELL, name="bell")
        for name in ("generic_there", "mps_there"):
            until(lambda name=name: service.backend(name).operational, 60)
        jobs = {name: service.run("bell", {}, {"backend": name})
                for name in (*METHODS, "generic", "generic_there", "mps_there")}  # fmt: skip
        for name, job in jobs.items():
            counts, method = job.result(timeout=100)
            assert 800 < counts["00"] < 1200
            noisy = name.startswith("generic")
            assert (set(counts) == {"00", "11"}) is not noisy
            if name in METHODS[1:] or name == "mps_there":
                assert method == name.replace("mps_there", "matrix_product_state")
        # The same device says the same of itself, in a worker and behind a gateway.
        here, there = (service.backend(name).configuration() for name in ("generic", "generic_there"))
        for told in (here, there):
            for changing in ("backend_name", "name", "described", "local"):
                del told[changing]
            told["properties"].pop("backend_name")
        assert here == there
        gpu = service.backend("gpu")
        if gpu.operational:
            pytest.skip("this machine has a GPU that Aer can use")
        words = "device = 'GPU', and Aer finds CPU here"
        assert words in gpu.status().message
        with pytest.raises(Conflict, match=words):
            gpu.configuration()
        with pytest.raises(JobFailed, match=words):
            service.run("bell", {}, {"backend": "gpu"}).result(timeout=60)
