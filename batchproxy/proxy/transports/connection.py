"""One connection of the native transport, and the exchange that it serves: what the parser says, what the reader takes.

Knows: the asyncio transport, llhttp's callbacks, RFC 9112. Must not know: which connection is taken for a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import httptools

from ...engine.headers import connection_options
from . import (
    BAD_RESPONSE,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    RESET_BEFORE_RESPONSE,
    TOO_LARGE,
    TOTAL_TIMEOUT,
    TRUNCATED,
    Outgoing,
    Reason,
    Sent,
    UpstreamError,
)

if TYPE_CHECKING:
    from .native import NativeTransport

HIGH_WATER = 256 * 1024
"""Nothing more is read from a connection while so much of a body waits to be taken."""
_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """One connection; `answer` is the exchange that it serves now, if any."""

    def __init__(self, pool: NativeTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.pool = pool
        self.loop = loop
        self.era = 0
        self.answer: NativeAnswer | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._deadline = _NEVER
        self._armed = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._sender: asyncio.Task[None] | None = None
        self._paused = False

    @property
    def is_usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        answer, self.answer = self.answer, None
        if self._timer is not None:
            self._timer.cancel()
        self._stop_sending()
        self._resume_sender()
        self.pool.lost(self)
        self._parser = None
        if answer is not None:
            answer.connection_lost(exc)
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            # Nobody has asked for this: whatever it is, the next answer could be taken for it.
            self.abort()
            return
        answer.received(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            answer.fail(BAD_RESPONSE, "the answer changes to another protocol")
        except httptools.HttpParserError as fault:
            if answer.finished:
                self.abort()
            else:
                answer.fail(BAD_RESPONSE, f"not HTTP: {fault}")

    def eof_received(self) -> bool:
        # The transport closes itself, and the rest is up to `connection_lost`.
        return False

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._resume_sender()

    def _resume_sender(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # One exchange

    def begin(self, answer: NativeAnswer, head: bytes) -> None:
        """Writes the request; a body that comes in pieces is written by a task of its own."""
        transport, request = self._transport, answer.request
        assert transport is not None
        if transport.is_closing():
            answer.fail(RESET_BEFORE_RESPONSE, "the connection had been closed")
            return
        self.answer = answer
        self._parser = httptools.HttpResponseParser(answer)
        body = request.body
        if isinstance(body, bytes):
            answer.sent = Sent.ALL
            self.watch(self.pool.timeouts.first_byte, request.deadline)
            transport.write(head + body if body else head)
        else:
            answer.sent = Sent.PARTLY
            self.watch(self.pool.timeouts.idle, request.deadline)
            transport.write(head)
            self._sender = self.loop.create_task(self._send_body(answer, body), name="batchproxy body")

    async def _send_body(self, answer: NativeAnswer, body: AsyncIterator[bytes]) -> None:
        transport, request = self._transport, answer.request
        assert transport is not None
        left = request.length
        try:
            async for piece in body:
                if not piece:
                    continue
                if left is not None:
                    left -= len(piece)
                    if left < 0:
                        raise ValueError("The body is longer than its declared length.")
                transport.write(piece if left is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
                self.watch(self.pool.timeouts.idle, request.deadline)
                if self._paused:
                    self._writable = self.loop.create_future()
                    await self._writable
                if self.answer is not answer:
                    return
            if left:
                raise ValueError("The body is shorter than its declared length.")
            if left is None:
                transport.write(b"0\r\n\r\n")
        except asyncio.CancelledError:
            raise
        except Exception as fault:
            # Whoever gives the body cannot go on: neither can this exchange.
            answer.body_failed(fault)
            return
        answer.sent = Sent.ALL
        self._sender = None
        if not answer.has_head:
            self.watch(self.pool.timeouts.first_byte, request.deadline)

    def _stop_sending(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None

    def end(self, answer: NativeAnswer, *, reusable: bool) -> None:
        """The answer is complete."""
        self.answer = None
        self._parser = None
        if self._sender is not None:
            # The server did not want the rest; the next request cannot be told from it.
            self._stop_sending()
            reusable = False
        if not reusable or self._transport is None or self._transport.is_closing():
            self.abort()
            return
        self.watch(self.pool.idle_expiry, None)
        if answer.reading_paused:
            self._transport.resume_reading()
        self.pool.released(self)

    def abort(self) -> None:
        self._stop_sending()
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # Time: a later deadline only changes a number, the timer finds out when it fires

    def watch(self, seconds: float, deadline: float | None) -> None:
        when = self.loop.time() + seconds
        self._deadline = when if deadline is None or when < deadline else deadline
        if self._deadline < self._armed:
            if self._timer is not None:
                self._timer.cancel()
            self._arm()

    def _arm(self) -> None:
        self._armed = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer, self._armed = None, _NEVER
        if self._deadline == _NEVER:
            return
        if self.loop.time() < self._deadline - 0.001:
            self._arm()
        elif self.answer is None:
            self.abort()
        else:
            self.answer.time_out(self._deadline)


class NativeAnswer:
    """One exchange: what the parser says of the answer, and what the reader takes of it."""

    __slots__ = (
        "_answered",
        "_bodiless",
        "_chunked",
        "_connection",
        "_error",
        "_header_bytes",
        "_interim",
        "_keeps_alive",
        "_length",
        "_most",
        "_pieces",
        "_size",
        "_to_close",
        "_waiter",
        "finished",
        "has_head",
        "headers",
        "reading_paused",
        "request",
        "sent",
        "status",
        "total",
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
        self.total = 0
        self._most = connection.pool.max_body_bytes
        self._header_bytes = 0
        self._answered = False
        self._keeps_alive = False
        self._interim = False
        self._bodiless = False
        self._chunked = False
        self._to_close = False
        self._length: int | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        state = "finished" if self.finished else "head" if self.has_head else "waiting"
        return f"NativeAnswer({self.request.method}, {self.status}, {state}, buffered={self._size})"

    # The reader

    async def arrived(self) -> None:
        """Returns when the head is there."""
        if not self.has_head:
            await self._wait()

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.finished:
                return b""
            self._connection.watch(self._connection.pool.timeouts.idle, self.request.deadline)
            await self._wait()
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self.reading_paused and not self.finished:
            self.reading_paused = False
            self._connection.resume_reading()
        return body

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._pieces:
            raise self._error

    def close(self) -> None:
        """Frees the connection: kept if the answer has been read to its end, else cut. May be called twice."""
        if not self.finished and self._connection.answer is self:
            self._connection.answer = None
            self._connection.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Endings

    def fail(self, reason: Reason, detail: str) -> None:
        told = f"{self._connection.pool.url}: {detail}"
        self._end_with(UpstreamError(reason, told, sent=self.sent, answered=self._answered))

    def body_failed(self, fault: Exception) -> None:
        self._end_with(fault)

    def _end_with(self, error: BaseException) -> None:
        if self._error is None and not self.finished:
            self._error = error
            self._wake()
            self.close()

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

    def connection_lost(self, exc: Exception | None) -> None:
        if self.finished or self._error is not None:
            return
        if self.has_head and self._to_close and exc is None:
            self._finish()
        elif self._answered:
            self.fail(TRUNCATED, f"the connection ended inside the answer ({exc})")
        else:
            self.fail(RESET_BEFORE_RESPONSE, f"the connection ended before an answer ({exc})")

    def _finish(self) -> None:
        self.finished = True
        self._wake()

    # From the parser

    def received(self, data: bytes) -> None:
        self._answered = True
        if not self.has_head:
            self._header_bytes += len(data)
            # A body may have come along; the fields themselves are counted as they are read.
            if self._header_bytes > 2 * self._connection.pool.max_header_bytes + 65536:
                self.fail(BAD_RESPONSE, "the head is too large")

    def on_message_begin(self) -> None:
        if self.finished:
            # Another answer, which nobody has asked for.
            self._connection.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if self._header_bytes > 2 * self._connection.pool.max_header_bytes + 65536:
            self.fail(BAD_RESPONSE, "the headers are too large")
        if not self.has_head and self._error is None:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._error is not None:
            return
        status = self._connection._parser.get_status_code()
        if 100 <= status <= 199:
            self._interim = True
            return
        if not 200 <= status <= 599:
            self.fail(BAD_RESPONSE, f"status {status}")
            return
        self.status = status
        if self._frame() and sum(len(name) + len(value) for name, value in self.headers) <= (
            self._connection.pool.max_header_bytes
        ):
            self.has_head = True
            self._wake()
            if self.request.method == "HEAD":
                # The parser cannot know that no body follows.
                self.on_message_complete()
        else:
            self.fail(BAD_RESPONSE, "the head is too large, or its framing is not clear")

    def _frame(self) -> bool:
        """How the body ends (RFC 9112, section 6.3); False if that is not clear. The parser refuses contradictions."""
        for index, (name, value) in enumerate(self.headers):
            if value and value[-1] in b" \t":
                self.headers[index] = (name, value.rstrip(b" \t"))
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                if value.lower() != b"chunked" or self._connection._parser.get_http_version() == "1.0":
                    return False
                self._chunked = True
        options = {option.lower() for option in connection_options(self.headers)}
        if self._connection._parser.get_http_version() == "1.0":
            self._keeps_alive = b"keep-alive" in options
        else:
            self._keeps_alive = b"close" not in options
        self._bodiless = self.request.method == "HEAD" or self.status in (204, 304)
        self._to_close = not (self._bodiless or self._chunked) and self._length is None
        if not self._bodiless and self._most is not None and self._length is not None and self._length > self._most:
            self.fail(TOO_LARGE, f"the body has {self._length} bytes")
        return self._error is None

    def on_body(self, piece: bytes) -> None:
        if self._bodiless:
            # What follows the head cannot be told from the next answer.
            self._connection.abort()
            return
        if self._error is not None:
            return
        self.total += len(piece)
        if self._most is not None and self.total > self._most:
            self.fail(TOO_LARGE, f"the body has more than {self._most} bytes")
            return
        self._pieces.append(piece)
        self._size += len(piece)
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
            self._header_bytes = 0
            return
        if self._error is not None or self.finished or not self.has_head:
            return
        self._finish()
        self._connection.end(self, reusable=self._keeps_alive)
