"""Websockets through the whole process when it ends or changes: both sides are told, and nobody holds it up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.proxy.on_a_loop import on_a_loop
from tests.serving import PATIENCE

from .beside import beside
from .memory import GIVES_BACK, MiB, resident, stands_still
from .whole import Whole

LONG = "600s"
"""Nothing may last so long: the process would not end within the patience of a test."""


def config(*urls: str, **server: str) -> str:
    settings = ", ".join(f"{name}: {value}" for name, value in {"watch": "false", **server}.items())
    upstreams = "".join(f"  up{number}: {{url: '{url}'}}\n" for number, url in enumerate(urls))
    return f"server: {{{settings}}}\nupstreams:\n{upstreams}"


class Behind:
    """A websocket server, and with which codes its connections ended."""

    def __init__(self) -> None:
        self.url = ""
        self.heard: list[int | None] = []
        self.opened = 0

    async def waits_for(self, count: int) -> list[int | None]:
        while len(self.heard) < count:
            await asyncio.sleep(0.01)
        return self.heard


async def echo(connection: ServerConnection) -> None:
    while True:
        await connection.send(await connection.recv())


@asynccontextmanager
async def websockets(handler: Callable[[ServerConnection], Awaitable[None]] = echo) -> AsyncIterator[Behind]:
    behind = Behind()

    async def handle(connection: ServerConnection) -> None:
        behind.opened += 1
        try:
            await handler(connection)
        except ConnectionClosed as closed:
            behind.heard.append(None if closed.rcvd is None else closed.rcvd.code)

    async with serve(handle, "127.0.0.1", 0, compression=None, max_size=None) as server:
        behind.url = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        yield behind


def to(running: Whole) -> connect:
    return connect(f"ws://{running.server.host}:{running.server.port}/ws", compression=None, proxy=None, max_size=None)


async def talks(client: ClientConnection) -> int | None:
    """Says much and does not wait for answers, which it hears, too; the code with which it ends."""

    async def listen() -> None:
        while True:
            await client.recv()

    async def say() -> None:
        while True:
            await client.send(bytes(64 * 1024))

    await asyncio.gather(listen(), say(), return_exceptions=True)
    return client.close_code


async def is_silent(client: ClientConnection) -> int | None:
    """Waits; the code with which it ends."""
    await client.wait_closed()
    return client.close_code


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("does", [is_silent, talks])
@on_a_loop
async def test_both_sides_are_told(
    does: Callable[[ClientConnection], Awaitable[int | None]], workers: str, tmp_path: Path
) -> None:
    """Clients and upstream hear that the other side goes away, however much is under way, before the grace ends."""
    async with (
        websockets() as behind,
        beside(tmp_path, config(behind.url, grace=LONG, workers=workers)) as running,
    ):
        clients = [await to(running) for _ in range(2)]
        for client in clients:
            await client.send(b"begun")
            assert await client.recv() == b"begun"
        ends = [asyncio.ensure_future(does(client)) for client in clients]
        running.signal(signal.SIGTERM)
        assert await asyncio.gather(*ends) == [1001] * 2
        assert await behind.waits_for(2) == [1001] * 2
        assert await asyncio.to_thread(running.ended) == 0
        assert "task.failed" not in {each["msg"] for each in running.log}


@on_a_loop
async def test_they_go_on_during_the_delay_and_a_second_signal_ends_it(tmp_path: Path) -> None:
    """Before connections are to end nothing changes; being told twice is enough, and then nobody is told any more."""
    async with websockets() as behind, beside(tmp_path, config(behind.url, drain_delay=LONG)) as running:
        client = await to(running)
        running.signal(signal.SIGTERM)
        await asyncio.to_thread(running.says, "stopping")
        await client.send(b"still there")
        assert await client.recv() == b"still there"
        assert await asyncio.to_thread(running.ended_by, signal.SIGTERM) == 1
        await client.wait_closed()
        assert client.close_code == 1006
        assert await behind.waits_for(1) == [None]


@on_a_loop
async def test_a_reload_leaves_them_where_they_are(tmp_path: Path) -> None:
    """An open one stays with the generation that took it until it ends; a new one goes by the new configuration."""
    async with websockets() as first, websockets() as second, beside(tmp_path, config(first.url)) as running:
        old = await to(running)
        running.file.write_text(config(second.url), "utf-8")
        running.signal(signal.SIGHUP)
        await asyncio.to_thread(running.says, "config.reloaded")
        new = await to(running)
        for client in (old, new):
            await client.send(b"hello")
            assert await client.recv() == b"hello"
        assert (first.opened, second.opened) == (1, 1)
        assert await _retiring(running) == [{"generation": 1, "running": 1}]
        await old.close(4000)
        assert await first.waits_for(1) == [4000]
        while await _retiring(running):
            pass
        await new.send(b"hello")
        assert await new.recv() == b"hello"
        await new.close()


async def _retiring(running: Whole) -> list[dict[str, int]]:
    state = await asyncio.to_thread(running.asks_admin, "GET", "/-/upstreams")
    found = state.json()["workers"][0]["retiring"]
    assert isinstance(found, list)
    return found


def never_reading(running: Whole) -> socket.socket:
    """A client that shakes hands, and reads nothing behind the answer to that."""
    connection = socket.socket()
    connection.settimeout(PATIENCE)
    # What the system takes for it is little, too.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    connection.connect((running.server.host, running.server.port))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = ["GET /ws HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    connection.sendall("\r\n".join([*lines, f"Sec-WebSocket-Key: {key}", "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return connection


LARGE = 8 * MiB
OFFERED = 24
"""Messages for each client: many more than may be taken, and no more than a machine has room for if all are."""


@on_a_loop
async def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """What an upstream sends to it is held back, not gathered; and is given up at the end."""
    sent: Counter[ServerConnection] = Counter()

    async def torrent(connection: ServerConnection) -> None:
        for _ in range(OFFERED):
            await connection.send(bytes(LARGE))
            sent[connection] += 1
        await connection.wait_closed()

    async with (
        websockets(torrent) as behind,
        beside(tmp_path, config(behind.url, grace=LONG), variables=GIVES_BACK) as running,
    ):
        before = resident(running.process.pid)
        with contextlib.ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(await asyncio.to_thread(never_reading, running))
            await stands_still(sent.total, running.process.pid)
            # The process has four for each: one that it writes, one that waits, one behind that, one that is coming.
            # The buffers of the system take up to 40 MiB more. Whoever gathers takes all.
            assert max(sent.values()) <= OFFERED / 2
            # Three times four messages, and next to nothing else, are 98 MiB; all that is offered is six times that.
            assert resident(running.process.pid) - before < 160 * MiB
            running.signal(signal.SIGTERM)
            assert await asyncio.to_thread(running.ended) == 0
        assert await behind.waits_for(3) == [1001] * 3
