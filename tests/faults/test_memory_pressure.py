"""Much that is large, at once, and clients that take nothing: the memory of the process stays within its limits.

Each bound is computed from the settings: a connection that is passed through may hold what lies between the marks of
its buffers, a batch what `max_batch_bytes` and `max_total_response_bytes` allow. What an idle process takes is measured
first, and what the allocator keeps for later is allowed for once. What is right takes about half of each bound at most,
on all interpreters, however busy the machine is; what gathers would take several times as much as it allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, response, upstream
from tests.serving import request

from .beside import beside
from .memory import GIVES_BACK, MiB, resident, stands_still
from .whole import Whole

SLACK = 24 * MiB
"""The allocator's, and that of code which is loaded when it is first used."""
PASSED_THROUGH = MiB
"""For each connection: the marks are 256 KiB on the upstream's side and 64 KiB on the client's, and each may be overrun
by what came in one piece, 256 KiB."""
CLIENTS = 12
PIECE = bytes(64 * 1024)


def config(url: str, *, server: str = "watch: false, grace: 1s", endpoint: str = "path: /batch") -> str:
    return f"server: {{{server}}}\nupstreams: {{api: {{url: '{url}'}}}}\nendpoints: [{{{endpoint}}}]\n"


class Clients:
    """Connections that send, and never read."""

    def __init__(self, running: Whole) -> None:
        self._address = (running.server.host, running.server.port)
        self.writers: list[asyncio.StreamWriter] = []

    async def send(self, payload: bytes) -> asyncio.StreamWriter:
        connection = socket.socket()
        # Little is taken on this side, so that it is the process that has to hold back.
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, self._address)
        _, writer = await asyncio.open_connection(sock=connection, limit=1024)
        self.writers.append(writer)
        writer.write(payload)
        await writer.drain()
        return writer

    def leave(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def clients(running: Whole) -> AsyncIterator[Clients]:
    found = Clients(running)
    try:
        yield found
    finally:
        found.leave()


async def warmed(running: Whole) -> int:
    """What the process holds after it has done everything once."""
    assert (await asyncio.to_thread(running.ask, "GET", "/")).status == 200
    await asyncio.to_thread(running.batch, {"method": "GET", "path": "/"})
    return resident(running.process.pid)


class Counted:
    """Bytes that an upstream sent and took."""

    def __init__(self) -> None:
        self.bytes = 0

    async def answer(self, peer: Peer, size: int, kind: bytes = b"text/plain", of: bytes = b"x") -> None:
        """One of this size."""
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, size))
        for _ in range(size // len(PIECE)):
            await peer.write(of * len(PIECE))
            self.bytes += len(PIECE)


@on_a_loop
async def test_large_answers_to_clients_that_never_read(tmp_path: Path) -> None:
    """What an upstream sends is held back there; when the clients are gone, so is what they cost."""
    sent = Counted()

    async def huge(peer: Peer) -> None:
        if b"/huge" in await peer.head():
            await sent.answer(peer, 1024 * MiB)
        else:
            await peer.write(response())

    async with (
        upstream(huge) as behind,
        beside(tmp_path, config(behind.url), variables=GIVES_BACK) as running,
        clients(running) as readers,
    ):
        before = await warmed(running)
        for _ in range(CLIENTS):
            await readers.send(request("GET", "/huge"))
        await stands_still(lambda: sent.bytes, running.process.pid)
        assert resident(running.process.pid) - before < SLACK + CLIENTS * PASSED_THROUGH
        readers.leave()
        assert (await asyncio.to_thread(running.ask, "GET", "/")).status == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 1073741824", b"Transfer-Encoding: chunked"])
@on_a_loop
async def test_large_uploads_to_an_upstream_that_never_reads(framing: bytes, tmp_path: Path) -> None:
    """What clients send is held back with them."""
    sent = 0

    async def takes_nothing(peer: Peer) -> None:
        if b"/upload" in await peer.head():
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            cast(asyncio.Transport, peer.writer.transport).pause_reading()
            await asyncio.get_running_loop().create_future()
        await peer.write(response())

    async def upload(senders: Clients) -> None:
        nonlocal sent
        piece = PIECE if framing.startswith(b"Content") else b"%x\r\n%b\r\n" % (len(PIECE), PIECE)
        writer = await senders.send(b"PUT /upload HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(piece)
                await writer.drain()
                sent += len(piece)

    async with (
        upstream(takes_nothing) as behind,
        beside(tmp_path, config(behind.url), variables=GIVES_BACK) as running,
        clients(running) as senders,
    ):
        before = await warmed(running)
        uploads = [asyncio.create_task(upload(senders)) for _ in range(CLIENTS)]
        await stands_still(lambda: sent, running.process.pid)
        assert resident(running.process.pid) - before < SLACK + CLIENTS * PASSED_THROUGH
        for each in uploads:
            each.cancel()
        await asyncio.wait(uploads)


TOTAL = 8 * MiB
ENDPOINT = f"path: /batch, max_response_bytes: {2 * MiB}, max_total_response_bytes: {TOTAL}, concurrency: 16"


def batch(accept: str, count: int) -> bytes:
    document = {"requests": [{"method": "GET", "path": "/huge"} for _ in range(count)]}
    about = [("Content-Type", "application/json"), ("Accept", accept)]
    return request("POST", "/batch", about, json.dumps(document).encode())


CONTENTS = {
    "text": (b"text/plain", b"x", 1.0),
    "bytes": (b"image/png", b"\xff", 4 / 3),
    "zeroes": (b"text/plain", b"\0", 6.0),
}
"""What an answer may consist of, and how much longer it gets in JSON: in base64, or escaped."""


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
@on_a_loop
async def test_batches_of_large_answers(accept: str, content: str, tmp_path: Path) -> None:
    """Buffered or streamed, a batch whose reader takes nothing holds what `max_total_response_bytes` allows it."""
    sent = Counted()
    kind, of, grows = CONTENTS[content]

    async def large(peer: Peer) -> None:
        while head := await peer.head():
            if b"/huge" in head:
                await sent.answer(peer, MiB, kind, of)
            else:
                await peer.write(response())

    many = 4
    async with (
        upstream(large) as behind,
        beside(tmp_path, config(behind.url, endpoint=ENDPOINT), variables=GIVES_BACK) as running,
        clients(running) as readers,
    ):
        before = await warmed(running)
        for _ in range(many):
            await readers.send(batch(accept, 40))
        await stands_still(lambda: sent.bytes, running.process.pid)
        # And an answer of each that is being written; half is added, for an answer is put together from its pieces.
        assert resident(running.process.pid) - before < SLACK + many * (TOTAL + MiB * grows) * 1.5
        assert (await asyncio.to_thread(running.ask, "GET", "/")).status == 200


@on_a_loop
async def test_large_batches(tmp_path: Path) -> None:
    """Bodies that are over the limit, and those that never come to their end, are held up to it and no further."""
    most = 2 * MiB
    head = b"POST /batch HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    piece = b"%x\r\n%b\r\n" % (len(PIECE), b" " * len(PIECE))
    async with (
        upstream() as behind,
        beside(
            tmp_path, config(behind.url, endpoint="path: /batch, max_batch_bytes: 2MiB"), variables=GIVES_BACK
        ) as running,
        clients(running) as senders,
    ):
        before = await warmed(running)
        for number in range(CLIENTS):
            writer = await senders.send(head)
            # Half of them stop a little before the limit.
            with contextlib.suppress(ConnectionError):
                for _ in range(most // len(PIECE) * (16 if number % 2 else 1) - 1):
                    writer.write(piece)
                    await writer.drain()
        assert (await asyncio.to_thread(running.ask, "GET", "/")).status == 200
        # The pieces, and the whole that is made of them, for a moment.
        assert resident(running.process.pid) - before < SLACK + CLIENTS * 2 * most


@on_a_loop
async def test_a_process_that_is_killed_can_be_started_again_at_once(tmp_path: Path) -> None:
    """Whatever was under way, as when the system has run out of memory: the address is free, and it serves."""

    async def holds(peer: Peer) -> None:
        if b"/held" in await peer.head():
            await peer.rest()
        else:
            await peer.write(response())

    async with upstream(holds) as behind:
        text = config(behind.url)
        async with beside(tmp_path, text) as first, clients(first) as senders:
            for _ in range(CLIENTS):
                await senders.send(b"PUT /held HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + PIECE)
            while len(behind.peers) < CLIENTS:
                await asyncio.sleep(0.01)
            address = f"{first.server.host}:{first.server.port}"
            first.signal(signal.SIGKILL)
            assert await asyncio.to_thread(first.ended) == -signal.SIGKILL
            # Nothing of it is left at the upstream, either.
            for peer in behind.peers:
                await peer.ended.wait()
            again = {"BATCHPROXY_SERVER__LISTEN": address}
            async with beside(tmp_path, text, variables=again) as second:
                assert (second.server.host, second.server.port) == (first.server.host, first.server.port)
                assert (await asyncio.to_thread(second.ask, "GET", "/")).status == 200


@on_a_loop
async def test_a_worker_that_is_killed_under_load(tmp_path: Path) -> None:
    """Its requests are lost and no others: the other worker serves meanwhile, and there are two again."""

    async def holds(peer: Peer) -> None:
        while b"/held" not in (head := await peer.head()):
            if not head:
                return
            await peer.write(response())
        await peer.rest()

    async with (
        upstream(holds) as behind,
        beside(tmp_path, config(behind.url, server="watch: false, grace: 1s, workers: 2")) as running,
        clients(running) as senders,
    ):
        for _ in range(CLIENTS):
            await senders.send(b"PUT /held HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + PIECE)
        victim, other = (await asyncio.to_thread(running.asks_admin, "GET", "/-/upstreams")).json()["workers"]
        os.kill(victim["pid"], signal.SIGKILL)
        for _ in range(10):
            assert (await asyncio.to_thread(running.ask, "GET", "/")).status == 200
        await asyncio.to_thread(running.says, "worker.replaced")
        replaced, same = (await asyncio.to_thread(running.asks_admin, "GET", "/-/upstreams")).json()["workers"]
        assert (replaced["pid"] != victim["pid"], same["pid"]) == (True, other["pid"])
