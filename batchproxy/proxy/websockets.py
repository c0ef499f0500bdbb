"""A websocket handed through: a connection to the upstream, and messages both ways.

Knows: the `websockets` library and ASGI's websocket messages. Must not know: how the way was chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Mapping
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Response
from websockets.typing import Origin, Subprotocol

from ..engine.errors import Failure
from ..engine.headers import of_answer
from ..engine.model import Message, Receive, Scope, Send
from ..engine.settings import MiB
from . import problem
from .balancing import Address
from .transports import UpstreamError
from .ways import Way

logger = logging.getLogger("batchproxy")

MAX_MESSAGE_BYTES = 16 * MiB
_CLOSE_PATIENCE = 5.0
_NORMAL, _GOING_AWAY, _TOO_BIG, _BAD_GATEWAY = 1000, 1001, 1009, 1014
# RFC 6455, section 7.4.1: these say how a connection ended, and are never sent.
_NEVER_SENT = {1005: _NORMAL, 1006: _GOING_AWAY, 1015: _GOING_AWAY}
_MOST_REASON_BYTES = 123


class _Connect(connect):
    """As the library does it, but a redirect is an answer like others, for the client to see."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def pass_through(
    way: Way,
    target: bytes,
    headers: list[tuple[bytes, bytes]],
    scope: Scope,
    receive: Receive,
    send: Send,
    notes: dict[str, Any],
) -> None:
    """After `websocket.connect`: opens the upstream's side, then carries messages until one side closes."""
    notes["upstream"] = way.upstream.name
    # The next message can only be that the client left; once both sides are open, it is the first to be passed on.
    first: asyncio.Future[Message] = asyncio.ensure_future(receive())
    opening = asyncio.ensure_future(_open(way, target, headers, scope, notes))
    try:
        either: set[asyncio.Future[Any]] = {first, opening}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not opening.done():
            notes["flags"] = "DC"
            return
        try:
            connection = opening.result()
        except InvalidStatus as fault:
            if fault.response.status_code < 200:
                await _fail(fault, way, scope, send, notes)
            else:
                await _refuse(fault.response, scope, send)
            return
        except (UpstreamError, OSError, InvalidHandshake, InvalidURI) as fault:
            await _fail(fault, way, scope, send, notes)
            return
        await _Relay(way, connection, receive, send, first).run()
    finally:
        await _ended(first, opening)
        if opening.done() and not opening.cancelled() and opening.exception() is None:
            await _close(opening.result())


async def _open(
    way: Way, target: bytes, headers: list[tuple[bytes, bytes]], scope: Scope, notes: dict[str, Any]
) -> ClientConnection:
    address = way.upstream.address_for_websocket()
    notes["address"] = address.url
    timeouts = way.upstream.settings.timeouts
    return await _Connect(
        _uri(address, target, headers),
        origin=_origin(headers),
        subprotocols=[Subprotocol(each) for each in scope.get("subprotocols", ())] or None,
        additional_headers=_passed_on(headers),
        user_agent_header=None,
        compression=None,
        proxy=None,
        open_timeout=timeouts.connect + timeouts.first_byte,
        close_timeout=_CLOSE_PATIENCE,
        max_size=way.max_response_bytes or MAX_MESSAGE_BYTES,
        # It counts frames, however large: beside this one there is the one that is being passed on.
        max_queue=1,
        **_destination(address, way),
    )


def _uri(address: Address, target: bytes, headers: list[tuple[bytes, bytes]]) -> str:
    """Its host goes into `Host` alone; where to connect to is said apart from it."""
    client = next((value for name, value in headers if name == b"host" and value), None)
    host = address.host or client or address.location.authority
    scheme = "wss" if address.ssl_context is not None else "ws"
    return f"{scheme}://{host.decode('latin-1')}{(address.prefix + target).decode('ascii')}"


def _destination(address: Address, way: Way) -> Mapping[str, Any]:
    location = address.location
    if location.socket is not None:
        return {"unix": True, "path": location.socket}
    if address.ssl_context is None:
        return {"host": location.host, "port": location.port}
    name = way.upstream.settings.tls.server_name or location.host
    return {"host": location.host, "port": location.port, "ssl": address.ssl_context, "server_hostname": name}


def _origin(headers: list[tuple[bytes, bytes]]) -> Origin | None:
    return next((Origin(value.decode("latin-1")) for name, value in headers if name == b"origin"), None)


def _passed_on(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Without what the library writes by itself for its own handshake."""
    return [
        (name.decode("ascii"), value.decode("latin-1"))
        for name, value in headers
        if name not in (b"host", b"origin") and not name.startswith(b"sec-websocket-")
    ]


class _Relay:
    """Messages both ways, until one side closes or nothing has moved for too long."""

    def __init__(
        self, way: Way, connection: ClientConnection, receive: Receive, send: Send, first: asyncio.Future[Message]
    ) -> None:
        self._connection = connection
        self._receive = receive
        self._send = send
        self._first = first
        self._most = way.max_request_bytes or MAX_MESSAGE_BYTES
        self._idle = way.upstream.settings.timeouts.idle
        self._loop = asyncio.get_running_loop()
        self._moved = self._loop.time()
        self._is_over = False

    async def run(self) -> None:
        await self._send(_acceptance(self._connection))
        pumps = [asyncio.ensure_future(self._to_upstream()), asyncio.ensure_future(self._to_client())]
        try:
            while not any(pump.done() for pump in pumps):
                left = self._moved + self._idle - self._loop.time()
                if left <= 0:
                    await self._say_goodbye(_GOING_AWAY, "Nothing was said for too long.")
                    return
                await asyncio.wait(pumps, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                if pump.done():
                    pump.result()
        except OSError:
            pass  # The client is gone.
        finally:
            await _ended(*pumps)

    async def _to_upstream(self) -> None:
        connection = self._connection
        message = await self._first
        while message["type"] == "websocket.receive":
            self._moved = self._loop.time()
            text = message.get("text")
            data: str | bytes = message.get("bytes") or b"" if text is None else text
            if len(data) > self._most:
                await self._say_goodbye(_TOO_BIG, "The message is too big.")
                return
            try:
                await connection.send(data)
            except ConnectionClosed:
                # The other pump says so to the client, with the code.
                await asyncio.get_running_loop().create_future()
            self._moved = self._loop.time()
            message = await self._receive()
        self._is_over = True
        code = message.get("code") or 1005
        await _leave(connection, _NEVER_SENT.get(code, code), _reason(message.get("reason")))

    async def _to_client(self) -> None:
        connection = self._connection
        try:
            while True:
                data = await connection.recv()
                if self._is_over:
                    # Nobody wants it any more, but it comes before the answer to our goodbye.
                    continue
                self._moved = self._loop.time()
                kind = "text" if isinstance(data, str) else "bytes"
                try:
                    await self._send({"type": "websocket.send", kind: data})
                except OSError:
                    # The client is gone; with which code the other pump will hear.
                    self._is_over = True
                self._moved = self._loop.time()
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (_BAD_GATEWAY, "")
            if closed.rcvd is None and closed.sent is not None and not closed.rcvd_then_sent:
                # It was the library that ended it: a message over the limit, or bytes that are no websocket.
                code = closed.sent.code
            if not self._is_over:
                await self._tell(_closing(_NEVER_SENT.get(code, code), reason))

    async def _say_goodbye(self, code: int, reason: str) -> None:
        self._is_over = True
        await self._tell(_closing(code, reason))
        await _leave(self._connection, code, reason)

    async def _tell(self, closing: Message) -> None:
        """A client that reads nothing would keep us for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_PATIENCE):
                await self._send(closing)


def _acceptance(connection: ClientConnection) -> Message:
    assert connection.response is not None
    headers, _ = of_answer(_pairs(connection.response), keep_length=False)
    return {
        "type": "websocket.accept",
        "subprotocol": connection.subprotocol,
        "headers": [pair for pair in headers if not pair[0].startswith(b"sec-websocket-")],
    }


def _closing(code: int, reason: str) -> Message:
    return {"type": "websocket.close", "code": code, "reason": reason}


def _reason(reason: str | None) -> str:
    return (reason or "").encode("utf-8")[:_MOST_REASON_BYTES].decode("utf-8", "ignore")


def _pairs(response: Response) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.headers.raw_items()]


async def _refuse(response: Response, scope: Scope, send: Send) -> None:
    """The upstream's own answer to the handshake, where the server can send it."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send(_closing(_NORMAL, ""))
        return
    headers, _ = of_answer(_pairs(response), keep_length=False)
    start = {"type": "websocket.http.response.start", "status": response.status_code, "headers": list(headers)}
    await send(start)
    await send({"type": "websocket.http.response.body", "body": bytes(response.body or b""), "more_body": False})


async def _fail(fault: Exception, way: Way, scope: Scope, send: Send, notes: dict[str, Any]) -> None:
    failure, flag = _meaning(fault)
    notes["flags"], notes["code"] = flag, failure.value
    request_id = problem.request_id(notes, scope["headers"])
    logger.warning("upstream.failed: request=%s upstream=%s %r", request_id, way.upstream.name, fault)
    await problem.answer_handshake(problem.of(failure), scope, send)


def _meaning(fault: Exception) -> tuple[Failure, str]:
    if isinstance(fault, UpstreamError):
        return fault.reason.failure, fault.reason.flag
    if isinstance(fault, TimeoutError):
        return Failure.TIMEOUT, "UT"
    # A peer that goes away before it has answered shows as a handshake that is not valid, around what was raised.
    if isinstance(fault, OSError | ssl.SSLError) or isinstance(fault.__cause__, OSError | EOFError):
        return Failure.UNREACHABLE, "UF"
    return Failure.BAD_RESPONSE, "UPE"


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    """Cancels what has not ended, and waits until it has."""
    for task in tasks:
        task.cancel()
    pending = [task for task in tasks if not task.done()]
    if pending:
        await asyncio.wait(pending)
    for task in tasks:
        if not task.cancelled():
            # Told to whoever awaited it, if it concerns anybody.
            task.exception()


async def _leave(connection: ClientConnection, code: int, reason: str) -> None:
    """The closing handshake. The library waits as long as it takes for the goodbye to be written."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_PATIENCE):
            await connection.close(code, reason)


async def _close(connection: ClientConnection) -> None:
    """Closes it if need be; without waiting for the other side if ours is being cancelled."""
    with contextlib.suppress(Exception):
        try:
            await _leave(connection, _GOING_AWAY, "")
        finally:
            connection.transport.abort()
    await connection.wait_closed()
