"""The variational quantum eigensolver: a classical optimiser looks for the circuit parameters of least energy.

It runs beside the backend, so no network lies between one evaluation of the energy and the next; each is published.
"""

import numpy as np
from pydantic import BaseModel, Field
from qiskit.circuit.library import efficient_su2
from qiskit.primitives import BackendEstimatorV2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from scipy.optimize import minimize

from neartime import types

BOHR = 0.529177210903
"""Å (CODATA 2018)."""
H2_DISTANCE = 0.735
"""Å between the two nuclei, near the equilibrium."""
H2_REPULSION = BOHR / H2_DISTANCE
"""Hartree, of the two nuclei: 1/R in atomic units."""
# H2 in the STO-3G basis at 0.735 Å, parity mapping with two-qubit reduction, in hartree. The coefficients are those
# that the VQE tutorial of qiskit-algorithms gives ("Algorithms/VQE"), computed there by qiskit-nature with PySCF.
H2 = [
    ("II", -1.052373245772859),
    ("IZ", 0.39793742484318045),
    ("ZI", -0.39793742484318045),
    ("ZZ", -0.01128010425623538),
    ("XX", 0.18093119978423156),
]


class Inputs(BaseModel):
    """What to find the ground state of, and how hard to try."""

    hamiltonian: types.SparsePauliOp | None = Field(None, description="In hartree; without it, the hydrogen molecule's")
    shift: float | None = Field(None, description="Hartree added to every energy; of H2, the nuclei's repulsion")
    reps: int = Field(2, ge=0, le=10, description="Entangling layers of the ansatz")
    maxiter: int = Field(150, ge=1, le=10_000, description="Evaluations of the energy at most")
    precision: float = Field(
        0.005, gt=0, description="Standard error aimed at, in hartree, where expectation values are sampled"
    )
    seed: int = Field(7, ge=0, description="Of the first parameters")


class Interim(BaseModel):
    """What is published after each evaluation of the energy."""

    iteration: int
    energy: float = Field(description="Hartree, the shift included")


class Result(BaseModel):
    """The lowest energy that was seen, and the exact one."""

    energy: float = Field(description="Hartree, the shift included, as all energies here")
    exact_energy: float = Field(description="The Hamiltonian's lowest eigenvalue")
    difference: float = Field(description="By how much the energy is above the exact one")
    iterations: int
    parameters: types.ndarray = Field(description="Of the ansatz, in radians, where the energy was lowest")


def estimator_of(backend, precision: float):
    """Aer computes expectation values exactly; any other backend samples them."""
    if type(backend).__module__.startswith("qiskit_aer"):
        from qiskit_aer.primitives import EstimatorV2

        return EstimatorV2.from_backend(backend)
    return BackendEstimatorV2(backend=backend, options={"default_precision": precision})


def main(backend, user_messenger, inputs: Inputs) -> Result:
    hamiltonian, shift = inputs.hamiltonian, inputs.shift or 0.0
    if hamiltonian is None:
        hamiltonian = SparsePauliOp.from_list(H2)
        shift = H2_REPULSION if inputs.shift is None else inputs.shift
    exact = float(np.linalg.eigvalsh(hamiltonian.to_matrix())[0]) + shift

    ansatz = efficient_su2(hamiltonian.num_qubits, reps=inputs.reps)
    circuit = generate_preset_pass_manager(optimization_level=1, backend=backend).run(ansatz)
    observable = hamiltonian.apply_layout(circuit.layout)
    estimator = estimator_of(backend, inputs.precision)
    best = {"energy": np.inf, "parameters": None}
    evaluations = 0

    def energy(parameters):
        nonlocal evaluations
        evaluations += 1
        value = float(estimator.run([(circuit, observable, parameters)]).result()[0].data.evs) + shift
        if value < best["energy"]:
            best.update(energy=value, parameters=np.array(parameters))
        user_messenger.publish(Interim(iteration=evaluations, energy=value))
        return value

    start = np.random.default_rng(inputs.seed).uniform(-np.pi, np.pi, ansatz.num_parameters)
    minimize(energy, start, method="COBYLA", options={"maxiter": inputs.maxiter, "rhobeg": 0.8, "tol": 1e-4})
    return Result(
        energy=best["energy"],
        exact_energy=exact,
        difference=best["energy"] - exact,
        iterations=evaluations,
        parameters=best["parameters"],
    )
