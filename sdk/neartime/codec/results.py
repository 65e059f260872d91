"""The forms of what primitives take and give: bindings, bit arrays, data bins, results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qiskit.primitives.containers import BitArray, DataBin, PrimitiveResult, PubResult, SamplerPubResult
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.estimator_pub import EstimatorPub
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.result import Result

from neartime.codec import tags
from neartime.codec.encoder import Unwritable, Walk, Wire, Writer, tagged
from neartime.codec.operators import plain
from neartime.errors import DecodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading


def _write_bindings(bindings: BindingsArray, walk: Walk) -> Wire:
    data = {json.dumps(names): walk.part(f"[{names!r}]", array) for names, array in bindings.data.items()}
    return tagged(tags.BINDINGS_ARRAY, {"shape": list(bindings.shape), "data": data})


def _read_bindings(value: Any, reading: Reading) -> BindingsArray:
    data = {tuple(json.loads(names)): array for names, array in (value.get("data") or {}).items()}
    shape = value.get("shape")
    return BindingsArray(data, shape=None if shape is None else tuple(shape))


def _write_bits(bits: BitArray, walk: Walk) -> Wire:
    return tagged(tags.BIT_ARRAY, {"array": walk.part(".array", bits.array), "num_bits": bits.num_bits})


def _read_bits(value: Any, reading: Reading) -> BitArray:
    return BitArray(value["array"], value["num_bits"])


def _write_data(data: DataBin, walk: Walk) -> Wire:
    fields = {name: walk.part(f".{name}", item) for name, item in data.items()}
    if tags.TYPE in fields:
        raise Unwritable(f"a DataBin with a field {tags.TYPE} has no wire form")
    shape = None if data.shape is None else list(data.shape)
    return tagged(tags.DATA_BIN, {"field_names": list(fields), "shape": shape, "fields": fields})


def _read_data(value: Any, reading: Reading) -> DataBin:
    fields, shape = value["fields"], value.get("shape")
    if dunder := [name for name in fields if name.startswith("__")]:  # they would become attributes
        raise DecodeError(f"fields can't be called {', '.join(dunder)}")
    return DataBin(shape=() if shape is None else tuple(shape), **fields)


def _write_pub_of(tag: str) -> Writer:
    def write(result: PubResult, walk: Walk) -> Wire:
        return tagged(
            tag, {"data": walk.part(".data", result.data), "metadata": walk.part(".metadata", result.metadata)}
        )

    return write


def _read_pub_of(kind: type[PubResult]) -> Callable[[Any, Reading], PubResult]:
    def read(value: Any, reading: Reading) -> PubResult:
        return kind(value["data"], metadata=value.get("metadata"))

    return read


def _write_primitive_result(result: PrimitiveResult[Any], walk: Walk) -> Wire:
    pubs, metadata = walk.items(list(result)), walk.part(".metadata", result.metadata)
    return tagged(tags.PRIMITIVE_RESULT, {"pub_results": pubs, "metadata": metadata})


def _read_primitive_result(value: Any, reading: Reading) -> PrimitiveResult[Any]:
    return PrimitiveResult(value["pub_results"], metadata=value.get("metadata"))


def _write_result(result: Result, walk: Walk) -> Wire:
    return tagged(tags.RESULT, walk.tree(plain(result.to_dict())))


def _read_result(value: Any, reading: Reading) -> Result:
    return Result.from_dict(value)


def _write_sampler_pub(pub: SamplerPub, walk: Walk) -> Wire:
    parts = [walk.part(".circuit", pub.circuit), walk.part(".parameter_values", pub.parameter_values)]
    return tagged(tags.SAMPLER_PUB, [*parts, pub.shots])


def _read_sampler_pub(value: Any, reading: Reading) -> SamplerPub:
    circuit, parameter_values, shots = value
    return SamplerPub(circuit, parameter_values, shots)


def _write_estimator_pub(pub: EstimatorPub, walk: Walk) -> Wire:
    parts = [
        walk.part(".circuit", pub.circuit),
        walk.part(".observables", pub.observables),
        walk.part(".parameter_values", pub.parameter_values),
    ]
    return tagged(tags.ESTIMATOR_PUB, [*parts, None if pub.precision is None else float(pub.precision)])


def _read_estimator_pub(value: Any, reading: Reading) -> EstimatorPub:
    circuit, observables, parameter_values, precision = value
    return EstimatorPub(circuit, observables, parameter_values, precision)


WRITERS: dict[type, Writer] = {
    BindingsArray: _write_bindings,
    BitArray: _write_bits,
    DataBin: _write_data,
    PubResult: _write_pub_of(tags.PUB_RESULT),
    SamplerPubResult: _write_pub_of(tags.SAMPLER_PUB_RESULT),
    PrimitiveResult: _write_primitive_result,
    Result: _write_result,
    SamplerPub: _write_sampler_pub,
    EstimatorPub: _write_estimator_pub,
}

READERS: dict[str, Reader] = {
    tags.BINDINGS_ARRAY: _read_bindings,
    tags.BIT_ARRAY: _read_bits,
    tags.DATA_BIN: _read_data,
    tags.PUB_RESULT: _read_pub_of(PubResult),
    tags.SAMPLER_PUB_RESULT: _read_pub_of(SamplerPubResult),
    # Qiskit Runtime's own class, which only adds a drawing to this one.
    tags.ESTIMATOR_PUB_RESULT: _read_pub_of(PubResult),
    tags.PRIMITIVE_RESULT: _read_primitive_result,
    tags.RESULT: _read_result,
    tags.SAMPLER_PUB: _read_sampler_pub,
    tags.ESTIMATOR_PUB: _read_estimator_pub,
}
