"""Any httpx transport in the place of our own: HTTP/2, and whatever else speaks httpx's interface.

Knows: httpx's transport interface, which neither follows redirects nor keeps cookies nor decodes. Must not know:
httpx's client, which does.

httpx has no deadline for an exchange; those that it lacks are set around its awaits. Nor does it tell whether a part of
a head arrived before the connection ended: that counts as no answer.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import httpx

from ...engine.errors import SettingError
from ..addresses import Location
from ..settings import Upstream
from . import (
    BAD_RESPONSE,
    CONNECT_FAILURE,
    CONNECT_TIMEOUT,
    FIRST_BYTE_TIMEOUT,
    IDLE_TIMEOUT,
    OVERLOADED,
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
)
from .tls import tls_context

logger = logging.getLogger("batchproxy")

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITH_CONTENT = frozenset({"POST", "PUT", "PATCH"})
# How httpcore says that an exchange ended before its answer began: an HTTP/1.1 connection, and one or all of HTTP/2.
_NO_ANSWER = ("Server disconnected", "StreamReset", "ConnectionTerminated")


class HttpxTransport:
    """Connections to one address through `factory()`, or without one through `httpx.AsyncHTTPTransport`.

    Raises `SettingError`.
    """

    def __init__(
        self, location: Location, settings: Upstream, *, factory: Callable[[], httpx.AsyncBaseTransport] | None = None
    ) -> None:
        self.url = location.url
        self.settings = settings
        self._base = httpx.URL("http://localhost" if location.scheme == "unix" else location.origin)
        self._is_own = factory is None
        self._factory = factory or _default_factory(location, settings)
        self._server_name = settings.tls.server_name
        self._closing: set[asyncio.Task[None]] = set()
        self._pool = self._new_pool()

    def __repr__(self) -> str:
        return f"HttpxTransport({self.url}, running={self._pool.running}, closing={len(self._closing)})"

    def begin(self, request: Outgoing, recipient: Recipient) -> None:
        """There is nothing that could be sent at once."""

    async def send(self, request: Outgoing) -> HttpxAnswer:
        """The head of the answer. Raises `UpstreamError`; when cancelled, the connection is cut."""
        exchange = Exchange(self, self._pool, request)
        exchange.pool.running += 1
        try:
            response = await exchange.head(self._httpx_request(exchange))
        except BaseException:
            self.released(exchange.pool)
            raise
        answer = HttpxAnswer(exchange, response)
        try:
            answer.check()
        except UpstreamError:
            answer.close()
            raise
        return answer

    def _httpx_request(self, exchange: Exchange) -> httpx.Request:
        request = exchange.request
        extensions: dict[str, Any] = {"target": request.target, "timeout": exchange.timeouts, "trace": exchange.trace}
        if self._server_name is not None:
            extensions["sni_hostname"] = self._server_name
        headers = [*request.headers, *_framing(request)]
        body = _Body(request.body, request.length)
        url = self._base if self._is_own else self._url(request.target)
        return httpx.Request(request.method, url, headers=headers, stream=body, extensions=extensions)

    def _url(self, target: bytes) -> httpx.URL:
        """For transports that do not know the extension `target`: the nearest that there is to it."""
        url = self._base.copy_with(raw_path=target)
        assert (url.scheme, url.host, url.port) == (self._base.scheme, self._base.host, self._base.port)
        return url

    def expire(self) -> None:
        """No connection of now is used again once it is idle; running exchanges go on."""
        old, self._pool = self._pool, self._new_pool()
        old.is_expired = True
        if not old.running:
            self.finish(old.transport.aclose())

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._pool.transport.aclose()
        while self._closing:
            await asyncio.wait(self._closing)

    def released(self, pool: Pool) -> None:
        """An exchange is over."""
        pool.running -= 1
        if pool.is_expired and not pool.running:
            self.finish(pool.transport.aclose())

    def finish(self, closing: Any) -> None:
        """Lets something be closed by a task of its own, for `close` and `expire` cannot wait."""
        task = asyncio.get_running_loop().create_task(_quietly(closing, self.url), name="batchproxy close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _new_pool(self) -> Pool:
        transport = self._factory()
        if not isinstance(transport, httpx.AsyncBaseTransport):
            raise SettingError("transport", self.settings.transport, "expected it to make an httpx.AsyncBaseTransport")
        return Pool(transport)


class Pool:
    """A transport of httpx, and how many exchanges run over it."""

    __slots__ = ("is_expired", "running", "transport")

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.running = 0
        self.is_expired = False


class Exchange:
    """How far one request has come; httpcore tells it through `trace`."""

    __slots__ = ("owner", "pool", "request", "sent", "step", "timeouts")

    def __init__(self, owner: HttpxTransport, pool: Pool, request: Outgoing) -> None:
        limits = owner.settings.timeouts
        self.owner = owner
        self.pool = pool
        self.request = request
        self.sent = Sent.NOTHING
        self.step = ""
        self.timeouts: dict[str, float | None] = {
            "connect": limits.connect,
            "read": limits.first_byte,
            "write": limits.idle,
            "pool": None,
        }

    async def trace(self, step: str, info: dict[str, Any]) -> None:
        self.step = step
        if step.endswith("send_request_headers.started"):
            self.sent = Sent.PARTLY
        elif step.endswith("send_request_body.complete"):
            self.sent = Sent.ALL

    async def head(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout_at(self._limit()):
                return await self.pool.transport.handle_async_request(request)
        except TimeoutError:
            reason = TOTAL_TIMEOUT if self.is_late() else FIRST_BYTE_TIMEOUT
            raise self.error(reason, "no answer in time") from None
        except (httpx.TransportError, OSError) as fault:
            raise self._before_answer(fault) from fault

    def is_late(self) -> bool:
        deadline = self.request.deadline
        return deadline is not None and asyncio.get_running_loop().time() >= deadline

    def _limit(self) -> float | None:
        """By when the head must be there: for transports that keep no deadlines themselves."""
        limits, deadline = self.owner.settings.timeouts, self.request.deadline
        if not isinstance(self.request.body, bytes):
            return deadline
        limit = asyncio.get_running_loop().time() + limits.connect + limits.first_byte
        return limit if deadline is None or limit < deadline else deadline

    def error(self, reason: Reason, detail: str, *, answered: bool = False) -> UpstreamError:
        return UpstreamError(reason, f"{self.owner.url}: {detail}", sent=self.sent, answered=answered)

    def _before_answer(self, fault: Exception) -> Exception:
        text = f"{type(fault).__name__}: {fault}"
        match fault:
            case httpx.LocalProtocolError():
                return ValueError(f"A request that cannot be sent: {fault}")
            case httpx.ConnectTimeout():
                return self.error(CONNECT_TIMEOUT, text)
            case httpx.ReadTimeout():
                return self.error(FIRST_BYTE_TIMEOUT, text)
            case httpx.WriteTimeout():
                return self.error(IDLE_TIMEOUT, text)
            case httpx.PoolTimeout():
                return self.error(OVERLOADED, text)
            case httpx.RemoteProtocolError() if not any(each in str(fault) for each in _NO_ANSWER):
                return self.error(BAD_RESPONSE, text, answered=True)
            case httpx.ConnectError() if "start_tls" in self.step:
                return self.error(TLS_FAILURE, text)
        if self.sent is Sent.NOTHING:
            return self.error(CONNECT_FAILURE, text)
        return self.error(RESET_BEFORE_RESPONSE, text)


class HttpxAnswer:
    """An answer whose body is read as it came, without decoding."""

    __slots__ = ("_exchange", "_is_open", "_pieces", "_response", "headers", "status", "total")

    def __init__(self, exchange: Exchange, response: httpx.Response) -> None:
        self._exchange = exchange
        self._response = response
        self._is_open = True
        self._pieces: AsyncIterator[bytes] | None = None
        self.status = response.status_code
        self.headers = [(name.lower(), value.strip(b" \t")) for name, value in response.headers.raw]
        self.total = 0

    def __repr__(self) -> str:
        return f"HttpxAnswer({self.status}, {'open' if self._is_open else 'ended'}, total={self.total})"

    def check(self) -> None:
        """Raises `UpstreamError` for a head that is not to be passed on."""
        settings = self._exchange.owner.settings
        if not 200 <= self.status <= 599:
            raise self._error(BAD_RESPONSE, f"status {self.status}")
        if sum(len(name) + len(value) for name, value in self.headers) > settings.max_response_header_bytes:
            raise self._error(BAD_RESPONSE, "the head is too large")
        names = [name for name, _ in self.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise self._error(BAD_RESPONSE, "a length and a transfer coding")
        if any(_CONTROL.search(value) for _, value in self.headers):
            raise self._error(BAD_RESPONSE, "a control character in a header")
        length = self._length()
        if settings.max_response_bytes is not None and length is not None and length > settings.max_response_bytes:
            raise self._error(TOO_LARGE, f"the body has {length} bytes")

    def _length(self) -> int | None:
        if self._exchange.request.method == "HEAD" or self.status == 304:
            return None
        values = {value for name, value in self.headers if name == b"content-length"}
        if not values:
            return None
        value = values.pop()
        if values or not value.isdigit():
            raise self._error(BAD_RESPONSE, "the length is not clear")
        return int(value)

    async def read(self) -> bytes:
        """The next piece of the body, empty at its end. Raises `UpstreamError`."""
        if not self._is_open:
            return b""
        try:
            piece = await self._next()
        except UpstreamError:
            self.close()
            raise
        most = self._exchange.owner.settings.max_response_bytes
        self.total += len(piece)
        if most is not None and self.total > most:
            self.close()
            raise self._error(TOO_LARGE, f"the body has more than {most} bytes")
        if not piece:
            # Waited for, so that the connection is there for the next request.
            self._is_open = False
            await self._aclose()
        return piece

    async def _next(self) -> bytes:
        exchange = self._exchange
        idle, deadline = exchange.owner.settings.timeouts.idle, exchange.request.deadline
        limit = asyncio.get_running_loop().time() + idle
        exchange.timeouts["read"] = None
        if self._pieces is None:
            self._pieces = aiter(cast("httpx.AsyncByteStream", self._response.stream))
        try:
            async with asyncio.timeout_at(limit if deadline is None or limit < deadline else deadline):
                async for piece in self._pieces:
                    if piece:
                        return piece
        except TimeoutError:
            raise self._error(TOTAL_TIMEOUT if exchange.is_late() else IDLE_TIMEOUT, "the body stopped") from None
        except (httpx.TransportError, OSError) as fault:
            raise self._error(TRUNCATED, f"{type(fault).__name__}: {fault}") from fault
        return b""

    def close(self) -> None:
        """Frees the connection: kept if the answer has been read to its end, else cut. May be called twice."""
        if self._is_open:
            self._is_open = False
            self._exchange.owner.finish(self._aclose())

    async def _aclose(self) -> None:
        exchange = self._exchange
        try:
            await _close_iterator(self._pieces)
            await self._response.aclose()
        finally:
            exchange.owner.released(exchange.pool)

    def _error(self, reason: Reason, detail: str) -> UpstreamError:
        return self._exchange.error(reason, detail, answered=True)


class _Body(httpx.AsyncByteStream):
    def __init__(self, body: bytes | AsyncIterator[bytes], length: int | None) -> None:
        self._body = body
        self._left = length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if isinstance(self._body, bytes):
            if self._body:
                yield self._body
            return
        async for piece in self._body:
            if self._left is not None:
                self._left -= len(piece)
                if self._left < 0:
                    raise ValueError("The body is longer than its declared length.")
            if piece:
                yield piece
        if self._left:
            raise ValueError("The body is shorter than its declared length.")


def _framing(request: Outgoing) -> list[tuple[bytes, bytes]]:
    body = request.body
    if isinstance(body, bytes):
        is_framed = body or request.method in _WITH_CONTENT
        return [(b"content-length", b"%d" % len(body))] if is_framed else []
    if request.length is None:
        return [(b"transfer-encoding", b"chunked")]
    return [(b"content-length", b"%d" % request.length)]


def _default_factory(location: Location, settings: Upstream) -> Callable[[], httpx.AsyncBaseTransport]:
    is_tls = location.scheme == "https"
    limits = httpx.Limits(
        max_connections=settings.max_connections,
        max_keepalive_connections=settings.max_connections,
        keepalive_expiry=settings.idle_expiry,
    )
    # Without TLS it is never used, but httpx would read the system's authorities to make one itself.
    context = tls_context(settings.tls) if is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def make() -> httpx.AsyncBaseTransport:
        try:
            return httpx.AsyncHTTPTransport(
                verify=context,
                trust_env=False,
                # Without TLS nothing can be negotiated: HTTP/2 is spoken from the first byte.
                http1=is_tls or not settings.http2,
                http2=settings.http2,
                limits=limits,
                uds=location.socket,
                retries=0,
            )
        except ImportError as fault:
            raise SettingError("http2", True, f"expected batchproxy[http2] to be installed: {fault}") from None

    return make


async def _close_iterator(pieces: AsyncIterator[bytes] | None) -> None:
    aclose = getattr(pieces, "aclose", None)
    if aclose is not None:
        await aclose()


async def _quietly(closing: Any, url: str) -> None:
    try:
        await closing
    except Exception as fault:
        # What is thrown away may be broken.
        logger.debug("upstream.close_failed: address=%s %r", url, fault)
