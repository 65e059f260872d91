"""Every shipped template is what its README, its schema and its expect.toml say; run here in plain Python."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError
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
    assert templates_of_the_command_line.names() == NAMES
    assert NAMES == [
        "circuit",
        "circuit-runner",
        "hello",
        "my-estimator",
        "my-sampler",
        "qaoa",
        "quantum-kernel",
        "vqd",
        "vqe",
        "zne-sweep",
    ]


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


class Lost(Exception):
    """What a worker's end looks like from inside."""


class LostAfter(Messenger):
    """Its worker is lost as soon as so many checkpoints are saved."""

    def __init__(self, checkpoints: int) -> None:
        super().__init__(None)
        self.left = checkpoints

    def checkpoint(self, state: Any) -> None:
        super().checkpoint(state)
        self.left -= 1
        if not self.left:
            raise Lost


def test_the_kernel_that_was_interrupted_takes_the_same_way_as_the_one_that_was_not() -> None:
    from qiskit_aer import AerSimulator

    module = loaded("quantum-kernel")
    inputs = module.Inputs(samples=6, maxiter=6, shots=100, seed=3)
    whole = module.main(AerSimulator(), Messenger(None), inputs)
    first = LostAfter(2)
    with pytest.raises(Lost):
        module.main(AerSimulator(), first, inputs)
    second = Messenger(None)
    second.saved = first.saved
    resumed = module.main(AerSimulator(), second, inputs)
    assert [one["iteration"] for one in first.said + second.said] == [1, 2, 3, 4, 5, 6]
    assert resumed.losses == whole.losses
    assert (resumed.kernel == whole.kernel).all()


def test_extrapolation_comes_nearer_to_the_truth_than_any_point_of_a_noisy_device() -> None:
    from qiskit.providers.fake_provider import GenericBackendV2

    module = loaded("zne-sweep")
    line = [pair for left in range(4) for pair in ([left, left + 1], [left + 1, left])]
    inputs = module.Inputs(extrapolators=["linear", "quadratic", "exponential"])
    result = module.main(GenericBackendV2(5, coupling_map=line, seed=5), Messenger(None), inputs)
    off = [abs(point.value - result.exact_value) for point in result.points]
    assert off == sorted(off)
    assert all(abs(one.value - result.exact_value) < off[0] / 2 for one in result.extrapolated)


def test_each_curve_reads_points_that_lie_on_it_at_zero() -> None:
    import numpy as np

    module = loaded("zne-sweep")
    factors = np.array([1.0, 2.0, 3.0, 4.0])
    curves = {
        "linear": 2.0 - 0.3 * factors,
        "quadratic": 2.0 - 0.3 * factors + 0.1 * factors**2,
        "cubic": 2.0 - 0.3 * factors + 0.01 * factors**3,
        "richardson": 2.0 - 0.3 * factors + 0.02 * factors**3,
        "exponential": 2.0 * np.exp(-0.3 * factors),
    }
    for name, values in curves.items():
        points = [
            module.Interim(noise_factor=factor, value=value, std=0.01, two_qubit_gates=9)
            for factor, value in zip(factors, values, strict=True)
        ]
        found = module.extrapolated(name, points, 0.01)
        assert found.value == pytest.approx(2.0, abs=1e-6), name
        assert found.std > 0.01, name


def test_folding_changes_what_a_circuit_costs_and_not_what_it_does() -> None:
    import numpy as np
    from qiskit.quantum_info import Operator

    module = loaded("zne-sweep")
    circuit = module.chain(3, 2)
    for wanted in (1.0, 1.5, 2.0, 3.0, 4.5):
        found, factor = module.folded(circuit, wanted, np.random.default_rng(1))
        wide = [sum(len(one.qubits) == 2 for one in each.data) for each in (circuit, found)]
        assert wide[1] / wide[0] == factor == pytest.approx(wanted, abs=1 / wide[0])
        assert Operator(found) == Operator(circuit)


def test_a_sampler_of_ones_own_gives_every_point_as_many_shots_and_only_good_ones() -> None:
    import numpy as np
    from qiskit.primitives import BitArray, DataBin, SamplerPubResult

    module = loaded("my-sampler")
    check = np.array([[0, 1, 0, 0, 1], [1, 0, 0, 1, 1]], dtype=np.uint8)[..., None]
    meas = np.arange(10, dtype=np.uint8).reshape(2, 5, 1)
    data = DataBin(meas=BitArray(meas, 4), check=BitArray(check, 1), shape=(2,))
    found = module.mend(SamplerPubResult(data, {"shots": 5}), module.Options())
    assert found.data.meas.array[..., 0].tolist() == [[0, 2], [6, 7]]
    assert not found.data.check.array.any()
    assert found.metadata == {"shots": 2, "share_kept": 0.5}
    with pytest.raises(ValueError, match="of 5 shots none"):
        module.mend(SamplerPubResult(DataBin(check=BitArray(np.ones_like(check), 1), shape=(2,))), module.Options())


@pytest.mark.parametrize(
    ("name", "inputs", "message"),
    [
        ("zne-sweep", {"noise_factors": [1, 3], "extrapolators": ["cubic"]}, "'cubic' takes 4 noise_factors or more"),
        ("zne-sweep", {"noise_factors": [1, 3, 3]}, "one is there twice"),
        ("zne-sweep", {"noise_factors": [0.5, 3]}, "greater than or equal to 1"),
        ("quantum-kernel", {"labels": [1, -1]}, "give both, or neither"),
        ("quantum-kernel", {"features": [[0.1, 0.2]] * 3, "labels": [1, -1]}, "there are 2, and 3 rows of features"),
        (
            "quantum-kernel",
            {"features": [[0.1, 0.2]] * 2, "labels": [1, 0]},
            r"1 and -1, and some of each, not \[0, 1\]",
        ),
        ("quantum-kernel", {"start": [1.0]}, "3 scales are trained here, and 1 are given"),
        ("vqd", {"states": 5}, "has 4 levels, and 5 are wanted"),
        ("my-sampler", {"pubs": [[]]}, "at least 1 item"),
        ("my-estimator", {"pubs": [[1, 2]], "options": {"resilience_level": 1}}, "Input should be 0"),
    ],
)
def test_inputs_that_can_not_be_are_refused_in_words(name: str, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        loaded(name).Inputs.model_validate(inputs)
