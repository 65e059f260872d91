"""Primitives beside the genuine ones: the same options, the same results, read by the genuine decoder."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from qiskit import QuantumCircuit
from qiskit.primitives import PrimitiveResult
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime import RuntimeDecoder, options_models

import neartime_primitives
from neartime.codec import encode
from neartime.primitives import EstimatorOptions, SamplerOptions


def options_of(kind: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every option with its default."""
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from options_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field.get_default()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(SamplerOptions, options_models.SamplerOptions), (EstimatorOptions, options_models.EstimatorOptions)],
)
def test_every_option_is_a_genuine_one_with_the_same_default(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    genuine = dict(options_of(theirs))
    assert {name: default for name, default in options_of(ours) if genuine.get(name, "none") != default} == {}


def program(name: str, folder: Path) -> ModuleType:
    sys.path.insert(0, str(neartime_primitives.assemble(name, folder)))
    try:
        sys.modules.pop("program", None)
        import program  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    return program


def test_the_genuine_decoder_reads_results_of_primitives(tmp_path: Path) -> None:
    circuit = QuantumCircuit(2)
    circuit.h(0)
    circuit.cx(0, 1)
    measured = circuit.measure_all(inplace=False)
    backend, options = AerSimulator(), {"simulator": {"seed_simulator": 1}}
    result = program("sampler", tmp_path).main(backend, None, [(measured, None, 100)], options)
    read = json.loads(encode(result), cls=RuntimeDecoder)
    assert isinstance(read, PrimitiveResult)
    assert read[0].data.meas.get_counts() == result[0].data.meas.get_counts()
    result = program("estimator", tmp_path).main(backend, None, [(circuit, [["ZZ"], ["XX"]])], options)
    read = json.loads(encode(result), cls=RuntimeDecoder)
    np.testing.assert_array_equal(read[0].data.evs, result[0].data.evs)
    np.testing.assert_array_equal(read[0].data.stds, result[0].data.stds)
