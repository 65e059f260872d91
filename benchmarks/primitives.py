"""Sampler and Estimator: a call through a warm session, a sweep in one PUB, and what mitigation leaves of errors."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import local_mode
from benchmarks.measure import Row, row, timed
from neartime import Session
from neartime_server.testing import Runtime

CALLS = 40
POINTS = 1000
SINGLE_CALLS = 100
"""Of one point each; a thousand would only take longer."""
SEEDS = 20
PRECISION = 0.01
RANDOMIZATIONS = {"num_randomizations": 500, "shots_per_randomization": 20}
"""Of cancelling: as many shots as the precision takes. The sign of a randomization is that of all its shots."""
LEARNING = {"layer_pair_depths": [0, 1, 4, 16], "simulator": {"seed_simulator": 1}}
DEEPER = 2
"""How often the circuits for cancelling go back to their beginning and here again, so that gates err, not readout."""
PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
"""Of the environment that has Qiskit Runtime's client; scripts/test-peers makes it."""
DEVICE = "generic_5q"
H2 = [("II", -1.052373), ("IZ", 0.397937), ("ZI", -0.397937), ("ZZ", -0.011280), ("XX", 0.180931)]
"""At 0.735 Å, parity-mapped to two qubits, hartree; source: Qiskit's VQE tutorials."""


def _ansatz() -> Any:
    from qiskit.circuit.library import real_amplitudes

    return real_amplitudes(4, reps=2)


def calls(runtime: Runtime) -> list[Row]:
    """One PUB, one point, in turn with the same in this process, so that a busy minute meets both."""
    import numpy as np
    from qiskit_aer import AerSimulator
    from qiskit_aer.primitives import EstimatorV2 as AerEstimator
    from qiskit_aer.primitives import SamplerV2 as AerSampler

    from neartime.primitives import EstimatorV2, SamplerV2

    circuit, backend = _ansatz(), AerSimulator()
    measured = circuit.measure_all(inplace=False)
    values = np.linspace(0, 1, circuit.num_parameters)
    pub, bits = (circuit, ["ZZZZ", "XXXX"], values), (measured, values, 1024)
    rows = []
    with runtime.service() as service, Session(service, backend="aer") as session:
        pairs = [
            ("EstimatorV2", EstimatorV2(session), AerEstimator.from_backend(backend), pub),
            ("SamplerV2", SamplerV2(session), AerSampler.from_backend(backend), bits),
        ]
        for name, ours, theirs, one in pairs:
            for primitive in (ours, theirs):
                primitive.run([one]).result()
            here: list[float] = []
            there: list[float] = []
            for _ in range(CALLS):
                with timed(there):
                    ours.run([one]).result()
                with timed(here):
                    theirs.run([one]).result()
            beyond = [far - near for far, near in zip(there, here, strict=True)]
            rows.append(row(f"{name}, a call in a session", there, "ms", "Aer in process", here))
            rows.append(row("    its overhead", beyond, "ms", "Aer in process", here, median=12.0))
    return rows


def beside_local_mode(runtime: Runtime) -> list[Row]:
    """A call through a warm session on a device, in turn with one of Qiskit Runtime's local mode on the same."""
    from neartime.primitives import EstimatorV2, SamplerV2

    if not PEERS.exists():
        return []
    pub, bits = local_mode.work(local_mode.device())
    rows = []
    with runtime.service() as service, Session(service, backend=DEVICE) as session, _local_mode() as (names, theirs):
        ours = {
            "SamplerV2": (SamplerV2(session), bits),
            "EstimatorV2, level 0": (EstimatorV2(session, {"resilience_level": 0}), pub),
            "EstimatorV2, level 1": (EstimatorV2(session, {"resilience_level": 1}), pub),
        }
        for name in names:
            primitive, work = ours[name]
            primitive.run([work]).result()
            here: list[float] = []
            there: list[float] = []
            for _ in range(CALLS):
                with timed(here):
                    primitive.run([work]).result()
                there.append(theirs(name))
            rows.append(row(f"{name}, a call on a device", here, "ms", "its local mode", there, ratio=1.0))
    return rows


@contextmanager
def _local_mode() -> Iterator[Any]:
    """What can be run there, and a function that runs one of it and says how many milliseconds that took."""
    command = [PEERS, "-m", "benchmarks.local_mode"]
    folder = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, heard = process.stdin, process.stdout

        def run(name: str) -> float:
            print(name, file=said, flush=True)
            return float(heard.readline())

        yield json.loads(heard.readline()), run
        said.close()


def sweep(runtime: Runtime) -> list[Row]:
    """A thousand points in one PUB, beside a call for each point."""
    import numpy as np

    from neartime.primitives import EstimatorV2

    circuit = _ansatz()
    values = np.random.default_rng(1).uniform(-np.pi, np.pi, (POINTS, circuit.num_parameters))
    with runtime.service() as service, Session(service, backend="aer") as session:
        estimator = EstimatorV2(session)
        estimator.run([(circuit, "ZZZZ", values[0])]).result()
        one: list[float] = []
        for _ in range(3):
            with timed(one, 1e3 / POINTS):
                estimator.run([(circuit, "ZZZZ", values)]).result()
        single: list[float] = []
        for point in values[:SINGLE_CALLS]:
            with timed(single):
                estimator.run([(circuit, "ZZZZ", point)]).result()
    return [row(f"a point of {POINTS} in one PUB", one, "ms", "a call a point", single, ratio=0.2)]


def mitigation(runtime: Runtime) -> list[Row]:
    """Errors by resilience level on a noisy device: of a molecule's ground energy, and of a GHZ state's parities."""
    with runtime.service() as service, Session(service, backend=DEVICE) as session:
        return [
            *_by_level(session, "H2 ground energy", *_molecule(session)),
            *_by_level(session, "GHZ parities", *_ghz(session, 5)),
            *_cancelled(session, "H2, deeper", *_molecule(session, DEEPER)),
            *_cancelled(session, "GHZ of three, deeper", *_ghz(session, 3, DEEPER)),
        ]


def _cancelled(session: Session, name: str, pub: Any, exact: float) -> list[Row]:
    from neartime.primitives import NoiseLearner

    learnt = NoiseLearner(session, LEARNING).run([pub]).result()
    readout, extrapolated = (_errors(session, pub, exact, {"resilience_level": level}) for level in (1, 2))
    resilience = {"pec_mitigation": True, "layer_noise_model": learnt}
    cancelled = _errors(session, pub, exact, {"resilience": resilience, "twirling": RANDOMIZATIONS})
    return [
        row(f"{name}: error at level 2", extrapolated, "", "level 1", readout, ratio=0.6),
        row(f"{name}: error with PEC", cancelled, "", "level 1", readout, ratio=0.6),
        row("    beside extrapolation", cancelled, "", "level 2", extrapolated),
    ]


def _by_level(session: Session, name: str, pub: Any, exact: float) -> list[Row]:
    none, readout, extrapolated = (_errors(session, pub, exact, {"resilience_level": level}) for level in (0, 1, 2))
    return [
        row(f"{name}: error at level 1", readout, "", "level 0", none, ratio=0.8),
        row(f"{name}: error at level 2", extrapolated, "", "level 1", readout, ratio=0.8),
    ]


def _errors(session: Session, pub: Any, exact: float, options: dict[str, Any]) -> list[float]:
    """The mean error of a PUB's expectation values, for each seed."""
    import numpy as np

    from neartime.primitives import EstimatorV2

    estimator = EstimatorV2(session, options)
    found = []
    for seed in range(SEEDS):
        # Levels have no seed in common: nor have their errors.
        estimator.options.simulator.seed_simulator = 1000 * options.get("resilience_level", 3) + seed
        values = estimator.run([pub], precision=PRECISION).result()[0].data.evs
        found.append(float(np.mean(np.abs(values - exact))))
    return found


def _isa(session: Session, circuit: Any, deeper: int) -> Any:
    whole = circuit.copy()
    for _ in range(deeper):
        for part in (circuit.inverse(), circuit):
            whole.barrier()
            whole.compose(part, inplace=True)
    inputs = {"circuits": [whole], "seed_transpiler": 1}
    return session.run("transpile", inputs).result()["circuits"][0]


def _molecule(session: Session, deeper: int = 0) -> tuple[Any, float]:
    import numpy as np
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    hamiltonian = SparsePauliOp.from_list(H2)
    energies, states = np.linalg.eigh(hamiltonian.to_matrix())
    ground = states[:, 0].real  # of |01> and |10> alone
    circuit = QuantumCircuit(2)
    circuit.ry(2 * np.arctan2(ground[1], ground[2]), 0)
    circuit.x(1)
    circuit.cx(0, 1)
    isa = _isa(session, circuit, deeper)
    return (isa, hamiltonian.apply_layout(isa.layout)), float(energies[0])


def _ghz(session: Session, width: int, deeper: int = 0) -> tuple[Any, float]:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    circuit = QuantumCircuit(width)
    circuit.h(0)
    for qubit in range(width - 1):
        circuit.cx(qubit, qubit + 1)
    isa = _isa(session, circuit, deeper)
    parities = ["I" * left + "ZZ" + "I" * (width - 2 - left) for left in range(width - 1)] + ["X" * width]
    return (isa, [SparsePauliOp(one).apply_layout(isa.layout) for one in parities]), 1.0
