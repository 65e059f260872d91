"""The forms of numpy's arrays and scalars.

An array is `base64(zlib(npy))`, npy being numpy's own file format (numpy.lib.format), read and written without pickle.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from neartime.codec import tags, transfer
from neartime.codec.encoder import INLINE, Unwritable, Walk, Wire, Writer, tagged
from neartime.errors import DecodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading

Array = np.ndarray[Any, Any]

_MAGIC = b"\x93NUMPY"
_HEADER_LIMIT = 10_000
"""Bytes of a header, numpy's own limit: it is parsed as a Python literal."""
_OBJECTS = "it has dtype object; numpy writes those by pickle only: use a numeric or text dtype, or a list"


def _write_array(array: Array, walk: Walk) -> Wire:
    if array.dtype.hasobject:
        if array.dtype.names is None and array.dtype.kind == "O":
            raise Unwritable(f"this array has no wire form: {_OBJECTS}")
        raise Unwritable(f"an array of dtype {array.dtype} has no wire form: {_OBJECTS}")
    fortran = _is_fortran(array)
    header, array = _header(array, fortran), array.T if fortran else array
    if array.nbytes <= INLINE:
        return tagged(tags.NDARRAY, transfer.pack(header + array.tobytes()))
    return tagged(tags.NDARRAY, walk.stream(lambda: transfer.quoted(transfer.deflate(_data(header, array)))))


def _write_masked(array: Array, walk: Walk) -> Wire:
    raise Unwritable.of(array, "its mask would be lost: use .filled(), or pass data and mask on their own")


def _is_fortran(array: Array) -> bool:
    """Whether to write it first axis fastest: the order in which it lies in memory, so that it is read in one sweep."""
    if array.flags.c_contiguous or array.flags.f_contiguous:
        return not array.flags.c_contiguous
    return abs(array.strides[0]) < abs(array.strides[-1])


def _header(array: Array, fortran: bool) -> bytes:
    """The npy header: version 1.0, or 3.0 where a field's name is beyond Latin-1."""
    fields = npy.header_data_from_array_1_0(array) | {"fortran_order": fortran}
    try:
        faithful = npy.descr_to_dtype(fields["descr"]) == array.dtype
    except (TypeError, ValueError):
        faithful = False
    if not faithful:
        raise Unwritable(f"an array of dtype {array.dtype} has no wire form; convert it with .astype()")
    text = repr(fields)
    try:
        version, encoded, length = b"\x01\x00", text.encode("latin1"), 2
    except UnicodeEncodeError:
        version, encoded, length = b"\x03\x00", text.encode("utf-8"), 4
    start = len(_MAGIC) + len(version) + length
    encoded += b" " * (-(start + len(encoded) + 1) % npy.ARRAY_ALIGN) + b"\n"
    if len(encoded) > _HEADER_LIMIT:
        raise Unwritable(f"an array with so many fields has no wire form; numpy reads {_HEADER_LIMIT} bytes of header")
    return _MAGIC + version + len(encoded).to_bytes(length, "little") + encoded


def _data(header: bytes, array: Array) -> Iterator[transfer.Block]:
    """The npy file of a large array in blocks, last axis fastest, the header in front of the first.

    An array that is not contiguous is copied a block at a time.
    """
    if array.flags.c_contiguous:
        view = array.reshape(-1).view(np.uint8).data
        yield b"".join((header, view[: transfer.BLOCK]))
        for start in range(transfer.BLOCK, len(view), transfer.BLOCK):
            yield view[start : start + transfer.BLOCK]
        return
    size = max(transfer.BLOCK // array.itemsize, 1)
    blocks: Any = np.nditer(array, flags=["external_loop", "buffered", "zerosize_ok"], buffersize=size, order="C")
    for block in blocks:
        yield header + block.tobytes("C")
        header = b""


@lru_cache(maxsize=256)
def _fields(header: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype that an npy header states."""
    try:
        fields = ast.literal_eval(header)
        shape, fortran, dtype = fields["shape"], fields["fortran_order"], npy.descr_to_dtype(fields["descr"])
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise DecodeError(f"an array's header can't be read: {error}") from error
    if dtype.hasobject or dtype.subdtype:
        raise DecodeError(f"an array has dtype {dtype}, which is never read")
    if not isinstance(shape, tuple) or not all(type(length) is int and length >= 0 for length in shape):
        raise DecodeError("an array's shape is no tuple of lengths")
    return shape, bool(fortran), dtype


class ArraySink:
    """Takes the base64 text of an array; its data goes into the array itself as it comes."""

    def __init__(self, budget: transfer.Budget) -> None:
        self._budget = budget
        self._inflate = transfer.Inflate(self._collect)
        self._unquote = transfer.Unquote(self._inflate.feed, strict=False)
        self._start = b""
        self._array: Array | None = None
        self._space = memoryview(bytearray())
        self._filled = 0

    def feed(self, text: transfer.Block) -> None:
        self._unquote.feed(text)

    def finish(self) -> Array:
        self._unquote.finish()
        self._inflate.finish()
        if self._array is None or self._filled != len(self._space):
            raise DecodeError("an array's data is cut off")
        return self._array

    def _collect(self, data: bytes) -> None:
        if self._array is None:
            self._start += data
            if (rest := self._begin(self._start)) is None:
                return
            data = rest
        end = self._filled + len(data)
        if end > len(self._space):
            raise DecodeError("an array has more data than its shape says")
        self._space[self._filled : end] = data
        self._filled = end

    def _begin(self, data: bytes) -> bytes | None:
        """Makes the array once its header is there; what follows the header, or None where more is needed."""
        if len(data) < 12:
            return None
        length = {b"\x01": 2, b"\x02": 4, b"\x03": 4}.get(data[6:7])
        if data[:6] != _MAGIC or length is None:
            raise DecodeError("an array is not in numpy's format, version 1 to 3")
        start = 8 + length
        end = start + int.from_bytes(data[8:start], "little")
        if end - start > _HEADER_LIMIT:
            raise DecodeError(f"an array's header is over {_HEADER_LIMIT} bytes")
        if len(data) < end:
            return None
        self._array = self._allocate(data[start:end].decode("utf-8" if data[6] == 3 else "latin1"))
        if self._array.nbytes:
            whole = self._array if self._array.flags.c_contiguous else self._array.T
            self._space = whole.reshape(-1).view(np.uint8).data
        return data[end:]

    def _allocate(self, header: str) -> Array:
        shape, fortran, dtype = _fields(header)
        self._budget.spend(math.prod(shape) * dtype.itemsize)
        try:
            return np.empty(shape, dtype, order="F" if fortran else "C")
        except (ValueError, MemoryError) as error:
            raise DecodeError(f"an array can't be made: {error}") from error


def _read_array(value: Any, reading: Reading) -> Array:
    if isinstance(value, (list, int, float)):  # Qiskit Runtime's form of arrays of objects
        return np.array(value)
    if not isinstance(value, str):
        raise DecodeError(f"expected base64 text, got {type(value).__name__}")
    if value.startswith("@"):
        placed = reading.placed(value)
        if not isinstance(placed, np.ndarray):
            raise DecodeError("a binary value is no array")
        return placed
    sink = ArraySink(reading.budget)
    sink.feed(transfer.ascii_bytes(value))
    return sink.finish()


_NUMBERS: dict[str, type] = {
    "bool": np.bool_,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
}
"""Scalars that a JSON number, or truth value, holds exactly; by the name of their dtype."""
_NAMES = {kind: name for name, kind in _NUMBERS.items()}


def _write_scalar(value: np.generic, walk: Walk) -> Wire:
    if name := _NAMES.get(type(value)):
        return tagged(tags.SCALAR, [name, value.item()])
    if isinstance(value, np.str_):
        return tagged(tags.SCALAR, ["str", str.__str__(value)])
    if isinstance(value, np.bytes_):
        return tagged(tags.SCALAR, ["bytes", walk.tree(bytes(value))])
    return tagged(tags.SCALAR, ["npy", _write_array(np.asarray(value), walk)])


def _read_scalar(value: Any, reading: Reading) -> object:
    name, content = value
    if name == "npy":
        if not isinstance(content, np.ndarray) or content.ndim:
            raise DecodeError("expected an array without dimensions")
        return content[()]
    if name == "str":
        return np.str_(content)
    if name == "bytes":
        return np.bytes_(content)
    return _NUMBERS[name](content)


WRITERS: dict[type, Writer] = {
    np.ndarray: _write_array,
    np.ma.MaskedArray: _write_masked,
    np.generic: _write_scalar,
    **dict.fromkeys(set(np.sctypeDict.values()), _write_scalar),
}

READERS: dict[str, Reader] = {
    tags.NDARRAY: _read_array,
    tags.SCALAR: _read_scalar,
}
