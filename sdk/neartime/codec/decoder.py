"""Bytes to values. Nothing in the bytes is ever run: no pickle, no import and no class by a name that they give.

`json` reads the text and calls `Reading.hook` for each object, innermost first; a table of tags says which module of
this package reads which. A large payload is scanned as it comes: a base64 string of an array or of bytes goes straight
to where the value will lie, and leaves a short mark in the text, so that neither is ever held twice.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, Protocol, TypeAlias

from neartime.codec import tags, transfer
from neartime.errors import DecodeError

MAX_WIRE_DEPTH = 400
"""Levels to which JSON may be nested: `encoder.MAX_DEPTH` values of up to three levels each, and some."""
LONG = 64 << 10
"""Bytes from which a base64 string goes to its place without being held."""
_SLICE = 1 << 20
"""Bytes of a large input that are looked at at a time."""

Reader: TypeAlias = "Callable[[Any, Reading], object]"


class Sink(Protocol):
    """Takes the base64 text of one value as it comes."""

    def feed(self, text: transfer.Block) -> None: ...

    def finish(self) -> object: ...


_MODULES = {
    "plain": [
        tags.COMPLEX,
        tags.ENUM,
        tags.DATETIME,
        tags.DATE,
        tags.TIME,
        tags.TIMEDELTA,
        tags.DECIMAL,
        tags.FRACTION,
        tags.UUID,
    ],
    "arrays": [tags.NDARRAY, tags.SCALAR],
    "circuits": [
        tags.CIRCUIT,
        tags.INSTRUCTION,
        tags.PARAMETER,
        tags.PARAMETER_EXPRESSION,
        tags.PARAMETER_VECTOR,
        tags.COUPLING_MAP,
    ],
    "operators": [tags.SETTINGS, tags.SPARSE_OBSERVABLE, tags.OBSERVABLES_ARRAY, tags.PAULI_LINDBLAD_MAP],
    "results": [
        tags.BINDINGS_ARRAY,
        tags.BIT_ARRAY,
        tags.DATA_BIN,
        tags.PUB_RESULT,
        tags.SAMPLER_PUB_RESULT,
        tags.ESTIMATOR_PUB_RESULT,
        tags.PRIMITIVE_RESULT,
        tags.RESULT,
        tags.SAMPLER_PUB,
        tags.ESTIMATOR_PUB,
    ],
    "noise": [tags.NOISE_MODEL],
    "layers": [tags.JSON, tags.THEIR_NOISE_LEARNER_RESULT, tags.NOISE_LEARNER_RESULT],
    "sparse": [tags.SPARSE_MATRIX],
}
_MODULE_OF = {tag: module for module, its_tags in _MODULES.items() for tag in its_tags}


class Reading:
    """One payload on its way to a value."""

    def __init__(self, limit: int) -> None:
        self.budget = transfer.Budget(limit)
        self._placed: dict[str, object] = {}

    def place(self, value: object) -> str:
        """Keeps a value that was read ahead, and gives the mark that stands for its base64 text."""
        mark = f"@{len(self._placed)}"  # no base64 begins with it
        self._placed[mark] = value
        return mark

    def placed(self, mark: str) -> object:
        try:
            return self._placed.pop(mark)
        except KeyError:
            raise DecodeError("a binary value is no base64") from None

    def hook(self, wire: dict[str, Any]) -> object:
        """What a JSON object stands for."""
        if tags.TYPE not in wire:
            return wire
        tag = wire[tags.TYPE]
        if tags.VALUE not in wire:
            raise DecodeError(f"an object with {tags.TYPE} {tag!r:.80} has no {tags.VALUE}")
        try:
            return self._reader(tag)(wire if tag in tags.NAMED else wire[tags.VALUE], self)
        except DecodeError as error:
            raise DecodeError(f"{tag}: {error}" if not str(error).startswith("unknown") else str(error)) from error
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            raise DecodeError(
                f"{tag}: reading it takes {package}, which this environment does not have: pip install {package}"
            ) from error
        except Exception as error:  # constructors of other packages raise whatever they please at bad arguments
            raise DecodeError(f"{tag}: {type(error).__name__}: {error}") from error
        except BaseException as error:
            if type(error).__name__ == "PanicException":  # of Qiskit's compiled core, and no Exception
                raise DecodeError(f"{tag}: {error}") from error
            raise

    def _reader(self, tag: object) -> Reader:
        if isinstance(tag, str):
            if known := _KNOWN.get(tag):
                return known
            if module := _MODULE_OF.get(tag):
                reader: Reader = importlib.import_module(f"neartime.codec.{module}").READERS[tag]
                _KNOWN[tag] = reader
                return reader
        raise DecodeError(f"unknown {tags.TYPE} {tag!r:.80}: written by a newer neartime, or by something else")


def _read_dict(value: Any, reading: Reading) -> object:
    return dict(value)


def _read_tuple(value: Any, reading: Reading) -> object:
    return tuple(value)


def _read_set(value: Any, reading: Reading) -> object:
    return set(value)


def _read_frozenset(value: Any, reading: Reading) -> object:
    return frozenset(value)


def _read_bytes(value: Any, reading: Reading) -> object:
    if not isinstance(value, str):
        raise DecodeError(f"expected base64 text, got {type(value).__name__}")
    if value.startswith("@"):
        return reading.placed(value)
    sink = transfer.BytesSink(reading.budget)
    sink.feed(transfer.ascii_bytes(value))
    return sink.finish()


def _read_as_it_is(value: Any, reading: Reading) -> object:
    return value


_KNOWN: dict[str, Reader] = {
    tags.DICT: _read_dict,
    tags.TUPLE: _read_tuple,
    tags.SET: _read_set,
    tags.FROZENSET: _read_frozenset,
    tags.BYTES: _read_bytes,
    tags.TO_JSON: _read_as_it_is,
}
_UNTAGGED = json.JSONDecoder()


def decode(data: bytes | bytearray | memoryview, *, limit: int = transfer.DECODED_LIMIT) -> Any:
    """The value that `encode` wrote, or Qiskit Runtime's encoder.

    Args:
        data: UTF-8 JSON.
        limit: bytes that its arrays and other binary values may hold together, once inflated.

    Raises:
        DecodeError: it is no such JSON, is over a limit, or holds what this environment can't read.
    """
    if len(data) <= LONG:
        return _read(bytes(data), Reading(limit))
    decoder = Decoder(limit=limit)
    decoder.feed(data)
    return decoder.finish()


def _read(text: bytes, reading: Reading) -> Any:
    _check_depth(text)
    try:
        characters = text.decode("utf-8")
        if tags.TYPE not in characters and "\\u" not in characters:
            return _UNTAGGED.decode(characters)
        return json.JSONDecoder(object_hook=reading.hook).decode(characters)
    except UnicodeDecodeError as error:
        raise DecodeError(f"this is no UTF-8 text: {error}") from error
    except RecursionError as error:
        raise DecodeError("this is nested too deep for where decode() is called") from error
    except ValueError as error:
        raise DecodeError(f"this is no JSON: {error}") from error


_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\Z)', re.DOTALL)
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("]"): -1}


def _check_depth(text: bytes) -> None:
    """Raises: DecodeError: nested too deep, which json would find out by running out of stack."""
    if text.count(b"[") + text.count(b"{") <= MAX_WIRE_DEPTH:
        return
    brackets = _STRING.sub(b"", text).translate(_BRACKETS, _NO_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_WIRE_DEPTH:
        raise DecodeError(f"this is nested more than {MAX_WIRE_DEPTH} levels deep")


_BINARY = re.compile(
    rf'"{tags.TYPE}"\s*:\s*"({tags.NDARRAY}|{re.escape(tags.BYTES)})"\s*,\s*"{tags.VALUE}"\s*:\s*"\Z'.encode()
)
_LOOK_BACK = 96


class Decoder:
    """Decodes a payload that comes in chunks; a large array in it is held once, plus a chunk.

    `feed` and `finish` raise DecodeError, as `decode` does. A decoder reads one payload.
    """

    def __init__(self, *, limit: int = transfer.DECODED_LIMIT) -> None:
        self._reading = Reading(limit)
        self._text = bytearray()
        self._quote = 0
        """Where in the text the last quote lies that was looked at."""
        self._searched = 0
        """Up to where there is no further quote."""
        self._sink: Sink | None = None

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        view = memoryview(chunk)
        for start in range(0, len(view), _SLICE):
            self._take(bytes(view[start : start + _SLICE]))

    def finish(self) -> Any:
        if self._sink is not None:
            raise DecodeError("this ends within a binary value")
        text, self._text = bytes(self._text), bytearray()
        return _read(text, self._reading)

    def _take(self, data: bytes) -> None:
        if self._sink is not None:
            end = data.find(b'"')
            if end < 0:
                self._sink.feed(data)
                return
            self._sink.feed(data[:end])
            self._text += self._reading.place(self._sink.finish()).encode() + b'"'
            self._sink = None
            self._quote = self._searched = len(self._text) - 1
            data = data[end + 1 :]
        self._text += data
        self._look()

    def _look(self) -> None:
        """Looks in the text for a binary value's string that goes on for long, and hands it to its sink.

        It jumps from quote to quote by way of the last one in reach, since what lies between is short.
        """
        text = self._text
        while len(text) - self._quote > LONG:
            last = text.rfind(b'"', self._quote + 1, self._quote + 1 + LONG)
            if last >= 0:
                self._quote = last
                continue
            before = bytes(text[max(0, self._quote + 1 - _LOOK_BACK) : self._quote + 1])
            if match := _BINARY.search(before):
                return self._divert(match[1].decode())
            following = text.find(b'"', max(self._searched, self._quote + 1 + LONG))
            if following < 0:
                self._searched = len(text)
                return None
            self._quote = following
        return None

    def _divert(self, tag: str) -> None:
        data = bytes(memoryview(self._text)[self._quote + 1 :])
        del self._text[self._quote + 1 :]
        self._sink = self._new_sink(tag)
        self._take(data)

    def _new_sink(self, tag: str) -> Sink:
        if tag == tags.BYTES:
            return transfer.BytesSink(self._reading.budget)
        try:
            from neartime.codec.arrays import ArraySink
        except ModuleNotFoundError as error:
            raise DecodeError("an array in this takes numpy to read: pip install numpy") from error
        return ArraySink(self._reading.budget)
