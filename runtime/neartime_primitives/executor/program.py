"""Runs a quantum program: circuits with their arguments, and samplexes that draw the arguments of theirs at random.

It is what `qiskit_ibm_runtime.Executor` sends, and so what that package's newer Sampler and Estimator send, which do
everything else in the client: the wire forms are those of `ibm_quantum_schemas.executor.version_2_0`.
"""

import logging
from datetime import datetime, timezone
from math import prod

import quantum_programs
from ibm_quantum_schemas.common import CompressedTensorModel
from ibm_quantum_schemas.executor.version_2_0 import ParamsModel
from qiskit_aer import AerSimulator
from qiskit_ibm_runtime.quantum_program.converters import quantum_program_from_2_0
from qiskit_ibm_runtime.utils.utils import is_isa_circuit

log = logging.getLogger(__name__)

SCHEMA = "v2.0"


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
    began = datetime.now(timezone.utc)
    measured = quantum_programs.run(backend, program, seed)
    ended = datetime.now(timezone.utc)
    data = [
        {
            "results": {
                name: CompressedTensorModel.from_numpy(array).model_dump(mode="json") for name, array in item.items()
            },
            "metadata": {},
        }
        for item in measured
    ]
    return {
        "schema_version": SCHEMA,
        "data": data,
        "metadata": {"chunk_timing": [_span(began, ended, program.items)] if program.items else []},
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


def _span(began, ended, items):
    """All items were run as one chunk, each of them whole."""
    parts = [
        {
            "idx_item": number,
            "size": prod(item.shape),
            "permutation": list(range(len(item.shape))),
            "element_range": [0, prod(item.shape), 1],
        }
        for number, item in enumerate(items)
    ]
    return {"start": began.isoformat(), "stop": ended.isoformat(), "parts": parts}
