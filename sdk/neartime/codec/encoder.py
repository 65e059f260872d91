"""Values to bytes: a walk that turns a value into a tree of JSON, and the text of that tree.

The walk leaves plain parts as they are (a list of floats is not copied) and replaces the rest by tagged forms. What is
large (an array, bytes, a long list of plain values) becomes a stream: its place in the text is held by a mark that no
value can write, since the quotes inside a JSON string are escaped, and so is a dictionary with `__type__` in it.
"""

from __future__ import annotations

import binascii
import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Any, TypeAlias

from neartime.codec import tags, transfer
from neartime.contract.events import CHUNK_SIZE
from neartime.errors import EncodeError

Wire: TypeAlias = Any
"""What `json` writes natively: None, bool, int, float, str, list, tuple, dict with string keys."""

MAX_DEPTH = 100
"""Levels to which values may be nested. Each takes up to three of JSON."""
INLINE = 64 << 10
"""Bytes of a binary value, or items of a list, up to which it is no stream."""
_SLICE = 4 << 10
"""Items of a long list that are written at a time."""

_LEAVES = frozenset({float, int, str, bool, type(None)})
_TEXT = frozenset({str})
_JSON = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_MARK = re.compile(rf'{{"{tags.TYPE}":"{re.escape(tags.STREAMED)}","{tags.VALUE}":(\d+)}}')
_REMEDY = "turn it into numbers, text, lists, dictionaries, arrays, circuits or results first (docs/reference/codec.md)"


class Unwritable(Exception):
    """A value has no wire form. Gathers the path on its way up; becomes an `EncodeError`."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str] = []

    @classmethod
    def of(cls, value: object, remedy: str = _REMEDY) -> Unwritable:
        kind = type(value)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return cls(f"object of type {name} has no wire form; {remedy}")

    def located(self, root: str) -> EncodeError:
        return EncodeError(f"{root}{''.join(reversed(self.steps))}: {self.problem}")


Writer: TypeAlias = "Callable[[Any, Walk], Wire]"


class Walk:
    """One value on its way to the wire."""

    def __init__(self, qpy_version: int | None = None) -> None:
        self.qpy_version = qpy_version
        """Circuits are written in this version of QPY at most; None for the environment's own."""
        self.streams: list[Callable[[], Iterator[bytes]]] = []
        self._depth = 0

    def tree(self, value: object) -> Wire:
        """The JSON of a value.

        Raises:
            Unwritable: it, or something in it, has no wire form.
        """
        kind = type(value)
        if kind in _LEAVES:
            return value
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unwritable(f"it is nested more than {MAX_DEPTH} levels deep, or contains itself")
        wire = (_EXACT.get(kind) or _writer(value))(value, self)
        self._depth -= 1
        return wire

    def part(self, step: str, value: object) -> Wire:
        """The JSON of a part of a value, which lies at `step` (`.data`, `[3]`)."""
        try:
            return self.tree(value)
        except Unwritable as fault:
            fault.steps.append(step)
            raise

    def items(self, values: Sequence[object]) -> Wire:
        """The JSON list of some values."""
        if _LEAVES.issuperset(map(type, values)):
            return values if len(values) <= INLINE else self.stream(lambda: _long_list(values))
        wire: list[Wire] = []
        try:
            wire.extend(map(self.tree, values))
        except Unwritable as fault:
            fault.steps.append(f"[{len(wire)}]")
            raise
        return wire

    def binary(self, data: transfer.Block) -> Wire:
        """The JSON string that holds `data` in base64."""
        if memoryview(data).nbytes <= INLINE:
            return binascii.b2a_base64(data, newline=False).decode("ascii")
        return self.stream(lambda: transfer.quoted(transfer.blocks(data)))

    def stream(self, pieces: Callable[[], Iterator[bytes]]) -> Wire:
        """Stands for JSON text that `pieces` writes when its turn comes."""
        self.streams.append(pieces)
        return {tags.TYPE: tags.STREAMED, tags.VALUE: len(self.streams) - 1}


def tagged(tag: str, value: Wire) -> Wire:
    return {tags.TYPE: tag, tags.VALUE: value}


def encode(value: object, *, qpy_version: int | None = None, root: str = "value") -> bytes:
    """The wire form of a value: JSON in ASCII, the tagged form of Qiskit Runtime with some tags of our own.

    Args:
        value: anything listed in docs/reference/codec.md.
        qpy_version: circuits are written in this version of QPY, or the newest this Qiskit writes where that is lower.
        root: what error messages call the value.

    Raises:
        EncodeError: something in it has no wire form; the message gives its path and its type.
    """
    text, streams = _write(value, qpy_version, root)
    if not streams:
        return text.encode("ascii")
    return b"".join(_pieces(text, streams))


def encode_chunks(
    value: object, *, qpy_version: int | None = None, chunk_size: int = CHUNK_SIZE, root: str = "value"
) -> Iterator[bytes]:
    """The same bytes as `encode`, in chunks of `chunk_size` (the last may be shorter).

    Large arrays, bytes and lists of plain values are read as the chunks are taken, so that no more than a chunk or
    two is held beside them; they must not change before the last one is taken. Errors are raised at once, by this call.
    """
    text, streams = _write(value, qpy_version, root)
    return _chunks(_pieces(text, streams), chunk_size)


def _write(value: object, qpy_version: int | None, root: str) -> tuple[str, list[Callable[[], Iterator[bytes]]]]:
    walk = Walk(qpy_version)
    try:
        return _JSON.encode(walk.tree(value)), walk.streams
    except Unwritable as fault:
        raise fault.located(root) from fault.__cause__
    except ValueError as error:  # integers have a limit of digits in text (sys.set_int_max_str_digits)
        raise EncodeError(f"{root}: {error}") from error
    except RecursionError as error:
        raise EncodeError(f"{root}: it is nested too deep for where encode() is called") from error


def _pieces(text: str, streams: list[Callable[[], Iterator[bytes]]]) -> Iterator[bytes]:
    if not streams:
        yield text.encode("ascii")
        return
    for number, part in enumerate(_MARK.split(text)):
        if number % 2:
            yield from streams[int(part)]()
        else:
            yield part.encode("ascii")


def _chunks(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        if len(waiting) >= size:
            whole = len(waiting) - len(waiting) % size
            with memoryview(waiting) as view:
                for start in range(0, whole, size):
                    yield bytes(view[start : start + size])
            del waiting[:whole]
    if waiting:
        yield bytes(waiting)


def _long_list(values: Sequence[object]) -> Iterator[bytes]:
    for start in range(0, len(values), _SLICE):
        text = _JSON.encode(values[start : start + _SLICE])
        yield (("," if start else "[") + text[1:-1]).encode("ascii")
    yield b"]"


def _key_step(key: object) -> str:
    return f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]"


def _write_dict(value: dict[Any, Any], walk: Walk) -> Wire:
    if not _TEXT.issuperset(map(type, value)) or tags.TYPE in value:
        return _write_pairs(value, walk)
    if _LEAVES.issuperset(map(type, value.values())):
        return value
    wire: dict[str, Wire] = {}
    try:
        for key, item in value.items():
            wire[key] = walk.tree(item)
    except Unwritable as fault:
        fault.steps.append(_key_step(list(value)[len(wire)]))
        raise
    return wire


def _write_pairs(value: Mapping[Any, Any], walk: Walk) -> Wire:
    pairs = []
    for key, item in value.items():
        step = _key_step(key)
        pairs.append([walk.part(step, key), walk.part(step, item)])
    return tagged(tags.DICT, pairs)


def _write_list(value: list[Any], walk: Walk) -> Wire:
    return walk.items(value)


def _write_tuple(value: tuple[Any, ...], walk: Walk) -> Wire:
    return tagged(tags.TUPLE, walk.items(value))


def _write_set(value: AbstractSet[Any], walk: Walk) -> Wire:
    return tagged(tags.SET, walk.items(list(value)))


def _write_frozenset(value: frozenset[Any], walk: Walk) -> Wire:
    return tagged(tags.FROZENSET, walk.items(list(value)))


def _write_bytes(value: bytes | bytearray | memoryview, walk: Walk) -> Wire:
    if isinstance(value, memoryview) and not value.c_contiguous:
        value = bytes(value)
    return tagged(tags.BYTES, walk.binary(value))


def _write_model(value: Any, walk: Walk) -> Wire:
    fields = type(value).model_fields
    if set(fields) == {"root"} and hasattr(type(value), "__pydantic_root_model__"):
        return walk.tree(value.root)
    named = {(fields[name].serialization_alias or name) if name in fields else name: item for name, item in value}
    return walk.tree(named)


def _write_dataclass(value: Any, walk: Walk) -> Wire:
    return walk.tree({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})


_EXACT: dict[type, Writer] = {
    dict: _write_dict,
    list: _write_list,
    tuple: _write_tuple,
    set: _write_set,
    frozenset: _write_frozenset,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    memoryview: _write_bytes,
}

_MODULES = {
    "numpy": ("arrays",),
    "qiskit.": ("circuits", "operators", "results"),
    "qiskit_aer.noise": ("noise",),
    "scipy.sparse": ("sparse",),
    "neartime.layers": ("layers",),
    "": ("plain",),
}
"""Which modules of this package write classes of which origin, by the beginning of the name of their module."""
_REGISTERED: dict[type, Writer] = {}
_LOADED: set[str] = set()


def _load(origin: str) -> None:
    for beginning, modules in _MODULES.items():
        if origin.startswith(beginning) and not _LOADED.issuperset(modules):
            for module in modules:
                _REGISTERED.update(importlib.import_module(f"neartime.codec.{module}").WRITERS)
            _LOADED.update(modules)


def _writer(value: object) -> Writer:
    """The writer of a value that is not exactly of a built-in type."""
    kind = type(value)
    if writer := _REGISTERED.get(kind):
        return writer
    lineage = kind.__mro__[:-1]
    for base in lineage:
        _load(base.__module__ or "")  # a class may have none
    # An enum's members may be numbers or text too, so it is asked for first.
    for base in (Enum, *lineage) if isinstance(value, Enum) else lineage:
        if writer := _REGISTERED.get(base):
            return writer
    return _loose_writer(value)


_PLAIN: dict[type, Callable[[Any], object]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: bytes,
    tuple: tuple,
    list: list,
    frozenset: frozenset,
    set: set,
    Mapping: dict,
}


def _loose_writer(value: object) -> Writer:
    """The writer of a value that comes back plainer: of a subclass of a built-in type, a model, a dataclass."""
    pydantic = sys.modules.get("pydantic")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        return _write_model
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _write_dataclass
    for base, plain in _PLAIN.items():
        if isinstance(value, base):
            return lambda value, walk: walk.tree(plain(value))
    if isinstance(value, AbstractSet):
        return _write_set
    raise Unwritable.of(value)
