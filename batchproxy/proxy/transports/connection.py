"""One connection of the native transport: what goes out over it, and when it has waited long enough.

Knows: the asyncio transport, back-pressure, time. Must not know: what an answer says, which connection is taken.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, cast

import httptools

from . import BAD_RESPONSE, RESET_BEFORE_RESPONSE, Outgoing, Recipient, Sent
from .answer import NativeAnswer

if TYPE_CHECKING:
    from .native import NativeTransport

_ALL, _PARTLY = Sent.ALL, Sent.PARTLY  # an access to a member costs as much as a call
_NEVER = float("inf")
_TICK = 0.001
"""A loop may fire a timer this much too early."""


class Connection(asyncio.Protocol):
    """One connection; `answer` is the exchange that it serves now, if any."""

    def __init__(self, pool: NativeTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.pool = pool
        self.loop = loop
        self.era = 0
        self.answer: NativeAnswer | None = None
        self.gone: asyncio.Future[None] = loop.create_future()
        self.sender: asyncio.Task[None] | None = None
        self.parser: Any = None
        self._transport: asyncio.Transport | None = None
        self.is_closing: Callable[[], bool] = _is_not_open
        """Whether it cannot be used any more, or not yet: the transport's own word, without a call between."""
        self._deadline = _NEVER
        self._armed = _NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._writable: asyncio.Future[None] | None = None
        self._is_full = False
        self._unwritten = 0

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_closing = transport.is_closing
        self.pool.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        answer, self.answer = self.answer, None
        if self._timer is not None:
            self._timer.cancel()
        self._stop_sending()
        self._resume_sender()
        self.parser = None
        if answer is not None:
            answer.connection_lost(exc)
        self.pool.lost(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            # Nobody has asked for this: whatever it is, the next answer could be taken for it.
            self.abort()
            return
        if self.parser is None:
            # These are the first bytes that come.
            if answer.took_whole(data):
                return
            self.parser = answer.parsed()
            answer.answered = True
            if data[0] not in b"H\r\n":
                # The parser would take RTSP and ICE as well.
                answer.fail(BAD_RESPONSE, "not HTTP")
        answer.unread += len(data)
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as fault:
            if answer.finished:
                self.abort()
            else:
                answer.fail(BAD_RESPONSE, f"not an answer in HTTP/1.1: {fault}")
        else:
            if answer.unread > self.pool.max_unread_bytes:
                answer.too_much()

    def eof_received(self) -> bool:
        if self.answer is not None:
            self.answer.eof_received()
        return False  # the transport closes itself, and the rest is up to `connection_lost`

    def has_ended_cleanly(self) -> bool:
        """Whether the end was the server's word: over TLS anybody could cut the connection below (RFC 8446, 6.1)."""
        assert self._transport is not None
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        try:
            tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False
        return True

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._resume_sender()
        if self.answer is not None and isinstance(self.answer.request.body, bytes):
            self._all_sent(self.answer)

    def _resume_sender(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # One exchange

    def begin(self, request: Outgoing, head: bytes, recipient: Recipient | None = None) -> NativeAnswer:
        """Writes the request; a body that comes in pieces is written by a task of its own.

        When the head has come, or a failure, `recipient` is told; without one, the `waiter` of the answer is done.
        """
        transport, answer = self._transport, NativeAnswer(self, request, recipient)
        assert transport is not None
        # A recipient is there only if it has just been found open.
        if recipient is None and self.is_closing():
            answer.fail(RESET_BEFORE_RESPONSE, "the connection had been closed")
            return answer
        self.answer = answer
        body = request.body
        if isinstance(body, bytes):
            transport.write(head + body if body else head)
            if self._is_full:
                self._partly_sent(answer)
            else:
                answer.sent = _ALL
                self.watch(self.pool.timeouts.first_byte, request.deadline)
        else:
            transport.write(head)
            self._partly_sent(answer)
            self.sender = self.loop.create_task(self._send_body(answer, body), name="batchproxy body")
        return answer

    def _partly_sent(self, answer: NativeAnswer) -> None:
        assert self._transport is not None
        answer.sent = _PARTLY
        self._unwritten = self._transport.get_write_buffer_size()
        self.watch(self.pool.timeouts.idle, answer.request.deadline)

    def _all_sent(self, answer: NativeAnswer) -> None:
        answer.sent = _ALL
        if not answer.has_head:
            self.watch(self.pool.timeouts.first_byte, answer.request.deadline)

    async def _send_body(self, answer: NativeAnswer, body: AsyncIterator[bytes]) -> None:
        try:
            try:
                await self._write_pieces(answer, body, answer.request.length)
            finally:
                # A generator that is left in its midst would end some day, who knows where.
                if (close := getattr(body, "aclose", None)) is not None:
                    await close()
        except Exception as fault:
            # Whoever gives the body cannot go on: neither can this exchange.
            answer.end_with(fault)
        else:
            self.sender = None
            self._all_sent(answer)

    async def _write_pieces(self, answer: NativeAnswer, body: AsyncIterator[bytes], length: int | None) -> None:
        transport, left = self._transport, length
        assert transport is not None
        async for piece in body:
            if not piece:
                continue
            if left is not None:
                left -= len(piece)
                if left < 0:
                    raise ValueError("The body is longer than its declared length.")
            transport.write(piece if left is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            self._partly_sent(answer)
            if self._is_full:
                self._writable = self.loop.create_future()
                await self._writable
        if left:
            raise ValueError("The body is shorter than its declared length.")
        if left is None:
            transport.write(b"0\r\n\r\n")

    def _stop_sending(self) -> None:
        if self.sender is not None:
            self.sender.cancel()
            self.sender = None

    def end(self, answer: NativeAnswer, *, reusable: bool) -> None:
        """The answer is complete."""
        self.answer = None
        self.parser = None
        if answer.sent is not _ALL:
            # The server did not want the rest; the next request could not be told from it.
            reusable = False
        if not reusable or self._transport is None:
            self.abort()
            return
        self._deadline = self.loop.time() + self.pool.idle_expiry
        if self._deadline < self._armed:
            self._arm()
        if answer.reading_paused:
            self._transport.resume_reading()
        self.pool.released(self)

    def cut(self, answer: NativeAnswer) -> None:
        """Nobody wants the rest of this answer."""
        if self.answer is answer:
            self.answer = None
            self.abort()

    def abort(self) -> None:
        self._stop_sending()
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if not self.is_closing():
            cast(asyncio.Transport, self._transport).pause_reading()

    def resume_reading(self) -> None:
        if not self.is_closing():
            cast(asyncio.Transport, self._transport).resume_reading()

    # Time: a later deadline only changes a number, the timer finds out when it fires

    def watch(self, seconds: float, deadline: float | None) -> None:
        when = self.loop.time() + seconds
        self._deadline = when if deadline is None or when < deadline else deadline
        if self._deadline < self._armed:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = self._deadline
        self._timer = self.loop.call_at(self._deadline, self._tick)

    def _tick(self) -> None:
        self._timer, self._armed = None, _NEVER
        if self._deadline == _NEVER:
            return
        if self.loop.time() < self._deadline - _TICK:
            self._arm()
        elif self.answer is None:
            self.abort()
        elif not self._is_moving(self.answer):
            self.answer.time_out(self._deadline)

    def _is_moving(self, answer: NativeAnswer) -> bool:
        """Whether the server still takes what was written; watches on, if so."""
        deadline = answer.request.deadline
        if answer.sent is not _PARTLY or (deadline is not None and self._deadline >= deadline):
            return False
        before = self._unwritten
        if self._transport is None or self._transport.get_write_buffer_size() >= before:
            return False
        self._partly_sent(answer)
        return True


def _is_not_open() -> bool:
    return True
