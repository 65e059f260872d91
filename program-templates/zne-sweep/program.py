"""Zero-noise extrapolation, looked at: one expectation value at several strengths of noise, and what curves make of it.

Noise is made stronger by folding: a two-qubit gate G becomes G G⁻¹ G, which does the same and errs three times as often
(arXiv:2005.10921). Readout errors are not amplified, so what they shift stays.
"""

import logging
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator
from qiskit import QuantumCircuit
from qiskit.primitives import BackendEstimatorV2
from qiskit.quantum_info import SparsePauliOp, Statevector
from qiskit.transpiler import generate_preset_pass_manager
from scipy.optimize import curve_fit

from neartime import types

log = logging.getLogger(__name__)

LARGEST_EXACT = 12
"""Qubits up to which the value without noise is computed too, from the state vector."""
STEP = 0.3
"""Time of a step of the chain's evolution, in units of its inverse coupling."""
DEGREES = {"linear": 1, "quadratic": 2, "cubic": 3}

Extrapolator = Literal["linear", "quadratic", "cubic", "richardson", "exponential"]


class Inputs(BaseModel):
    """What to measure, at which strengths of noise, and which curves to lay through that."""

    circuit: Annotated[types.QuantumCircuit, types.NumParameters(0)] | None = Field(
        None, description="Without measurements; without it, an Ising chain that evolves in a transverse field"
    )
    observable: types.SparsePauliOp | None = Field(
        None, description="Of the circuit's qubits; without it, their mean Z"
    )
    num_qubits: int = Field(4, ge=2, le=20, description="Of the chain")
    steps: int = Field(8, ge=1, le=100, description="Of the chain's evolution")
    noise_factors: list[Annotated[float, Field(ge=1, le=50)]] = Field(
        [1.0, 2.0, 3.0, 4.0, 5.0], min_length=2, max_length=50, description="How much stronger the noise is, each"
    )
    extrapolators: list[Extrapolator] = Field(
        ["linear", "quadratic", "exponential"], min_length=1, description="Curves through the points, read at no noise"
    )
    precision: float = Field(0.005, gt=0, le=1, description="Standard error of a point that is aimed at")
    seed: int = Field(7, ge=0, description="Of the choice of gates that are folded and, on a simulator, of the samples")

    @model_validator(mode="after")
    def _fit_together(self):
        if len(set(self.noise_factors)) < len(self.noise_factors):
            raise ValueError("noise_factors: one is there twice; more shots at a point are a smaller precision")
        for name in self.extrapolators:
            needed = DEGREES.get(name, 1) + 1
            if len(self.noise_factors) < needed:
                raise ValueError(
                    f"extrapolators: {name!r} takes {needed} noise_factors or more, there are {len(self.noise_factors)}"
                )
        if self.observable is not None:
            width = self.num_qubits if self.circuit is None else self.circuit.num_qubits
            if self.observable.num_qubits != width:
                raise ValueError(
                    f"observable: it has {self.observable.num_qubits} qubits, and the circuit {width}: give one of each"
                )
        return self


class Interim(BaseModel):
    """A point, as soon as it is measured."""

    noise_factor: float = Field(description="How much stronger the noise is; as near to the wish as the gates allow")
    value: float
    std: float = Field(description="Standard error of the value")
    two_qubit_gates: int = Field(description="Of the folded circuit")


class Extrapolated(BaseModel):
    """What a curve says of no noise."""

    extrapolator: Extrapolator
    value: float | None = Field(description="None where the curve could not be fitted")
    std: float | None = Field(description="Standard error that comes from those of the points")


class Result(BaseModel):
    """The points, and what each curve makes of them."""

    points: list[Interim]
    extrapolated: list[Extrapolated]
    exact_value: float | None = Field(description="Without noise, where the circuit is small enough to compute it")


def chain(num_qubits: int, steps: int) -> QuantumCircuit:
    """Neighbours coupled by ZZ, in a field along X, by Trotter's formula of first order."""
    circuit = QuantumCircuit(num_qubits)
    for _ in range(steps):
        for first in (0, 1):
            for qubit in range(first, num_qubits - 1, 2):
                circuit.rzz(-2 * STEP, qubit, qubit + 1)
        circuit.rx(-STEP, range(num_qubits))
    return circuit


def mean_z(num_qubits: int) -> SparsePauliOp:
    return SparsePauliOp.from_sparse_list([("Z", [qubit], 1 / num_qubits) for qubit in range(num_qubits)], num_qubits)


def folded(circuit: QuantumCircuit, factor: float, rng: np.random.Generator) -> tuple[QuantumCircuit, float]:
    """The circuit with its two-qubit gates folded, and by how much it has more of them than before.

    All are folded as often; where the factor wants some more, those are chosen at random.
    """
    wide = [place for place, one in enumerate(circuit.data) if len(one.qubits) == 2 and one.operation.name != "barrier"]
    if not wide:
        raise ValueError("circuit: on this backend it has no gate of two qubits, whose noise could be made stronger")
    folds = round((factor - 1) / 2 * len(wide))
    each, more = divmod(folds, len(wide))
    chosen = set(rng.choice(wide, more, replace=False).tolist())
    found = circuit.copy_empty_like()
    for place, one in enumerate(circuit.data):
        found.append(one)
        if place in wide:
            for _ in range(each + (place in chosen)):
                found.append(one.operation.inverse(), one.qubits)
                found.append(one)
    return found, 1 + 2 * folds / len(wide)


def polynomial(degree: int, factors, values, stds) -> tuple[float, float]:
    """At zero, of the polynomial with the least squares, each point weighted by its standard error."""
    powers = np.vander(factors, degree + 1, increasing=True)
    weighted = powers / stds[:, None]
    covariance = np.linalg.inv(weighted.T @ weighted)
    coefficients = covariance @ weighted.T @ (values / stds)
    return float(coefficients[0]), float(np.sqrt(covariance[0, 0]))


def exponential(factors, values, stds) -> tuple[float, float]:
    """At zero, of a·exp(-b·factor): what many independent errors make of an observable without trace."""
    sign = np.sign(values.mean()) or 1.0
    slope, height = np.polyfit(factors, np.log(np.maximum(sign * values, 1e-6)), 1)
    found, covariance = curve_fit(
        lambda factor, a, b: a * np.exp(-b * factor),
        factors,
        values,
        p0=(sign * np.exp(height), -slope),
        sigma=stds,
        absolute_sigma=True,
        maxfev=2000,
    )
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def extrapolated(name: str, points: list[Interim], precision: float) -> Extrapolated:
    factors, values = (np.array([getattr(one, key) for one in points]) for key in ("noise_factor", "value"))
    # Where all shots agreed a standard error is 0; no point is that sure.
    stds = np.maximum([one.std for one in points], precision**2)
    degree = len(points) - 1 if name == "richardson" else DEGREES.get(name)
    try:
        value, std = exponential(factors, values, stds) if degree is None else polynomial(degree, factors, values, stds)
    except (RuntimeError, np.linalg.LinAlgError):
        value = std = np.nan
    fits = np.isfinite(value) and np.isfinite(std)
    return Extrapolated(extrapolator=name, value=value if fits else None, std=std if fits else None)


def main(backend, user_messenger, inputs: Inputs) -> Result:
    circuit = chain(inputs.num_qubits, inputs.steps) if inputs.circuit is None else inputs.circuit
    observable = mean_z(circuit.num_qubits) if inputs.observable is None else inputs.observable
    exact = None
    if circuit.num_qubits <= LARGEST_EXACT:
        exact = float(Statevector(circuit).expectation_value(observable).real)

    isa = generate_preset_pass_manager(1, backend=backend, seed_transpiler=inputs.seed).run(circuit)
    placed = observable.apply_layout(isa.layout)
    # An inverse may be none of the backend's instructions: this says it in those, and cancels nothing.
    translation = generate_preset_pass_manager(0, backend=backend).translation
    rng = np.random.default_rng(inputs.seed)
    points = []
    for number, wanted in enumerate(inputs.noise_factors):
        noisier, factor = folded(isa, wanted, rng)
        estimator = BackendEstimatorV2(backend=backend, options={"seed_simulator": inputs.seed + number})
        pub = (translation.run(noisier), placed)
        data = estimator.run([pub], precision=inputs.precision).result()[0].data
        gates = sum(len(one.qubits) == 2 for one in noisier.data)
        points.append(Interim(noise_factor=factor, value=float(data.evs), std=float(data.stds), two_qubit_gates=gates))
        user_messenger.publish(points[-1])
    if np.ptp([one.value for one in points]) < 3 * max(one.std for one in points):
        log.warning("the points differ by no more than their errors: is there noise? generic_5q, for one, has some")
    return Result(
        points=points,
        extrapolated=[extrapolated(name, points, inputs.precision) for name in inputs.extrapolators],
        exact_value=exact,
    )
