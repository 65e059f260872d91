"""Sampler and Estimator against a Neartime server, as Qiskit defines them.

    from neartime import RuntimeService, Session
    from neartime.primitives import EstimatorV2

    with Session(RuntimeService(), backend="aer") as session:
        estimator = EstimatorV2(session)
        print(estimator.run([(circuit, observables, values)]).result()[0].data.evs)

Importing this loads nothing; Qiskit is loaded with the first primitive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neartime.layers import LayerError, NoiseLearnerResult, PauliLindbladError
    from neartime.primitives.estimator import EstimatorV2
    from neartime.primitives.noise_learner import NoiseLearner
    from neartime.primitives.options import (
        DynamicalDecouplingOptions,
        EnvironmentOptions,
        EstimatorOptions,
        ExecutionOptions,
        LayerNoiseLearningOptions,
        MeasureNoiseLearningOptions,
        NoiseLearnerOptions,
        PecOptions,
        ResilienceOptions,
        SamplerExecutionOptions,
        SamplerOptions,
        SimulatorOptions,
        TwirlingOptions,
        ZneOptions,
    )
    from neartime.primitives.sampler import SamplerV2
    from neartime.primitives.v1 import (
        EstimatorV1,
        EstimatorV1Result,
        ExecutionV1Options,
        ResilienceV1Options,
        SamplerV1,
        SamplerV1Result,
        V1Options,
    )

__all__ = [
    "DynamicalDecouplingOptions",
    "EnvironmentOptions",
    "EstimatorOptions",
    "EstimatorV1",
    "EstimatorV1Result",
    "EstimatorV2",
    "ExecutionOptions",
    "ExecutionV1Options",
    "LayerError",
    "LayerNoiseLearningOptions",
    "MeasureNoiseLearningOptions",
    "NoiseLearner",
    "NoiseLearnerOptions",
    "NoiseLearnerResult",
    "PauliLindbladError",
    "PecOptions",
    "ResilienceOptions",
    "ResilienceV1Options",
    "SamplerExecutionOptions",
    "SamplerOptions",
    "SamplerV1",
    "SamplerV1Result",
    "SamplerV2",
    "SimulatorOptions",
    "TwirlingOptions",
    "V1Options",
    "ZneOptions",
]

_V1 = ["EstimatorV1", "EstimatorV1Result", "ExecutionV1Options", "ResilienceV1Options", "SamplerV1", "SamplerV1Result"]
_MODULES = {
    **dict.fromkeys([*_V1, "V1Options"], "primitives.v1"),
    "EstimatorV2": "primitives.estimator",
    "LayerError": "layers",
    "NoiseLearner": "primitives.noise_learner",
    "NoiseLearnerResult": "layers",
    "PauliLindbladError": "layers",
    "SamplerV2": "primitives.sampler",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"neartime.{_MODULES.get(name, 'primitives.options')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
