"""The answer of one exchange: what the parser says of it, and what its reader takes.

Knows: llhttp's callbacks, RFC 9112 about answers. Must not know: sockets, the pool, how requests are written.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from ...engine.headers import connection_options
from . import (
    BAD_RESPONSE,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    RESET_BEFORE_RESPONSE,
    TLS_FAILURE,
    TOO_LARGE,
    TOTAL_TIMEOUT,
    TRUNCATED,
    Outgoing,
    Reason,
    Sent,
    UpstreamError,
)

if TYPE_CHECKING:
    from .connection import Connection

HIGH_WATER = 256 * 1024
"""Nothing more is read from a connection while so much of a body waits to be taken."""
_COST_OF_PIECE = 64
"""What a piece takes beside its bytes, so that tiny ones count for what they are."""
_COST_OF_FIELD = 4
"""Of a header field on the wire: a colon, a blank and the end of the line."""
_SLACK = 64 * 1024
"""What may come beyond the fields before the next piece of a body: interim answers, trailers, chunk extensions."""
_NEVER = float("inf")


class NativeAnswer:
    """Made for one request on one connection; see `transports.Answer`."""

    __slots__ = (
        "_answered",
        "_bodiless",
        "_connection",
        "_error",
        "_interim",
        "_keeps_alive",
        "_max_body",
        "_pieces",
        "_size",
        "_to_close",
        "_total",
        "_unread",
        "_waiter",
        "finished",
        "has_head",
        "headers",
        "reading_paused",
        "request",
        "sent",
        "status",
    )

    def __init__(self, connection: Connection, request: Outgoing) -> None:
        self._connection = connection
        self.request = request
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.sent = Sent.NOTHING
        self.has_head = False
        self.finished = False
        self.reading_paused = False
        self._max_body = connection.pool.max_body_bytes
        self._answered = False
        self._keeps_alive = False
        self._interim = False
        self._bodiless = False
        self._to_close = False
        self._unread = 0
        self._pieces: list[bytes] = []
        self._size = 0
        self._total = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "head" if self.has_head else "waiting"
        return f"NativeAnswer({self.request.method}, {self.status}, {state}, buffered={self._size})"

    # The reader

    async def more(self) -> None:
        """Returns when there is more than before: the head, a piece of the body, or its end."""
        if self._error is not None:
            raise self._error
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None
        if self._error is not None and not self._pieces:
            raise self._error

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`; when cancelled, it closes itself."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.finished:
                return b""
            self._connection.watch(self._connection.pool.timeouts.idle, self.request.deadline)
            await self.more()
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self.reading_paused and not self.finished:
            self.reading_paused = False
            self._connection.resume_reading()
        return body

    def close(self) -> None:
        """Frees the connection: kept if the answer has been read to its end, else cut. May be called twice."""
        if not self.finished and self._error is None:
            self.fail(TRUNCATED, "its reader wants no more of it")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Endings

    def fail(self, reason: Reason, detail: str) -> None:
        told = f"{self._connection.pool.url}: {detail}"
        self.end_with(UpstreamError(reason, told, sent=self.sent, answered=self._answered))

    def end_with(self, error: BaseException) -> None:
        if self._error is None and not self.finished:
            self._error = error
            self._wake()
            self._connection.cut(self)

    def time_out(self, deadline: float) -> None:
        if self.request.deadline is not None and deadline >= self.request.deadline:
            self.fail(TOTAL_TIMEOUT, "the whole exchange took too long")
        elif self.has_head and self._waiter is None:
            # Nobody waits for the server: it is the reader that takes its time.
            self._connection.watch(self._connection.pool.timeouts.idle, self.request.deadline)
        elif self.has_head or self.sent is not Sent.ALL:
            self.fail(IDLE_TIMEOUT, "nothing moved for too long")
        else:
            self.fail(FIRST_BYTE_TIMEOUT, "no answer began in time")

    def eof_received(self) -> None:
        """The server sends nothing more, as it should after a body that nothing else ends."""
        if self.has_head and self._to_close and self._error is None and self._connection.has_ended_cleanly():
            self._finish()
            self._connection.end(self, reusable=False)
        else:
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        told = f": {exc}" if exc is not None else ""
        if self._answered:
            self.fail(TRUNCATED, f"the connection ended inside the answer{told}")
        elif isinstance(exc, ssl.SSLError):
            self.fail(TLS_FAILURE, f"the connection ended{told}")
        else:
            self.fail(RESET_BEFORE_RESPONSE, f"the connection ended before an answer{told}")

    def _finish(self) -> None:
        self.finished = True
        self._wake()

    # From the connection, around the parser

    def arriving(self, data: bytes) -> None:
        if not self._answered:
            self._answered = True
            if data[0] not in b"H\r\n":
                # The parser would take RTSP and ICE as well.
                self.fail(BAD_RESPONSE, "not HTTP")
        self._unread += len(data)

    def arrived_unread(self) -> None:
        """Bounds all that is neither body nor a field that has been read: the parser keeps the beginning of a field."""
        if self._unread > self._connection.pool.max_header_bytes + _SLACK and not self.finished:
            self.fail(BAD_RESPONSE, "too much comes that is not body")

    # From the parser

    def on_message_begin(self) -> None:
        if self.finished:
            # Another answer, which nobody has asked for.
            self._connection.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._error is not None:
            return
        parser = self._connection.parser
        self.status = status = parser.get_status_code()
        if not 200 <= status <= 599:
            self._interim = 100 <= status <= 199 and status != 101
            if not self._interim:
                self.fail(BAD_RESPONSE, f"status {status}")
            return
        self._bodiless = self.request.method == "HEAD" or status in (204, 304)
        self._frame(parser.get_http_version(), parser.should_keep_alive())
        if self._error is not None:
            return
        self.has_head = True
        self._wake()
        if self.request.method == "HEAD":
            # The parser cannot know that no body follows.
            self.on_message_complete()

    def _frame(self, version: str, keeps_alive: bool) -> None:
        """How the body ends (RFC 9112, section 6.3). The parser has refused most of what is not clear."""
        length: bytes | None = None
        is_chunked = False
        size = 0
        for index, (name, value) in enumerate(self.headers):
            size += len(name) + len(value) + _COST_OF_FIELD
            if value and value[-1] in b" \t":
                value = value.rstrip(b" \t")
                self.headers[index] = (name, value)
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked" or version == "1.0":
                    self.fail(BAD_RESPONSE, "a transfer coding other than chunked, once, in HTTP/1.1")
                    return
                is_chunked = True
        if size > self._connection.pool.max_header_bytes:
            self.fail(BAD_RESPONSE, f"the header has {size} bytes")
            return
        if version not in ("1.1", "1.0"):
            self.fail(BAD_RESPONSE, f"HTTP/{version}")
            return
        self._to_close = not self._bodiless and not is_chunked and length is None
        if self._bodiless and not keeps_alive and version == "1.1":
            # The parser thinks that a body goes on to the end of the connection.
            keeps_alive = b"close" not in connection_options(self.headers)
        self._keeps_alive = keeps_alive
        if not self._bodiless and self._max_body is not None and length is not None and int(length) > self._max_body:
            self.fail(TOO_LARGE, f"the body has {int(length)} bytes")

    def on_body(self, piece: bytes) -> None:
        if self._error is not None:
            return
        if self._bodiless:
            # What follows the head cannot be told from the next answer.
            self._connection.abort()
            return
        self._unread = 0
        size = len(piece)
        self._total += size
        if self._max_body is not None and self._total > self._max_body:
            self.fail(TOO_LARGE, f"the body has more than {self._max_body} bytes")
            return
        self._pieces.append(piece)
        self._size += size + _COST_OF_PIECE
        if self._waiter is not None:
            self._wake()
        if self._size > HIGH_WATER and not self.reading_paused:
            self.reading_paused = True
            self._connection.pause_reading()
            # As long as nobody reads, it is not the server that keeps us waiting.
            self._connection.watch(_NEVER, self.request.deadline)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
            self.headers = []
            return
        if self._error is None and self.has_head and not self.finished:
            self._finish()
            self._connection.end(self, reusable=self._keeps_alive)
