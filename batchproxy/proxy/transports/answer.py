"""The answer of one exchange: what the parser says of it, and what its reader takes.

Knows: llhttp's callbacks, RFC 9112 about answers. Must not know: sockets, the pool, how requests are written.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import httptools

from ...engine.headers import ANSWER_NAMES, connection_options
from . import (
    BAD_RESPONSE,
    FIRST_BYTE_TIMEOUT,
    IDEMPOTENT,
    IDLE_TIMEOUT,
    RESET_BEFORE_RESPONSE,
    TLS_FAILURE,
    TOO_LARGE,
    TOTAL_TIMEOUT,
    TRUNCATED,
    Outgoing,
    Reason,
    Recipient,
    Sent,
    UpstreamError,
    Whole,
)
from .whole import read_whole

if TYPE_CHECKING:
    from .connection import Connection

HIGH_WATER = 256 * 1024
"""Nothing more is read from a connection while so much of a body waits to be taken."""
_COST_OF_PIECE = 64
"""What a piece takes beside its bytes, so that tiny ones count for what they are."""
_COST_OF_FIELD = 4
"""Of a header field on the wire: a colon, a blank and the end of the line."""
SLACK = 64 * 1024
"""What may come beyond the fields before the next piece of a body: interim answers, trailers, chunk extensions."""
_NEVER = float("inf")
_NOTHING = Sent.NOTHING  # an access to a member costs as much as a call


class NativeAnswer:
    """Made for one request on one connection; see `transports.Answer` and `Begun`.

    While its reader waits there is a `waiter`, or before the head a `recipient`, which is told instead.
    """

    __slots__ = (
        "_bodiless",
        "_connection",
        "_interim",
        "_keeps_alive",
        "_pieces",
        "_size",
        "_special",
        "_to_close",
        "_total",
        "answered",
        "error",
        "finished",
        "has_head",
        "headers",
        "reading_paused",
        "recipient",
        "request",
        "sent",
        "status",
        "unread",
        "waiter",
        "whole",
    )

    def __init__(self, connection: Connection, request: Outgoing, recipient: Recipient | None = None) -> None:
        self._connection = connection
        self.request = request
        self.recipient = recipient
        self.waiter: asyncio.Future[None] | None = connection.loop.create_future() if recipient is None else None
        self.sent = _NOTHING
        self.error: BaseException | None = None
        self.whole: Whole | None = None
        self.answered = self.has_head = self.finished = self.reading_paused = False
        self.status = self._size = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []

    def __repr__(self) -> str:
        state = "finished" if self.finished else "head" if self.has_head else "waiting"
        return f"NativeAnswer({self.request.method}, {self.status}, {state}, buffered={self._size})"

    # The reader

    @property
    def has_body(self) -> bool:
        """Whether something of the body is there to be read, whatever came after it."""
        return bool(self._pieces)

    async def head(self) -> NativeAnswer:
        """After its recipient was told: itself, or the answer over another connection if this one was stale.

        Raises `UpstreamError`.
        """
        if self.error is None or self._pieces:
            return self
        if not is_stale(self.request, self.error):
            raise self.error
        return await self._connection.pool.send(self.request, again=True)

    async def more(self) -> None:
        """Returns when there is more than before: a piece of the body, or its end."""
        if self.error is not None:
            raise self.error
        waiter = self.waiter = self._connection.loop.create_future()
        try:
            await waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self.waiter = None
        if self.error is not None and not self._pieces:
            raise self.error

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`; when cancelled, it closes itself."""
        while not self._pieces:
            if self.error is not None:
                raise self.error
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
        self.recipient = None
        if not self.finished and self.error is None:
            self.fail(TRUNCATED, "its reader wants no more of it")

    def _wake(self) -> None:
        recipient = self.recipient
        if recipient is not None:
            self.recipient = None
            recipient.arrived()
            return
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # Endings

    def fail(self, reason: Reason, detail: str) -> None:
        told = f"{self._connection.pool.url}: {detail}"
        self.end_with(UpstreamError(reason, told, sent=self.sent, answered=self.answered))

    def end_with(self, error: BaseException) -> None:
        if self.error is None and not self.finished:
            self.error = error
            self._wake()
            self._connection.cut(self)

    def time_out(self, deadline: float) -> None:
        if self.request.deadline is not None and deadline >= self.request.deadline:
            self.fail(TOTAL_TIMEOUT, "the whole exchange took too long")
        elif self.has_head and self.waiter is None:
            # Nobody waits for the server: it is the reader that takes its time.
            self._connection.watch(self._connection.pool.timeouts.idle, self.request.deadline)
        elif self.has_head or self.sent is not Sent.ALL:
            self.fail(IDLE_TIMEOUT, "nothing moved for too long")
        else:
            self.fail(FIRST_BYTE_TIMEOUT, "no answer began in time")

    def eof_received(self) -> None:
        """The server sends nothing more, as it should after a body that nothing else ends."""
        if self.has_head and self._to_close and self.error is None and self._connection.has_ended_cleanly():
            self.finished = True
            self._wake()
            self._connection.end(self, reusable=False)
        else:
            self.connection_lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        told = f": {exc}" if exc is not None else ""
        if self.answered:
            self.fail(TRUNCATED, f"the connection ended inside the answer{told}")
        elif isinstance(exc, ssl.SSLError):
            self.fail(TLS_FAILURE, f"the connection ended{told}")
        else:
            self.fail(RESET_BEFORE_RESPONSE, f"the connection ended before an answer{told}")

    # From the connection and the parser

    def took_whole(self, data: bytes) -> bool:
        """Whether this was all of the answer, and plain, so that there is nothing to parse."""
        if self.request.method == "HEAD":
            return False
        pool = self._connection.pool
        read = read_whole(data, pool.max_header_bytes)
        if read is None or (pool.max_body_bytes is not None and len(read[1][2]) > pool.max_body_bytes):
            return False
        headers, self.whole = read
        self.answered = self.has_head = self.finished = True
        recipient = self.recipient
        if recipient is not None:
            # It takes the whole as it is.
            self.recipient = None
            recipient.arrived()
        else:
            self.headers = list(headers)
            self.status, _, body = self.whole
            if body:
                self._pieces.append(body)
            self._wake()
        self._connection.end(self, reusable=True)
        return True

    def parsed(self) -> httptools.HttpResponseParser:
        """A parser that tells this answer what it finds."""
        # Only now, for most answers are never parsed.
        self._keeps_alive = self._interim = self._bodiless = self._to_close = False
        self.unread = self._total = 0
        self._special: list[tuple[bytes, bytes]] = []
        return httptools.HttpResponseParser(self)

    def too_much(self) -> None:
        """More has come than may come since the last piece of the body: the parser keeps the beginning of a field."""
        if not self.finished:
            self.fail(BAD_RESPONSE, "too much comes that is not body")

    def on_message_begin(self) -> None:
        if self.finished:
            # Another answer, which nobody has asked for.
            self._connection.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:
            return  # a trailer
        name, is_special = ANSWER_NAMES[name]
        if value and value[-1] in b" \t":
            value = value.rstrip(b" \t")
        if is_special:
            self._special.append((name, value))
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.error is not None:
            return
        parser = self._connection.parser
        self.status = status = parser.get_status_code()
        if not 200 <= status <= 599:
            self._interim = 100 <= status <= 199 and status != 101
            if not self._interim:
                self.fail(BAD_RESPONSE, f"status {status}")
            return
        is_head = self.request.method == "HEAD"
        self._bodiless = is_head or status == 204 or status == 304
        self._frame(parser.get_http_version(), parser.should_keep_alive())
        if self.error is not None:
            return
        self.has_head = True
        self._wake()
        if is_head:
            # The parser cannot know that no body follows.
            self.on_message_complete()

    def _frame(self, version: str, keeps_alive: bool) -> None:
        """How the body ends (RFC 9112, section 6.3). The parser has refused most of what is not clear."""
        length: bytes | None = None
        is_chunked = False
        for name, value in self._special:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                if is_chunked or value.lower() != b"chunked" or version == "1.0":
                    self.fail(BAD_RESPONSE, "a transfer coding other than chunked, once, in HTTP/1.1")
                    return
                is_chunked = True
        # What has arrived is more than the fields: nearly always, that is enough to know.
        most = self._connection.pool.max_header_bytes
        if self.unread > most:
            size = sum(len(name) + len(value) + _COST_OF_FIELD for name, value in self.headers)
            if size > most:
                self.fail(BAD_RESPONSE, f"the header has {size} bytes")
                return
        if version != "1.1" and version != "1.0":
            self.fail(BAD_RESPONSE, f"HTTP/{version}")
            return
        self._to_close = not self._bodiless and not is_chunked and length is None
        if self._bodiless and not keeps_alive and version == "1.1":
            # The parser thinks that a body goes on to the end of the connection.
            keeps_alive = b"close" not in connection_options(self.headers)
        self._keeps_alive = keeps_alive
        largest = self._connection.pool.max_body_bytes
        if largest is not None and not self._bodiless and length is not None and int(length) > largest:
            self.fail(TOO_LARGE, f"the body has {int(length)} bytes")

    def on_body(self, piece: bytes) -> None:
        if self.error is not None:
            return
        if self._bodiless:
            # What follows the head cannot be told from the next answer.
            self._connection.abort()
            return
        self.unread = 0
        size = len(piece)
        self._total += size
        largest = self._connection.pool.max_body_bytes
        if largest is not None and self._total > largest:
            self.fail(TOO_LARGE, f"the body has more than {largest} bytes")
            return
        self._pieces.append(piece)
        self._size += size + _COST_OF_PIECE
        if self.waiter is not None:
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
            self._special = []
            return
        if self.error is None and self.has_head and not self.finished:
            self.finished = True
            if self.waiter is not None:
                self._wake()
            self._connection.end(self, reusable=self._keeps_alive)


def is_stale(request: Outgoing, error: BaseException) -> bool:
    """Whether the server had closed the connection while it was idle, and we had not heard of it (RFC 9112, 9.3.1);
    and the request may be sent again."""
    if not isinstance(error, UpstreamError) or error.reason is not RESET_BEFORE_RESPONSE or error.answered:
        return False
    return error.sent is Sent.NOTHING or (request.method in IDEMPOTENT and isinstance(request.body, bytes))
