"""The lines of an input file: what each has to be, and what is kept of it.

Knows: the members of a line, the codes of what can be wrong with them. Must not know: where lines come from.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from ..resources.lines import Line

_LONGEST_ID = 512
_MOST_FAULTS = 50
"""So many are told; then it is clear enough that the file is no good."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DIGEST = 16


class LineFault(msgspec.Struct, frozen=True):
    """What is wrong with a file, as a batch shows it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a line."""

    custom_id: str
    body: bytes


class _Read(msgspec.Struct, gc=False):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Model(msgspec.Struct, gc=False):
    model: Any = None


_read = msgspec.json.Decoder(_Read).decode
_read_any = msgspec.json.Decoder().decode
_read_model = msgspec.json.Decoder(_Model).decode
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Request).decode
_unpack_faults = msgspec.json.Decoder(list[LineFault]).decode


def packed(line: bytes) -> bytes:
    """The item of a line that was checked."""
    read = _read(line)
    return _pack(Request(read.custom_id, bytes(read.body)))


def unpacked(item: bytes) -> Request:
    return _unpack(item)


def packed_faults(faults: list[LineFault]) -> bytes:
    return msgspec.json.encode(faults)


def unpacked_faults(data: bytes | None) -> list[LineFault]:
    return [] if data is None else _unpack_faults(data)


class Checker:
    """`check` one line after the other, and `close` behind the last; `faults` are what is wrong.

    Of each id a digest is kept, so that what is held does not depend on how long they are.
    """

    def __init__(self, endpoint: str, *, most_lines: int, most_bytes: int, one_model: bool) -> None:
        self.faults: list[LineFault] = []
        self._endpoint = endpoint
        self._most_lines = most_lines
        self._most_bytes = most_bytes
        self._one_model = one_model
        self._lines: dict[bytes, int] = {}
        self._model: tuple[str, int] | None = None
        self._n = 0

    @property
    def is_enough(self) -> bool:
        """Whether nothing has to be read any more."""
        return len(self.faults) >= _MOST_FAULTS or self._n > self._most_lines

    def check(self, line: Line) -> None:
        self._n += 1
        if self._n > self._most_lines:
            self._fault("too_many_lines", f"The file has more than {self._most_lines} requests.", line.number)
            return
        try:
            line.decode("utf-8")
            read = _read(line)
        except UnicodeDecodeError:
            self._fault("invalid_json_line", "This line is not UTF-8.", line.number)
        except (msgspec.DecodeError, RecursionError):
            self._explain(line)
        else:
            self._check(read, line.number)

    def too_long(self, number: int, most: int) -> None:
        self._fault("line_too_long", f"This line has more than {most} bytes.", number)

    def close(self) -> None:
        if self._n == 0 and not self.faults:
            self._fault("empty_file", "The input file has no requests.", None)

    def _check(self, read: _Read, number: int) -> None:
        self._check_id(read.custom_id, number)
        if read.method != "POST":
            self._fault("invalid_method", f"`method` is {_short(read.method)}; it must be POST.", number, "method")
        if read.url != self._endpoint:
            message = f"`url` is {_short(read.url)}, and the endpoint of the batch is {_short(self._endpoint)}."
            self._fault("url_mismatch", message, number, "url")
        body = bytes(read.body)
        if not body.startswith(b"{"):
            self._fault("invalid_type", "`body` must be an object.", number, "body")
            return
        if len(body) > self._most_bytes:
            message = f"`body` has {len(body)} bytes; the limit is {self._most_bytes}."
            self._fault("body_too_large", message, number, "body")
        if self._one_model:
            self._check_model(_read_model(body).model, number)

    def _check_id(self, custom_id: str, number: int) -> None:
        if not 0 < len(custom_id) <= _LONGEST_ID or _CONTROL.search(custom_id):
            message = f"`custom_id` must be 1 to {_LONGEST_ID} characters, without control characters."
            self._fault("invalid_custom_id", message, number, "custom_id")
            return
        digest = hashlib.blake2b(custom_id.encode(), digest_size=_DIGEST).digest()
        first = self._lines.setdefault(digest, number)
        if first != number:
            message = f"The `custom_id` {_short(custom_id)} is already that of line {first}."
            self._fault("duplicate_custom_id", message, number, "custom_id")

    def _check_model(self, model: Any, number: int) -> None:
        if not isinstance(model, str):
            return  # it is for the API to say whether it needs one
        if self._model is None:
            self._model = model, number
        elif model != self._model[0]:
            known, first = self._model
            message = f"`model` is {_short(model)}, and that of line {first} is {_short(known)}."
            self._fault("model_mismatch", message, number, "body.model")

    def _explain(self, line: Line) -> None:
        """A line that is not what it should be: in which way."""
        try:
            found = _read_any(line)
        except (msgspec.DecodeError, RecursionError):
            self._fault("invalid_json_line", "This line is not parseable as valid JSON.", line.number)
            return
        if not isinstance(found, dict):
            self._fault("invalid_json_line", "This line is not a JSON object.", line.number)
            return
        for name in ("custom_id", "method", "url", "body"):
            if name not in found:
                message = f"Missing required parameter: '{name}'."
                self._fault("missing_required_parameter", message, line.number, name)
                return
            if name != "body" and not isinstance(found[name], str):
                self._fault("invalid_type", f"`{name}` must be a string.", line.number, name)
                return

    def _fault(self, code: str, message: str, line: int | None, param: str | None = None) -> None:
        if len(self.faults) < _MOST_FAULTS:
            self.faults.append(LineFault(code, message, line, param))


def _short(text: str) -> str:
    shown = text if len(text) <= 100 else text[:100] + "…"
    return f"'{_CONTROL.sub('?', shown)}'"
