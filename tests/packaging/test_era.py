"""A program of Qiskit Runtime's custom-program era: packaged without a change, and run as its author ran it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from neartime import codec, schema
from neartime.contract import ibm
from neartime.packaging import Package, package, unpack

ERA = Path(__file__).parents[1] / "programs" / "era"
METADATA: dict[str, Any] = json.loads((ERA / "metadata.json").read_text())
RUN = """
import json, sys
from qiskit_aer import AerSimulator
from neartime import codec
from trotter import main

class Messenger:
    said = []
    def publish(self, message, encoder=None, final=False):
        self.said.append([final, json.loads(codec.encode(message))])

result = main(AerSimulator(), Messenger(), steps=2, shots=200, extra="kept")
print(json.dumps([result, Messenger.said]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Of a zip of the folder, as an author would have sent it."""
    archive = shutil.make_archive(str(tmp_path_factory.mktemp("era") / "trotter"), "zip", ERA.parent, ERA.name)
    return package(archive, metadata=METADATA)


def test_its_metadata_is_its_manifest(made: Package) -> None:
    manifest = made.manifest
    assert (manifest.name, manifest.entry_point, manifest.typed) == ("trotter-sample", "trotter:main", False)
    assert (manifest.max_execution_time, manifest.backends.min_num_qubits) == (300, 4)
    assert ibm.spec(manifest.model_dump(mode="json", by_alias=True)) == METADATA["spec"]
    assert [str(fault) for fault in schema.faults({"steps": 0}, manifest.schemas.inputs)] == [
        "inputs.steps: 0 is less than the minimum of 1"
    ]


def test_its_submodules_and_data_files_are_in_the_archive(made: Package) -> None:
    assert set(made.files) == {
        "trotter.py",
        "chain/__init__.py",
        "chain/circuits.py",
        "chain/observables.py",
        "data/couplings.csv",
        "metadata.json",
    }
    assert package(ERA, metadata=METADATA) == made


def test_it_runs_from_the_archive(made: Package, tmp_path: Path) -> None:
    unpack(made.archive, tmp_path)
    run = subprocess.run([sys.executable, "-c", RUN], cwd=tmp_path, capture_output=True, text=True, check=True)
    result, said = json.loads(run.stdout)
    assert result is None
    assert [final for final, _ in said] == [False, False, True]
    last = codec.decode(json.dumps(said[-1][1]).encode())
    assert len(last["magnetization"]) == 2
    assert last["couplings"][1] == (1, 2, 0.8)
    assert last["unused"] == {"extra": "kept"}
