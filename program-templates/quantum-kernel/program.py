"""Kernel alignment: the parameters of a quantum kernel, trained so that it tells two classes of points apart.

The kernel of two points is the fidelity of their states, K(a, b) = |⟨φ(a)|φ(b)⟩|²: the share of shots in which
U(b)⁻¹U(a) leaves all qubits at 0. Trained are the scales of the features; too large, and all points are far from each
other, too small, and all are the same. SPSA (Spall, 1992) changes all of them at once with two kernels a step, and the
state after each step is a checkpoint.
"""

from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, model_validator
from qiskit import QuantumCircuit
from qiskit.circuit import ParameterVector
from qiskit.primitives import BackendSamplerV2
from qiskit.quantum_info import Pauli, Statevector
from qiskit.transpiler import generate_preset_pass_manager

from neartime import types

MARGIN = 0.5
"""How far made-up points are from where their class changes: the least absolute value of their parity."""
DAMPING = 0.602
"""Exponent by which SPSA's steps become smaller; this and the next are those that Spall recommends."""
NARROWING = 0.101
"""Exponent by which SPSA looks less far."""


class Inputs(BaseModel):
    """The points and their classes, and how hard to try."""

    features: Annotated[types.ndarray, types.Shape(None, None)] | None = Field(
        None, description="A row for each point, a column for each feature; a qubit each. Without it, made-up ones"
    )
    labels: list[int] | None = Field(None, description="Of each point, 1 or -1")
    samples: int = Field(12, ge=4, le=500, description="Points that are made up, where there are no features")
    start: list[float] | None = Field(
        None, description="First scales: one for each feature and each pair of neighbours. Without it, all are 0.5"
    )
    reps: int = Field(2, ge=1, le=20, description="Layers of the circuit that a point becomes")
    maxiter: int = Field(40, ge=1, le=10_000, description="Steps of SPSA; each takes two kernels")
    shots: int = Field(512, ge=1, le=1_000_000, description="Of each pair of points")
    learning_rate: float = Field(0.5, gt=0, description="How far the first steps go")
    perturbation: float = Field(0.2, gt=0, description="How far SPSA looks to both sides, at first")
    seed: int = Field(7, ge=0, description="Of made-up points, SPSA's directions and, on a simulator, of the samples")

    @model_validator(mode="after")
    def _fit_together(self):
        if (self.features is None) != (self.labels is None):
            raise ValueError("features and labels: give both, or neither for made-up points")
        if self.features is not None:
            if len(self.features) != len(self.labels):
                raise ValueError(f"labels: there are {len(self.labels)}, and {len(self.features)} rows of features")
            if set(self.labels) != {1, -1}:
                raise ValueError(f"labels: 1 and -1, and some of each, not {sorted(set(self.labels))}")
        wanted = scales_of(2 if self.features is None else np.shape(self.features)[1])
        if self.start is not None and len(self.start) != wanted:
            raise ValueError(f"start: {wanted} scales are trained here, and {len(self.start)} are given")
        return self


class Interim(BaseModel):
    """What is published after each step."""

    iteration: int
    loss: float = Field(description="One less the alignment, the mean of the step's two kernels")


class Result(BaseModel):
    """The trained kernel."""

    parameters: types.ndarray = Field(description="Scales: of the features, then of pairs of neighbours")
    loss_before: float = Field(description="One less the kernel's alignment with the classes, at the first scales")
    loss: float = Field(description="The same at the trained ones")
    losses: list[float] = Field(description="Of each step")
    kernel: types.ndarray = Field(description="Of all pairs of points, at the trained scales")
    accuracy_before: float = Field(
        description="Share of points that are nearer to their own class, by the first kernel"
    )
    accuracy: float = Field(description="The same by the trained one")


def scales_of(width: int) -> int:
    """How many are trained for so many features."""
    return 2 * width - 1


def angles(features: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Of each point: a turn for each feature, and one for the product of each pair of neighbours."""
    width = features.shape[1]
    return np.hstack([features * scales[:width], features[:, :-1] * features[:, 1:] * scales[width:]])


def embedding(width: int, reps: int, turns) -> QuantumCircuit:
    """The state that a point becomes, as a circuit (arXiv:1804.11326)."""
    circuit = QuantumCircuit(width)
    for _ in range(reps):
        circuit.h(range(width))
        for qubit in range(width):
            circuit.rz(turns[qubit], qubit)
        for pair in range(width - 1):
            circuit.rzz(turns[width + pair], pair, pair + 1)
    return circuit


def fidelity(width: int, reps: int) -> QuantumCircuit:
    """U(b)⁻¹U(a), measured; its parameters are the angles of a, then those of b."""
    count = scales_of(width)
    turns = ParameterVector("x", 2 * count)
    circuit = embedding(width, reps, turns[:count]).compose(embedding(width, reps, turns[count:]).inverse())
    circuit.measure_all()
    return circuit


def made_up(samples: int, reps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points of two features whose class is the sign of their states' parity, where all scales are 1."""
    points: list[np.ndarray] = []
    labels = np.resize([1, -1], samples)
    while len(points) < samples:
        point = rng.uniform(-np.pi, np.pi, 2)
        state = Statevector(embedding(2, reps, angles(point[None], np.ones(3))[0]))
        if labels[len(points)] * state.expectation_value(Pauli("ZZ")).real > MARGIN:
            points.append(point)
    return np.array(points), labels


def sampler_of(backend, seed: int):
    """Aer takes all pairs in one call; any other backend a circuit for each."""
    if type(backend).__module__.startswith("qiskit_aer"):
        from qiskit_aer.primitives import SamplerV2

        # Circuits as small as these are run one by one: threads would wait for each other longer than they work.
        return SamplerV2.from_backend(backend, seed=seed, options={"run_options": {"max_parallel_threads": 1}})
    return BackendSamplerV2(backend=backend, options={"seed_simulator": seed})


def loss_of(kernel: np.ndarray, labels: np.ndarray) -> float:
    """One less the alignment of K with y yᵀ: their inner product, over both their norms."""
    return float(1 - labels @ kernel @ labels / (len(labels) * np.linalg.norm(kernel)))


def accuracy_of(kernel: np.ndarray, labels: np.ndarray) -> float:
    """The share of points that are, in the mean, nearer to the others of their class than to those of the other one."""
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)  # a point is near to itself
    other = labels[:, None] != labels
    own, foreign = ((kernel * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1) for mask in (same, other))
    return float(np.mean(own > foreign))


def main(backend, user_messenger, inputs: Inputs) -> Result:
    features, labels = inputs.features, inputs.labels
    if features is None:
        features, labels = made_up(inputs.samples, inputs.reps, np.random.default_rng(inputs.seed))
    features, labels = np.asarray(features, dtype=float), np.asarray(labels)
    circuit = generate_preset_pass_manager(1, backend=backend, seed_transpiler=inputs.seed).run(
        fidelity(features.shape[1], inputs.reps)
    )
    above = np.triu_indices(len(features), 1)

    def kernel_of(scales: np.ndarray, number: int) -> np.ndarray:
        """The kernel's matrix; `number` makes its samples others than those before."""
        of_points = angles(features, scales)
        pairs = np.hstack([of_points[above[0]], of_points[above[1]]])
        sampler = sampler_of(backend, inputs.seed + number)
        bits = sampler.run([(circuit, pairs)], shots=inputs.shots).result()[0].data.meas
        # Whatever the layout is, a shot of zeros is a shot of zeros.
        zeros = (bits.array == 0).all(axis=-1).mean(axis=-1)
        kernel = np.eye(len(features))
        kernel[above] = zeros
        return np.maximum(kernel, kernel.T)

    start = np.full(scales_of(features.shape[1]), 0.5) if inputs.start is None else np.array(inputs.start)
    state = user_messenger.restore() or {"parameters": start, "losses": []}
    scales, losses = np.array(state["parameters"]), list(state["losses"])
    steady = 0.1 * inputs.maxiter
    for step in range(len(losses), inputs.maxiter):
        # Each step's directions come of its number, so that a run that was resumed takes the same way.
        direction = np.random.default_rng([inputs.seed, step]).choice([-1.0, 1.0], len(scales))
        near = inputs.perturbation / (step + 1) ** NARROWING * direction
        plus, minus = (loss_of(kernel_of(scales + way * near, 2 * step + 1), labels) for way in (1, -1))
        rate = inputs.learning_rate * ((steady + 1) / (step + 1 + steady)) ** DAMPING
        scales = scales - rate * (plus - minus) / (2 * near)
        losses.append((plus + minus) / 2)
        user_messenger.publish(Interim(iteration=step + 1, loss=losses[-1]))
        user_messenger.checkpoint({"parameters": scales, "losses": losses})

    before, after = kernel_of(start, 0), kernel_of(scales, 0)
    return Result(
        parameters=scales,
        loss_before=loss_of(before, labels),
        loss=loss_of(after, labels),
        losses=losses,
        kernel=after,
        accuracy_before=accuracy_of(before, labels),
        accuracy=accuracy_of(after, labels),
    )
