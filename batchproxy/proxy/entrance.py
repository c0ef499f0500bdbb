"""`Entrance`: what stands first in the standalone process, and sees every request before anything else does.

Knows: what makes a request unfit to be passed on by anybody (RFC 9110, RFC 9112), and who the client is.
Must not know: batches, routes. Servers differ in what they let through; after this, nothing depends on the server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from email.utils import formatdate

from ..engine.errors import SettingError
from ..engine.headers import HOP_BY_HOP, connection_options
from ..engine.model import ASGIApp, Message, Receive, Scope, Send
from ..engine.routing import without_port
from ..engine.settings import KiB, strings
from .addresses import is_host
from .forwarding import Forwarding, Pairs
from .problem import CLOSE, Problem, answer, answer_handshake, notes_of, request_id

_HOST_PATTERN = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.\-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
# The message cannot be framed, or reach anybody, without these: nobody can list them away.
_NOT_LISTED_AWAY = frozenset({b"host", b"content-length"})
_HANDSHAKE = frozenset({b"connection", b"upgrade"})
_FIELD_OVERHEAD = 4  # the colon, a blank, and the end of the line


class Entrance:
    """In front of everything else: refuses what is ambiguous, finds out who the client is. Raises `SettingError`.

    `allowed_hosts` are names (`api.example.com`, `*.example.com`) that `Host` may have, with any port; empty for all.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        forwarding: Forwarding,
        allowed_hosts: Collection[str] = (),
        max_header_bytes: int = 64 * KiB,
    ) -> None:
        self.app = app
        self.forwarding = forwarding
        self.max_header_bytes = max_header_bytes
        for name in strings("allowed_hosts", allowed_hosts):
            if _HOST_PATTERN.fullmatch(name) is None:
                expected = "expected host names in small letters, without a port, such as `api.example.com`"
                raise SettingError("allowed_hosts", name, expected)
        self._hosts = frozenset(allowed_hosts)
        self._below = tuple(name[1:] for name in allowed_hosts if name.startswith("*"))

    def __repr__(self) -> str:
        return f"Entrance({self.app!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if kind == "http":
            send = _dated(send)
        if self.forwarding.trusted_proxies and not self.forwarding.believes(scope.get("client")):
            scope = _with_an_id_of_ours(scope)
        problem = self._problem(scope)
        if problem is None:
            entered = self.forwarding.applied({**scope, "headers": end_to_end(scope["headers"], kind == "websocket")})
            if entered.get("client"):
                notes_of(entered)["client"] = entered["client"][0]
            await self.app(entered, receive, send)
        elif kind == "http":
            await answer(problem, scope, send)
        elif (await receive())["type"] == "websocket.connect":
            await answer_handshake(problem, scope, send)

    def _problem(self, scope: Scope) -> Problem | None:
        """Why the request goes no further, if so."""
        headers: Pairs = scope["headers"]
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self.max_header_bytes:
            return _closing(414, "path_too_long", f"The URL is longer than {self.max_header_bytes} bytes.")
        size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in headers)
        if size > self.max_header_bytes:
            return _closing(431, "headers_too_large", f"The headers have {size} of {self.max_header_bytes} bytes.")
        detail = ambiguity(headers, scope.get("http_version", "1.1"))
        if detail is not None:
            return _closing(400, "bad_request", detail)
        if self._hosts and not self._is_ours(headers):
            return Problem(421, "misdirected_request", "This server does not answer for that host.")
        if self.forwarding.is_loop(headers):
            return Problem(508, "loop_detected", "The request has passed this proxy before.")
        return None

    def _is_ours(self, headers: Pairs) -> bool:
        host = next((value for name, value in headers if name == b"host"), b"")
        name = without_port(host.decode("latin-1").lower())
        return name in self._hosts or any(name.endswith(each) and len(name) > len(each) for each in self._below)


def _with_an_id_of_ours(scope: Scope) -> Scope:
    """Where somebody is known whose `X-Request-ID` counts, that of others does not: logs are joined by it."""
    headers: Pairs = scope["headers"]
    if all(name != b"x-request-id" for name, _ in headers):
        return scope
    notes = notes_of(scope)
    notes.pop("request_id", None)
    own = (b"x-request-id", request_id(notes, ()).encode("ascii"))
    return {**scope, "headers": [*(pair for pair in headers if pair[0] != b"x-request-id"), own]}


def end_to_end(headers: Pairs, is_handshake: bool = False) -> Pairs:
    """The headers without those that concern one connection (RFC 9110, section 7.6.1); a handshake keeps what it needs.

    This comes before any header of ours, so that nobody can list ours away.
    """
    listed = connection_options(headers) - _NOT_LISTED_AWAY
    if is_handshake:
        listed -= _HANDSHAKE
        return [pair for pair in headers if pair[0] in _HANDSHAKE or not (pair[0] in HOP_BY_HOP or pair[0] in listed)]
    return [pair for pair in headers if pair[0] not in HOP_BY_HOP and pair[0] not in listed]


def ambiguity(headers: Pairs, http_version: str) -> str | None:
    """Why a request could be read in two ways, if so."""
    return _framing_fault(headers, http_version) or _host_fault(headers, http_version)


def _closing(status: int, code: str, detail: str) -> Problem:
    return Problem(status, code, detail, (CLOSE,))


def _framing_fault(headers: Pairs, http_version: str) -> str | None:
    """RFC 9112, section 6.3: a message that could be read in two ways."""
    names = {name for name, _ in headers}
    lengths = [value for name, value in headers if name == b"content-length"]
    has_body = b"transfer-encoding" in names or any(value.strip(b"0") for value in lengths)
    if has_body and b"upgrade" in names and b"upgrade" in connection_options(headers):
        # Servers end such a message at its head, and take the body for the next request.
        return "A request with a body may not ask for an upgrade."
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if lengths and codings:
        return "Content-Length and Transfer-Encoding exclude each other."
    if len(lengths) > 1 or (lengths and not (lengths[0].isdigit() and len(lengths[0]) <= 18)):
        return "There is one Content-Length, a number."
    if codings and [coding.strip().lower() for coding in codings] != [b"chunked"]:
        return "The only transfer coding is chunked."
    if codings and http_version < "1.1":
        # RFC 9112, section 6.1: whoever handed it on may not have read it.
        return "HTTP/1.0 has no transfer codings."
    return None


def _host_fault(headers: Pairs, http_version: str) -> str | None:
    """RFC 9112, section 3.2; only HTTP/1.0 knows requests without `Host`."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return None if not hosts and http_version == "1.0" else "There is exactly one Host header."
    host = hosts[0].decode("latin-1")
    return None if is_host(host) else "The Host header is not a host, with or without a port."


def _dated(send: Send) -> Send:
    """Adds `Date` to an answer that has none (RFC 9110, section 6.6.1)."""

    async def with_date(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"date" for name, _ in headers):
                message = {**message, "headers": [*headers, (b"date", _date(int(time.time())))]}
        await send(message)

    return with_date


_last_date = (0, b"")


def _date(now: int) -> bytes:
    global _last_date
    if _last_date[0] != now:
        _last_date = (now, formatdate(now, usegmt=True).encode("ascii"))
    return _last_date[1]
