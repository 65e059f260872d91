"""The forms of layers' errors.

Qiskit Runtime writes theirs with the names of module and class, as it does `settings`; the names are looked up here.
Its decoder takes a result as a plain dictionary with two keys, so those stand beside our tag rather than below it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neartime.codec import tags
from neartime.codec.encoder import Walk, Wire, Writer, tagged
from neartime.errors import DecodeError
from neartime.layers import LayerError, NoiseLearnerResult, PauliLindbladError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading

_MODULES = ("qiskit_ibm_runtime.utils.noise_learner_result", "qiskit_ibm_runtime.results.noise_learner")
"""Where the classes were, which is what is written, and where they are now."""
_KINDS: dict[str, type] = {"LayerError": LayerError, "PauliLindbladError": PauliLindbladError}


def _object(kind: type, value: Wire) -> Wire:
    named = {"__module__": _MODULES[0], "__class__": kind.__name__}
    return {tags.TYPE: tags.JSON, **named, tags.VALUE: value}


def _write_error(error: PauliLindbladError, walk: Walk) -> Wire:
    value = {
        "generators": walk.part(".generators", error.generators),
        "rates": walk.part(".rates", error.rates),
    }
    return _object(PauliLindbladError, value)


def _write_layer(layer: LayerError, walk: Walk) -> Wire:
    value = {
        "circuit": walk.part(".circuit", layer.circuit),
        "qubits": layer.qubits,
        "error": walk.part(".error", layer.error),
    }
    return _object(LayerError, value)


def _read_object(wire: Any, reading: Reading) -> object:
    name, module = wire.get("__class__"), wire.get("__module__")
    kind = _KINDS.get(name)
    if kind is None or module not in _MODULES:
        raise DecodeError(f"{name!r:.80} of {module!r:.80} is not one of the classes that are read")
    return kind(**wire[tags.VALUE])


def _write_result(result: NoiseLearnerResult, walk: Walk) -> Wire:
    data, metadata = walk.items(result.data), walk.part(".metadata", result.metadata)
    return {**tagged(tags.NOISE_LEARNER_RESULT, None), "data": data, "metadata": metadata}


def _read_result(wire: Any, reading: Reading) -> NoiseLearnerResult:
    """Of our tag, the object itself; of theirs, its value."""
    data = wire["data"]
    if not all(isinstance(one, LayerError) for one in data):
        raise DecodeError("its data are no LayerErrors")
    return NoiseLearnerResult(data, wire.get("metadata"))


WRITERS: dict[type, Writer] = {
    PauliLindbladError: _write_error,
    LayerError: _write_layer,
    NoiseLearnerResult: _write_result,
}

READERS: dict[str, Reader] = {
    tags.JSON: _read_object,
    tags.NOISE_LEARNER_RESULT: _read_result,
    tags.THEIR_NOISE_LEARNER_RESULT: _read_result,
}
