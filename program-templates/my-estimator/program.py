"""An Estimator of your own: EstimatorV2's inputs and result, and three places to change what happens between them.

As it is, it transpiles circuits for the backend, and takes as many shots as it needs: batch by batch, until the scatter
between batches says that the precision is reached. How many that are depends on the state and on the coefficients of an
observable, which an Estimator that takes 1/precision² shots knows nothing of.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from qiskit.primitives import BackendEstimatorV2, DataBin, PrimitiveResult, PubResult
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.transpiler import generate_preset_pass_manager

from neartime import types

FEWEST = 8
"""Batches before their scatter is believed."""
USUAL = 16
"""Batches that are as many shots, 1/precision², as an Estimator takes at once."""


class Options(BaseModel):
    """Those of EstimatorV2 that are heeded here; it refuses others, rather than leave out what somebody relies on."""

    model_config = ConfigDict(extra="forbid")

    class Simulator(BaseModel):
        model_config = ConfigDict(extra="forbid")
        seed_simulator: int | None = Field(None, ge=0)

    default_precision: float = Field(0.015625, gt=0, description="Of PUBs that say nothing of their own")
    simulator: Simulator = Field(Simulator(), description="`seed_simulator` makes a simulator's samples repeatable")
    resilience_level: Literal[0] = Field(0, description="0: nothing here mends errors")
    optimization_level: int = Field(2, ge=0, le=3, description="Of the transpiler; EstimatorV2 has none")
    max_batches: int = Field(500, ge=FEWEST, description="After which a PUB is given up, as near as it came")


class Inputs(BaseModel):
    """What EstimatorV2 sends to the program `estimator`."""

    pubs: list[Annotated[list[Any], Field(min_length=2, max_length=4)] | types.EstimatorPub] = Field(
        min_length=1, description="Each [circuit, observables], with parameter values, with a precision behind them"
    )
    options: Options = Field(
        Options(),
        description="`default_precision`, `simulator`, `optimization_level`, `max_batches`, `resilience_level` 0",
    )
    precision: float | None = Field(None, gt=0, description="Of PUBs that say nothing of their own: standard error")
    stream: bool = Field(True, description="Whether the values so far are published after each batch")
    version: Literal[2] = Field(2, description="Of the primitive; Qiskit Runtime's client sends it")
    support_qiskit: bool = Field(True, description="Sent by Qiskit Runtime's client, and not heeded")


class Interim(BaseModel):
    """What is published after each batch of a PUB from the second on."""

    pub: int = Field(description="Its place among the PUBs, from 0")
    batch: int = Field(description="From 1")
    evs: types.ndarray = Field(description="The PUB's expectation values so far")
    stds: types.ndarray = Field(description="Their standard errors, as the scatter between batches has it")


def prepare(pub: EstimatorPub, backend, options: Options) -> EstimatorPub:
    """The first place: what becomes of circuit and observables before they run. EstimatorV2 wants them transpiled."""
    passes = generate_preset_pass_manager(optimization_level=options.optimization_level, backend=backend)
    circuit = passes.run(pub.circuit)
    return EstimatorPub(circuit, pub.observables.apply_layout(circuit.layout), pub.parameter_values, pub.precision)


def measure(pub: EstimatorPub, backend, seed: int | None) -> np.ndarray:
    """The second place: how a batch is measured."""
    estimator = BackendEstimatorV2(backend=backend, options={"seed_simulator": seed})
    batch = EstimatorPub(pub.circuit, pub.observables, pub.parameter_values, pub.precision * np.sqrt(USUAL))
    return np.asarray(estimator.run([batch]).result()[0].data.evs)


def combine(batches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The third place: what becomes of the batches; values and standard errors. A median would mind outliers less."""
    values = np.asarray(np.mean(batches, axis=0))
    return values, np.asarray(np.std(batches, axis=0, ddof=1) / np.sqrt(len(batches)))


def main(backend, user_messenger, inputs: Inputs) -> Any:
    options, precision = inputs.options, inputs.precision or inputs.options.default_precision
    seeds = np.random.default_rng(options.simulator.seed_simulator)
    results = []
    for number, given in enumerate(inputs.pubs):
        pub = EstimatorPub.coerce(given if isinstance(given, EstimatorPub) else tuple(given), precision)
        if not pub.precision:
            raise ValueError(f"pubs[{number}]: the precision 0 would take an infinite number of shots")
        pub = prepare(pub, backend, options)
        wanted, batches = pub.precision, []
        while True:
            batches.append(measure(pub, backend, int(seeds.integers(2**31))))
            if len(batches) < 2:
                continue
            evs, stds = combine(batches)
            if inputs.stream:
                user_messenger.publish(Interim(pub=number, batch=len(batches), evs=evs, stds=stds))
            reached = len(batches) >= FEWEST and np.all(stds <= wanted)
            if reached or len(batches) >= options.max_batches:
                break
        metadata = {"target_precision": wanted, "reached": bool(reached), "batches": len(batches)}
        results.append(PubResult(DataBin(evs=evs, stds=stds, shape=evs.shape), metadata))
    return PrimitiveResult(results, metadata={"version": 2})
