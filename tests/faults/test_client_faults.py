"""What a client can do wrong, seen through the whole process: it is answered or cut off, and nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, Script, response, upstream
from tests.serving import PATIENCE, parse, request

from .whole import Whole, whole

CONFIG = """
server: {{watch: false, header_timeout: {header_timeout}}}
upstreams: {{api: {{url: '{}'}}}}
"""
BATCH = request(
    "POST",
    "/batch",
    [("Content-Type", "application/json")],
    json.dumps({"requests": [{"method": "GET", "path": "/a"}]}).encode(),
)


async def seen(
    folder: Path, check: Callable[[Whole], None], script: Script | None = None, *, header_timeout: str = "600s"
) -> None:
    def run(url: str) -> None:
        with whole(folder, CONFIG.format(url, header_timeout=header_timeout)) as running:
            check(running)
            assert running.ask("GET", "/").status == 200
            assert "task.failed" not in {each["msg"] for each in running.log}

    async with upstream(script) as behind:
        await asyncio.to_thread(run, behind.url)


def connected(running: Whole) -> socket.socket:
    return socket.create_connection((running.server.host, running.server.port), timeout=PATIENCE)


def rest(connection: socket.socket) -> bytes:
    found = b""
    while data := connection.recv(65536):
        found += data
    return found


@on_a_loop
async def test_a_head_that_never_ends(tmp_path: Path) -> None:
    """It is answered, and the connection closed, when it has not come to its end in time, though bytes drip in."""

    def check(running: Whole) -> None:
        with connected(running) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            assert parse(rest(connection)).status == 408

    await seen(tmp_path, check, header_timeout="1s")


@pytest.mark.parametrize(
    ("beginning", "piece"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x" * 65536),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n" * 10_000),
        (b"GET /", b"x" * 65536),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 65536),
    ],
    ids=["value", "fields", "path", "trailer"],
)
def test_a_head_without_end_is_cut(tmp_path: Path, beginning: bytes, piece: bytes) -> None:
    """However it goes on, no more of a head is taken than a little over its limit."""

    @on_a_loop
    async def run() -> None:
        def check(running: Whole) -> None:
            with connected(running) as connection:
                assert _sent(connection, beginning, piece) < 32 * 1024 * 1024

        await seen(tmp_path, check)

    run()


def _sent(connection: socket.socket, beginning: bytes, piece: bytes) -> int:
    """How much it takes before it is cut."""
    sent = 0
    with contextlib.suppress(OSError):
        connection.sendall(beginning)
        while sent < 64 * 1024 * 1024:
            connection.sendall(piece)
            sent += len(piece)
    return sent


@on_a_loop
async def test_one_byte_after_another(tmp_path: Path) -> None:
    """A request in single bytes is a request."""

    def check(running: Whole) -> None:
        with connected(running) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for each in BATCH:
                connection.sendall(bytes([each]))
            assert parse(rest(connection)).json()["responses"][0]["status"] == 200

    await seen(tmp_path, check)


@on_a_loop
async def test_pipelined_requests(tmp_path: Path) -> None:
    """Requests that come together are answered in order, each for itself."""

    async def echoes(peer: Peer) -> None:
        while head := await peer.request():
            await peer.write(response(head.split(b" ")[1]))

    def check(running: Whole) -> None:
        with connected(running) as connection:
            first = b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"
            connection.sendall(first + request("GET", "/3"))
            answers = rest(connection)
        assert [answers.count(b"\r\n\r\n/%d" % each) for each in (1, 2, 3)] == [1, 1, 1]
        assert answers.index(b"\r\n\r\n/1") < answers.index(b"\r\n\r\n/2") < answers.index(b"\r\n\r\n/3")

    await seen(tmp_path, check, echoes)


@on_a_loop
async def test_a_client_that_resets_while_its_request_runs(tmp_path: Path) -> None:
    """The exchange with the upstream ends with it, and the access log says that the client left."""
    loop = asyncio.get_running_loop()
    asked, left = asyncio.Event(), asyncio.Event()

    async def waits(peer: Peer) -> None:
        head = await peer.request()
        if b"/gone" in head:
            asked.set()
            await peer.rest()
            left.set()
        else:
            await peer.write(response())

    def check(running: Whole) -> None:
        with connected(running) as connection:
            connection.sendall(request("GET", "/gone"))
            asyncio.run_coroutine_threadsafe(asked.wait(), loop).result(PATIENCE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asyncio.run_coroutine_threadsafe(left.wait(), loop).result(PATIENCE)

    await seen(tmp_path, check, waits)


@on_a_loop
async def test_a_client_that_never_reads(tmp_path: Path) -> None:
    """An endless answer is held back, not gathered; and it ends with the client."""
    loop = asyncio.get_running_loop()
    held, left = asyncio.Event(), asyncio.Event()

    async def endless(peer: Peer) -> None:
        if b"/endless" not in await peer.request():
            await peer.write(response())
            return
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.writer.transport.set_write_buffer_limits(high=0)
        try:
            while True:
                peer.writer.write(b"x" * 65536)
                # What is not taken within this time is not going to be.
                async with asyncio.timeout(0.5):
                    await peer.writer.drain()
        except TimeoutError:
            held.set()
        await peer.rest()
        left.set()

    def check(running: Whole) -> None:
        with connected(running) as connection:
            connection.sendall(request("GET", "/endless"))
            asyncio.run_coroutine_threadsafe(held.wait(), loop).result(PATIENCE)
        asyncio.run_coroutine_threadsafe(left.wait(), loop).result(PATIENCE)

    await seen(tmp_path, check, endless)


@on_a_loop
async def test_rubbish(tmp_path: Path) -> None:
    """What is not HTTP is a 400, and the connection ends."""

    def check(running: Whole) -> None:
        with connected(running) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
            assert rest(connection).startswith(b"HTTP/1.1 400 ")

    await seen(tmp_path, check)
