"""Connections of clients: uvicorn's protocols, with deadlines, limits and endings that it lacks.

Knows: uvicorn's protocols, HTTP/1 and websockets as a server speaks them. Must not know: what is served, sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Any, TypeAlias

from uvicorn.protocols.http.flow_control import service_unavailable
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ..engine.model import ASGIApp, Message, Receive, Scope, Send

Client: TypeAlias = tuple[str, int] | None
Unreadable: TypeAlias = Callable[[Client, int], None]

_SLACK = 256 * 1024
"""What may come in one piece beyond the limit of the head: the beginning of a body, pipelined requests."""
_GOING_AWAY = 1001
_CLOSE_PATIENCE = 5.0
_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_BAD_HANDSHAKE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_RESET, _FIN = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)


class Protocol(HttpToolsProtocol):
    """Cuts off a request head that does not come to its end in time, or in size: uvicorn would wait, and keep it."""

    header_timeout = 10.0
    max_header_bytes = 64 * 1024
    max_connections = 100
    full: ASGIApp = staticmethod(service_unavailable)  # type: ignore[assignment]
    unreadable: Unreadable = staticmethod(lambda client, status: None)
    _is_unreadable = False
    _unread = 0
    _head_timer: asyncio.TimerHandle | None = None
    _is_in_head = False
    _is_in_trailers = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._is_unreadable:
            return
        # The parser keeps a field, and uvicorn the head, until it ends: one without an end must not grow for ever.
        self._unread += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_timer is None:
            # Most heads come in one piece: measured, 5,000 instructions less for each request than with a timer.
            self._await_head()
        cycle = self.cycle
        if cycle is not None and cycle.response_complete and self._head_timer is None:
            self._await_request()
        if self._unread > self.max_header_bytes + _SLACK and not self.transport.is_closing():
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        self._is_in_trailers = False
        self._is_in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        # A field behind the body must not be taken for one of the head, where others have looked (RFC 9110, 6.5.1).
        if not self._is_in_trailers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_trailers = True
        self._unread = 0
        self._head_is_there()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        """What came belongs to a body that nobody wants any more: without this the connection would stay for ever."""
        # One that has become a websocket is no longer ours.
        is_ours = self in self.connections
        if is_ours and self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # Beyond the limit

    @property
    def _is_full(self) -> bool:
        # What runs may outlive its connection for a while.
        return len(self.connections) > self.max_connections or len(self.tasks) > self.max_connections

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._is_full:
            app = self.full
        if cycle.scope["http_version"] < "1.1":
            app = _ending_with_the_connection(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _should_upgrade(self) -> bool:
        # What is not upgraded is answered like any other request.
        return super()._should_upgrade() and self._is_handshake and not self._is_full

    @property
    def _is_handshake(self) -> bool:
        """RFC 6455, section 4.1. The parser of websockets is stuck with anything else."""
        return self.parser.get_method() == b"GET" and self.parser.get_http_version() == "1.1"

    # What is no HTTP

    def send_400_response(self, msg: str) -> None:
        self._is_unreadable = True
        self.unreadable(self.client, 400)
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            super().send_400_response(msg)
        elif not cycle.more_body:
            # It came behind a whole request, whose answer must not have ours in its midst.
            self.shutdown()
        elif cycle.response_started:
            self.transport.close()
        else:
            super().send_400_response(msg)

    # The head

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _head_is_there(self) -> None:
        self._is_in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        # What still comes of it needs no timer any more.
        self._is_in_head = False
        if self.transport.is_closing():
            return
        if self.scope is not None and not self._is_unreadable:
            # Else nothing has come at all, as of a connection that was made in advance; or it has been told already.
            self.unreadable(self.client, 408)
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(_LATE)
        # An answer that is on its way is finished first.
        self.shutdown()


def _ending_with_the_connection(app: ASGIApp, cycle: RequestResponseCycle) -> ASGIApp:
    """For a client of HTTP/1.0, which knows no chunks: an answer without a length ends with its connection, and until
    its last piece any other end is a reset, so that a part is not taken for the whole."""

    async def answered(scope: Scope, receive: Receive, send: Send) -> None:
        is_open = False

        async def sending(message: Message) -> None:
            nonlocal is_open
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message.get("headers", ())}
                is_open = b"content-length" not in names
                if is_open:
                    cycle.chunked_encoding = False
                    _end_by(cycle.transport, _RESET)
            elif is_open:
                cycle.expected_content_length = len(message.get("body", b""))
                if not message.get("more_body", False):
                    _end_by(cycle.transport, _FIN)
            await send(message)

        cycle.waiting_for_100_continue = False  # RFC 9110, section 10.1.1
        await app(scope, receive, sending)

    return answered


def _end_by(transport: asyncio.Transport, how: bytes) -> None:
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Says goodbye when the process ends, and waits for the answer: uvicorn closes at once, and what the client had
    under way then resets the connection before it has read why."""

    _is_leaving = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and not self.transport.is_closing():
            # Its whole head was there, and its parser takes less than ours: it would say nothing, and wait for ever.
            self.transport.write(_BAD_HANDSHAKE)
            self.transport.close()

    async def run_asgi(self) -> None:
        app = self.app

        async def answering(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            if self.close_sent:
                # Refused with an answer, too: uvicorn would log that there was none.
                self.handshake_complete = True

        self.app = answering
        await super().run_asgi()

    def shutdown(self) -> None:
        if not self.handshake_initiated:
            self.transport.close()
            return
        if not self.handshake_complete or self.close_sent or self.conn.state is not State.OPEN:
            super().shutdown()
            return
        self._is_leaving = True
        self.stop_keepalive()
        self.queue.put_nowait({"type": "websocket.disconnect", "code": _GOING_AWAY, "reason": ""})
        self.conn.send_close(_GOING_AWAY)
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # Aborted, for a client that reads nothing lets nothing be closed.
        self.close_timer = self.loop.call_later(_CLOSE_PATIENCE, self.transport.abort)

    def send_receive_event_to_app(self) -> None:
        if self._is_leaving:
            # Nobody takes it any more, and the answer to the goodbye comes behind it.
            self.frames = []
            return
        super().send_receive_event_to_app()
