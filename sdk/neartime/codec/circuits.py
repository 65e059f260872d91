"""The forms of circuits and their parameters: QPY, Qiskit's own exchange format, which runs nothing on reading.

A circuit is `base64(zlib(QPY))`; so is an instruction, as the only one of a circuit. A parameter is the record
PARAMETER of the QPY documentation, in base64. Expressions and vectors travel as the angles of RZ gates in a circuit.
"""

from __future__ import annotations

import binascii
import io
import json
import struct
from typing import TYPE_CHECKING, Any
from uuid import UUID

from qiskit import QuantumCircuit, qpy
from qiskit.circuit import Instruction, Parameter, ParameterExpression, ParameterVector
from qiskit.circuit.parametertable import ParameterView
from qiskit.circuit.parametervector import ParameterVectorElement
from qiskit.qpy.common import QPY_COMPATIBILITY_VERSION
from qiskit.transpiler import CouplingMap

from neartime.codec import tags, transfer
from neartime.codec.decoder import Reading, decode
from neartime.codec.encoder import Unwritable, Walk, Wire, Writer, encode, tagged
from neartime.codec.versions import OLDEST_QPY, readable_qpy_version
from neartime.errors import DecodeError, EncodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader

_HEADER = struct.Struct("!6sB3BQcc")
"""Magic, QPY version, Qiskit's version, number of programs, form of symbolic expressions, kind of program."""
_CIRCUIT = b"q"
_SYMBOLS_PLACE = _HEADER.size - 2
_SYMENGINE, _SYMPY = b"e", b"p"
_PARAMETER = struct.Struct("!H16s")
_LARGEST_VECTOR = 1 << 20


class _MetadataEncoder(json.JSONEncoder):
    """A circuit's metadata, in our own form: it may hold arrays, tuples and integer keys."""

    def encode(self, o: Any) -> str:
        return encode(o, root="metadata").decode("ascii")


class _MetadataDecoder(json.JSONDecoder):
    def decode(self, s: str, *_: Any) -> Any:
        return decode(s.encode("utf-8", "surrogatepass"))


def _dump(circuit: QuantumCircuit, walk: Walk) -> bytes:
    newest = readable_qpy_version() or qpy.QPY_VERSION
    version = newest if walk.qpy_version is None else min(newest, walk.qpy_version)
    oldest = max(OLDEST_QPY, QPY_COMPATIBILITY_VERSION)
    if version < oldest:
        raise Unwritable(
            f"a circuit can't be written in QPY version {version}: this environment's Qiskit writes {oldest} to "
            f"{newest}; the other side needs a newer Qiskit"
        )
    buffer = io.BytesIO()
    try:
        qpy.dump(circuit, buffer, metadata_serializer=_MetadataEncoder, version=version)
    except EncodeError as error:
        fault = Unwritable(str(error).partition(": ")[2])
        fault.steps.append("." + str(error).partition(": ")[0])
        raise fault from error
    except Exception as error:  # of any kind: Qiskit's writer does not name those it raises
        raise Unwritable(f"{type(circuit).__name__} can't be written in QPY version {version}: {error}") from error
    return buffer.getvalue()


def _load(value: object, reading: Reading) -> QuantumCircuit:
    data = transfer.unpack(value, reading.budget)
    if len(data) < _HEADER.size:
        raise DecodeError("this is no QPY: it is too short")
    magic, version, *_, programs, symbols, kind = _HEADER.unpack_from(data)
    if magic != b"QISKIT" or programs != 1 or kind != _CIRCUIT:
        raise DecodeError("this is no QPY of one circuit")
    if version > qpy.QPY_VERSION:
        raise DecodeError(
            f"this is QPY version {version}, and this environment's Qiskit reads up to {qpy.QPY_VERSION}: "
            "pip install --upgrade qiskit"
        )
    if version < OLDEST_QPY:
        raise DecodeError(f"this is QPY version {version}; versions below {OLDEST_QPY} are not read, for safety's sake")
    if symbols == _SYMENGINE:
        # Of this version on only the pulses of Qiskit 1 use it, which hands their bytes to symengine unchecked. Said to
        # hold text instead, they are refused.
        data = data[:_SYMBOLS_PLACE] + _SYMPY + data[_SYMBOLS_PLACE + 1 :]
    (circuit,) = qpy.load(io.BytesIO(data), metadata_deserializer=_MetadataDecoder)
    return circuit


def _write_circuit(circuit: QuantumCircuit, walk: Walk) -> Wire:
    return tagged(tags.CIRCUIT, transfer.pack(_dump(circuit, walk)))


def _read_circuit(value: Any, reading: Reading) -> QuantumCircuit:
    return _load(value, reading)


def _write_instruction(instruction: Instruction, walk: Walk) -> Wire:
    circuit = QuantumCircuit(instruction.num_qubits, instruction.num_clbits, name="")
    circuit.append(instruction, circuit.qubits, circuit.clbits)
    return tagged(tags.INSTRUCTION, transfer.pack(_dump(circuit, walk)))


def _read_instruction(value: Any, reading: Reading) -> Instruction:
    return _load(value, reading).data[0].operation


def _write_parameter(parameter: Parameter, walk: Walk) -> Wire:
    name = parameter.name.encode("utf-8")
    data = _PARAMETER.pack(len(name), parameter.uuid.bytes) + name
    return tagged(tags.PARAMETER, binascii.b2a_base64(data, newline=False).decode("ascii"))


def _read_parameter(value: Any, reading: Reading) -> Parameter:
    data = binascii.a2b_base64(transfer.ascii_bytes(value))
    length, uuid = _PARAMETER.unpack_from(data)
    name = data[_PARAMETER.size :]
    if len(name) != length:
        raise DecodeError("its name is cut off")
    return Parameter(name.decode("utf-8"), uuid=UUID(bytes=uuid))


def _angles(expressions: list[ParameterExpression], walk: Walk) -> str:
    circuit = QuantumCircuit(1, name="")  # by default a count, other in each process
    for expression in expressions:
        circuit.rz(expression, 0)
    return transfer.pack(_dump(circuit, walk))


def _write_expression(expression: ParameterExpression, walk: Walk) -> Wire:
    if not expression.parameters:
        return walk.tree(expression.numeric())
    angles = _angles([expression], walk)
    if _read_expression(angles, Reading(transfer.DECODED_LIMIT)) != expression:
        raise Unwritable(
            f"the expression {expression} has no wire form: QPY does not carry it (it loses complex constants); "
            "pass its real and imaginary parts on their own"
        )
    return tagged(tags.PARAMETER_EXPRESSION, angles)


def _read_expression(value: Any, reading: Reading) -> object:
    return _load(value, reading).data[0].operation.params[0]


def _write_vector(vector: ParameterVector, walk: Walk) -> Wire:
    return tagged(tags.PARAMETER_VECTOR, [vector.name, _angles(list(vector), walk)])


def _read_vector(value: Any, reading: Reading) -> ParameterVector:
    name, angles = value
    circuit = _load(angles, reading)
    if not circuit.data:
        return ParameterVector(name, 0)
    return circuit.data[0].operation.params[0].vector


def _write_view(view: ParameterView, walk: Walk) -> Wire:
    return walk.items(list(view))


def _write_coupling_map(coupling: CouplingMap, walk: Walk) -> Wire:
    edges = [list(edge) for edge in coupling.get_edges()]
    return tagged(tags.COUPLING_MAP, [sorted(coupling.physical_qubits), edges])


def _read_coupling_map(value: Any, reading: Reading) -> CouplingMap:
    qubits, edges = value
    coupling = CouplingMap()
    for qubit in qubits:
        coupling.add_physical_qubit(qubit)
    for source, target in edges:
        coupling.add_edge(source, target)
    return coupling


WRITERS: dict[type, Writer] = {
    QuantumCircuit: _write_circuit,
    Instruction: _write_instruction,
    ParameterVectorElement: _write_expression,
    Parameter: _write_parameter,
    ParameterExpression: _write_expression,
    ParameterVector: _write_vector,
    ParameterView: _write_view,
    CouplingMap: _write_coupling_map,
}

READERS: dict[str, Reader] = {
    tags.CIRCUIT: _read_circuit,
    tags.INSTRUCTION: _read_instruction,
    tags.PARAMETER: _read_parameter,
    tags.PARAMETER_EXPRESSION: _read_expression,
    tags.PARAMETER_VECTOR: _read_vector,
    tags.COUPLING_MAP: _read_coupling_map,
}
