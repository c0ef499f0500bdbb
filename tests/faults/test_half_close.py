"""Connections of which one direction has ended.

A client that has sent all it has and says so cannot be told from one that has left: the end of its direction is all
that is seen of either. It is taken for having left, so that nothing is done for nobody. An upstream that ends its
direction has said all, and what that was counts.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import Peer, Script, response, upstream
from tests.serving import Malformed, request

from .beside import beside

CONFIG = "server: {{watch: false, log: {{items: all}}}}\nupstreams: {{api: {{url: '{}', retry: {{attempts: 0}}}}}}\n"


def batch(accept: str, *paths: str) -> bytes:
    document = json.dumps({"requests": [{"method": "GET", "path": path} for path in paths]}).encode()
    return request("POST", "/batch", [("Content-Type", "application/json"), ("Accept", accept)], document)


UPLOAD = b"PUT /held HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(500_000)
REQUESTS = {
    "lone": request("GET", "/held"),
    "upload": UPLOAD,
    "batch": batch("application/json", "/quick", "/held"),
    "stream": batch("application/x-ndjson", "/quick", "/held"),
}


@pytest.mark.parametrize("kind", REQUESTS)
@on_a_loop
async def test_a_client_that_ends_its_direction_has_left(kind: str, tmp_path: Path) -> None:
    """Its request is given up on both sides, nothing that looks whole is sent to it, and others are served."""
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def holds(peer: Peer) -> None:
        while head := await peer.head():
            if b"/held" in head:
                asked.set()
                await peer.rest()
                given_up.set()
            else:
                await peer.write(response(b"quick", b"content-type: text/plain"))

    async with upstream(holds) as behind, beside(tmp_path, CONFIG.format(behind.url)) as running:
        reader, writer = await asyncio.open_connection(running.server.host, running.server.port)
        writer.write(REQUESTS[kind])
        await writer.drain()
        await asked.wait()
        # Of a stream the first record has come, which says that the rest is missed.
        received = await reader.readuntil(b"quick") if kind == "stream" else b""
        writer.write_eof()
        received += await reader.read()
        await given_up.wait()
        assert not received.endswith(b"0\r\n\r\n")
        assert bool(received) == (kind == "stream")
        writer.close()
        assert (await asyncio.to_thread(running.ask, "GET", "/quick")).status == 200
    (line,) = [each for each in running.lines if each.get("url.path") in ("/held", "/batch") and each["msg"] != "item"]
    assert "DC" in line["flags"]
    assert "task.failed" not in {each["msg"] for each in running.log}


async def whole_answer(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole")


async def answer_up_to_the_end(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\n\r\nwhole")


async def nothing(peer: Peer) -> None:
    pass


async def half_a_head(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\nx-half")


async def half_a_body(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nwhole")


async def half_of_the_chunks(peer: Peer) -> None:
    await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nwhole\r\n")


ANSWERS: dict[str, tuple[Script, int | None, int, str | None]] = {
    "/whole": (whole_answer, 200, 200, None),
    "/up-to-the-end": (answer_up_to_the_end, 200, 200, None),
    "/nothing": (nothing, 502, 502, "unreachable"),
    "/half-a-head": (half_a_head, 502, 502, "truncated"),
    "/half-a-body": (half_a_body, None, 502, "truncated"),
    "/half-of-the-chunks": (half_of_the_chunks, None, 502, "truncated"),
}


@on_a_loop
async def test_an_upstream_that_ends_its_direction(tmp_path: Path) -> None:
    """What it said until then decides, and it is not waited for though it would still listen."""

    async def script(peer: Peer) -> None:
        path = (await peer.request()).split()[1].decode()
        await ANSWERS[path][0](peer)
        peer.writer.write_eof()
        await peer.rest()

    async with upstream(script) as behind, beside(tmp_path, CONFIG.format(behind.url)) as running:

        def status(path: str) -> int | None:
            try:
                return running.ask("GET", path).status
            except Malformed:
                return None

        for path, (_, alone, item, error) in ANSWERS.items():
            behind.peers.clear()
            found = await asyncio.to_thread(status, path)
            (result,) = await asyncio.to_thread(running.batch, {"method": "GET", "path": path})
            assert (path, found, result["status"], result.get("error")) == (path, alone, item, error)
            # The connection is used no more, and is not left open.
            assert len(behind.peers) == 2
            for peer in behind.peers:
                await peer.ended.wait()
