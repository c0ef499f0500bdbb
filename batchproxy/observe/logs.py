"""The access log: a line for each request, with what its batch was, and a line for each failed item.

Knows: ASGI, events, field names (those of OpenTelemetry where there are some). Must not know: who reads the lines.
No query, no body and no value of a header but the request's id is ever written.
"""

from __future__ import annotations

import os
import re
import select
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from typing import Any, TextIO

import msgspec

from ..engine.events import NOTES, BatchEnded, ItemEnded
from ..engine.model import ASGIApp, Message, Receive, Scope, Send

_MOST_WAITING = 10_000
_MOMENT = 0.02
_MOST_OF_A_PATH = 2000
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_PIPE_BUF = getattr(select, "PIPE_BUF", 4096)
_FLAGS = {
    408: "DT",
    429: "RL",
    403: "NP",
    405: "NP",
    413: "LR",
    414: "LR",
    431: "LR",
}
_TOO_LARGE = "response_too_large"
_UNREADABLE = {
    400: {"code": "bad_request", "flags": "DPE"},
    408: {"code": "request_timeout", "flags": "DT"},
}
# Of a status on a terminal, by its first digit: green, cyan, yellow, red.
_COLOURS = {"2": "\x1b[32m", "3": "\x1b[36m", "4": "\x1b[33m", "5": "\x1b[31m"}
_current: ContextVar[dict[str, Any] | None] = ContextVar("batchproxy_access_log", default=None)


class Lines:
    """Writes lines from a thread of its own, so that a reader who is slow holds up nobody; beyond a bound they are
    dropped, and counted.

    Lines of one moment go out together: woken for each of them, the thread takes the interpreter from the event loop
    every time. Measured under load, a tenth of all that the process spends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError):
            self._descriptor = None  # no file, but something in memory
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._something = threading.Condition()
        self._closing = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="batchproxy log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        with self._something:
            if len(self._waiting) >= _MOST_WAITING:
                self._dropped += 1
            else:
                self._waiting.append(line)
                if len(self._waiting) == 1:
                    self._something.notify()

    def close(self, patience: float = 2.0) -> None:
        """Returns when all has been written, or after so many seconds."""
        self._closing.set()
        with self._something:
            self._closed = True
            self._something.notify()
        self._thread.join(patience)

    def _write(self) -> None:
        while True:
            with self._something:
                while not (self._waiting or self._closed):
                    self._something.wait()
            self._closing.wait(_MOMENT)
            with self._something:
                lines, self._waiting = self._waiting, deque()
                dropped, self._dropped = self._dropped, 0
                if not lines and self._closed:
                    return
            if dropped:
                lines.append(_encoded({"ts": _now(), "level": "warning", "msg": "log.dropped", "lines": dropped}))
            try:
                for piece in _pieces(lines):
                    self._write_piece(piece)
            except (OSError, ValueError):
                # Nobody reads any more; serving goes on.
                return

    def _write_piece(self, piece: bytes) -> None:
        if self._descriptor is None:
            self._stream.buffer.write(piece)
            self._stream.flush()
            return
        while piece:
            piece = piece[os.write(self._descriptor, piece) :]


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines, as many as several writers can put into one pipe without mixing them (POSIX, `PIPE_BUF`)."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) >= _PIPE_BUF:
            yield piece
            piece = b""
        piece += line + b"\n"
    if piece:
        yield piece


class AccessLog:
    """An observer, and a layer around the app. `items` is `none`, `failed` or `all`; `write` takes one record."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None], *, items: str = "failed") -> None:
        self._write = write
        self._items = items
        self.only_failures = items != "all"

    def around(self, app: ASGIApp) -> ASGIApp:
        """The app, with a line for each request."""

        async def logged(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] not in ("http", "websocket"):
                await app(scope, receive, send)
                return
            await self._request(app, scope, receive, send)

        return logged

    async def _request(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        notes: dict[str, Any] = {"request_id": _request_id(given)}
        extensions = {**(scope.get("extensions") or {}), NOTES: notes}
        seen = _Seen(send)
        token = _current.set(notes)
        try:
            await app({**scope, "extensions": extensions}, receive, seen.send)
        finally:
            _current.reset(token)
            self._write(self._line(scope, notes, seen, began))

    def unreadable(self, client: str | None, status: int) -> None:
        """A line for what was no request at all, or never a whole one."""
        line: dict[str, Any] = {"ts": _now(), "level": "info", "msg": "request", "request_id": uuid.uuid4().hex}
        if client is not None:
            line["client.address"] = client
        self._write({**line, "http.response.status_code": status, **_UNREADABLE[status]})

    def _line(self, scope: Scope, notes: Mapping[str, Any], seen: _Seen, began: float) -> dict[str, Any]:
        batch: BatchEnded | None = notes.get("batch")
        status = seen.status or None
        line: dict[str, Any] = {
            "ts": _now(),
            "level": "info",
            "msg": "request" if batch is None else "batch",
            "request_id": notes["request_id"] if batch is None else batch.request_id,
            # As the entrance has found out; else whoever is connected.
            "client.address": notes.get("client") or (scope["client"][0] if scope.get("client") else None),
            "http.request.method": scope.get("method", "WEBSOCKET"),
            "url.path": (scope.get("raw_path") or scope["path"].encode())[:_MOST_OF_A_PATH].decode("latin-1"),
            "http.response.status_code": status,
            "duration_ms": round((time.monotonic() - began) * 1000, 3),
            "bytes_out": seen.size,
        }
        if batch is not None:
            job, items = notes.get("job") or (None, 0)
            line |= {
                "batch.id": None if batch.batch is None else batch.batch.id,
                "batch.mode": "streamed" if batch.streamed else "buffered",
                "batch.items": items if batch.batch is None else len(batch.batch.items),
                "batch.failed": batch.failed,
                "job.id": job,
                "code": batch.code,
            }
        line |= {name: notes[name] for name in ("upstream", "address", "attempts", "code") if notes.get(name)}
        flags = _flags(notes, status or 0, notes.get("code"), left=batch is not None and batch.client_left)
        return {**{name: value for name, value in line.items() if value is not None}, **flags}

    # Observer

    def item_ended(self, event: ItemEnded) -> None:
        result = event.result
        if self._items == "none" or (self._items == "failed" and result.status < 400):
            return
        notes, outer = event.notes, _current.get() or {}
        line: dict[str, Any] = {
            "ts": _now(),
            "level": "info",
            "msg": "item",
            "request_id": event.batch.caller.request_id or outer.get("request_id"),
            "batch.id": event.batch.id,
            "item.index": event.item.index,
            "item.id": event.item.id,
            "http.request.method": event.item.method,
            "url.path": event.item.path[:_MOST_OF_A_PATH].decode("latin-1") or None,
            "http.response.status_code": result.status,
            "duration_ms": round(event.elapsed * 1000, 3),
            "bytes_out": len(result.body),
            "code": notes.get("code") if result.failure is None else result.failure.value,
            "upstream": notes.get("upstream"),
            "address": notes.get("address"),
            "attempts": notes.get("attempts"),
        }
        flags = _flags(notes, result.status if result.failure is not None else 0, result.failure, left=False)
        self._write({**{name: value for name, value in line.items() if value is not None}, **flags})

    def batch_ended(self, event: BatchEnded) -> None:
        notes = _current.get()
        if notes is not None:
            notes["batch"] = event


class _Seen:
    """What went out."""

    __slots__ = ("_send", "size", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.size = 0

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            self.size += len(message.get("body", b""))
        elif kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
        elif kind == "websocket.accept":
            self.status = 101
        await self._send(message)


def _flags(notes: Mapping[str, Any], status: int, code: str | None, *, left: bool) -> dict[str, str]:
    """Why an answer is not the upstream's, in Envoy's short words."""
    found = [notes["flags"]] if notes.get("flags") else []
    if status in _FLAGS and (status == 429 or notes.get("code") or not notes.get("upstream")):
        found.append(_FLAGS[status])
    elif code == _TOO_LARGE and not found:
        # By a limit of the route or of the endpoint; of that of the upstream it is told.
        found.append("LR")
    if left:
        found.append("DC")
    return {"flags": ",".join(found)} if found else {}


def _request_id(given: bytes) -> str:
    return given.decode("ascii") if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def moment(seconds: float) -> str:
    """A time of the wall clock as logs have it (RFC 3339)."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _now() -> str:
    return moment(time.time())


# Forms

_encoded = msgspec.json.Encoder().encode


def as_json(record: Mapping[str, Any]) -> bytes:
    """One line of JSON."""
    return _encoded(record)


def as_text(record: Mapping[str, Any], *, coloured: bool = False) -> bytes:
    """One line for people; whatever a terminal would obey is written out."""
    status = str(record.get("http.response.status_code", "-"))
    parts = [
        str(record.get("ts", ""))[11:19],
        f"{record['msg']:7}",
        status,
        f"{record.get('http.request.method', '')} {record.get('url.path', '')}",
        f"{record.get('duration_ms', 0):.1f} ms",
    ]
    if record["msg"] == "batch":
        items = record["batch.items"]
        parts.append(f"{items} {'item' if items == 1 else 'items'}, {record['batch.failed']} failed")
    parts += [
        f"{name}={record[name]}" for name in ("item.index", "job.id", "upstream", "code", "flags") if name in record
    ]
    parts = [printable(part) for part in parts]
    if coloured and status[0] in _COLOURS:
        parts[2] = f"{_COLOURS[status[0]]}{parts[2]}\x1b[0m"
    return "  ".join(parts).encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text with control characters spelled out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def takes_colours(stream: TextIO) -> bool:
    """A terminal that has colours, and nobody who wants none (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def access_log(format: str, *, items: str, stream: TextIO | None = None) -> tuple[AccessLog, Lines]:
    """The access log on standard output; `format` is `json`, `console` or `auto`."""
    stream = sys.stdout if stream is None else stream
    is_console = format == "console" or (format == "auto" and stream.isatty())
    lines = Lines(stream)
    form = partial(as_text, coloured=takes_colours(stream)) if is_console else as_json
    return AccessLog(lambda record: lines.put(form(record)), items=items), lines
