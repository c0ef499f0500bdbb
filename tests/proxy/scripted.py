"""An upstream made of a socket: it plays what a test has written down, and keeps every byte that it gets.

Knows: TCP and TLS; of HTTP no more than where a head ends. Must not know: the package under test.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(eq=False)
class Peer:
    """One connection to the upstream; `received` is all that came over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def head(self) -> bytes:
        """The next request line with its fields, or nothing if the client ended the connection."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            head = getattr(error, "partial", b"")
        self.received += head
        return head

    async def request(self) -> bytes:
        """The next request, with its body if that declares a length."""
        head = await self.head()
        length = _LENGTH.search(head)
        return head + (await self.exactly(int(length[1])) if length else b"")

    async def exactly(self, size: int) -> bytes:
        data = await self.reader.readexactly(size)
        self.received += data
        return data

    async def until(self, mark: bytes) -> bytes:
        data = await self.reader.readuntil(mark)
        self.received += data
        return data

    async def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        try:
            data = await self.reader.read()
        except ConnectionError:
            data = b""
        self.received += data
        return data

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()


Script: TypeAlias = Callable[[Peer], Awaitable[None]]


class Upstream:
    """Where it listens, and who came."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[Peer] = []
        self.requests: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def answering(*answers: bytes, then_close: bool = False) -> Script:
    """Answers one request after another on each connection; the last answer is given again and again."""

    async def script(peer: Peer) -> None:
        number = 0
        while await peer.request():
            await peer.write(answers[min(number, len(answers) - 1)])
            number += 1
            if then_close:
                return

    return script


def response(body: bytes = b"ok", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer that declares its length."""
    return b"\r\n".join((b"HTTP/1.1 " + status, *headers, b"content-length: %d" % len(body), b"", body))


@asynccontextmanager
async def upstream(
    script: Script | None = None, *, tls: ssl.SSLContext | None = None, path: str | None = None
) -> AsyncIterator[Upstream]:
    """Plays the script for every connection; on a free port, or on a unix socket."""
    state = Upstream()
    script = script or answering(response())
    running: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        state.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            running.discard(task)
            peer.ended.set()
            writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(connected, path, limit=2**20)
    else:
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls, limit=2**20)
        state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        if running:
            await asyncio.wait(running)
