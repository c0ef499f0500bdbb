"""YAML 1.2, with the place of every key and value.

Knows: mappings, lists and scalars. Tags, anchors, aliases, merge keys and a key twice are refused, so that what is
read is what is seen. Must not know: settings.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from .located import Origin, Report, brief, has_password, is_secret_key, printable
from .node import REPORTED, Node, Value

MOST_BYTES = 1024 * 1024
_MOST_NODES = 50_000
_DEEPEST = 16

# YAML 1.2, section 10.3.2. Numbers of more digits than any setting has stay text.
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_BASED = re.compile(r"0o[0-7]{1,20}|0x[0-9a-fA-F]{1,15}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?")
_INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")

_SECRET_LINE = re.compile(r"^\s*(?:- )?[\"']?([\w-]+)[\"']?\s*:")


class _TooMuch(Exception):
    """The document is refused before it costs much; the message says why."""


@dataclass(slots=True)
class _Open:
    """A mapping or list that has not ended."""

    node: Node
    start: int
    key: tuple[str, Origin] | None = None
    has_key: bool = False
    items: list[Node] = field(default_factory=list)


def read(text: str, report: Report) -> Node | None:
    """The one document of a text; None if there is none, or if its syntax is wrong. Errors go into the report."""
    return _Reading(text, report).node()


class _Reading:
    def __init__(self, text: str, report: Report) -> None:
        self._text = text
        self._report = report
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        report.lines = [line.removesuffix("\r") for line in text.split("\n")]
        self._open: list[_Open] = []
        self._root: Node | None = None
        self._documents = 0
        self._nodes = 0
        self._last = 0

    def node(self) -> Node | None:
        try:
            for event in YAML(typ="safe", pure=True).parse(self._text):
                if event.start_mark is not None:
                    self._last = event.start_mark.index
                self._take(event)
        except _TooMuch as fault:
            self._hide_open()
            self._report.error(self._origin(self._last), str(fault))
            return None
        except Exception as fault:
            # Whatever a text makes the parser raise, it is the text that is wrong.
            self._hide_open()
            self._say(fault)
            return None
        return self._root

    def _origin(self, index: int) -> Origin:
        line = bisect_right(self._starts, index)
        return Origin("file", self._report.file, line, index - self._starts[line - 1] + 1)

    def _say(self, fault: Exception) -> None:
        index, message = self._last, "the YAML cannot be read"
        if isinstance(fault, MarkedYAMLError):
            mark = fault.problem_mark or fault.context_mark
            index = mark.index if mark is not None else index
            if index >= len(self._text.rstrip()):
                index = self._unended(fault, index)
            context = f"{fault.context}: " if fault.context else ""
            # What the parser quotes are characters, never values.
            message = f"this is not valid YAML: {context}{fault.problem or 'unexpected text'}"
        elif isinstance(fault, ReaderError):
            index, message = fault.position, f"this is not valid YAML: {fault.reason}"
        elif isinstance(fault, YAMLError):
            message = "this is not valid YAML"
        origin = self._origin(min(index, len(self._text)))
        self._hide_near(origin.line)
        self._report.error(origin, printable(" ".join(message.split())))

    def _unended(self, fault: MarkedYAMLError, index: int) -> int:
        """Where that began which the text never ends: more telling than the end."""
        if fault.context_mark is not None and fault.context_mark.index < index:
            return fault.context_mark.index  # type: ignore[no-any-return]
        return self._open[-1].start if self._open else index

    def _hide_open(self) -> None:
        """Hides what stands in the value of a secret key that has not ended."""
        for opened in self._open:
            if opened.key is not None and is_secret_key(opened.key[0]):
                place = opened.key[1]
                self._report.hide(place.line, place.column + len(opened.key[0]))
                for line in range(place.line + 1, len(self._report.lines) + 1):
                    self._report.hide(line, 1)
                return

    def _hide_near(self, number: int) -> None:
        """Hides a line of which it is not known what it holds, if it may belong to a secret."""
        lines = self._report.lines
        if has_password(lines[number - 1]):
            self._report.hide(number, 1)
        depth = 10**9
        for line in range(number, 0, -1):
            text = lines[line - 1]
            own = len(text) - len(text.lstrip())
            named = _SECRET_LINE.match(text)
            if (own < depth or line == number) and named is not None and is_secret_key(named[1]):
                self._report.hide(number, named.end() + 1 if line == number else 1)
            if line == number and any(map(is_secret_key, re.findall(r"[\w-]{1,64}", text))):
                self._report.hide(number, 1)
            if text.strip():
                depth = min(depth, own)
            if depth == 0 and line != number:
                return

    def _take(self, event: Any) -> None:
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            self._close(event)
        elif isinstance(event, DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _TooMuch("a second document begins here, expected one")
            if event.version not in (None, (1, 2)) or event.tags:
                self._report.error(self._origin(self._last), "a directive, expected YAML 1.2 without tags")
        elif isinstance(event, AliasEvent):
            self._report.error(self._origin(self._last), "an alias, expected the value itself: aliases are not read")
            self._add(Node(REPORTED, self._origin(self._last)), event)
        elif isinstance(event, ScalarEvent | MappingStartEvent | SequenceStartEvent):
            self._begin(event)

    def _begin(self, event: Any) -> None:
        self._nodes += 1
        if self._nodes > _MOST_NODES:
            raise _TooMuch(f"the document has more than {_MOST_NODES} values")
        origin = self._origin(event.start_mark.index)
        if event.anchor is not None:
            self._report.error(origin, "an anchor, expected the value alone: anchors are not read")
        if event.tag is not None and event.tag != "!":
            self._report.error(origin, "a tag, expected the value alone: tags are not read")
        if isinstance(event, ScalarEvent):
            self._scalar(event, origin)
            return
        if len(self._open) >= _DEEPEST:
            raise _TooMuch(f"the values are nested deeper than {_DEEPEST} levels")
        node = Node({} if isinstance(event, MappingStartEvent) else [], origin)
        self._open.append(_Open(node, event.start_mark.index))

    def _scalar(self, event: ScalarEvent, origin: Origin) -> None:
        top = self._open[-1] if self._open else None
        if top is not None and isinstance(top.node.value, dict) and not top.has_key:
            top.has_key = True
            top.key = (event.value, origin)
            if event.value == "<<":
                self._report.error(origin, "a merge key, expected the keys themselves: merge keys are not read")
            return
        is_plain = event.style in (None, "") and event.tag is None
        self._add(Node(resolved(event.value) if is_plain else event.value, origin), event)

    def _add(self, node: Node, event: Any) -> None:
        """Puts a finished value into what it belongs to."""
        if not self._open:
            self._root = node
            return
        top = self._open[-1]
        if isinstance(top.node.value, list):
            top.node.value.append(node)
            self._hide_secrets(None, node, event)
            return
        if not top.has_key:
            self._report.error(node.origin, "a key that is no text, expected a name")
            top.has_key = True
            return
        key, top.key, top.has_key = top.key, None, False
        if key is None or key[0] == "<<":
            return
        name, place = key
        self._hide_secrets(name, node, event)
        if name in top.node.value:
            first = top.node.value[name].place
            self._report.error(
                place, f"key {brief(name)} is there twice, expected it once; the first is in line {first.line}"
            )
            return
        node.key = place
        top.node.value[name] = node

    def _close(self, event: Any) -> None:
        opened = self._open.pop()
        self._add(opened.node, _Span(opened.start, event.end_mark.index))

    def _hide_secrets(self, name: str | None, node: Node, event: Any) -> None:
        by_name = name is not None and is_secret_key(name)
        if not by_name and not (isinstance(node.value, str) and has_password(node.value)):
            return
        node.secret = True
        span = event if isinstance(event, _Span) else _Span(event.start_mark.index, event.end_mark.index)
        first, last = self._origin(span.start), self._origin(max(span.start, span.end - 1))
        self._report.hide(first.line, first.column)
        for line in range(first.line + 1, last.line + 1):
            self._report.hide(line, 1)


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int


def resolved(text: str) -> Value:
    """What a plain scalar is."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITE.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", "").lower())
    return text
