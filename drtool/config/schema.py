"""The JSON Schema of a policy file, for editors."""

from __future__ import annotations

import inspect

from drtool.config.scalars import Json
from drtool.config.shapes import (
    KIND,
    Choice,
    Key,
    ListOf,
    NamedValues,
    OneOf,
    OneValue,
    Record,
    Shape,
    record_of,
)
from drtool.policy.policy import Policy


def policy_schema() -> dict[str, Json]:
    """What `drtool policy schema` prints: JSON Schema 2020-12, from the same types as the reader."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "drtool policy",
        **_record(record_of(Policy)),
    }


def _schema(shape: Shape) -> dict[str, Json]:
    match shape:
        case OneValue(scalar):
            return dict(scalar.schema)
        case OneOf():
            return {"type": "string", "enum": list(shape.values())}
        case ListOf(item):
            return {"type": "array", "items": _schema(item)}
        case NamedValues(key, value):
            return {
                "type": "object",
                "propertyNames": dict(key.schema),
                "additionalProperties": _schema(value),
            }
        case Record(short=None):
            return _record(shape)
        case Record(keys=keys, short=short):
            return {"anyOf": [_schema(keys[str(short)].shape), _record(shape)]}
        case Choice(records):
            return {
                "type": "object",
                "required": [KIND],
                "oneOf": [_record(record) for record in records.values()],
            }


def _record(record: Record) -> dict[str, Json]:
    properties: dict[str, Json] = {name: _key(key) for name, key in record.keys.items()}
    required: list[Json] = [name for name, key in record.keys.items() if key.required]
    if record.kind is not None:
        properties = {KIND: {"const": record.kind}, **properties}
        required = [KIND, *required]
    return {
        "description": (inspect.getdoc(record.make) or "").split("\n\n")[0],
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _key(key: Key) -> dict[str, Json]:
    schema = _schema(key.shape)
    return {**schema, "description": key.description} if key.description else schema
