"""The JSON Schema of a config file, for editors."""

from __future__ import annotations

from typing import Any

from ..settings import Config
from . import units
from .printing import function_name, ordered
from .shapes import Key, Shape, keys

# Text that a variable or a file may stand in for.
_EXPANDED = r"^.*\$\{.+\}.*$"
_FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"


def schema() -> dict[str, Any]:
    """Keys, types, defaults and descriptions. What concerns several keys is checked by `batchproxy check` alone."""
    definitions: dict[str, Any] = {}
    top = _object(Config, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "batchproxy",
        "description": "The config file of batchproxy.",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _object(settings: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    known = keys(settings)
    found: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(key, definitions) for name, key in known.items()},
    }
    required = [name for name, key in known.items() if key.required]
    return {**found, "required": required} if required else found


def _property(key: Key, definitions: dict[str, Any]) -> dict[str, Any]:
    found = {"description": key.description, **_shape(key.shape, definitions)}
    default = _default(key.shape, key.default)
    return found if key.required or key.shape.kind == "object" or default is None else {**found, "default": default}


def _default(shape: Shape, value: Any) -> Any:
    if shape.kind == "list":
        members = [] if value is None else ordered(value)
        return None if value is None or (shape.item and shape.item.kind == "object") else members
    if shape.kind == "mapping":
        return dict(value) if not value else None
    return function_name(value) if shape.kind == "function" and value is not None else value


def _shape(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    found = _kind(shape, definitions)
    # An empty value stands for the default of a mapping or list.
    if not shape.optional and shape.kind not in ("object", "list", "mapping"):
        return found
    return {"anyOf": [found, {"type": "null"}]}


def _kind(shape: Shape, definitions: dict[str, Any]) -> dict[str, Any]:
    if shape.kind == "text":
        return {"type": "string"}
    if shape.kind == "function":
        return {"type": "string", "pattern": f"{_FUNCTION}|{_EXPANDED}"}
    if shape.kind == "choice":
        return {"anyOf": [{"enum": list(map(str, shape.choices))}, _EXPANDABLE]}
    if shape.kind in ("flag", "whole", "number"):
        return {"anyOf": [{"type": {"flag": "boolean", "whole": "integer"}.get(shape.kind, "number")}, _EXPANDABLE]}
    if shape.kind in ("seconds", "bytes"):
        is_time = shape.kind == "seconds"
        pattern = units.DURATION_PATTERN if is_time else units.SIZE_PATTERN
        number = {"type": "number" if is_time else "integer"}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{pattern}$|{_EXPANDED}"}]}
    assert shape.settings is not None or shape.item is not None
    if shape.item is not None:
        item = _shape(shape.item, definitions)
        if shape.kind == "list":
            return {"type": "array", "items": item}
        return {"type": "object", "additionalProperties": item}
    found, *others = [_reference(each, definitions) for each in shape.classes]
    for name, other in zip(shape.others, others, strict=True):
        said = {"properties": {shape.by: {"const": name}}, "required": [shape.by]}
        found = {"if": said, "then": other, "else": found}
    return found


def _reference(settings: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if settings.__name__ not in definitions:
        definitions[settings.__name__] = {}
        definitions[settings.__name__] = _object(settings, definitions)
    return {"$ref": f"#/$defs/{settings.__name__}"}


_EXPANDABLE = {"type": "string", "pattern": _EXPANDED}
