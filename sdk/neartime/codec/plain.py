"""The forms of the standard library's values: complex numbers, times, exact numbers, enums."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, EnumMeta
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from neartime.codec import tags
from neartime.codec.encoder import Walk, Wire, Writer, tagged
from neartime.errors import DecodeError

if TYPE_CHECKING:
    from neartime.codec.decoder import Reader, Reading


def _write_complex(value: complex, walk: Walk) -> Wire:
    return tagged(tags.COMPLEX, [value.real, value.imag])


def _read_complex(value: Any, reading: Reading) -> complex:
    real, imag = value
    return complex(real, imag)


def _write_enum(value: Enum, walk: Walk) -> Wire:
    kind = type(value)
    # The value of an enum that is a number or text too is asked of the member, which would else be written as itself.
    return tagged(tags.ENUM, [f"{kind.__module__}:{kind.__qualname__}", value.name, walk.part(".value", value.value)])


def _read_enum(value: Any, reading: Reading) -> object:
    """The member, where this process has loaded its class already; else the member's value. Nothing is imported."""
    where, name, content = value
    module, _, path = where.partition(":")
    found: object = sys.modules.get(module)
    for step in path.split("."):
        if isinstance(found, ModuleType):
            # Past any __getattr__ of the module, which may import.
            found = object.__getattribute__(found, "__dict__").get(step)
        else:
            found = vars(found).get(step) if isinstance(found, type) else None
    if isinstance(found, EnumMeta) and isinstance(name, str):
        return found.__members__.get(name, content)
    return content


def _write_datetime(value: datetime, walk: Walk) -> Wire:
    return tagged(tags.DATETIME, datetime.isoformat(value))


def _read_datetime(value: Any, reading: Reading) -> datetime:
    if value.endswith(("Z", "z")):  # Python 3.10 does not read it
        value = value[:-1] + "+00:00"
    return datetime.fromisoformat(value)


def _write_date(value: date, walk: Walk) -> Wire:
    return tagged(tags.DATE, value.isoformat())


def _write_time(value: time, walk: Walk) -> Wire:
    return tagged(tags.TIME, value.isoformat())


def _write_timedelta(value: timedelta, walk: Walk) -> Wire:
    return tagged(tags.TIMEDELTA, [value.days, value.seconds, value.microseconds])


def _read_timedelta(value: Any, reading: Reading) -> timedelta:
    days, seconds, microseconds = value
    return timedelta(days, seconds, microseconds)


def _write_fraction(value: Fraction, walk: Walk) -> Wire:
    return tagged(tags.FRACTION, [value.numerator, value.denominator])


def _read_fraction(value: Any, reading: Reading) -> Fraction:
    numerator, denominator = value
    return Fraction(numerator, denominator)


def _write_text_of(tag: str) -> Writer:
    return lambda value, walk: tagged(tag, str(value))


def _read_text_of(kind: Callable[[str], object]) -> Reader:
    def read(value: Any, reading: Reading) -> object:
        if not isinstance(value, str):
            raise DecodeError(f"expected text, got {type(value).__name__}")
        return kind(value)

    return read


WRITERS: dict[type, Writer] = {
    complex: _write_complex,
    Enum: _write_enum,
    datetime: _write_datetime,
    date: _write_date,
    time: _write_time,
    timedelta: _write_timedelta,
    Decimal: _write_text_of(tags.DECIMAL),
    Fraction: _write_fraction,
    UUID: _write_text_of(tags.UUID),
}

READERS: dict[str, Reader] = {
    tags.COMPLEX: _read_complex,
    tags.ENUM: _read_enum,
    tags.DATETIME: _read_datetime,
    tags.DATE: _read_text_of(date.fromisoformat),
    tags.TIME: _read_text_of(time.fromisoformat),
    tags.TIMEDELTA: _read_timedelta,
    tags.DECIMAL: _read_text_of(Decimal),
    tags.FRACTION: _read_fraction,
    tags.UUID: _read_text_of(UUID),
}
