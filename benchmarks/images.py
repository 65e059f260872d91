"""From a changed line to an image in a registry, and from a job to a container that runs it: on a Docker Engine and a
registry that are started for it (root)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, repeat, row
from neartime import RuntimeService
from neartime_server.testing import Runtime

TESTS = Path(__file__).parents[1] / "tests"
UPLOADS = 5
JOBS = 7
PAUSE = 1.0
"""Seconds before each sample, in which the one before has been cleared away: an image pulled, a container removed."""
IMPORT = "import qiskit, qiskit_aer"
PROGRAM = """
# {line}
def main(backend, user_messenger):
    return backend.name
"""


def images(_: Runtime) -> list[Row]:
    """Two builders beside the engine's own commands on the same layers; a lone job beside `docker run`."""
    if os.geteuid() != 0 or shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
        print("images: left out, it needs root and dockerd (scripts/engine)", file=sys.stderr)
        return []
    sys.path.insert(0, str(TESTS))
    from engine import Engine
    from images import PYTHON, base_image
    from registries import Registry

    rows = []
    with Engine() as engine, Registry() as registry:
        base_image().push(registry.url, "neartime/base", f"py{PYTHON}")
        common = {
            "executor": "docker",
            "docker_host": engine.url,
            "base_image": f"{registry.host}/neartime/base:py{PYTHON}",
        }
        uploads: dict[str, list[float]] = {}
        for builder in ("registry", "docker"):
            prefix = f"{registry.host}/{builder}"
            with Runtime(builder=builder, registry=prefix, **common) as runtime, runtime.service() as service:
                _upload(service, 0)
                uploads[builder] = repeat(UPLOADS, _Uploading(service), f"{builder}: upload")
                if builder == "docker":
                    floor = _by_hand(engine, prefix)
                    image = _newest(engine, f"{prefix}/line")
                    jobs, runs = [], []
                    for _ in range(JOBS):  # in turn: the machine is others', too
                        jobs += repeat(1, lambda: _job(service), "a job by itself")
                        runs += repeat(1, partial(_run, engine, image), "docker run")
        of = "docker build + push"
        rows.append(row("change a line, upload: `registry` builder", uploads["registry"], "ms", of, floor, ratio=0.5))
        rows.append(row("change a line, upload: `docker` builder", uploads["docker"], "ms", of, floor, ratio=1.5))
        rows.append(row("a job of a present image", jobs, "ms", f"docker run python -c '{IMPORT}'", runs, ratio=1.2))
    return rows


class _Uploading:
    """Uploads a program whose line is another one each time."""

    def __init__(self, service: RuntimeService) -> None:
        self._service, self._line = service, 0

    def __call__(self) -> float:
        self._line += 1
        time.sleep(PAUSE)
        return _upload(self._service, self._line)


def _upload(service: RuntimeService, line: int) -> float:
    began = time.perf_counter()
    service.upload_program(PROGRAM.format(line=f"{line} {time.time()}"), name="line")
    return (time.perf_counter() - began) * 1e3


def _by_hand(engine: Any, prefix: str) -> list[float]:
    """The same change, by somebody who has the environment's image and a Dockerfile."""
    under = next(
        tag for image in engine.client.images.list() for tag in image.tags if tag.startswith(f"{prefix}/environments:")
    )
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        (context / "Dockerfile").write_text(f"FROM {under}\nCOPY program.py /opt/neartime/program/program.py\n")

        def once() -> float:
            (context / "program.py").write_text(PROGRAM.format(line=time.time()))
            time.sleep(PAUSE)
            began = time.perf_counter()
            _docker(engine, "build", "--quiet", "--tag", f"{prefix}/by-hand:1", folder)
            _docker(engine, "push", "--quiet", f"{prefix}/by-hand:1")
            return (time.perf_counter() - began) * 1e3

        once()
        return repeat(UPLOADS, once, "docker build, docker push")


def _job(service: RuntimeService) -> float:
    time.sleep(PAUSE)
    began = time.perf_counter()
    service.run("line", {}, {"backend": "aer"}).result(timeout=120)
    return (time.perf_counter() - began) * 1e3


def _run(engine: Any, image: str) -> float:
    time.sleep(PAUSE)
    began = time.perf_counter()
    _docker(engine, "run", "--rm", "--network", "none", image, "python3", "-c", IMPORT)
    return (time.perf_counter() - began) * 1e3


def _newest(engine: Any, repository: str) -> str:
    found = [
        image for image in engine.client.images.list() if any(tag.startswith(f"{repository}:") for tag in image.tags)
    ]
    return str(found[0].id)


def _docker(engine: Any, *arguments: str) -> None:
    done = subprocess.run(["docker", "--host", engine.url, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"docker {json.dumps(arguments)}: {done.stderr}")
