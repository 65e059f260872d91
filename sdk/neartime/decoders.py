"""Decoders of the user's own, in place of the usual codec."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from neartime.connection import decode
from neartime.feed import Decode


class ResultDecoder:
    """Reads results; a subclass may make of them what it likes."""

    @classmethod
    def decode(cls, data: str) -> Any:
        """The value whose wire form `data` is."""
        return decode(data.encode())


def as_decode(decoder: Any) -> Decode | None:
    """A function of bytes from what a caller gives: None, a function of text, or something with `decode(text)`."""
    if decoder is None or decoder is ResultDecoder:
        return None
    function: Callable[[str], Any] = getattr(decoder, "decode", decoder)
    return lambda data: function(data.decode())


def as_decodes(decoder: Any) -> tuple[Decode | None, Decode | None]:
    """(of interim results, of the result): one decoder for both, or a sequence of the two."""
    if isinstance(decoder, Sequence) and not isinstance(decoder, str):
        interim, final = decoder
        return as_decode(interim), as_decode(final)
    return as_decode(decoder), as_decode(decoder)


def elements(array: bytes) -> Iterator[bytes]:
    """The elements of a JSON array, each as it is written there."""
    text, decoder, at = array.decode(), json.JSONDecoder(), 1
    while text[at] != "]":
        _, end = decoder.raw_decode(text, at)
        yield text[at:end].encode()
        at = end + (text[end] == ",")
