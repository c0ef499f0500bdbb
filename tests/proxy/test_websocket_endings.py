"""Websockets that end while much is under way: whoever stops says why and is heard, and nothing waits without end."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from batchproxy.engine.routing import Route
from batchproxy.proxy import websockets
from batchproxy.proxy.settings import Timeouts, Upstream
from batchproxy.server import protocols

from .fronting import Front, fronted, proxied, served
from .on_a_loop import PATIENCE, on_a_loop
from .scripted import Peer

PIECE = bytes(64 * 1024)
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


def client_of(front: Front) -> connect:
    return connect(f"ws://{front.server.host}:{front.server.port}/ws", compression=None, proxy=None, max_queue=1)


@asynccontextmanager
async def in_front_of(handler: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[Front]:
    """The proxy in front of a server of the library's, which would wait long for the end of a handshake."""
    async with serve_websockets(handler, "127.0.0.1", 0, compression=None, close_timeout=2 * PATIENCE) as behind:
        url = f"http://127.0.0.1:{next(iter(behind.sockets)).getsockname()[1]}"
        with served(proxied({"api": Upstream(url=url)}, [Route(upstream="api")])) as front:
            yield front


@on_a_loop
async def test_a_client_that_leaves_a_torrent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code reaches an upstream that goes on sending, whose answer is not waited for in vain behind its messages."""
    monkeypatch.setattr(websockets, "_CLOSE_PATIENCE", 2 * PATIENCE)
    heard: list[tuple[int | None, int | None]] = []
    left = asyncio.Event()

    async def torrent(connection: ServerConnection) -> None:
        try:
            while True:
                await connection.send(PIECE)
        except ConnectionClosed as closed:
            heard.append((None if closed.rcvd is None else closed.rcvd.code, connection.close_code))
            left.set()

    async with in_front_of(torrent) as front:
        client = await client_of(front)
        await client.recv()
        leaving = asyncio.create_task(client.close(4000, "enough"))
        with contextlib.suppress(ConnectionClosed):
            while True:
                await client.recv()
        await leaving
        await left.wait()
    assert heard == [(4000, 4000)]


async def reads_nothing(peer: Peer) -> None:
    """Shakes hands, and then never reads again."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", await peer.head())
    assert key is not None
    proof = base64.b64encode(hashlib.sha1(key[1] + MAGIC).digest())
    cast(asyncio.Transport, peer.writer.transport).pause_reading()
    await peer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n"
    )
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        peer.writer.transport.abort()


async def send_until_it_is_full(client: ClientConnection) -> None:
    """Until not a byte more is taken, or it is given up for that."""
    with contextlib.suppress(TimeoutError, ConnectionClosed):
        while True:
            async with asyncio.timeout(0.5):
                await client.send(PIECE)


@on_a_loop
async def test_an_upstream_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing has moved for too long, the proxy lets go of it, though not even the goodbye can be written."""
    monkeypatch.setattr(websockets, "_CLOSE_PATIENCE", 0.1)
    async with fronted(reads_nothing, timeouts=Timeouts(idle=1)) as front, asyncio.timeout(PATIENCE / 2):
        client = await client_of(front)
        await send_until_it_is_full(client)
        client.transport.abort()
        (peer,) = front.upstream.peers
        with contextlib.suppress(ConnectionError):
            # Pings, for who reads nothing learns of the end by writing alone.
            while True:
                await peer.write(b"\x89\x00")
                await asyncio.sleep(0.01)


@on_a_loop
async def test_a_client_that_talks_while_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it still says is dropped, so that its answer to the goodbye is found behind it, and nobody waits in vain."""
    monkeypatch.setattr(protocols, "_CLOSE_PATIENCE", 2 * PATIENCE)
    codes: list[int | None] = []

    async def listens(connection: ServerConnection) -> None:
        async for _ in connection:
            pass
        codes.append(connection.close_code)

    async with serve_websockets(listens, "127.0.0.1", 0, compression=None) as behind:
        url = f"http://127.0.0.1:{next(iter(behind.sockets)).getsockname()[1]}"
        app = proxied({"api": Upstream(url=url)}, [Route(upstream="api")])
        serving = served(app, ws=protocols.WebSocketProtocol, timeout_graceful_shutdown=None)
        front = await asyncio.to_thread(serving.__enter__)
        client = await client_of(front)
        talking = asyncio.create_task(_talk(client))
        await asyncio.to_thread(serving.__exit__, None, None, None)
        assert await talking == 1001
    assert codes == [1001]


async def _talk(client: ClientConnection) -> int | None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.send(PIECE)
    return client.close_code
