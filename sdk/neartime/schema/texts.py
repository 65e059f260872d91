"""Text that a schema holds against a pattern, or that stands for a date, a number, an id."""

from __future__ import annotations

from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, core_schema
from pydantic_core import ValidationError as Mismatch


@lru_cache(maxsize=512)
def matcher(pattern: str) -> SchemaValidator:
    """Searches text for a pattern, in time linear in the text.

    Raises:
        SchemaError: it is no regular expression, or one with a look-around or a back-reference.
    """
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def matches(pattern: str, text: str) -> bool:
    try:
        matcher(pattern).validate_python(text)
    except (Mismatch, SchemaError):
        return False
    return True


_TEXTS: dict[str, SchemaValidator] = {
    "datetime": SchemaValidator(core_schema.datetime_schema()),
    "date": SchemaValidator(core_schema.date_schema()),
    "time": SchemaValidator(core_schema.time_schema()),
    "timedelta": SchemaValidator(core_schema.timedelta_schema()),
    "Decimal": SchemaValidator(core_schema.decimal_schema()),
    "UUID": SchemaValidator(core_schema.uuid_schema()),
}
"""What reads a type's text, as pydantic does where the program runs."""


def reads(name: str, text: str) -> bool:
    if (reader := _TEXTS.get(name)) is None:
        return True
    try:
        reader.validate_python(text)
    except Mismatch:
        return False
    return True
