"""Where values come from, and errors that say so.

Knows: places in a file, variables, flags; how errors are shown. Must not know: YAML, settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

Format: TypeAlias = Literal["text", "json", "github"]

MOST_ERRORS = 100
_WIDEST = 160
_LONGEST_NAME = 64
_SECRET = re.compile(
    r"auth|token|secret|passw|cookie|api[-_]?key|-key$|credential|session|signature|bearer|jwt", re.IGNORECASE
)
_WEBHOOK_SECRET = "whsec_"
"""How a secret of webhooks begins, wherever it was put by mistake."""
_USERINFO = re.compile(r"//[^/?#\s]*@")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. `name` is the file, the variable or the flag; lines and columns count from 1."""

    kind: Literal["default", "file", "environment", "flag"]
    name: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        if self.kind == "file":
            return f"{self.name}:{self.line}:{self.column}" if self.line else self.name
        return self.kind if self.kind == "default" else f"{self.kind} {self.name}"


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """What is wrong, and where. `file` is the variable or flag where there is no file; then `line` is 0."""

    file: str
    line: int
    column: int
    message: str
    source_line: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{printable(place)}: {self.severity}: {self.message}"
        if not self.source_line:
            return text
        line, column = _window(self.source_line, self.column - 1)
        caret = "".join("\t" if character == "\t" else " " for character in line[:column]) + "^"
        return "\n".join((text, printable(line, keep="\t"), caret))


class ConfigErrors(Exception):
    """All that is wrong with a configuration."""

    def __init__(self, errors: Sequence[Located]) -> None:
        super().__init__(errors)
        self.errors = list(errors)

    def __str__(self) -> str:
        return rendered(self.errors)


def rendered(errors: ConfigErrors | Sequence[Located], format: Format = "text") -> str:
    """`text` for people, `json` for programs, `github` for annotations in a pull request."""
    found = errors.errors if isinstance(errors, ConfigErrors) else errors
    if format == "json":
        members = ("file", "line", "column", "severity", "message", "source_line")
        return json.dumps([{name: getattr(each, name) for name in members} for each in found], indent=2)
    if format == "github":
        return "\n".join(map(_annotation, found))
    return "\n".join(map(str, found))


def _annotation(error: Located) -> str:
    name = error.file.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    place = f"file={name.replace(':', '%3A').replace(',', '%2C')}"
    if error.line:
        place += f",line={error.line},col={error.column}"
    return f"::{error.severity} {place}::{error.message.replace('%', '%25')}"


def _window(line: str, column: int) -> tuple[str, int]:
    """The part of a long line around the column, and where the column is in it."""
    if len(line) <= _WIDEST:
        return line, min(column, len(line))
    start = max(0, min(column - _WIDEST // 2, len(line) - _WIDEST))
    return line[start : start + _WIDEST], column - start


def printable(text: str, *, keep: str = "") -> str:
    """Without what a terminal would obey."""
    return "".join(each if each.isprintable() or each in keep else "�" for each in text)


def brief(value: object) -> str:
    """A value as an error shows it."""
    text = printable(str(value).lower() if isinstance(value, bool) else str(value))
    return f"`{text}`" if len(text) <= _LONGEST_NAME else f"`{text[:_LONGEST_NAME]}…`"


def suggestion(name: str, known: Sequence[str], likeness: float = 0.6) -> str:
    """`, did you mean …?`, if there is a name like it."""
    if len(name) > _LONGEST_NAME:
        return ""
    near = get_close_matches(name.lower(), known, 1, likeness)
    return f", did you mean `{near[0]}`?" if near else ""


def is_secret_key(name: str) -> bool:
    """Whether the value of a key is never shown; a misspelt one counts, for its error shows the line."""
    if _SECRET.search(name):
        return True
    return len(name) <= _LONGEST_NAME and bool(
        get_close_matches(name.lower(), ("admin_token", "authorization"), 1, 0.75)
    )


def has_password(text: str) -> bool:
    return _USERINFO.search(text) is not None


@dataclass(slots=True)
class Report:
    """Gathers what is wrong. Lines of the file are shown as far as they hold no secret."""

    file: str = ""
    lines: Sequence[str] = ()
    errors: list[tuple[Origin, str]] = field(default_factory=list)
    warnings: list[tuple[Origin, str]] = field(default_factory=list)
    hidden: dict[int, int] = field(default_factory=dict)
    """Lines that hold a secret, and the column from which on they are not shown; both from 1."""

    def error(self, origin: Origin, message: str) -> None:
        self.errors.append((origin, message))

    def suggestion(self, name: str, known: Sequence[str]) -> str:
        """`suggestion`, for as many errors as are shown: looking for it is what costs most."""
        return suggestion(name, known) if len(self.errors) < MOST_ERRORS else ""

    def warn(self, origin: Origin, message: str) -> None:
        self.warnings.append((origin, message))

    def hide(self, line: int, column: int) -> None:
        self.hidden[line] = min(column, self.hidden.get(line, column))

    def located_errors(self) -> list[Located]:
        ordered = sorted(self.errors, key=lambda each: (each[0].kind != "file", each[0].line, each[0].column))
        found = [self._located(origin, message, "error") for origin, message in dict.fromkeys(ordered)]
        if len(found) > MOST_ERRORS:
            rest = f"and {len(found) - MOST_ERRORS} more errors"
            found[MOST_ERRORS:] = [Located(file=self.file, line=0, column=0, message=rest)]
        return found

    def located_warnings(self) -> list[Located]:
        return [self._located(origin, message, "warning") for origin, message in self.warnings]

    def _located(self, origin: Origin, message: str, severity: Literal["error", "warning"]) -> Located:
        # What nobody wrote is missing in the whole.
        name = {"file": origin.name, "default": self.file}.get(origin.kind) or str(origin)
        source = ""
        if origin.kind == "file" and 1 <= origin.line <= len(self.lines):
            source = self.lines[origin.line - 1]
            if origin.line in self.hidden:
                source = source[: self.hidden[origin.line] - 1] + "…"
            before, secret, _ = source.partition(_WEBHOOK_SECRET)
            if secret:
                source = before + "…"
        return Located(
            file=name,
            line=origin.line,
            column=origin.column,
            message=printable(message),
            source_line=source,
            severity=severity,
        )
