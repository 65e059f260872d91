"""The provider of a laboratory's machine, as a gateway finds it: it wants a key, keeps a log, and does as it is told.

A circuit's name says what becomes of it: `slow` takes a while, `stubborn`
too and hears no cancel, `hang` does not come back, `raise` fails in words that
hold the key, `refuse` fails at once, `die` kills the process. All others give the counts of a Bell pair.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qiskit.circuit import Gate, Parameter
from qiskit.circuit.library import CXGate, Measure, RZGate, SXGate
from qiskit.providers import BackendV2, JobStatus, JobV1, Options
from qiskit.result import Result
from qiskit.transpiler import InstructionProperties, QubitProperties, Target

SLOW_SECONDS = 3.0


class Machine(BackendV2):
    """`folder` holds its log, `log.jsonl`, and its calibration, `error`."""

    def __init__(self, folder: str, key: str, qubits: int = 2) -> None:
        if key.startswith("wrong"):
            raise PermissionError(f"the machine does not know the key {key}")
        super().__init__(name="machine", description="two ions and a laser")
        self.folder, self.key = Path(folder), key
        self.qubits = qubits
        self.refresh()

    def refresh(self) -> None:
        error = float((self.folder / "error").read_text())
        target = Target(
            num_qubits=self.qubits, dt=1e-9, qubit_properties=[QubitProperties(t1=1.0, t2=0.5)] * self.qubits
        )
        one = {(qubit,): InstructionProperties(duration=1e-6, error=error) for qubit in range(self.qubits)}
        target.add_instruction(SXGate(), dict(one))
        target.add_instruction(RZGate(Parameter("angle")), dict.fromkeys(one))
        target.add_instruction(CXGate(), {(0, 1): InstructionProperties(duration=2e-5, error=10 * error)})
        target.add_instruction(Gate("shake", 2, [Parameter("strength")]), {(1, 0): None})
        target.add_instruction(Measure(), dict(one))
        self._target = target

    @property
    def target(self) -> Target:
        return self._target

    @property
    def max_circuits(self) -> int:
        return 10

    @classmethod
    def _default_options(cls) -> Options:
        options = Options(shots=100, tag=None)
        options.set_validator("shots", (1, 10_000))
        return options

    def run(self, run_input: Any, **options: Any) -> Job:
        circuits = run_input if isinstance(run_input, list) else [run_input]
        if circuits[0].name == "refuse":
            raise ValueError(f"{options['shots']} shots are too many for two ions")
        job = Job(self, circuits, {**vars(self.options), **options}, single=not isinstance(run_input, list))
        job.submit()
        return job

    def note(self, event: str, job: Job) -> None:
        entry = {
            "event": event,
            "job": job.job_id(),
            "tag": job.options["tag"],
            "circuits": [one.name for one in job.circuits],
            "single": job.single,
            "key": hashlib.sha256(self.key.encode()).hexdigest(),
            "pid": os.getpid(),
            "time": time.monotonic(),
        }
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")


class Job(JobV1):
    def __init__(self, backend: Machine, circuits: list[Any], options: dict[str, Any], *, single: bool) -> None:
        super().__init__(backend, uuid.uuid4().hex)
        self.circuits, self.options, self.single = circuits, options, single
        self._stopped = threading.Event()

    def submit(self) -> None:
        self._backend.note("start", self)

    def result(self) -> Result:
        name = self.circuits[0].name
        if name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        while name == "hang":
            time.sleep(1)
        if name == "stubborn":
            time.sleep(SLOW_SECONDS)
        self._stopped.wait(SLOW_SECONDS if name == "slow" else 0.01)
        self._backend.note("end", self)
        if self._stopped.is_set():
            raise RuntimeError("it was cancelled at the machine")
        if name == "raise":
            raise RuntimeError(f"the laser is off; it was asked for with {self._backend.key}")
        shots = self.options["shots"]
        data: dict[str, Any] = {"counts": {"0x0": shots // 2, "0x3": shots - shots // 2}}
        if name == "large":
            data["memory"] = ["0x3"] * shots
            data["padding"] = "x" * 3_000_000
        return Result.from_dict(
            {
                "backend_name": self._backend.name,
                "backend_version": "1",
                "qobj_id": "",
                "job_id": self.job_id(),
                "success": True,
                "status": JobStatus.DONE,
                "date": datetime.now(timezone.utc),
                "results": [
                    {
                        "shots": shots,
                        "success": True,
                        "status": "DONE",
                        "data": data,
                        "header": {"name": one.name, "memory_slots": 2, "creg_sizes": [["meas", 2]]},
                    }
                    for one in self.circuits
                ],
            }
        )

    def cancel(self) -> bool:
        self._backend.note("cancel", self)
        self._stopped.set()
        return True

    def status(self) -> JobStatus:
        return JobStatus.RUNNING
