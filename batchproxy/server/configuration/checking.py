"""From the tree of a document to settings objects, with every error at its place.

Each object is checked on its own: a mistake in one hides none in another, nor in what it lies in.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ...engine.errors import SettingError
from . import units
from .located import DEFAULT, Origin, Report, brief, is_secret_key, suggestion
from .node import REPORTED, Node, Value
from .shapes import Key, Shape, keys

BROKEN: Any = object()
"""What stands for a value that cannot be used; its error has been reported."""

_FILE = "file:"
_MOST_ROUNDS = 16
_MEANT: Mapping[str, str] = {
    "/server/listen": 'host:port, such as `"127.0.0.1:8080"`',
    "/server/admin": '`"off"`, or host:port, such as `"127.0.0.1:9090"`',
}
"""Where text that only has quotes around it would be the next mistake."""
_SHOWN_LISTS = frozenset({"methods", "trusted_origins"})
"""They are refused as a whole, and hold no secrets; those of others may, even if it is by mistake."""


class Checking:
    """`origins` says where each value came from, by JSON Pointer; `files` are those that settings name."""

    def __init__(self, report: Report, folder: Path) -> None:
        self._report = report
        self._folder = folder
        self.origins: dict[str, Origin] = {}
        self.partial: dict[type[Any], tuple[Any, frozenset[str]]] = {}
        """The last object of a class, defaults in the place of what is wrong, and the names of that."""
        self.right: dict[str, Any] = {}
        """The right members of sections that hold a wrong one; in a list that one's place holds None."""
        self.files: list[tuple[str, Path, Node]] = []
        self._others: dict[tuple[type[Any], str], Collection[str]] = {}
        """What else may stand at a key, for it makes the object one of another class."""

    def build(self, settings: type[Any], node: Node | None, pointer: str = "", place: Origin = DEFAULT) -> Any:
        """An object of a settings class, or `BROKEN`."""
        known = keys(settings)
        given = self._members(settings, node, known)
        values: dict[str, Any] = {}
        broken: set[str] = set()
        where = node.place if node is not None else place
        for name, key in known.items():
            value = self._value(key, given.get(name), f"{pointer}/{name}", where)
            if value is BROKEN:
                broken.add(name)
            elif name in given:
                values[name] = value
        for name, key in known.items():
            if key.required and name not in given:
                broken.add(name)
                self._report.error(where, f"key `{name}` is missing, expected {key.shape.expected}")
        return self._made(settings, known, values, given, broken, where)

    def _members(self, settings: type[Any], node: Node | None, known: Mapping[str, Key]) -> dict[str, Node]:
        """The values that are there, by the names of their keys; keys that are not known are reported."""
        if node is None or node.value is None or node.value is REPORTED:
            return {}
        if not isinstance(node.value, dict):
            self._wrong(node, "a mapping of keys to values")
            return {}
        for name, each in node.value.items():
            if name not in known:
                near = self._report.suggestion(name, tuple(known)) or f": {', '.join(known)}"
                what = f"unknown key {brief(name)}, expected a key of {settings.__name__}"
                self._report.error(each.place, what + near)
        return {name: each for name, each in node.value.items() if name in known}

    def _made(
        self,
        settings: type[Any],
        known: Mapping[str, Key],
        values: dict[str, Any],
        given: Mapping[str, Node],
        broken: set[str],
        where: Origin,
    ) -> Any:
        """Makes the object; what it refuses is left out, so that it may refuse something else as well."""
        for _ in range(_MOST_ROUNDS):
            stand_ins = {name: "x" for name in broken if known[name].required}
            try:
                made = settings(**stand_ins, **values)
            except SettingError as fault:
                if more := self._others.get((settings, fault.setting)):
                    fault = SettingError(fault.setting, fault.value, ", ".join([fault.expected, *more]))
                if not _follows(fault, broken, known):
                    self._refused(fault, given, values, where)
                if fault.setting in broken or fault.setting not in values:
                    return BROKEN
                broken.add(fault.setting)
                del values[fault.setting]
            else:
                self.partial[settings] = (made, frozenset(broken))
                return BROKEN if broken else made
        return BROKEN

    def _refused(
        self, fault: SettingError, given: Mapping[str, Node], values: Mapping[str, Any], where: Origin
    ) -> None:
        node = given.get(fault.setting)
        if node is None:
            what = "is missing" if fault.value is None else "is not right here"
            self._report.error(where, f"`{fault.setting}` {what}, {fault.expected}")
            return
        at = _member(node, fault, values.get(fault.setting))
        if isinstance(node.value, dict) and at is not node:
            # The name alone: what it leads to may be secret, such as a key for an upstream.
            [name] = [name for name, each in node.value.items() if each is at]
            self._report.error(at.place, f"{brief(name)} in `{fault.setting}` is not right, {fault.expected}")
            return
        is_secret = node.holds_secret
        is_told = isinstance(at.value, str | int | float) or (at is node and fault.setting in _SHOWN_LISTS)
        is_shown = is_told and not is_secret and not is_secret_key(fault.setting)
        value = f" is {brief(_as_written(at.value))}" if is_shown else ""
        if isinstance(at.value, str) and repr(at.value) in fault.expected:
            value = " is not right here"  # once is enough
        # What is expected may quote what there is, but never a token; nor where whoever refuses it has hidden it.
        is_minded = fault.setting == "admin_token" or (isinstance(fault.value, str) and fault.value.endswith("…"))
        expected = "expected another value" if is_secret and not is_minded else fault.expected
        self._report.error(
            at.origin if at is not node else node.place_of_value, f"`{fault.setting}`{value}, {expected}"
        )

    def _value(self, key: Key, node: Node | None, pointer: str, around: Origin) -> Any:
        """The value of one key; without a node only the origins are noted, and errors are those of what is `around`."""
        shape = key.shape
        if shape.kind == "object":
            if (node is None or node.value is None) and shape.optional:
                self.origins[pointer] = DEFAULT if node is None else node.origin
                return None
            return self.build(shape.class_of(node), node, pointer, around)
        if node is None:
            self._note_default(key, pointer)
            return None
        if node.value is None and shape.kind in ("list", "mapping"):
            self.origins[pointer] = node.origin
            return key.default
        value = self._converted(shape, node, pointer)
        if key.is_file and isinstance(value, str):
            path = self._folder / value
            self.files.append((pointer, path, node))
            return str(path)
        return self._anchored(value) if key.has_references else value

    def _anchored(self, value: Any) -> Any:
        """With each `file:…` relative to the folder; they are read by who needs them, each time anew."""
        if isinstance(value, Mapping):
            return {name: self._anchored(each) for name, each in value.items()}
        if isinstance(value, tuple):
            return tuple(map(self._anchored, value))
        if isinstance(value, str) and (where := value.removeprefix(_FILE)) not in ("", value):
            return f"{_FILE}{self._folder / where}"
        return value

    def _note_default(self, key: Key, pointer: str) -> None:
        """A default that is a list of objects is shown with their keys, so each of them has an origin."""
        if key.shape.item is not None and key.shape.classes:
            for position, each in enumerate(key.default):
                self.build(type(each), None, f"{pointer}/{position}")
        else:
            self.origins[pointer] = DEFAULT

    def _converted(self, shape: Shape, node: Node, pointer: str) -> Any:
        self.origins[pointer] = node.origin
        if node.value is REPORTED:
            return BROKEN
        if node.value is None and shape.optional:
            return None
        if shape.kind == "object":
            self._others[shape.settings or object, shape.by] = shape.others
            return self.build(shape.class_of(node), node, pointer)
        if shape.kind in ("list", "mapping"):
            return self._gathered(shape, node, pointer)
        value = _scalar(shape, node)
        if value is BROKEN:
            self._wrong(node, shape.expected, shape, pointer)
        elif shape.kind == "function":
            return self._imported(node)
        return value

    def _gathered(self, shape: Shape, node: Node, pointer: str) -> Any:
        assert shape.item is not None
        value = _split(node) if shape.kind == "list" else node.value
        if not isinstance(value, list if shape.kind == "list" else dict):
            self._wrong(node, shape.expected, shape)
            return BROKEN
        members = enumerate(value) if isinstance(value, list) else value.items()
        made = {name: self._converted(shape.item, each, f"{pointer}/{escaped(str(name))}") for name, each in members}
        if any(each is BROKEN for each in made.values()):
            if pointer.count("/") == 1:
                self.right[pointer[1:]] = (
                    tuple(None if each is BROKEN else each for each in made.values())
                    if shape.kind == "list"
                    else {name: each for name, each in made.items() if each is not BROKEN}
                )
            return BROKEN
        return tuple(made.values()) if shape.kind == "list" else made

    def _imported(self, node: Node) -> Any:
        try:
            return imported(node.value)
        except Exception as fault:
            # Whatever the module raises, it is this line that cannot be followed.
            why = type(fault).__name__ if node.secret else f"{type(fault).__name__}: {fault}"
            self._report.error(node.origin, f"{node.shown} cannot be imported, {why}")
            return BROKEN

    def _wrong(self, node: Node, expected: str, shape: Shape | None = None, pointer: str = "") -> None:
        found = _found(node)
        hint = ""
        if pointer in _MEANT:
            expected = _MEANT[pointer]
        elif shape is not None and shape.kind == "text" and isinstance(node.value, int | float):
            hint = "; put it between quotes"
        elif shape is not None and shape.kind == "list" and isinstance(node.value, str):
            hint = "; put it between brackets"
        elif shape is not None and shape.choices and isinstance(node.value, str) and not node.secret:
            hint = suggestion(node.value, shape.choices)
        self._report.error(node.place_of_value, f"{found}, expected {expected}{hint}")


def escaped(name: str) -> str:
    """A member of a JSON Pointer (RFC 6901, section 3)."""
    return name.replace("~", "~0").replace("/", "~1")


def imported(name: str) -> Any:
    """What an import string names. Raises whatever its module does."""
    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute:
        raise ImportError("expected `package.module:function`")
    found: Any = import_module(module)
    for each in attribute.split("."):
        found = getattr(found, each)
    return found


def _follows(fault: SettingError, broken: set[str], known: Collection[str]) -> bool:
    """Whether a setting is refused only because another one, which is wrong itself, was left out."""
    if broken and fault.setting not in known:
        return True  # it is one of the object that stands in its place
    words = set(fault.expected.replace("`", " ").replace(",", " ").replace(":", " ").split())
    return fault.setting in broken or bool(words & broken)


def _member(node: Node, fault: SettingError, made: object) -> Node:
    """The member of a list or mapping that a fault speaks of, or the node. `made` is what became of the node."""
    value, expected = fault.value, fault.expected
    if isinstance(node.value, list) and isinstance(made, tuple):
        pairs = list(zip(node.value, made, strict=True))
        found = [each for each, member in pairs if member is value or member == value]
        # Rules are refused as a whole, with the one at fault in what was expected.
        quoted = [each for each, member in pairs if isinstance(member, str) and member and repr(member) in expected]
        fitting: list[Node] = [*found, *quoted, node]
        return fitting[0]
    if isinstance(node.value, dict):
        named: list[Node] = [
            each for name, each in node.value.items() if name == value or (name and repr(name) in expected)
        ]
        return named[0] if named else node
    return node


def _as_written(value: Value) -> Value:
    """A list as a file would have it."""
    return f"[{', '.join(str(each.value) for each in value)}]" if isinstance(value, list) else value


def _found(node: Node) -> str:
    if node.secret:
        return "the value is not right"
    if node.value is None:
        return "there is no value"
    if isinstance(node.value, dict):
        return "this is a mapping"
    if isinstance(node.value, list):
        return "this is a list"
    if isinstance(node.value, bool):
        return "this is true" if node.value else "this is false"
    # Quotes are shown where they are what is wrong.
    return "this is " + brief(f'"{node.value}"' if _is_quoted(node) else node.value)


def _is_quoted(node: Node) -> bool:
    """Whether the file has it in quotes, for it would be no text without."""
    if node.loose or not isinstance(node.value, str):
        return False
    return units.decimal(node.value) is not None or node.value.lower() in ("true", "false", "null", "~", "")


def _split(node: Node) -> Any:
    """A list that a variable or a flag gives as one text, with commas."""
    if not (node.loose and isinstance(node.value, str)):
        return node.value
    parts = [each.strip() for each in node.value.split(",")]
    return [Node(each, node.origin, loose=True, secret=node.secret) for each in parts if each]


def _scalar(shape: Shape, node: Node) -> Any:
    """The value as its kind has it, or `BROKEN`."""
    value = node.value
    if shape.kind in ("text", "function"):
        return value if isinstance(value, str) else BROKEN
    if shape.kind == "choice":
        # `1.2` without quotes is a number to YAML, and nobody means one.
        text = str(value) if isinstance(value, str | float) else ""
        return text if text in shape.choices else BROKEN
    if shape.kind == "flag":
        if node.loose and isinstance(value, str):
            return {"true": True, "false": False}.get(value.lower(), BROKEN)
        return value if isinstance(value, bool) else BROKEN
    if isinstance(value, str):
        return _number(shape.kind, value, is_loose=node.loose)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return BROKEN
    is_whole = isinstance(value, int)
    return value if is_whole or shape.kind in ("number", "seconds") else BROKEN


def _number(kind: str, text: str, *, is_loose: bool) -> Any:
    if kind == "seconds":
        found: float | None = units.duration(text)
    elif kind == "bytes":
        found = units.size(text)
    elif is_loose:
        found = units.whole(text) if kind == "whole" else units.decimal(text)
    else:
        found = None
    return BROKEN if found is None else found
