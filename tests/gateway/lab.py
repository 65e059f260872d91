"""A runtime with a machine behind a gateway, and what its provider has noted."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from neartime import RuntimeService
from neartime_server.testing import Runtime

T = TypeVar("T")
MACHINE = Path(__file__).parent / "machine"

MEASURES = """
from qiskit import QuantumCircuit

def circuit(name):
    made = QuantumCircuit(2, name=name)
    made.sx(0)
    made.cx(0, 1)
    made.measure_all()
    return made

def main(backend, user_messenger, name="bell", times=1, tag=None, wait=True, shots=100):
    counts = []
    for _ in range(times):
        job = backend.run(circuit(name), shots=shots, tag=tag)
        user_messenger.publish("it runs")
        if wait:
            counts.append(job.result().get_counts())
    return counts
"""


class Lab:
    """What a test holds. `key` is the machine's credential, in a file outside of the runtime's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = f"key-{secrets.token_hex(16)}"
        self.key_file = folder / "secrets" / "key"
        self.key_file.parent.mkdir(mode=0o700)
        self.turn_key(self.key)
        self.calibrate(0.001)
        self.runtime: Runtime
        self.service: RuntimeService

    def turn_key(self, key: str) -> None:
        draft = self.key_file.with_suffix(".new")
        draft.write_text(key + "\n")
        draft.chmod(0o600)
        draft.replace(self.key_file)

    def calibrate(self, error: float) -> None:
        (self.folder / "error").write_text(str(error))

    def log(self) -> list[dict[str, Any]]:
        """What the provider noted, in order."""
        file = self.folder / "log.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def forget_log(self) -> None:
        (self.folder / "log.jsonl").unlink(missing_ok=True)

    def gateway_log(self, name: str = "machine") -> str:
        return (self.runtime.home / "logs" / f"gateway-{name}.log").read_text()

    def gateway_pid(self, name: str = "machine") -> int:
        return int((self.runtime.home / "run" / "gateways" / f"{name}.lock").read_text())

    def entry(self, name: str = "machine", more: str = "", gateway: str = "") -> str:
        return (
            f'[[backends]]\nname = "{name}"\nfactory = "lab_machine:Machine"\n'
            f'options = {{ folder = "{self.folder}" }}\n{more}'
            f'[backends.gateway]\n{gateway}credentials = {{ key = "file:{self.key_file}" }}\n'
        )


@contextmanager
def lab(folder: Path, entries: Callable[[Lab], str] = Lab.entry, **settings: object) -> Iterator[Lab]:
    """A lab whose server offers these backends."""
    made = Lab(folder)
    file = folder / "backends.toml"
    file.write_text(entries(made))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(MACHINE), *([before] if before else [])])
    try:
        with Runtime(backends_file=file, **settings) as made.runtime, made.runtime.service() as made.service:
            yield made
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def until(holds: Callable[[], T], seconds: float = 20.0) -> T:
    """What `holds` gives, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
    return found
