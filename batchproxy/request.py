"""The request that brings a batch: what it asks for, and its body, within the limits and in time."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence

from .engine.deadline import within
from .engine.errors import NotAcceptable, ReadTimeout, TooLarge, Unsupported
from .engine.headers import inherited
from .engine.model import Caller, Headers, Receive, Scope
from .engine.policy import Limits

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MOST_DIGITS = 30
CLOSE = (b"connection", b"close")


class Disconnected(Exception):
    """The client left before its request was complete: there is nobody to answer."""


def fields(scope: Scope) -> dict[bytes, bytes]:
    """The headers by name; several of one name joined as a list (RFC 9110, section 5.3)."""
    single: dict[bytes, bytes] = {}
    several: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in single:
            several.setdefault(name, [single[name]]).append(value)
        else:
            single[name] = value
    if several:
        single |= {name: b", ".join(values) for name, values in several.items()}
    return single


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """The caller's `X-Request-ID`, or a new one."""
    given = headers.get(b"x-request-id")
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given.decode("ascii")
    return random.getrandbits(128).to_bytes(16).hex()


def caller(scope: Scope, headers: Mapping[bytes, bytes], mount: str, *, id: str, browser: bool) -> Caller:
    client = scope.get("client")
    return Caller(
        request_id=id,
        scheme=scope.get("scheme", "http"),
        host=headers.get(b"host", b"").decode("latin-1"),
        mount=mount,
        root_path=scope.get("root_path", "").rstrip("/"),
        client=None if client is None else (client[0], client[1]),
        inherited=inherited(scope["headers"]),
        browser=browser,
    )


def check_content(headers: Mapping[bytes, bytes]) -> None:
    """Raises `Unsupported` unless the body is said to be plain JSON."""
    coding = headers.get(b"content-encoding")
    if coding is not None:
        raise Unsupported("Send the body without Content-Encoding; it is taken uncompressed only.")
    given = headers.get(b"content-type", b"")
    if given == b"application/json":
        return
    media_type = given.decode("latin-1").partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(r"[^/\s]+/[^/\s]+\+json", media_type):
        raise Unsupported("Send the batch as JSON, with the header `Content-Type: application/json`.")


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The offered media type that suits `Accept` best (RFC 9110, section 12.5.1); the first of equals.

    Raises `NotAcceptable`.
    """
    if accept is None or accept.strip() in ("", "*/*", offered[0]):
        return offered[0]
    ranges = [_media_range(text) for text in accept.lower().split(",") if text.strip()]
    best, best_quality = "", 0.0
    for media_type in offered:
        quality = _quality(media_type, ranges)
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        raise NotAcceptable(f"The answer is available as {', '.join(offered)}.")
    return best


def _media_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            return media_range, float(value) if _QUALITY.fullmatch(value.strip()) else 0.0
    return media_range, 1.0


def _quality(media_type: str, ranges: Sequence[tuple[str, float]]) -> float:
    """That of the most specific range which matches."""
    for wanted in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        found = [quality for media_range, quality in ranges if media_range == wanted]
        if found:
            return max(found)
    return 0.0


def prefers_minimal(headers: Mapping[bytes, bytes]) -> bool:
    """`Prefer: return=minimal` (RFC 7240, section 4.2)."""
    preferences = headers.get(b"prefer", b"").decode("latin-1").lower().split(",")
    return any(
        re.fullmatch(r'\s*return\s*=\s*"?minimal"?\s*', preference.partition(";")[0]) for preference in preferences
    )


def check_length(headers: Mapping[bytes, bytes], limits: Limits, *, http1: bool) -> None:
    """Raises `TooLarge` for a body that is declared to be, before any of it is read."""
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > _MOST_DIGITS or int(declared) > limits.max_batch_bytes):
        raise _too_large(declared[:_MOST_DIGITS].decode("ascii"), limits, (CLOSE,) if http1 else ())


async def read_body(receive: Receive, limits: Limits, *, http1: bool) -> bytes:
    """The whole body. Raises `TooLarge` as soon as it is, `ReadTimeout`, or `Disconnected`.

    The unread rest of a body cannot be told from the next request, so these errors close an HTTP/1 connection.
    """
    closing = (CLOSE,) if http1 else ()
    loop = asyncio.get_running_loop()
    end = loop.time() + limits.read_total_timeout
    chunks: list[bytes] = []
    size = 0
    pause_ends = loop.time() + limits.read_timeout
    while True:
        try:
            message = await within(min(end, pause_ends), receive())
        except TimeoutError:
            raise ReadTimeout(
                f"The body must arrive within {limits.read_total_timeout:g} s, without a pause of more than"
                f" {limits.read_timeout:g} s.",
                headers=closing,
            ) from None
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        if chunk:
            pause_ends = loop.time() + limits.read_timeout
        size += len(chunk)
        if size > limits.max_batch_bytes:
            raise _too_large(f"at least {size}", limits, closing)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(actual: str, limits: Limits, headers: Headers) -> TooLarge:
    return TooLarge(f"The body has {actual} bytes; the limit is {limits.max_batch_bytes}.", headers=headers)
