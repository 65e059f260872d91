"""Runs a quantum program: circuits with their arguments, and samplexes that draw the arguments of theirs at random.

It is what `qiskit_ibm_runtime.Executor` sends, and so what that package's newer Sampler and Estimator send, which do
everything else in the client: the wire forms are those of `ibm_quantum_schemas.executor.version_2_0`.
"""

import logging
from datetime import datetime, timezone
from math import prod

import numpy as np
from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0 import ParamsModel
from qiskit.primitives import BackendSamplerV2
from qiskit.primitives.containers.bindings_array import BindingsArray
from qiskit.primitives.containers.sampler_pub import SamplerPub
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit_aer import AerSimulator
from qiskit_aer.primitives import SamplerV2
from qiskit_ibm_runtime.fake_provider.executor.broadcast_sample import broadcast_sample
from qiskit_ibm_runtime.fake_provider.fake_backend import FakeBackendV2
from qiskit_ibm_runtime.quantum_program.converters import quantum_program_from_2_0
from qiskit_ibm_runtime.utils.utils import is_isa_circuit
from samplomatic.quantum_program import SamplexItem

log = logging.getLogger(__name__)

SCHEMA = "v2.0"
_SIMULATED = (AerSimulator, GenericBackendV2, FakeBackendV2)
"""Backends whose run() is Aer's, so that Aer can be asked for all points of an item in one call."""
_last = None
"""The backend of the job before, its seed, and the sampler that was made of them: a session comes back to it."""


def main(backend, user_messenger, schema_version, quantum_program, options=None):
    if schema_version != SCHEMA:
        raise ValueError(
            f"this executor speaks {SCHEMA} of quantum programs, not {schema_version}: "
            "install qiskit-ibm-runtime 0.51 or newer"
        )
    params = ParamsModel.model_validate(
        {"schema_version": schema_version, "quantum_program": quantum_program, "options": options or {}}
    )
    program, asked = quantum_program_from_2_0(params)
    _check(backend, program, params)
    experimental = asked.experimental or {}
    seed = experimental.get("seed_simulator")
    rng = np.random.default_rng(seed)
    drawn = [_drawn(item, rng) for item in program.items]
    pubs = [
        SamplerPub(item.circuit, BindingsArray({tuple(item.circuit.parameters): values}), program.shots)
        for item, (values, _) in zip(program.items, drawn, strict=True)
    ]
    began = datetime.now(timezone.utc)
    measured = _sampler(backend, seed).run(pubs).result() if pubs else []
    ended = datetime.now(timezone.utc)
    data = []
    for (_, beside), of_pub in zip(drawn, measured, strict=True):
        found = {name: bits.to_bool_array(order="little") for name, bits in of_pub.data.items()}
        found.update(beside)
        data.append(
            {
                "results": {name: _tensor(array) for name, array in found.items()},
                "metadata": {},
            }
        )
    return {
        "schema_version": SCHEMA,
        "data": data,
        "metadata": {"chunk_timing": [_span(began, ended, pubs)] if pubs else []},
        "passthrough_data": params.quantum_program.model_dump(mode="json")["passthrough_data"],
        "semantic_role": params.quantum_program.semantic_role,
    }


def _check(backend, program, params):
    """Raises ValueError where the backend can't do what is asked, with what that is."""
    if program.meas_level != "classified":
        raise ValueError(f"meas_level={program.meas_level!r}: {backend.name} gives classified results alone")
    if not params.options.init_qubits:
        log.warning("init_qubits=False: each shot begins in the ground state all the same")
    if params.options.rep_delay is not None:
        log.warning("rep_delay is not known to %s", backend.name)
    if isinstance(backend, AerSimulator):
        return  # runs what no machine does; what it does not know it names itself
    for number, item in enumerate(program.items):
        if fault := is_isa_circuit(item.circuit, backend.target):
            raise ValueError(f"the circuit of item {number} is no ISA circuit of {backend.name}: {fault}")


def _drawn(item, rng):
    """The values of an item's parameters, an array of the item's shape and one axis more; and what was drawn beside."""
    if not isinstance(item, SamplexItem):
        return item.circuit_arguments, {}
    item.samplex.finalize()  # what came over the wire is not
    beside = dict(broadcast_sample(item.samplex, item.samplex_arguments, item.shape, rng))
    values = beside.pop("parameter_values", None)
    return (np.empty((*item.shape, 0)) if values is None else values), beside


def _sampler(backend, seed):
    global _last
    if _last is None or _last[0] is not backend or _last[1] != seed:
        if isinstance(backend, _SIMULATED):
            sampler = SamplerV2.from_backend(backend, seed=seed)
        else:
            sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": seed})
        _last = backend, seed, sampler
    return _last[2]


def _tensor(array):
    return CompressedTensorModel.from_numpy(array).model_dump(mode="json")


def _span(began, ended, pubs):
    """All items were run as one chunk, each of them whole."""
    parts = [
        {
            "idx_item": number,
            "size": prod(pub.shape),
            "permutation": list(range(len(pub.shape))),
            "element_range": [0, prod(pub.shape), 1],
        }
        for number, pub in enumerate(pubs)
    ]
    return {"start": began.isoformat(), "stop": ended.isoformat(), "parts": parts}
