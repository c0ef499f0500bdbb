"""The HTTP server under the app: uvicorn, under our own command, and the sockets that it listens on.

Knows: uvicorn. Must not know: what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from array import array
from collections.abc import Iterator
from typing import Any, TypeAlias

import uvicorn

from ..engine.model import ASGIApp
from .protocols import Protocol, Unreadable, WebSocketProtocol
from .settings import Server as Settings

if sys.platform != "win32":
    import fcntl
    import termios

_TICKS = 10
"""Of uvicorn's, a second."""
Unread: TypeAlias = tuple[int, int]
"""So many bytes wait here, and so many in the system."""


class HttpServer(uvicorn.Server):
    """A uvicorn that leaves signals to others, and whose sockets stay theirs who made them."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._unread: dict[Any, tuple[Unread, float]] = {}
        """Connections that close when their clients have taken the rest: what that is, and since when."""

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

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS == 0:
            self._cut_unread(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def _cut_unread(self, now: float) -> None:
        """Who takes nothing any more of the last that was written for him is idle, and would stay for ever."""
        unread: dict[Any, tuple[Unread, float]] = {}
        for connection in list(self.server_state.connections):
            transport = connection.transport
            if not transport.is_closing() or transport.get_extra_info("ssl_object") is not None:
                # Over TLS the loop itself cuts who is not done half a minute after the end.
                continue
            left = (transport.get_write_buffer_size(), _unacknowledged(transport))
            before, since = self._unread.get(connection, (left, now))
            unread[connection] = (left, since if left == before else now)
            if now - unread[connection][1] >= self.config.timeout_keep_alive:
                transport.abort()
        self._unread = unread

    def _cut(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _unacknowledged(transport: asyncio.Transport) -> int:
    """What the system has that the client has not: it takes more of us only when a good part of that is gone."""
    if sys.platform == "win32":
        return 0
    found = array("i", [0])
    with contextlib.suppress(OSError, ValueError):  # it is gone by now
        fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, found)
    return found[0]


def main_server(app: ASGIApp, settings: Settings, *, full: ASGIApp, unreadable: Unreadable) -> HttpServer:
    """For the requests of clients; `full` answers those beyond `max_connections`, `unreadable` is told of clients that
    sent no whole head, and with which status they were turned away."""
    tls: dict[str, Any] = {}
    if settings.tls_certificate is not None:
        tls = {"ssl_certfile": settings.tls_certificate, "ssl_keyfile": settings.tls_key}
    protocol = type(
        "Protocol",
        (Protocol,),
        {
            "header_timeout": settings.header_timeout,
            "max_header_bytes": settings.max_header_bytes,
            "max_connections": settings.max_connections,
            "full": staticmethod(full),
            "unreadable": staticmethod(unreadable),
        },
    )
    return _server(
        app,
        http=protocol,
        timeout_keep_alive=settings.keep_alive,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        **tls,
    )


def admin_server(app: ASGIApp) -> HttpServer:
    """For operators."""
    return _server(app, http=Protocol, timeout_keep_alive=5, ws="none")


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
        return _inherited(listener.descriptor)
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


def _inherited(descriptor: int) -> socket.socket:
    made = socket.socket(fileno=descriptor)
    try:
        made.listen(2048)
    except OSError:
        # One that is connected, or has no connections at all: nobody would ever come in.
        made.close()
        raise OSError(errno.EINVAL, "this socket cannot listen") from None
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
