"""A Sampler of your own: SamplerV2's inputs and result, and three places to change what happens between them.

As it is, it transpiles circuits for the backend, and throws shots away whose check bits are not 0: a circuit that has a
classical register of the name `check` tells there which of its shots went wrong.
"""

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from qiskit.primitives import BackendSamplerV2, BitArray, DataBin, PrimitiveResult, SamplerPubResult
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.transpiler import generate_preset_pass_manager

from neartime import types

CHECK = "check"
"""Name of the classical register that is 0 where a shot is to be kept."""


class Options(BaseModel):
    """Those of SamplerV2 that are heeded here; it refuses others, rather than leave out what somebody relies on."""

    model_config = ConfigDict(extra="forbid")

    class Simulator(BaseModel):
        model_config = ConfigDict(extra="forbid")
        seed_simulator: int | None = Field(None, ge=0)

    default_shots: int = Field(4096, ge=1, le=10_000_000, description="Of PUBs that say nothing of their own")
    simulator: Simulator = Field(Simulator(), description="`seed_simulator` makes a simulator's samples repeatable")
    optimization_level: int = Field(2, ge=0, le=3, description="Of the transpiler; SamplerV2 has none")
    keep_all: bool = Field(False, description="Whether shots stay whose check bits are not 0")


class Inputs(BaseModel):
    """What SamplerV2 sends to the program `sampler`."""

    pubs: list[Annotated[list[Any], Field(min_length=1, max_length=3)] | types.SamplerPub] = Field(
        min_length=1, description="Each [circuit], [circuit, parameter values] or [circuit, parameter values, shots]"
    )
    options: Options = Field(Options(), description="`default_shots`, `simulator`, `optimization_level`, `keep_all`")
    shots: int | None = Field(None, ge=1, description="Of PUBs that say nothing of their own, before `default_shots`")
    stream: bool = Field(True, description="Whether each PUB's result is published as soon as it is there")
    version: Literal[2] = Field(2, description="Of the primitive; Qiskit Runtime's client sends it")
    support_qiskit: bool = Field(True, description="Sent by Qiskit Runtime's client, and not heeded")


class Interim(BaseModel):
    """What is published after each PUB."""

    pub: int = Field(description="Its place among the PUBs, from 0")
    result: types.SamplerPubResult


def prepare(circuit, backend, options: Options):
    """The first place: what becomes of a circuit before it runs. SamplerV2 would refuse one that is not transpiled."""
    return generate_preset_pass_manager(optimization_level=options.optimization_level, backend=backend).run(circuit)


def sample(pub: SamplerPub, backend, seed: int | None) -> SamplerPubResult:
    """The second place: how shots are taken."""
    sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": seed})
    return sampler.run([pub]).result()[0]


def mend(result: SamplerPubResult, options: Options) -> SamplerPubResult:
    """The third place: what becomes of the shots. Here those are kept whose check bits are 0.

    All points of a PUB have as many shots, so each gives as many as the one with the fewest good ones has.
    """
    if CHECK not in result.data or options.keep_all:
        return result
    shape = result.data.shape
    good = (result.data[CHECK].array == 0).all(axis=-1)
    kept = int(good.sum(axis=-1).min())
    if not kept:
        raise ValueError(f"of {good.shape[-1]} shots none had only zeros in the register {CHECK!r}: take more shots")
    # Good shots first, in their order.
    chosen = np.argsort(~good, axis=-1, kind="stable")[..., :kept, None]
    found = {
        name: BitArray(np.take_along_axis(bits.array, chosen, axis=-2), bits.num_bits)
        for name, bits in result.data.items()
    }
    metadata = {**result.metadata, "shots": kept, "share_kept": float(good.mean())}
    return SamplerPubResult(DataBin(**found, shape=shape), metadata)


def main(backend, user_messenger, inputs: Inputs) -> Any:
    options, shots = inputs.options, inputs.shots or inputs.options.default_shots
    seed, results = options.simulator.seed_simulator, []
    for number, given in enumerate(inputs.pubs):
        pub = SamplerPub.coerce(given if isinstance(given, SamplerPub) else tuple(given), shots)
        isa = SamplerPub(prepare(pub.circuit, backend, options), pub.parameter_values, pub.shots)
        found = sample(isa, backend, None if seed is None else seed + number)
        results.append(mend(found, options))
        if inputs.stream:
            user_messenger.publish(Interim(pub=number, result=results[-1]))
    return PrimitiveResult(results, metadata={"version": 2})
