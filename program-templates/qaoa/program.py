"""Max-cut by the quantum approximate optimisation algorithm (Farhi, Goldstone, Gutmann, arXiv:1411.4028).

The cut of a partition z ∈ {0,1}ⁿ is the sum of the weights w_uv over the edges with z_u ≠ z_v. It is sampled on the
backend, and a classical optimiser looks for the angles of the largest mean; the mean of each evaluation is published.
"""

import numpy as np
from pydantic import BaseModel, Field, field_validator
from qiskit.circuit.library import qaoa_ansatz
from qiskit.primitives import BackendSamplerV2
from qiskit.quantum_info import SparsePauliOp
from qiskit.transpiler import generate_preset_pass_manager
from scipy.optimize import minimize

LARGEST_EXACT = 20
"""Nodes up to which the best cut of all is computed too, by looking at every partition."""


class Inputs(BaseModel):
    """The graph, and how hard to try."""

    edges: list[tuple[int, int, float]] = Field(min_length=1, description="Node, node, weight; nodes count from 0")
    reps: int = Field(2, ge=1, le=20, description="Layers of the ansatz")
    shots: int = Field(1024, ge=1, le=1_000_000, description="Samples of each evaluation")
    maxiter: int = Field(60, ge=1, le=10_000, description="Evaluations at most")
    seed: int = Field(7, ge=0, description="Of the first angles and, on a simulator, of the samples")

    @field_validator("edges")
    @classmethod
    def _join_two_nodes(cls, edges):
        for u, v, _ in edges:
            if u < 0 or v < 0 or u == v:
                raise ValueError(f"({u}, {v}) is no edge: it joins two different nodes, counted from 0")
        return edges


def cuts(bits: np.ndarray, edges) -> np.ndarray:
    """The cut of each partition; `bits` has a row for each and a column for each node."""
    total = np.zeros(len(bits))
    for u, v, weight in edges:
        total += weight * (bits[:, u] != bits[:, v])
    return total


def best_of_all(nodes: int, edges) -> float:
    """The largest cut, by brute force."""
    partitions = np.arange(1 << (nodes - 1))  # a partition and its complement cut the same
    return float(cuts((partitions[:, None] >> np.arange(nodes)) & 1, edges).max())


def main(backend, user_messenger, inputs: Inputs) -> dict:
    edges = inputs.edges
    nodes = 1 + max(max(u, v) for u, v, _ in edges)
    # Up to a constant, the cut is -½ Σ w_uv Z_u Z_v; the ansatz wants an operator to minimise.
    cost = SparsePauliOp.from_sparse_list([("ZZ", [u, v], 0.5 * weight) for u, v, weight in edges], nodes)
    ansatz = qaoa_ansatz(cost, reps=inputs.reps)
    ansatz.measure_all()
    circuit = generate_preset_pass_manager(optimization_level=1, backend=backend).run(ansatz)
    sampler = BackendSamplerV2(backend=backend, options={"default_shots": inputs.shots, "seed_simulator": inputs.seed})
    evaluations = 0
    best = {"cut": -np.inf, "partition": "", "probability": 0.0}

    def negative_mean_cut(angles) -> float:
        nonlocal evaluations
        evaluations += 1
        counts = sampler.run([(circuit, angles)]).result()[0].data.meas.get_counts()
        keys = list(counts)
        # Qiskit writes the qubit 0 last.
        bits = np.array([[int(bit) for bit in reversed(key)] for key in keys])
        values, weights = cuts(bits, edges), np.array([counts[key] for key in keys]) / inputs.shots
        mean, top = float(values @ weights), int(values.argmax())
        if values[top] > best["cut"]:
            best.update(cut=float(values[top]), partition=keys[top][::-1])
        best["probability"] = float(weights[values >= best["cut"] - 1e-9].sum())
        user_messenger.publish({"iteration": evaluations, "mean_cut": mean, "best_cut": best["cut"]})
        return -mean

    start = np.random.default_rng(inputs.seed).uniform(0, np.pi / 4, ansatz.num_parameters)
    found = minimize(negative_mean_cut, start, method="COBYLA", options={"maxiter": inputs.maxiter, "rhobeg": 0.4})
    negative_mean_cut(found.x)  # at the angles found
    return {
        "best_cut": best["cut"],
        "partition": best["partition"],
        "probability": best["probability"],
        "exact_cut": best_of_all(nodes, edges) if nodes <= LARGEST_EXACT else None,
        "iterations": evaluations,
        "angles": found.x,
    }
