"""Every shipped template is what its README, its schema and its expect.toml say; run here in plain Python."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from templates.expectations import disappointments

from neartime import codec, schema
from neartime.cli import templates as templates_of_the_command_line
from neartime.packaging import Package, inputs_model, package

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parents[2] / "program-templates"
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.is_dir())
templates = pytest.mark.parametrize("name", NAMES)
BARE = [name for name in NAMES if "requirements" not in tomllib.loads((FOLDER / name / "program.toml").read_text())]
"""Those that need nothing but what the tests run in; the others run in an environment of their own, end to end."""


class Messenger:
    """Keeps what is published, as the caller's callback would get it."""

    def __init__(self, declared: Any) -> None:
        self.declared = declared
        self.said: list[Any] = []
        self.saved: Any = None

    def publish(self, message: Any, encoder: Any = None, final: bool = False) -> None:
        data = codec.encode(message)
        assert schema.faults(json.loads(data), self.declared, "interim") == []
        self.said.append(codec.decode(data))

    def checkpoint(self, state: Any) -> None:
        self.saved = codec.decode(codec.encode(state))

    def restore(self) -> Any:
        return self.saved


@pytest.fixture(scope="module")
def packages() -> dict[str, Package]:
    return {name: package(FOLDER / name) for name in NAMES}


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"template_{name.replace('-', '_')}", FOLDER / name / "program.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_templates_are_these() -> None:
    assert NAMES == templates_of_the_command_line.names()
    assert NAMES == ["circuit", "circuit-runner", "hello", "qaoa", "quantum-kernel", "vqd", "vqe", "zne-sweep"]


def test_an_installed_package_brings_the_templates_along() -> None:
    build = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert build["wheel"]["force-include"] == {FOLDER.name: f"neartime/{FOLDER.name}"}
    assert FOLDER.name in build["sdist"]["include"]


@templates
def test_a_template_declares_its_inputs_and_its_example_fits_them(name: str, packages: dict[str, Package]) -> None:
    manifest = packages[name].manifest
    assert (manifest.name, manifest.typed, manifest.entry_point) == (name, True, "program:main")
    assert manifest.description
    declared = manifest.schemas.inputs
    assert declared is not None
    assert declared["additionalProperties"] is False
    text = (FOLDER / name / "inputs.example.json").read_bytes()
    assert schema.faults(json.loads(text), declared) == []
    assert schema.value_faults(codec.decode(text), declared) == []


@templates
def test_a_template_says_what_each_input_is(name: str, packages: dict[str, Package]) -> None:
    page = (FOLDER / name / "README.md").read_text()
    declared = packages[name].manifest.schemas.inputs
    assert declared is not None
    for one in declared["properties"]:
        assert f"| `{one}` |" in page, f"{name}/README.md says nothing of {one}"
    assert f"program-templates/{name}/inputs.example.json" in page


@pytest.mark.parametrize("name", BARE)
def test_a_template_does_what_is_expected_of_it(name: str, packages: dict[str, Package]) -> None:
    from qiskit_aer import AerSimulator

    declared = packages[name].manifest.schemas
    main = loaded(name).main
    model = inputs_model(main)
    assert model is not None
    messenger = Messenger(declared.interim)
    values = codec.decode((FOLDER / name / "inputs.example.json").read_bytes())
    data = codec.encode(main(AerSimulator(), messenger, model.model_validate(values)))
    assert schema.faults(json.loads(data), declared.result, "result") == []
    expected = tomllib.loads((FOLDER / name / "expect.toml").read_text())
    assert expected["result"]
    assert disappointments(expected, messenger.said, codec.decode(data)) == []


def test_the_vqe_template_finds_the_ground_state_of_another_hamiltonian() -> None:
    import numpy as np
    from qiskit.quantum_info import SparsePauliOp
    from qiskit_aer import AerSimulator

    module = loaded("vqe")
    field = SparsePauliOp(["ZZ", "XI", "IX"], [1.0, 0.5, 0.5])
    messenger = Messenger(None)
    result = module.main(AerSimulator(), messenger, module.Inputs(hamiltonian=field, maxiter=200))
    assert result.exact_energy == pytest.approx(np.linalg.eigvalsh(field.to_matrix())[0])
    assert -1e-9 < result.difference < 0.02
    assert len(messenger.said) == result.iterations >= 20
