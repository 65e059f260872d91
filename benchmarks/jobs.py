"""Starting jobs, and what a job costs beside a plain process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.measure import Row, repeat, row, timed
from neartime import RuntimeService, Session
from neartime_server.testing import Runtime

PROGRAMS = Path(__file__).parent / "programs"
IMPORT_QISKIT = "python -c 'import qiskit, qiskit_aer'"


def _process(*arguments: str) -> float:
    """Milliseconds of a fresh Python process."""
    samples: list[float] = []
    with timed(samples):
        subprocess.run([sys.executable, *arguments], check=True)
    return samples[0]


def _import_qiskit() -> list[float]:
    return repeat(5, lambda: _process("-c", "import qiskit, qiskit_aer"), IMPORT_QISKIT)


def import_time(runtime: Runtime) -> list[Row]:
    bare = repeat(7, lambda: _process("-c", "pass"), "bare python")
    samples = repeat(7, lambda: _process("-c", "import neartime"), "import neartime")
    return [row("import neartime", samples, "ms", "python -c pass", bare)]


def cold_start(runtime: Runtime) -> list[Row]:
    """First job of a program, outside any session: nothing of it stands ready but its environment's zygote."""
    floors = _import_qiskit()
    source = (PROGRAMS / "first_line.py").read_text()
    with runtime.service() as service:

        def once() -> float:
            name = f"cold-{time.monotonic_ns()}"
            service.upload_program(f"{source}\nSALT = {name!r}\n", name=name)
            start = time.monotonic_ns()
            began = service.run(name, options={"backend": "aer"}).result(timeout=60)
            return (began - start) / 1e6

        samples = repeat(9, once, "cold start")
    return [row("submit to main(), cold", samples, "ms", IMPORT_QISKIT, floors, ratio=1.0)]


def warm_start(runtime: Runtime) -> list[Row]:
    floors = _import_qiskit()
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "first_line.py", name="first-line")
        with Session(service, backend="aer") as session:

            def once() -> float:
                start = time.monotonic_ns()
                return (session.run("first-line").result(timeout=60) - start) / 1e6

            repeat(5, once, "warming up")
            samples = repeat(60, once, "warm start")
    return [row("submit to main(), warm", samples, "ms", IMPORT_QISKIT, floors, ratio=0.02)]


def round_trip(runtime: Runtime) -> list[Row]:
    """Submit to result in the client; its floor is one bare HTTP request to the same server on a kept connection."""
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "trivial.py", name="trivial")
        with Session(service, backend="aer") as session:

            def once() -> float:
                samples: list[float] = []
                with timed(samples):
                    session.run("trivial", inputs={"number": 1}).result(timeout=60)
                return samples[0]

            repeat(10, once, "warming up")
            samples = repeat(100, once, "round trip")
        floors = repeat(50, lambda: _health(service), "bare request")
    return [row("round trip, warm session", samples, "ms", "GET /backends", floors, median=15.0)]


def _health(service: RuntimeService) -> float:
    samples: list[float] = []
    with timed(samples):
        service.backends()
    return samples[0]


def vqe_loop(runtime: Runtime) -> list[Row]:
    """The same fifty iterations in a job's main() and in a plain process, in turn."""
    script = str(PROGRAMS / "vqe_loop.py")
    samples: list[float] = []
    floors: list[float] = []
    with runtime.service() as service:
        service.upload_program(PROGRAMS / "vqe_loop.py", name="vqe-loop")

        def once() -> float:
            output = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True).stdout
            floors.append(float(output))
            samples.append(service.run("vqe-loop", options={"backend": "aer"}).result(timeout=120))
            return samples[-1]

        repeat(7, once, "vqe loop")
    return [row("50-iteration VQE in one job", samples, "ms", "plain process", floors, ratio=1.05)]
