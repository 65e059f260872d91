"""Runs circuits on the backend, one after the other, and publishes the counts of each as they come."""

from typing import Annotated

from pydantic import BaseModel, Field
from qiskit.primitives import BackendSamplerV2
from qiskit.transpiler import generate_preset_pass_manager

from neartime import types


class Inputs(BaseModel):
    """What to run, and how often."""

    circuits: list[Annotated[types.QuantumCircuit, types.NumClbits(minimum=1)]] = Field(
        min_length=1, description="Each with its measurements"
    )
    shots: int = Field(1024, ge=1, le=1_000_000, description="Of each circuit")
    optimization_level: int = Field(1, ge=0, le=3, description="Of the transpiler")
    seed: int | None = Field(None, ge=0, description="On a simulator, of the samples")


class Interim(BaseModel):
    """What is published after each circuit."""

    circuit: int = Field(description="Its place among the circuits, from 0")
    counts: dict[str, int]


class Result(BaseModel):
    """What was measured."""

    counts: list[dict[str, int]] = Field(description="Of each circuit")
    bits: list[types.BitArray] = Field(
        description="Of each circuit: its classical registers side by side, shot by shot"
    )


def main(backend, user_messenger, inputs: Inputs) -> Result:
    passes = generate_preset_pass_manager(optimization_level=inputs.optimization_level, backend=backend)
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": inputs.seed})
    counts, bits = [], []
    for number, circuit in enumerate(passes.run(inputs.circuits)):
        measured = sampler.run([circuit], shots=inputs.shots).result()[0].join_data()
        bits.append(measured)
        counts.append(measured.get_counts())
        user_messenger.publish(Interim(circuit=number, counts=counts[-1]))
    return Result(counts=counts, bits=bits)
