"""The backends of a server: built in or the operator's, described by a process that may import Qiskit."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from neartime.contract.backends import BackendConfig, Gateway, Placement
from neartime.contract.problem import ErrorCode
from neartime.contract.programs import BackendRequirements
from neartime_server.backends import Backends
from neartime_server.errors import ConfigurationError, Refused
from neartime_server.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"


def load(home: Path, text: str | None = None) -> Backends:
    file = None
    if text is not None:
        file = home / "backends.toml"
        file.write_text(text)
    return Backends.load(Settings(home=home, backends_file=file))


# --- the operator's file


def test_without_a_file_there_is_aer_and_a_made_up_device(tmp_path: Path) -> None:
    backends = load(tmp_path)
    assert backends.names() == ["aer", "generic_5q"]
    assert backends.default == "aer"
    assert all(backends.get(name).parallelism >= 2 for name in backends.names())


def test_the_operators_file_replaces_them_and_its_first_is_the_default(tmp_path: Path) -> None:
    backends = load(
        tmp_path,
        '[[backends]]\nname = "mps"\nfactory = "qiskit_aer:AerSimulator"\nparallelism = 3\n'
        'description = "tensor networks"\noptions = { method = "matrix_product_state" }\n'
        '[[backends]]\nname = "small"\nfactory = "qiskit_aer:AerSimulator"\n',
    )
    assert backends.names() == ["mps", "small"]
    assert backends.default == "mps"
    assert backends.get("mps").options == {"method": "matrix_product_state"}
    assert (backends.get("mps").parallelism, backends.get("small").parallelism) == (3, 1)


def test_every_fault_of_the_file_is_named_with_its_place(tmp_path: Path) -> None:
    text = """
default = "aer"
[[backends]]
name = "Not A Name"
factory = "qiskit_aer.AerSimulator"
[[backends]]
name = "twice"
factory = "qiskit_aer:AerSimulator"
parallelism = 0
colour = "red"
[[backends]]
name = "twice"
factory = "qiskit_aer:AerSimulator"
[[backends]]
name = "twice"
factory = "qiskit_aer:AerSimulator"
options = { since = 2024-01-01, nested = [{ at = 10:00:00 }] }
[[backends]]
name = "hardware"
factory = "provider:Backend().device"
home = "in-worker"
[backends.gateway]
[[backends]]
name = "more"
factory = "provider:Backend()"
[[backends]]
name = "machine"
factory = "provider:Backend"
[backends.gateway]
credentials = { key = "the-key-itself" }
[[backends]]
name = "made"
factory = "provider:Backend"
[backends.gateway]
requirements = ["provider"]
interpreter = "/opt/provider/bin/python"
[[backends]]
factory = "qiskit_aer:AerSimulator"
"""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{tmp_path / 'backends.toml'}: ") for line in lines)
    assert "the-key-itself" not in str(caught.value)  # who has put it there reads it in no log
    told = [line.removeprefix(f"{tmp_path / 'backends.toml'}: ").partition(": ")[0] for line in lines]
    assert told == [
        "default",
        "backends[0].name",
        "backends[0].factory",
        "backends[1].parallelism",
        "backends[1].colour",
        "backends[3].name",
        "backends[3].options.since",
        "backends[3].options.nested[0].at",
        "backends[4]",
        "backends[5].factory",
        "backends[6].gateway.credentials.key",
        "backends[7].gateway.interpreter",
        "backends[8].name",
    ]


@pytest.mark.parametrize("text", ["", "backends = 3", "backends = []", "[[backends", "\udcff"])
def test_a_file_without_backends_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "backends.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match=r"backends\.toml"):
        Backends.load(Settings(home=tmp_path, backends_file=tmp_path / "backends.toml"))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml: can't be read: No such file"):
        Backends.load(Settings(home=tmp_path, backends_file=tmp_path / "nowhere.toml"))


def test_every_field_of_a_backend_is_documented() -> None:
    page = (DOCS / "reference" / "backends.md").read_text()
    fields, _, rest = page.partition("field of `gateway`")
    of_gateway, _, of_placement = rest.partition("field of `placement`")

    def rows(text: str) -> set[str]:
        cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

    assert set(BackendConfig.model_fields) == rows(fields)
    assert set(Gateway.model_fields) == rows(of_gateway)
    assert set(Placement.model_fields) == rows(of_placement)


def test_the_example_of_the_documentation_is_a_good_file(tmp_path: Path) -> None:
    page = (DOCS / "reference" / "backends.md").read_text()
    first, second, third, patch = (part.partition("```")[0] for part in page.split("```toml\n")[1:])
    assert len(load(tmp_path, first).names()) > 1
    assert load(tmp_path, second).names() == ["clifford", "fake_manila"]
    assert load(tmp_path, third).get("device_7q").placement.resources == {"nvidia.com/gpu": "1"}
    assert list(load(tmp_path, third + patch).get("device_7q").placement.patch["spec"]) == ["volumes", "containers"]


def test_the_examples_of_how_to_offer_hardware_are_good_files(tmp_path: Path) -> None:
    page = (DOCS / "how-to" / "backends.md").read_text()
    first, second = (part.partition("```")[0] for part in page.split("```toml\n")[1:])
    assert [one.name for one in load(tmp_path, first).gateways()] == ["ions", "braket"]
    (machine,) = load(tmp_path, second).gateways()
    assert machine.gateway is not None
    assert machine.gateway.credentials == {"key": "file:/etc/neartime/machine.key"}


# --- one that is not there


def test_a_backend_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    for status, path in ((422, "backend"), (404, None)):
        with pytest.raises(Refused, match=r"no backend 'nowhere' here; there are aer, generic_5q") as caught:
            load(tmp_path).get("nowhere", status=status)
        (problem,) = caught.value.problems
        assert (caught.value.status, problem.code, problem.path) == (status, ErrorCode.UNKNOWN_BACKEND, path)


async def test_its_configuration_is_not_there_either(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        await load(tmp_path).configuration("nowhere")
    assert caught.value.status == 404


# --- what they are


async def test_backends_are_described_as_they_are(tmp_path: Path) -> None:
    backends = load(tmp_path)
    aer, device = await asyncio.gather(backends.configuration("aer"), backends.configuration("generic_5q"))
    assert (aer["simulator"], aer["backend_name"]) == (True, "aer")
    assert aer["num_qubits"] > 20
    assert (device["simulator"], device["num_qubits"]) == (False, 5)
    assert sorted(map(tuple, device["coupling_map"]))[:3] == [(0, 1), (1, 0), (1, 2)]
    assert "cx" in device["basis_gates"]
    assert device["properties"]["gates"]
    another = load(tmp_path)
    again = await another.configuration("generic_5q")
    assert again.pop("described") > device.pop("described")  # when that was: the date of the calibration
    assert again == device
    await another.close()
    await backends.close()


async def test_a_backend_that_can_not_be_built_says_why_and_stands_in_no_others_way(tmp_path: Path) -> None:
    text = """
[[backends]]
name = "missing"
factory = "no_such_provider:Backend"
[[backends]]
name = "raising"
factory = "qiskit.providers.fake_provider:GenericBackendV2"
options = { num_qubits = 2, colour = "red" }
[[backends]]
name = "printing"
factory = "builtins:print"
[[backends]]
name = "dying"
factory = "os:_exit"
options = { status = 3 }
[[backends]]
name = "aer"
factory = "qiskit_aer:AerSimulator"
"""
    backends = load(tmp_path, text)
    reasons = {
        "missing": "No module named 'no_such_provider'",
        "raising": "unexpected keyword argument 'colour'",
        "printing": "can't be described",
        "dying": "the helper that describes backends ended",
    }
    for name, words in reasons.items():
        with pytest.raises(Refused, match=words) as caught:
            await backends.configuration(name)
        assert caught.value.status == 409  # and no client tries again
        assert repr(name) in str(caught.value)
    assert (await backends.configuration("aer"))["simulator"] is True
    await backends.close()


# --- what a program wants of its backend


async def test_a_program_that_a_backend_can_not_run_is_refused_with_every_reason(tmp_path: Path) -> None:
    backends = load(tmp_path)
    backends.check("aer", BackendRequirements())
    wanted = BackendRequirements(min_num_qubits=6, simulator=True, names=["aer"])
    await backends.learn(wanted)
    backends.check("generic_5q", BackendRequirements(min_num_qubits=5, simulator=False, names=["generic_5q"]))
    backends.check("aer", wanted)
    with pytest.raises(Refused) as caught:
        backends.check("generic_5q", wanted)
    assert [str(problem.message) for problem in caught.value.problems] == [
        "backend: the program is meant for aer, not for 'generic_5q'",
        "backend: the program wants 6 qubits or more, 'generic_5q' has 5",
        "backend: the program wants a simulator, 'generic_5q' is a device that is no simulator",
    ]
    with pytest.raises(Refused, match="no backend 'nowhere'"):
        backends.check("nowhere", wanted)
    await backends.close()


async def test_what_can_not_be_known_of_a_backend_does_not_keep_a_program_from_it(tmp_path: Path) -> None:
    backends = load(tmp_path, '[[backends]]\nname = "missing"\nfactory = "no_such_provider:Backend"\n')
    await backends.learn(BackendRequirements(min_num_qubits=100))
    backends.check("missing", BackendRequirements(min_num_qubits=100))
    await backends.close()


def test_the_server_describes_backends_without_qiskit_in_its_own_process(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from pathlib import Path
from neartime_server.backends import Backends
from neartime_server.settings import Settings
found = asyncio.run(Backends.load(Settings(home=Path(sys.argv[1]))).configuration("generic_5q"))
assert found["num_qubits"] == 5
assert not {"qiskit", "numpy", "neartime_runner"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
