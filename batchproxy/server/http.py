"""The HTTP server under the app: uvicorn, with a deadline for the head of a request, and under our own command.

Knows: uvicorn. Must not know: what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.protocol import State

from ..engine.model import ASGIApp
from .settings import Server as Settings

_SLACK = 256 * 1024
"""What may come in one piece beyond the limit of the head: the beginning of a body, pipelined requests."""
_GOING_AWAY = 1001
_CLOSE_PATIENCE = 5.0


class Protocol(HttpToolsProtocol):
    """Cuts off a request head that does not come to its end in time, or in size: uvicorn would wait, and keep it."""

    header_timeout = 10.0
    max_header_bytes = 64 * 1024
    _unread = 0
    _head_timer: asyncio.TimerHandle | None = None
    _is_in_trailers = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()

    def data_received(self, data: bytes) -> None:
        # The parser keeps a field, and uvicorn the head, until it ends: one without an end must not grow for ever.
        self._unread += len(data)
        super().data_received(data)
        if self._unread > self.max_header_bytes + _SLACK and not self.transport.is_closing():
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_begin(self) -> None:
        self._is_in_trailers = False
        super().on_message_begin()
        if self._head_timer is None:
            self._await_head()

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

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            # An answer that is on its way is finished first.
            self.shutdown()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Says goodbye when the process ends, and waits for the answer: uvicorn closes at once, and what the client had
    under way then resets the connection before it has read why."""

    _is_leaving = False

    def shutdown(self) -> None:
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


class HttpServer(uvicorn.Server):
    """A uvicorn that leaves signals to others, and whose sockets stay theirs who made them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def stop(self, grace: float) -> None:
        """Accepts nothing more, and ends when running requests have, or cuts them after so many seconds."""
        self.config.timeout_graceful_shutdown = grace  # type: ignore[assignment]
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        grace = self.config.timeout_graceful_shutdown or 0
        # A client that reads nothing would keep its connection, and us, for ever.
        cutting = asyncio.get_running_loop().call_later(grace, self._cut)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def main_server(app: ASGIApp, settings: Settings) -> HttpServer:
    """For the requests of clients."""
    tls: dict[str, Any] = {}
    if settings.tls_certificate is not None:
        tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}
    protocol = type(
        "Protocol",
        (Protocol,),
        {"header_timeout": settings.header_timeout, "max_header_bytes": settings.max_header_bytes},
    )
    return _server(
        app,
        http=protocol,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        **tls,
    )


def admin_server(app: ASGIApp) -> HttpServer:
    """For operators."""
    return _server(app, http=Protocol, limit_concurrency=100, timeout_keep_alive=5, ws="none")


def _server(app: ASGIApp, **more: Any) -> HttpServer:
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        reset_contextvars=True,
        **more,
    )
    return HttpServer(config)


def bound(listener: Any) -> socket.socket:
    """A listening socket. Raises `OSError`."""
    if listener.descriptor is not None:
        return socket.socket(fileno=listener.descriptor)
    if listener.socket is not None:
        return _unix(listener.socket)
    family, kind, protocol, _, address = socket.getaddrinfo(
        listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
    except BaseException:
        made.close()
        raise
    return made


def _unix(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        made.bind(path)
        made.listen(2048)
    except BaseException:
        made.close()
        raise
    return made


def _remove_stale(path: str) -> None:
    """Removes a socket file that nobody listens on any more. Raises `OSError` if somebody does, or for another file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of that name, and it is no socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as trial:
        try:
            trial.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def address_of(listening: socket.socket, *, tls: bool = False) -> str:
    """What to tell people."""
    name = listening.getsockname()
    if isinstance(name, str | bytes):
        return f"unix:{name if isinstance(name, str) else name.decode()}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"
