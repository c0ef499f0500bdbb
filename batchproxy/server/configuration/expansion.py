"""`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `${file:/path}` in text; `$$` is one `$`.

Text is expanded once, after the document has been read: what a variable holds is never read as YAML, nor expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .located import Report, brief, is_secret_key, suggestion
from .node import REPORTED, Node

_PART = re.compile(r"\$(?:\$|\{([^{}]*)\})?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_BYTES = 64 * 1024
_LIKENESS = 0.75
"""There are many variables, and most have nothing to do with us."""


class Expansion:
    """`files` are those that `${file:…}` has read."""

    def __init__(self, environment: Mapping[str, str], folder: Path, report: Report) -> None:
        self._environment = environment
        self._folder = folder
        self._report = report
        self.files: list[Path] = []

    def expand(self, node: Node) -> None:
        """Expands every text in a tree, in place. What is in keys stays as it is."""
        if isinstance(node.value, dict):
            for each in node.value.values():
                self.expand(each)
        elif isinstance(node.value, list):
            for each in node.value:
                self.expand(each)
        elif isinstance(node.value, str) and "$" in node.value and node.origin.kind == "file":
            self._expand_text(node)

    def _expand_text(self, node: Node) -> None:
        text, parts, end = node.value, [], 0
        before = len(self._report.errors)
        for match in _PART.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match[0] == "$$":
                parts.append("$")
            elif match[1] is None:
                parts.append("$")
                # A `$` alone is no mistake in a path such as `/v1.0/$batch`, but one of an unfinished `${` is.
                if text[end : end + 1] == "{":
                    self._report.error(node.origin, "`${` without its `}`, expected `${NAME}`, or `$${` for the text")
            else:
                parts.append(self._value(match[1], node))
                node.loose = True
        node.value = "".join([*parts, text[end:]]) if len(self._report.errors) == before else REPORTED

    def _value(self, inside: str, node: Node) -> str:
        if inside.startswith("file:"):
            return self._content(inside.removeprefix("file:"), node)
        name = _NAME.match(inside)
        operator = inside[name.end() : name.end() + 2] if name else ""
        if name is None or operator not in ("", ":-", ":?"):
            expected = "expected `${NAME}`, `${NAME:-default}`, `${NAME:?message}` or `${file:/path}`"
            self._report.error(node.origin, f"this `${{…}}` cannot be read, {expected}")
            return ""
        value, rest = self._environment.get(name[0]), inside[name.end() + 2 :]
        if is_secret_key(name[0]):
            node.secret = True
        if operator and not value:
            if operator == ":-":
                return rest
            self._report.error(node.origin, f"variable `{name[0]}` is not set: {rest or 'expected a value'}")
            return ""
        if value is None:
            near = suggestion_of_variable(name[0], self._environment)
            self._report.error(node.origin, f"variable `{name[0]}` is not set, expected a value or a default{near}")
            return ""
        return value

    def _content(self, path: str, node: Node) -> str:
        node.secret = True
        try:
            found = self._folder / path
            self.files.append(found)
            with found.open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
            if len(content) > _MOST_BYTES:
                raise OSError(f"it has more than {_MOST_BYTES} bytes")
            text = content.decode("utf-8")
        except (OSError, ValueError) as fault:
            why = fault.strerror or str(fault) if isinstance(fault, OSError) else "it is not text in UTF-8"
            self._report.error(node.origin, f"file {brief(path)} cannot be read: {why}")
            return ""
        return text.removesuffix("\n").removesuffix("\r")


def suggestion_of_variable(name: str, environment: Mapping[str, str]) -> str:
    by_lower = {each.lower(): each for each in environment}
    near = suggestion(name, list(by_lower), _LIKENESS)
    for lower, original in by_lower.items():
        if f"`{lower}`" in near:
            return near.replace(lower, original)
    return near
