"""The transpiler as a service: every level, plug-ins by name, passes by class, packages of one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builder.packages import Index
from primitives.conftest import Messenger
from qiskit import QuantumCircuit
from qiskit.circuit.library import QFTGate, efficient_su2
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.quantum_info import Operator

import neartime_primitives
from neartime import InvalidInput, JobFailed
from neartime_server.testing import Runtime

Load = Callable[[str], ModuleType]
LINE = [pair for left in range(4) for pair in ([left, left + 1], [left + 1, left])]
DEVICE = GenericBackendV2(5, coupling_map=LINE, seed=5)


def tangled() -> QuantumCircuit:
    """Gates between qubits that no line has beside each other."""
    circuit = efficient_su2(4, reps=2, entanglement="full").copy()
    circuit.cx(0, 3)
    bound: QuantumCircuit = circuit.assign_parameters([0.1 * number for number in range(circuit.num_parameters)])
    return bound


def transpiled(load: Load, circuit: QuantumCircuit, **asked: Any) -> Any:
    return load("transpile").main(DEVICE, Messenger(), [circuit], seed_transpiler=7, **asked)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_each_level_gives_an_isa_circuit_that_does_the_same(load: Load, level: int) -> None:
    found = transpiled(load, tangled(), optimization_level=level)
    circuit = found["circuits"][0]
    load("sampler")
    import isa  # type: ignore[import-not-found]

    isa.require(circuit, DEVICE, "circuits[0]")
    wide = QuantumCircuit(5)
    wide.compose(tangled(), range(4), inplace=True)
    assert Operator.from_circuit(circuit).equiv(Operator(wide))
    assert found["depths"] == [circuit.depth(lambda step: len(step.qubits) > 1)]


def test_the_highest_level_is_shorter_than_the_lowest_and_a_seed_repeats_it(load: Load) -> None:
    found = [transpiled(load, tangled(), optimization_level=level) for level in (0, 3, 3)]
    assert found[1]["depths"][0] < found[0]["depths"][0]
    assert found[1]["circuits"] == found[2]["circuits"]


def test_qubits_are_where_they_are_wanted(load: Load) -> None:
    circuit = QuantumCircuit(2)
    circuit.cx(0, 1)
    found = transpiled(load, circuit, initial_layout=[3, 2], optimization_level=0)["circuits"][0]
    assert found.layout.initial_index_layout(filter_ancillas=True) == [3, 2]


def test_plug_ins_of_stages_and_of_synthesis_are_chosen_by_name(load: Load) -> None:
    basic = transpiled(load, tangled(), methods={"layout": "trivial", "routing": "basic"})
    assert basic["circuits"] != transpiled(load, tangled())["circuits"]
    fourier = QuantumCircuit(3)
    fourier.append(QFTGate(3), range(3))
    line, full = (transpiled(load, fourier, high_level_synthesis={"qft": [name]}) for name in ("line", "full"))
    assert line["circuits"] != full["circuits"]
    delayed = transpiled(load, tangled(), methods={"scheduling": "alap"})["circuits"][0]
    assert delayed.count_ops()["delay"] > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"methods": {"routing": "sabr"}}, r"methods.routing: there is no plug-in 'sabr' here; installed: .*sabre"),
        ({"methods": {"unitary_synthesis": "ai"}}, r"methods.unitary_synthesis: .*'ai' here; installed: .*default"),
        ({"high_level_synthesis": {"qft": ["fast"]}}, r"high_level_synthesis.qft: .*installed: default, full, line"),
        ({"passes": [{"at": "post_layout", "pass": "nowhere:Pass"}]}, r"passes\[0\].pass: 'nowhere:Pass' can't be imp"),
        ({"passes": [{"at": "post_layout", "pass": "os:system"}]}, r"'os:system' is no pass of Qiskit's transpiler"),
        (
            {"passes": [{"at": "pre_init", "pass": "qiskit.transpiler.passes:SabreSwap", "arguments": {"seeds": 1}}]},
            r"passes\[0\].arguments: .*unexpected keyword argument 'seeds'",
        ),
    ],
)
def test_what_is_not_installed_is_refused_with_what_is(load: Load, asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transpiled(load, tangled(), **asked)


def test_further_passes_run_where_they_are_put_and_know_the_backend(load: Load) -> None:
    removed = {"at": "post_init", "pass": "qiskit.transpiler.passes:RemoveBarriers"}
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.barrier()
    circuit.h(0)
    assert "barrier" in transpiled(load, circuit)["circuits"][0].count_ops()
    assert transpiled(load, circuit, passes=[removed])["circuits"][0].size() == 0
    # It can't be made without a coupling map, and would not swap anything without the backend's.
    swaps = {"at": "pre_routing", "pass": "qiskit.transpiler.passes:BasicSwap"}
    basic = {"optimization_level": 0, "initial_layout": [0, 1, 2, 3]}
    found = transpiled(load, tangled(), passes=[swaps], **basic)["circuits"][0]
    assert found == transpiled(load, tangled(), methods={"routing": "basic"}, **basic)["circuits"][0]


def test_no_more_pass_managers_are_kept_than_it_says(load: Load) -> None:
    module = load("transpile")
    circuit = QuantumCircuit(1)
    for seed in range(module.MOST_KEPT + 3):
        module.main(DEVICE, Messenger(), [circuit], seed_transpiler=seed)
    kept = list(module._managers.values())
    assert len(kept) == module.MOST_KEPT
    module.main(DEVICE, Messenger(), [circuit], seed_transpiler=3)
    assert list(module._managers.values()) == [*kept[1:], kept[0]]


PLUGIN = """
from qiskit.transpiler import PassManager
from qiskit.transpiler.basepasses import TransformationPass
from qiskit.transpiler.preset_passmanagers.plugin import PassManagerStagePlugin, PassManagerStagePluginManager


class Routing(PassManagerStagePlugin):
    def pass_manager(self, config, optimization_level=None):
        usual = PassManagerStagePluginManager().get_passmanager_stage("routing", "sabre", config, optimization_level)
        usual.append(Signed("routed"))
        return usual


class Signed(TransformationPass):
    def __init__(self, label, target=None):
        super().__init__()
        self.label, self.target = label, target

    def run(self, dag):
        qubits = self.target.num_qubits if self.target else None
        dag.metadata = {**(dag.metadata or {}), self.label: qubits}
        return dag
"""


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_package_of_ones_own_brings_a_routing_plug_in_and_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's program, under another name and with a requirement; the package is in a folder of the operator's."""
    index = Index(tmp_path / "packages")
    entry_points = "[qiskit.transpiler.routing]\nsigned = neartime_signed:Routing\n"
    index.wheel("neartime_signed", "1.0", source=PLUGIN, entry_points=entry_points)
    monkeypatch.setenv("UV_FIND_LINKS", str(index.folder))
    folder = neartime_primitives.assemble("transpile", tmp_path)
    with Runtime() as runtime, runtime.service() as service:
        service.upload_program(folder, name="signed-transpile", requirements=["neartime-signed", "qiskit-aer>=0.17"])
        inputs = {
            "circuits": [tangled()],
            "methods": {"routing": "signed"},
            "passes": [
                {"at": "post_scheduling", "pass": "neartime_signed:Signed", "arguments": {"label": "scheduled"}}
            ],
        }
        told = service.run("signed-transpile", inputs, {"backend": "generic_5q"}).result(timeout=300)
        assert told["circuits"][0].metadata == {"routed": None, "scheduled": 5}
        job = service.run("transpile", {**inputs, "passes": []}, {"backend": "generic_5q"})
        with pytest.raises(JobFailed, match="there is no plug-in 'signed' here; installed: basic, default"):
            job.result(timeout=100)
        with pytest.raises(InvalidInput, match=r"inputs\.passes\[0\]\.at"):
            service.run("transpile", {**inputs, "passes": [{"at": "nowhere", "pass": "a:B"}]})
