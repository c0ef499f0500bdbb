"""The batch that a user wants to send: a document, or only its items; and the same as a command of curl."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .speaking import Code, escaped, fail

STREAMED = "application/x-ndjson"
BUFFERED = "application/json"


def read(file: Path) -> bytes:
    """The bytes of the batch, as they stand in the file; a list of items becomes a document."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as fault:
        fail(Code.USAGE, f"{escaped(file)} cannot be read: {fault.strerror}")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as fault:
        fail(Code.USAGE, f"{escaped(file)} is not JSON: {escaped(fault)}")
    if isinstance(document, list):
        return b'{"requests": ' + content.strip() + b"}"
    if not isinstance(document, dict):
        fail(Code.USAGE, f"{escaped(file)}: expected a batch, or a list of items")
    return content


def header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip() or not (text.isprintable() and text.isascii()):
        fail(Code.USAGE, f"--header {escaped(text)}: expected NAME:VALUE in ASCII")
    return name.strip(), value.strip()


def curl(url: str, headers: Sequence[tuple[str, str]], body: bytes, *, is_streamed: bool) -> str:
    """The command that sends the same."""
    words = ["curl", *(["--no-buffer"] if is_streamed else []), url]
    for name, value in headers:
        words += ["--header", f"{name}: {value}" if value else f"{name};"]
    return shlex.join([*words, "--data-binary", body.decode("utf-8", "replace").strip()])
