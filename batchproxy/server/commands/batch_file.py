"""The batch that a user wants to send, a document or only its items, and where to; the same as a command of curl."""

from __future__ import annotations

import json
import re
import shlex
import sys
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from .speaking import Code, escaped, fail

STREAMED = "application/x-ndjson"
BUFFERED = "application/json"
_EXPECTED = "expected a batch, or a list of items, in JSON"
_USUAL_URL = "http://127.0.0.1:8080/batch"


def read(file: Path) -> bytes:
    """The bytes of the batch, as they stand in the file; a list of items becomes a document."""
    is_stdin = str(file) == "-"
    name = "stdin" if is_stdin else escaped(file)
    try:
        content = sys.stdin.buffer.read() if is_stdin else file.read_bytes()
    except (OSError, ValueError) as fault:
        fail(Code.USAGE, f"{name} cannot be read: {getattr(fault, 'strerror', None) or fault}")
    content = content.removeprefix(BOM_UTF8)
    if not content.strip():
        fail(Code.USAGE, f"{name} is empty: {_EXPECTED}")
    try:
        document = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        fail(Code.USAGE, f"{name} is not text in UTF-8: {_EXPECTED}")
    except (ValueError, RecursionError) as fault:
        fail(Code.USAGE, f"{name} is not JSON: {escaped(fault)}")
    if isinstance(document, list):
        return b'{"requests": ' + content.strip() + b"}"
    if not isinstance(document, dict):
        fail(Code.USAGE, f"{name}: {_EXPECTED}")
    return content


def check_url(text: str) -> None:
    """Ends the program if a batch cannot be sent there."""
    if not _is_url(text):
        example = _USUAL_URL
        if "://" not in text and _is_url(f"http://{text}"):
            example = f"http://{text}" if "/" in text else f"http://{text}/batch"
        given = named(text) or "''"
        fail(Code.USAGE, f"--url {given}: expected http:// or https://, a host and a path, such as {named(example)}")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and _is_visible(text)
    except ValueError:
        return False


def _is_visible(text: str) -> bool:
    return text.isprintable() and " " not in text


def named(url: str) -> str:
    """An URL for a message, which others may read: without the password in it."""
    return escaped(re.sub(r"//[^/?#]*@", "//…@", url))


def header(text: str) -> tuple[str, str]:
    from ...engine.headers import is_token

    name, colon, value = text.partition(":")
    if not colon or not is_token(name.strip()) or not (text.isprintable() and text.isascii()):
        fail(Code.USAGE, f"--header {escaped(text)}: expected NAME:VALUE in ASCII")
    return name.strip(), value.strip()


def curl(url: str, headers: Sequence[tuple[str, str]], body: bytes, *, is_streamed: bool) -> str:
    """The command that sends the same."""
    words = ["curl", *(["--no-buffer"] if is_streamed else []), url]
    for name, value in headers:
        words += ["--header", f"{name}: {value}" if value else f"{name};"]
    return shlex.join([*words, "--data-binary", body.decode("utf-8", "replace").strip()])
