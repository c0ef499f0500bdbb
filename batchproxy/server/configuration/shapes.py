"""What a config file may say, read from the annotations of the settings classes.

Checking, the JSON Schema, the printed configuration and the documents all follow from it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import StrEnum
from inspect import get_annotations
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ...engine.in_flight import InFlight
from ...engine.routing import RouteTable
from ..settings import OneOf
from .descriptions import described
from .node import Node

# Objects that only code can make.
_NOT_IN_FILES = (InFlight, RouteTable)
_FILES = frozenset({"ca", "certificate", "key", "key_file", "tls_certificate", "tls_key"})
_REFERENCES = frozenset({"callbacks", "signing"})

Kind = Literal["text", "whole", "number", "seconds", "bytes", "flag", "choice", "function", "list", "mapping", "object"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """`item` is the shape of the members of a list or mapping, `settings` the class of an object.

    `others` are classes of objects that stand in its place, by what the key `by` of theirs says.
    """

    kind: Kind
    optional: bool = False
    choices: tuple[str, ...] = ()
    item: Shape | None = None
    settings: type[Any] | None = None
    by: str = ""
    others: Mapping[str, type[Any]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[type[Any], ...]:
        """Of an object, or of the objects in a list or mapping."""
        if self.item is not None:
            return self.item.classes
        return () if self.settings is None else (self.settings, *self.others.values())

    def class_of(self, node: Node | None) -> type[Any]:
        """The class of an object, by what stands there."""
        members = node.value if node is not None and isinstance(node.value, dict) else {}
        said = members[self.by].value if self.by in members else None
        found = self.others.get(said) if isinstance(said, str) else None
        return found or self.settings or object

    @property
    def expected(self) -> str:
        """What belongs here, in words."""
        return _EXPECTED.get(self.kind) or f"one of {', '.join(self.choices)}"


_EXPECTED = {
    "text": "text",
    "whole": "a whole number",
    "number": "a number",
    "seconds": "a duration such as `5s`, `250ms` or `1m`",
    "bytes": "a size such as `512KiB`, `2MiB` or a number of bytes",
    "flag": "true or false",
    "function": "`package.module:function`",
    "list": "a list",
    "mapping": "a mapping of names to values",
    "object": "a mapping of keys to values",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One setting: what it may be, its default, and what it means."""

    name: str
    shape: Shape
    default: Any
    required: bool
    description: str
    is_file: bool
    has_references: bool
    """Whether there may be files in it, as `file:…`."""


_KEYS: dict[type[Any], Mapping[str, Key]] = {}


def keys(settings: type[Any]) -> Mapping[str, Key]:
    """The keys of a settings class that a file may hold; its own before those that it inherits."""
    if settings not in _KEYS:
        _KEYS[settings] = _read_keys(settings)
    return _KEYS[settings]


def _read_keys(settings: type[Any]) -> Mapping[str, Key]:
    hints = get_type_hints(settings, include_extras=True)
    depths = {name: depth for depth, base in enumerate(settings.__mro__) for name in get_annotations(base)}
    found = {}
    for each in sorted(fields(settings), key=lambda each: depths[each.name]):
        shape = _shape(hints[each.name])
        if shape is not None:
            found[each.name] = _key(settings, each, shape)
    return found


def _key(settings: type[Any], each: Field[Any], shape: Shape) -> Key:
    # That of an object follows from its own keys, and may need what only those have who use it.
    is_made = each.default_factory is not MISSING and shape.kind != "object"
    default = each.default_factory() if is_made and callable(each.default_factory) else each.default
    return Key(
        name=each.name,
        shape=shape,
        default=None if default is MISSING else default,
        required=default is MISSING and each.default_factory is MISSING,
        description=described(settings, each.name),
        is_file=each.name in _FILES,
        has_references=each.name in _REFERENCES,
    )


def _shape(hint: Any, *, optional: bool = False) -> Shape | None:
    """None for what only code can make."""
    if get_origin(hint) in (Union, types.UnionType):
        [inner] = [each for each in get_args(hint) if each is not type(None)]
        return _shape(inner, optional=True)
    if get_origin(hint) is Annotated and isinstance(hint.__metadata__[0], OneOf):
        return _one_of(get_args(get_args(hint)[0]), hint.__metadata__[0].key)
    if get_origin(hint) is Annotated:
        return Shape(kind=hint.__metadata__[0], optional=optional)
    if hint in _NOT_IN_FILES:
        return None
    if hint in _SCALARS:
        return Shape(kind=_SCALARS[hint], optional=optional)
    if get_origin(hint) is Literal:
        return Shape(kind="choice", optional=optional, choices=get_args(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return Shape(kind="choice", optional=optional, choices=tuple(hint))
    if get_origin(hint) in (Sequence, Collection):
        return Shape(kind="list", optional=optional, item=_shape(get_args(hint)[0]))
    if get_origin(hint) is Mapping:
        return Shape(kind="mapping", optional=optional, item=_shape(get_args(hint)[1]))
    if get_origin(hint) is Callable:
        return Shape(kind="function", optional=optional)
    return Shape(kind="object", optional=optional, settings=hint)


def _one_of(classes: Sequence[type[Any]], key: str) -> Shape:
    """The first unless the key says otherwise; it has its own name as the default in the others."""
    first, *others = classes
    named = {str(each.default): other for other in others for each in fields(other) if each.name == key}
    return Shape(kind="object", settings=first, by=key, others=named)


_SCALARS: Mapping[Any, Kind] = {str: "text", int: "whole", float: "number", bool: "flag"}
