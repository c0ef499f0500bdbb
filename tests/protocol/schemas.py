"""A small judge of JSON Schema (draft 2020-12): the keywords that an endpoint's description uses, and no others.

A keyword that it does not know is a fault, so that no part of a schema is passed over in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from .exchange import JSON

Schema: TypeAlias = Mapping[str, JSON]

_TYPES: dict[str, Callable[[JSON], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
}
_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs"}


def faults(schema: Schema | bool, value: JSON, place: str = "", root: Schema | None = None) -> list[str]:
    """Where a value breaks its schema; nothing if it does not."""
    if isinstance(schema, bool):
        return [] if schema else [f"{place}: nothing is allowed here"]
    whole = schema if root is None else root
    return [fault for keyword in schema for fault in _broken(schema, keyword, value, place, whole)]


def _broken(schema: Schema, keyword: str, value: JSON, place: str, root: Schema) -> Iterator[str]:
    wanted = schema[keyword]
    if keyword in _ANNOTATIONS:
        return
    if keyword in _INSIDE:
        yield from _INSIDE[keyword](schema, value, place, root)
    elif not _CHECKS[keyword](wanted, value):
        yield f"{place}: {keyword} is {wanted!r}"


def _type(wanted: JSON, value: JSON) -> bool:
    names = [wanted] if isinstance(wanted, str) else wanted
    return any(_TYPES[name](value) for name in names)


def _is_number(value: JSON) -> bool:
    return _TYPES["number"](value)


_CHECKS: dict[str, Callable[[JSON, JSON], bool]] = {
    "type": _type,
    "enum": lambda wanted, value: value in wanted,
    "const": lambda wanted, value: value == wanted,
    "pattern": lambda wanted, value: not isinstance(value, str) or re.search(wanted, value) is not None,
    "minLength": lambda wanted, value: not isinstance(value, str) or len(value) >= wanted,
    "maxLength": lambda wanted, value: not isinstance(value, str) or len(value) <= wanted,
    "minimum": lambda wanted, value: not _is_number(value) or value >= wanted,
    "maximum": lambda wanted, value: not _is_number(value) or value <= wanted,
    "exclusiveMinimum": lambda wanted, value: not _is_number(value) or value > wanted,
    "minItems": lambda wanted, value: not isinstance(value, list) or len(value) >= wanted,
    "maxItems": lambda wanted, value: not isinstance(value, list) or len(value) <= wanted,
    "uniqueItems": lambda wanted, value: not wanted or not isinstance(value, list) or len(set(value)) == len(value),
    "maxProperties": lambda wanted, value: not isinstance(value, dict) or len(value) <= wanted,
    "required": lambda wanted, value: not isinstance(value, dict) or set(wanted) <= set(value),
}


def _properties(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in schema["properties"].items():
            if name in value:
                yield from faults(inner, value[name], f"{place}/{name}", root)


def _additional(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            yield from faults(schema["additionalProperties"], value[name], f"{place}/{name}", root)


def _names(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value:
            yield from faults(schema["propertyNames"], name, f"{place}/{name}", root)


def _items(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    if isinstance(value, list):
        for position, each in enumerate(value):
            yield from faults(schema["items"], each, f"{place}/{position}", root)


def _one_of(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    matching = [inner for inner in schema["oneOf"] if not faults(inner, value, place, root)]
    if len(matching) != 1:
        yield f"{place}: {len(matching)} of oneOf match"


def _any_of(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    if all(faults(inner, value, place, root) for inner in schema["anyOf"]):
        yield f"{place}: none of anyOf matches"


def _if(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    branch = "else" if faults(schema["if"], value, place, root) else "then"
    yield from faults(schema.get(branch, True), value, place, root)


def _reference(schema: Schema, value: JSON, place: str, root: Schema) -> Iterator[str]:
    target: JSON = root
    for name in schema["$ref"].removeprefix("#/").split("/"):
        target = target[name]
    yield from faults(target, value, place, root)


_INSIDE: dict[str, Callable[[Schema, JSON, str, Schema], Iterator[str]]] = {
    "properties": _properties,
    "additionalProperties": _additional,
    "propertyNames": _names,
    "items": _items,
    "oneOf": _one_of,
    "anyOf": _any_of,
    "if": _if,
    "then": lambda *_: iter(()),  # with the one before
    "else": lambda *_: iter(()),
    "$ref": _reference,
}
