"""The lowest energies of a Hamiltonian, one after the other, by variational quantum deflation (arXiv:1805.08138).

The algorithm is qiskit-algorithms' own, which the server installs beside this program. Each energy is published.
"""

import numpy as np
from pydantic import BaseModel, Field, model_validator
from qiskit.circuit.library import efficient_su2
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.primitives.base import BaseEstimatorV2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager

from neartime import types

BOHR = 0.529177210903
"""Å (CODATA 2018)."""
H2_REPULSION = BOHR / 0.735
"""Hartree, of two protons at 0.735 Å: 1/R in atomic units."""
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
    """Whose energies to find, how many, and how hard to try."""

    hamiltonian: types.SparsePauliOp | None = Field(None, description="In hartree; without it, the hydrogen molecule's")
    shift: float | None = Field(None, description="Hartree added to every energy; of H2, the nuclei's repulsion")
    states: int = Field(2, ge=1, le=16, description="How many energies, the lowest first")
    reps: int = Field(2, ge=0, le=10, description="Entangling layers of the ansatz")
    maxiter: int = Field(150, ge=1, le=10_000, description="Evaluations at most, for each state")
    penalty: float | None = Field(
        None,
        gt=0,
        description="Hartree that an overlap of 1 with a lower state costs; without it, as much as can matter",
    )
    precision: float = Field(
        0.005, gt=0, description="Standard error, in hartree, where expectation values are sampled"
    )
    shots: int = Field(4096, ge=1, le=1_000_000, description="Of each overlap")
    seed: int = Field(7, ge=0, description="Of the first parameters and, on a simulator, of the samples")

    @model_validator(mode="after")
    def _has_as_many(self):
        levels = 4 if self.hamiltonian is None else 2**self.hamiltonian.num_qubits
        if self.states > levels:
            raise ValueError(f"states: the Hamiltonian has {levels} levels, and {self.states} are wanted")
        return self


class Interim(BaseModel):
    """What is published after each evaluation."""

    state: int = Field(description="0 for the ground state")
    iteration: int = Field(description="Of this state, from 1")
    energy: float = Field(description="Hartree, the shift included")
    cost: float = Field(description="The energy with what overlaps with lower states cost")


class Result(BaseModel):
    """The energies that were found, and the exact ones; hartree, the shift included."""

    energies: list[float]
    exact_energies: list[float] = Field(description="The Hamiltonian's lowest eigenvalues")
    differences: list[float] = Field(description="By how much each energy is above the exact one")
    iterations: list[int] = Field(description="Evaluations for each state")
    parameters: types.ndarray = Field(description="Of the ansatz, in radians, a row for each state")


class Overheard(BaseEstimatorV2):
    """An estimator that remembers its last energy, which the algorithm tells its callback with the penalty alone."""

    def __init__(self, estimator):
        self.energy = np.nan
        self._estimator = estimator

    def run(self, pubs, *, precision=None):
        job = self._estimator.run(pubs, precision=precision)
        self.energy = float(np.ravel(job.result()[0].data.evs)[-1])
        return job


def primitives_of(backend, inputs: Inputs):
    """An estimator and a sampler: Aer computes expectation values exactly; any other backend samples them."""
    if type(backend).__module__.startswith("qiskit_aer"):
        from qiskit_aer.primitives import EstimatorV2, SamplerV2

        return EstimatorV2.from_backend(backend), SamplerV2.from_backend(backend, seed=inputs.seed)
    seed = {"seed_simulator": inputs.seed}
    estimator = BackendEstimatorV2(backend=backend, options={"default_precision": inputs.precision, **seed})
    return estimator, BackendSamplerV2(backend=backend, options=seed)


def main(backend, user_messenger, inputs: Inputs) -> Result:
    # Not at the top: where this is uploaded from, the package need not be installed.
    from qiskit_algorithms import VQD
    from qiskit_algorithms.optimizers import COBYLA
    from qiskit_algorithms.state_fidelities import ComputeUncompute

    hamiltonian, shift = inputs.hamiltonian, inputs.shift or 0.0
    if hamiltonian is None:
        hamiltonian = SparsePauliOp.from_list(H2)
        shift = H2_REPULSION if inputs.shift is None else inputs.shift
    exact = np.linalg.eigvalsh(hamiltonian.to_matrix())[: inputs.states] + shift
    # No two levels are farther apart than twice what all terms but the identity can add, so a lower state never pays.
    terms = hamiltonian.paulis
    penalty = inputs.penalty or 2 * float(np.abs(hamiltonian.coeffs[(terms.x | terms.z).any(axis=1)]).sum())

    ansatz = generate_preset_pass_manager(1, backend=backend, seed_transpiler=inputs.seed).run(
        efficient_su2(hamiltonian.num_qubits, reps=inputs.reps)
    )
    estimator, sampler = primitives_of(backend, inputs)
    estimator = Overheard(estimator)
    # An ansatz is undone by its gates' inverses, which may be none of the backend's instructions.
    translation = generate_preset_pass_manager(0, backend=backend).translation

    def told(iteration, parameters, cost, metadata, step):
        user_messenger.publish(
            Interim(state=step - 1, iteration=iteration, energy=estimator.energy + shift, cost=float(cost) + shift)
        )

    start = np.random.default_rng(inputs.seed).uniform(-np.pi, np.pi, (inputs.states, ansatz.num_parameters))
    found = VQD(
        estimator,
        ComputeUncompute(sampler, shots=inputs.shots, transpiler=translation),
        ansatz,
        COBYLA(maxiter=inputs.maxiter, rhobeg=0.8, tol=1e-4),
        k=inputs.states,
        betas=np.full(inputs.states, penalty),
        initial_point=list(start) if inputs.states > 1 else start[0],
        callback=told,
    ).compute_eigenvalues(hamiltonian)
    energies = np.real(found.eigenvalues) + shift
    return Result(
        energies=energies.tolist(),
        exact_energies=exact.tolist(),
        differences=(energies - exact).tolist(),
        iterations=[int(count) for count in found.cost_function_evals],
        parameters=found.optimal_points,
    )
