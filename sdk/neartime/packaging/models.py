"""The pydantic models of a program, and their JSON Schemas as values are encoded: with names for what JSON has not."""

from __future__ import annotations

import inspect
import typing
import warnings
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, PydanticJsonSchemaWarning
from pydantic_core import core_schema

from neartime.errors import PackagingError
from neartime.schema.names import PREFIX, TYPE_NAMES, of_class
from neartime.types import PLACEHOLDER


def inputs_model(main: Callable[..., Any]) -> type[BaseModel] | None:
    """The model that main() takes as its third argument; None where it takes keyword arguments.

    Raises:
        PackagingError: the annotation is text that names nothing which is there.
    """
    try:
        parameters = list(inspect.signature(main).parameters.values())
    except (TypeError, ValueError):
        return None
    if len(parameters) < 3 or parameters[2].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return None
    annotation = parameters[2].annotation
    if isinstance(annotation, str):
        try:
            annotation = typing.get_type_hints(main).get(parameters[2].name)
        except Exception as error:  # of any kind: every annotation of main() is evaluated
            raise PackagingError(
                f"main() annotates {parameters[2].name} as {annotation}, which can't be found: {error}"
            ) from error
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema that encoded values of a model are held against.

    Keys that a model does not declare are refused unless its `model_config` says what becomes of `extra` ones.

    Raises:
        PackagingError: a field has a type that has no wire form; the message names it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default without a JSON form is left out
            schema = model.model_json_schema(schema_generator=_WireSchema)
    except PydanticInvalidForJsonSchema as error:
        raise PackagingError(
            f"{model.__name__} has a field whose type no schema can name: {error.message}. "
            "docs/reference/programs.md lists the types that there are; typing.Any accepts all of them"
        ) from error
    named: dict[str, Any] = _named(schema)
    return named


def _placeholder(name: str) -> JsonSchemaValue:
    return {PLACEHOLDER: name}


def _named(schema: Any) -> Any:
    """A schema with its placeholders replaced."""
    if isinstance(schema, list):
        return [_named(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _named(part) for key, part in schema.items() if key != PLACEHOLDER}
    name = schema.get(PLACEHOLDER)
    if found == _FRACTION:
        return TYPE_NAMES["Fraction"].reference
    return {"$ref": f"{PREFIX}{name}", **found} if isinstance(name, str) and name in TYPE_NAMES else found


_FRACTION = {"type": "string", "format": "fraction"}
"""What pydantic says of a Fraction that is written as text."""


class _WireSchema(GenerateJsonSchema):
    """pydantic describes values as its own JSON has them; this one, as `neartime.codec` does."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # they repeat the names

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        if schema["cls"].model_config.get("extra") is None and found.get("type") == "object":
            found.setdefault("additionalProperties", False)
        elif schema["cls"].model_config.get("extra") == "ignore":
            found.pop("additionalProperties", None)
        return found

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        found = of_class(schema["cls"]) if isinstance(schema["cls"], type) else None
        return _placeholder(found.name) if found else super().is_instance_schema(schema)

    def complex_schema(self, schema: core_schema.ComplexSchema) -> JsonSchemaValue:
        return _placeholder("complex")

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        return _placeholder("bytes")

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return _placeholder("datetime")

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        return _placeholder("date")

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return _placeholder("time")

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return _placeholder("timedelta")

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        return _placeholder("Decimal")

    def uuid_schema(self, schema: core_schema.UuidSchema) -> JsonSchemaValue:
        return _placeholder("UUID")
