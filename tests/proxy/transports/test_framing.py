"""Answers that are not clear, or hold more than one answer."""

from __future__ import annotations

import asyncio

import pytest

from ..scripted import Peer, answering, response, upstream
from .exchanging import failing, get, on_both_loops, transport, whole

BAD = {
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in 1.0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\na: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "bare line feeds": b"HTTP/1.1 200 OK\na: b\n\n",
    "blank in a name": b"HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
    "NUL": b"HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
    "status 99": b"HTTP/1.1 099 OK\r\n\r\n",
    "status 600": b"HTTP/1.1 600 OK\r\ncontent-length: 0\r\n\r\n",
    "status in words": b"HTTP/1.1 OK\r\n\r\n",
    "negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    "not HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhello",
    "huge head": b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n",
    "endless name": b"HTTP/1.1 200 OK\r\n" + b"x" * 300_000,
    "two equal lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab",
    "list of lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nab",
    "length with a sign": b"HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nab",
    "empty length": b"HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\nab",
    "vast length": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\nab",
    "chunked twice": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "identity": b"HTTP/1.1 200 OK\r\ntransfer-encoding: identity\r\n\r\nab",
    "coding without a name": b"HTTP/1.1 200 OK\r\ntransfer-encoding: \r\n\r\nab",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\ncontent-length: 0\r\n\r\n",
    "RTSP": b"RTSP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "ICE": b"ICE/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "blank before a colon": b"HTTP/1.1 200 OK\r\na : b\r\ncontent-length: 0\r\n\r\n",
    "no name": b"HTTP/1.1 200 OK\r\n: b\r\ncontent-length: 0\r\n\r\n",
    "CR in a value": b"HTTP/1.1 200 OK\r\na: b\rc\r\ncontent-length: 0\r\n\r\n",
    "LF after a value": b"HTTP/1.1 200 OK\r\na: b\ncontent-length: 0\r\n\r\n",
    "control character": b"HTTP/1.1 200 OK\r\na: \x01\r\ncontent-length: 0\r\n\r\n",
    "DEL": b"HTTP/1.1 200 OK\r\na: \x7f\r\ncontent-length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "another protocol without a name": b"HTTP/1.1 101 Switching\r\n\r\n",
    "many small fields": b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 20_000 + b"content-length: 0\r\n\r\n",
    "endless value": b"HTTP/1.1 200 OK\r\na: " + b"x" * 300_000,
    "endless interim answers": b"HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n" * 10_000,
    "endless chunk extension": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"x" * 600_000,
    "endless trailers": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 100_000,
    "endless trailer": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"x" * 600_000,
    "chunk in hexadecimal notation": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
    "blank after a chunk's size": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n",
    "vast chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nx",
    "chunk longer than it says": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    "chunk's line without CR": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;a=b\nx\r\n0\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", BAD)
@on_both_loops
async def test_what_is_not_clear_is_no_answer(name: str) -> None:
    """Contradictions, odd bytes and endless heads are `bad-response`; the connection is cut."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(BAD[name])
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        error = await failing(pool, get())
        assert (error.reason.name, error.answered) == ("bad-response", True)
        await server.peers[0].ended.wait()
        assert pool.open_connections == 0
        await pool.aclose()


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", b"x"])
@on_both_loops
async def test_what_nobody_asked_for_poisons_nothing(extra: bytes) -> None:
    """Bytes after an answer are never taken for the next one."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(response(b"mine") + extra)
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        assert [(await whole(pool, get()))[2] for _ in range(3)] == [b"mine"] * 3
        await pool.aclose()
    assert len(server.peers) == 3


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("HEAD", response(b"body")),
        ("HEAD", b"HTTP/1.1 200 OK\r\n\r\nbody"),
        ("GET", b"HTTP/1.1 204 No\r\ncontent-length: 4\r\n\r\nbody"),
        ("GET", b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 No\r\ncontent-length: 4\r\n\r\nbody"),
    ],
)
@on_both_loops
async def test_a_body_where_none_may_be_is_no_answer_to_anything(method: str, sent: bytes) -> None:
    """It is dropped along with its connection."""

    async with upstream(answering(sent)) as server:
        pool = transport(server.url)
        for _ in range(2):
            assert (await whole(pool, get(method=method)))[2] == b""
        await pool.aclose()
    assert len(server.peers) == 2


@on_both_loops
async def test_what_comes_later_than_an_answer_ends_the_connection() -> None:
    """An idle connection over which something comes is closed."""
    go = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(response(b"mine"))
        await go.wait()
        await peer.write(response(b"poison"))
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        await whole(pool, get())
        go.set()
        await server.peers[0].ended.wait()
        assert (await whole(pool, get()))[2] == b"mine"
        await pool.aclose()
    assert len(server.peers) == 2


@on_both_loops
async def test_a_server_that_speaks_first() -> None:
    """What comes before anything was asked is nobody's answer."""

    async def script(peer: Peer) -> None:
        await peer.write(b"220 mail.example ESMTP\r\n")
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        error = await failing(pool, get(method="POST", body=b"x"))
        assert error.reason.name in ("reset-before-response", "bad-response")
        await pool.aclose()
        assert pool.open_connections == 0


@on_both_loops
async def test_trailers_are_dropped() -> None:
    """Fields after a chunked body do not get among those of its head."""
    async with upstream(answering(CHUNKED)) as server:
        pool = transport(server.url)
        assert await whole(pool, get()) == (200, [(b"transfer-encoding", b"chunked")], b"abcde")
        assert pool.idle_connections == 1
        await pool.aclose()


CHUNKED = b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n2\r\nde\r\n0\r\nt: v\r\n\r\n"
