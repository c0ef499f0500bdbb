"""HTTP/1.1 over asyncio and llhttp: connections to one address, kept and used again.

Knows: RFC 9112 from the client's side. Must not know: routes, retries but for a stale connection, other addresses.

The parser is fed straight from `data_received`, head and body are written at once, and a connection has one timer,
which is set again only when it fires: measured, a quarter of what a client library takes.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Sequence
from urllib.parse import urlsplit

from ..settings import TLS, Timeouts
from . import (
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    TLS_FAILURE,
    TOTAL_TIMEOUT,
    Outgoing,
    Recipient,
    UpstreamError,
)
from .answer import SLACK, NativeAnswer, is_stale
from .connection import Connection
from .tls import tls_context

_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})
"""Methods whose request says that it is empty, if it is (RFC 9110, section 8.6)."""
_MOST_VERBS = 64


class _Verbs(dict[str, bytes]):
    """Methods as they begin a request line."""

    def __missing__(self, method: str) -> bytes:
        name = method.encode("ascii")
        if name.split() != [name] or 0 in name:
            raise ValueError("A request line holds what would break it.")
        verb = name + b" "
        if len(self) < _MOST_VERBS:
            self[method] = verb
        return verb


_VERBS = _Verbs()


class NativeTransport:
    """Connections to one address: `http://host[:port]`, `https://…` or `unix:/path`. Raises `SettingError`."""

    def __init__(
        self,
        url: str,
        *,
        timeouts: Timeouts,
        tls: TLS | None,
        max_connections: int,
        idle_expiry: float,
        max_response_header_bytes: int,
        max_response_bytes: int | None,
    ) -> None:
        parts = urlsplit(url)
        self.url = url
        self.timeouts = timeouts
        self.idle_expiry = idle_expiry
        self.max_header_bytes = max_response_header_bytes
        self.max_unread_bytes = max_response_header_bytes + SLACK
        self.max_body_bytes = max_response_bytes
        self._path = parts.path if parts.scheme == "unix" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = tls or TLS()
        self._context = tls_context(self._tls) if parts.scheme == "https" else None
        self._max_connections = max_connections
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._opening: set[asyncio.Timeout] = set()
        self._era = 0
        self._closed = False
        self._last_headers: Sequence[tuple[bytes, bytes]] = ()
        self._last_fields = b""

    def __repr__(self) -> str:
        return f"NativeTransport({self.url}, open={len(self._connections)}, idle={len(self._idle)})"

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def begin(self, request: Outgoing, recipient: Recipient) -> NativeAnswer | None:
        """Sends a request if a connection is idle; see `transports.Transport`."""
        head, idle = self._head(request), self._idle
        while idle:
            connection = idle.pop()
            if not connection.is_closing():
                return connection.begin(request, head, recipient)
        return None

    async def send(self, request: Outgoing, *, again: bool = False) -> NativeAnswer:
        """The head of the answer. Raises `UpstreamError`; when cancelled, the connection is cut.

        `again` is for a request that met a stale connection: the others may be as stale, and whoever waits came later.
        """
        head = self._head(request)
        connection = None if again else self._idle_one()
        was_idle = connection is not None
        if connection is None:
            connection, was_idle = await self._acquire(request.deadline, first=again)
        while True:
            answer = connection.begin(request, head)
            if answer.waiter is not None:
                try:
                    # The future itself, for each call between costs as much as all that is done here.
                    await answer.waiter
                except BaseException:
                    answer.close()
                    raise
            error = answer.error
            if error is None or answer.has_body:
                return answer
            if not (was_idle and not again and is_stale(request, error)):
                raise error
            connection, _ = await self._acquire(request.deadline, first=True)
            again = True

    def _idle_one(self) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle.pop()
            if not connection.is_closing():
                return connection
        return None

    def _head(self, request: Outgoing) -> bytes:
        """The head as it goes out. Raises `ValueError` for what would break it: a mistake of ours."""
        headers, target, body = request.headers, request.target, request.body
        if headers is self._last_headers:
            fields = self._last_fields
        else:
            fields = _fields(headers)
            if type(headers) is tuple:
                # Items of a batch nearly all have the same ones; a tuple stays what it is. Measured, 2 µs less.
                self._last_headers, self._last_fields = headers, fields
        # No blank and no end of a line: it is its only word.
        if target.split() != [target] or 0 in target:
            raise ValueError("A request line holds what would break it.")
        if isinstance(body, bytes):
            framing = b"content-length: %d\r\n" % len(body) if body or request.method in _WITH_CONTENT else b""
        elif request.length is None:
            framing = b"transfer-encoding: chunked\r\n"
        else:
            framing = b"content-length: %d\r\n" % request.length
        return b"".join((_VERBS[request.method], target, b" HTTP/1.1\r\n", fields, framing, b"\r\n"))

    # Connections

    async def _acquire(self, deadline: float | None, *, first: bool = False) -> tuple[Connection, bool]:
        """A connection, and whether it has been used before. Who waits `first` goes before all others."""
        if self._closed:
            raise self._refused()
        if len(self._connections) + self._connecting < self._max_connections and (first or not self._waiting):
            return await self._connect(deadline), False
        waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
        if first:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                connection = await waiter
        except BaseException as fault:
            self._give_up(waiter)
            if isinstance(fault, TimeoutError):
                raise UpstreamError(TOTAL_TIMEOUT, f"no free connection to {self.url}") from None
            raise
        if connection is not None:
            return connection, True
        self._connecting -= 1  # it was counted for us
        return await self._connect(deadline), False

    def _give_up(self, waiter: asyncio.Future[Connection | None]) -> None:
        """Passes on what the waiter got in the same moment in which it stopped waiting."""
        if waiter in self._waiting:
            self._waiting.remove(waiter)
        if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
            return
        if (connection := waiter.result()) is not None:
            self.released(connection)
        else:
            self._connecting -= 1
            self._grant()

    def _refused(self) -> UpstreamError:
        return UpstreamError(CONNECT_FAILURE, f"the transport to {self.url} is closed")

    def _grant(self) -> None:
        """Lets the next who waits open a connection, if there is room for one."""
        while self._waiting and len(self._connections) + self._connecting < self._max_connections:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._connecting += 1
                waiter.set_result(None)

    async def _connect(self, deadline: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        limit = loop.time() + self.timeouts.connect
        end = asyncio.timeout_at(limit if deadline is None else min(limit, deadline))
        self._connecting += 1
        self._opening.add(end)
        try:
            async with end:
                return await self._open(loop)
        except TimeoutError as fault:
            if self._closed:
                raise self._refused() from None
            if not end.expired():  # it is the system's
                raise UpstreamError(CONNECT_FAILURE, f"{self.url}: {fault!r}") from None
            reason = CONNECT_TIMEOUT if deadline is None or limit < deadline else TOTAL_TIMEOUT
            raise UpstreamError(reason, f"no connection to {self.url} in time") from None
        except ssl.SSLError as fault:
            raise UpstreamError(TLS_FAILURE, f"{self.url}: {fault}") from None
        except (OSError, UnicodeError) as fault:  # of a name that is none
            raise UpstreamError(CONNECT_FAILURE, f"{self.url}: {fault!r}") from None
        finally:
            self._opening.discard(end)
            self._connecting -= 1
            self._grant()

    async def _open(self, loop: asyncio.AbstractEventLoop) -> Connection:
        connection = Connection(self, loop)
        try:
            if self._path is not None:
                await loop.create_unix_connection(lambda: connection, self._path)
                return connection
            name = (self._tls.server_name or self._host) if self._context is not None else None
            await loop.create_connection(
                lambda: connection, self._host, self._port, ssl=self._context, server_hostname=name
            )
        except BaseException:
            # Given up while it is being made, it would never hear of its end from uvloop, and count for ever.
            connection.abort()
            connection.connection_lost(None)
            raise
        return connection

    def opened(self, connection: Connection) -> None:
        connection.era = self._era
        if self._closed or connection.gone.done():
            connection.abort()
        if not connection.gone.done():
            self._connections.add(connection)

    def released(self, connection: Connection) -> None:
        """The exchange on this connection is over, and it can serve another."""
        if self._closed or connection.era != self._era:
            connection.abort()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._grant()

    def expire(self) -> None:
        """No connection of now is used again once it is idle; running exchanges go on."""
        self._era += 1
        for connection in list(self._idle):
            connection.abort()

    async def aclose(self) -> None:
        """Cuts all connections, and waits until they are gone."""
        self._closed = True
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(self._refused())
        self._waiting.clear()
        for end in self._opening:
            if not end.expired():
                end.reschedule(0)
        ending: list[asyncio.Future[None]] = []
        for connection in list(self._connections):
            ending.append(connection.gone)
            if connection.sender is not None:
                ending.append(connection.sender)
            connection.abort()
        if ending:
            await asyncio.wait(ending)


def _fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header fields as they go out. Raises `ValueError` for what would break them: a mistake of ours."""
    fields = b"".join([b"%b: %b\r\n" % pair for pair in headers])
    if fields.count(b"\n") != len(headers) or fields.count(b"\r") != len(headers) or b"\0" in fields:
        raise ValueError("A header field holds what would break it.")
    return fields
