"""Reads multipart/form-data (RFC 7578) as it comes: parts, and their contents in pieces.

Knows: delimiters, the header of a part. Must not know: sockets, what a form is for.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TypeAlias

import msgspec

from ...engine.errors import Unsupported
from .problems import ApiError

_LONGEST_HEAD = 8 * 1024
_BOUNDARY = re.compile(
    r'multipart/form-data\s*;(?:.*;)?\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;.*)?', re.I
)
_DISPOSITION = re.compile(rb"^content-disposition:[ \t]*form-data[ \t]*((?:;.*)?)$", re.I | re.M)
_PARAMETER = re.compile(r';\s*(name|filename)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s;"]+))', re.I)
_ESCAPES = (("%22", '"'), ("%0D", "\r"), ("%0A", "\n"))


class Part(msgspec.Struct, frozen=True):
    """A part begins. What follows is its content, up to the next part or the end."""

    name: str
    filename: str | None


Event: TypeAlias = Part | bytes


class _At(Enum):
    PREAMBLE = auto()
    DELIMITER = auto()
    HEAD = auto()
    CONTENT = auto()
    END = auto()


def boundary(content_type: bytes) -> bytes:
    """Raises `Unsupported` for what is no form with files."""
    match = _BOUNDARY.fullmatch(content_type.decode("latin-1").strip())
    if match is None:
        raise Unsupported("Send the file as multipart/form-data.")
    return (match[1] or match[2]).encode("latin-1")


class FormReader:
    """`feed` what comes, `close` behind it. Raises `ApiError`."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._buffer = b"\r\n"  # so that the first delimiter is found as the others are
        self._at = _At.PREAMBLE

    def feed(self, data: bytes) -> list[Event]:
        self._buffer += data
        events: list[Event] = []
        while self._step(events):
            pass
        return events

    def close(self) -> None:
        if self._at is not _At.END:
            raise _malformed("it ends too early")

    def _step(self, events: list[Event]) -> bool:
        """Whether there may be another one to do."""
        match self._at:
            case _At.PREAMBLE | _At.CONTENT:
                return self._read_content(events)
            case _At.DELIMITER:
                return self._read_delimiter()
            case _At.HEAD:
                return self._read_head(events)
        self._buffer = b""
        return False

    def _read_content(self, events: list[Event]) -> bool:
        end = self._buffer.find(self._delimiter)
        is_found = end >= 0
        if not is_found:
            # What may be the beginning of a delimiter waits for the rest.
            end = max(len(self._buffer) - len(self._delimiter) + 1, 0)
        if self._at is _At.CONTENT and end:
            events.append(self._buffer[:end])
        if is_found:
            end += len(self._delimiter)
            self._at = _At.DELIMITER
        self._buffer = self._buffer[end:]
        return is_found

    def _read_delimiter(self) -> bool:
        self._buffer = self._buffer.lstrip(b" \t")
        if len(self._buffer) < 2:
            return False
        after, self._buffer = self._buffer[:2], self._buffer[2:]
        if after == b"--":
            self._at = _At.END
        elif after == b"\r\n":
            self._at = _At.HEAD
        else:
            raise _malformed("something stands behind a boundary")
        return True

    def _read_head(self, events: list[Event]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end > _LONGEST_HEAD or (end < 0 and len(self._buffer) > _LONGEST_HEAD):
            raise _malformed("the header of a part is too long")
        if end < 0:
            return False
        events.append(_part(self._buffer[:end].replace(b"\r\n", b"\n")))
        self._buffer = self._buffer[end + 4 :]
        self._at = _At.CONTENT
        return True


def _part(head: bytes) -> Part:
    disposition = _DISPOSITION.search(head)
    found: dict[str, str] = {}
    if disposition is not None:
        for name, quoted, bare in _PARAMETER.findall(disposition[1].decode("utf-8", "replace")):
            found.setdefault(name.lower(), bare or re.sub(r'\\(["\\])', r"\1", quoted))
    if "name" not in found:
        raise _malformed("a part has no name")
    return Part(_unescaped(found["name"]), _unescaped(found["filename"]) if "filename" in found else None)


def _unescaped(text: str) -> str:
    """The HTML standard has three characters written like this, and no others."""
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return text


def _malformed(why: str) -> ApiError:
    return ApiError(f"The form cannot be read: {why}.", code="invalid_form")
