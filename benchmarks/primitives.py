"""Sampler and Estimator: a call through a warm session, a sweep in one PUB, and what each resilience level leaves."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Row, row, timed
from neartime import Session
from neartime_server.testing import Runtime

CALLS = 40
POINTS = 1000
SINGLE_CALLS = 100
"""Of one point each; a thousand would only take longer."""
SEEDS = 20
PRECISION = 0.01
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
            *_by_level(session, "GHZ parities", *_ghz(session)),
        ]


def _by_level(session: Session, name: str, pub: Any, exact: float) -> list[Row]:
    none, readout, extrapolated = (_errors(session, pub, exact, level) for level in (0, 1, 2))
    return [
        row(f"{name}: error at level 1", readout, "", "level 0", none, ratio=0.8),
        row(f"{name}: error at level 2", extrapolated, "", "level 1", readout, ratio=0.8),
    ]


def _errors(session: Session, pub: Any, exact: float, level: int) -> list[float]:
    """The mean error of a PUB's expectation values, for each seed."""
    import numpy as np

    from neartime.primitives import EstimatorV2

    estimator = EstimatorV2(session, {"resilience_level": level})
    found = []
    for seed in range(SEEDS):
        estimator.options.simulator.seed_simulator = 1000 * level + seed
        values = estimator.run([pub], precision=PRECISION).result()[0].data.evs
        found.append(float(np.mean(np.abs(values - exact))))
    return found


def _isa(session: Session, circuit: Any) -> Any:
    inputs = {"circuits": [circuit], "seed_transpiler": 1}
    return session.run("transpile", inputs).result()["circuits"][0]


def _molecule(session: Session) -> tuple[Any, float]:
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
    isa = _isa(session, circuit)
    return (isa, hamiltonian.apply_layout(isa.layout)), float(energies[0])


def _ghz(session: Session) -> tuple[Any, float]:
    from qiskit import QuantumCircuit
    from qiskit.quantum_info import SparsePauliOp

    circuit = QuantumCircuit(5)
    circuit.h(0)
    for qubit in range(4):
        circuit.cx(qubit, qubit + 1)
    isa = _isa(session, circuit)
    parities = ["ZZIII", "IZZII", "IIZZI", "IIIZZ", "XXXXX"]
    return (isa, [SparsePauliOp(one).apply_layout(isa.layout) for one in parities]), 1.0
