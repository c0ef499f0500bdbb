"""The merged configuration as YAML, and its digest."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from . import units
from .checking import escaped
from .located import DEFAULT, Origin, has_password, is_secret_key
from .node import Node
from .reading import resolved
from .shapes import Shape, keys

MASK = '"***"'

_PLAIN = re.compile(r"[A-Za-z0-9/_.][A-Za-z0-9/_.@$*+-]*(:[A-Za-z0-9/_.@$*+-]+)*")
_DIGITS = 16


def digest(config: Any, files: Iterable[Path]) -> str:
    """Changes with any value in effect, and with what is in the files. It cannot be read back."""
    found = sha256(json.dumps(_plain_object(config), sort_keys=True).encode())
    for path in files:
        found.update(sha256(path.read_bytes()).digest())
    return found.hexdigest()[:_DIGITS]


def _plain_object(settings: Any) -> dict[str, Any]:
    return {name: _plain(key.shape, getattr(settings, name)) for name, key in keys(type(settings)).items()}


def _plain(shape: Shape, value: Any) -> Any:
    if value is None:
        return None
    if shape.kind == "object":
        return _plain_object(value)
    if shape.kind == "list":
        return [_plain(_item(shape), each) for each in ordered(value)]
    if shape.kind == "mapping":
        return {name: _plain(_item(shape), each) for name, each in value.items()}
    if shape.kind in ("seconds", "number"):
        return float(value)
    return function_name(value) if shape.kind == "function" else value


def _item(shape: Shape) -> Shape:
    assert shape.item is not None
    return shape.item


def ordered(value: Collection[Any]) -> list[Any]:
    """The members in the order given, or by name if they have none."""
    return sorted(value) if isinstance(value, set | frozenset) else list(value)


def function_name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


class Held(NamedTuple):
    """A value that is in effect in place of that of the configuration."""

    value: Any
    node: Node | None
    origins: Mapping[str, Origin]


def shown_tree(config: Any, tree: Node, origins: Mapping[str, Origin], held: Mapping[str, Held]) -> str:
    """Each value with where it came from behind it. What is secret is masked; `held` is by JSON Pointers."""
    return "\n".join(_Printing(origins, held).members(config, tree, "", 0)) + "\n"


class _Printing:
    def __init__(self, origins: Mapping[str, Origin], held: Mapping[str, Held]) -> None:
        self._origins = origins
        self._held = held

    def members(self, settings: Any, node: Node | None, pointer: str, depth: int) -> Iterator[str]:
        for name, key in keys(type(settings)).items():
            member = _below(node, name)
            yield from self._entry(
                name, key.shape, getattr(settings, name), member, f"{pointer}/{name}", depth, is_secret_key(name)
            )

    def _entry(
        self, name: str, shape: Shape, value: Any, node: Node | None, pointer: str, depth: int, secret: bool
    ) -> Iterator[str]:
        if pointer in self._held:
            value, node, origins = self._held[pointer]
            yield from _Printing(origins, {})._entry(name, shape, value, node, pointer, depth, secret)
            return
        start = "  " * depth + (scalar(name) if name else "")
        if shape.kind == "object" and value is not None:
            yield f"{start}:"
            yield from self.members(value, node, pointer, depth + 1)
        elif shape.kind == "mapping" and value:
            yield f"{start}:"
            for member, each in value.items():
                below = f"{pointer}/{escaped(member)}"
                hidden = secret or is_secret_key(member)
                yield from self._entry(member, _item(shape), each, _below(node, member), below, depth + 1, hidden)
        elif shape.kind == "list" and value and _item(shape).kind == "object":
            yield f"{start}:"
            for position, each in enumerate(value):
                yield from self._listed(each, _below(node, position), f"{pointer}/{position}", depth + 1)
        else:
            origin = self._origins.get(pointer, DEFAULT)
            yield f"{start}: {self._value(shape, value, node, secret)}  # {origin}"

    def _listed(self, settings: Any, node: Node | None, pointer: str, depth: int) -> Iterator[str]:
        lines = list(self.members(settings, node, pointer, depth + 1))
        lines[0] = "  " * depth + "- " + lines[0].lstrip()
        yield from lines

    def _value(self, shape: Shape, value: Any, node: Node | None, secret: bool) -> str:
        if value is None:
            return "null"
        if secret or (node is not None and node.secret):
            return MASK
        if shape.kind == "list":
            item = _item(shape)
            if item.kind == "function" and node is not None and isinstance(node.value, list):
                return flow(MASK if each.secret else scalar(str(each.value)) for each in node.value)
            members = ordered(value)
            return flow(self._value(item, each, _below(node, at), False) for at, each in enumerate(members))
        return shown_value(shape, value)


def shown_value(shape: Shape, value: Any) -> str:
    """A value as a file would have it."""
    if value is None:
        return "null"
    if shape.kind == "list":
        return flow(shown_value(_item(shape), each) for each in ordered(value))
    if shape.kind == "mapping":
        return "{}" if not value else "{…}"
    if shape.kind == "seconds":
        return units.shown_duration(value)
    if shape.kind == "bytes":
        return units.shown_size(value)
    if shape.kind == "flag":
        return "true" if value else "false"
    if shape.kind in ("whole", "number"):
        return str(value)
    text = function_name(value) if shape.kind == "function" else str(value)
    return MASK if has_password(text) else scalar(text)


def flow(members: Iterable[str]) -> str:
    return f"[{', '.join(members)}]"


def scalar(text: str) -> str:
    """Text as YAML: between quotes if it would be something else without them. It is not expanded when read again."""
    if "${" in text or "$$" in text:
        text = text.replace("$", "$$")
    if _PLAIN.fullmatch(text) and isinstance(resolved(text), str):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(each if each.isprintable() else f"\\U{ord(each):08x}" for each in quoted)


def _below(node: Node | None, step: str | int) -> Node | None:
    value = node.value if node is not None else None
    if isinstance(step, int):
        return value[step] if isinstance(value, list) and step < len(value) else None
    return value.get(step) if isinstance(value, dict) else None
