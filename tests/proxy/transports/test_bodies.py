"""Bodies in pieces, both ways: framing, back-pressure, limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from batchproxy.engine.errors import Failure
from batchproxy.proxy.transports.answer import HIGH_WATER

from ..scripted import Peer, answering, response, upstream
from .exchanging import SOON, failing, get, on_both_loops, pieces, silent, transport, whole


@pytest.mark.parametrize(("length", "expected"), [(None, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), (5, b"abcde")])
@on_both_loops
async def test_a_body_in_pieces(length: int | None, expected: bytes) -> None:
    """With a length it goes out as it is, without one in chunks."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(len(expected))
        await peer.write(response(b"got it"))
        await peer.rest()

    async with upstream(script) as server:
        pool = transport(server.url)
        request = get(method="POST", body=pieces(b"abc", b"", b"de"), length=length)
        assert (await whole(pool, request))[2] == b"got it"
        assert pool.idle_connections == 1
        await pool.aclose()
    assert bytes(server.peers[0].received).partition(b"\r\n\r\n")[2] == expected


@pytest.mark.parametrize("parts", [(b"abc",), (b"abc", b"defgh")])
@on_both_loops
async def test_a_body_of_another_length_is_not_sent_as_whole(parts: tuple[bytes, ...]) -> None:
    """Neither too little nor too much: the exchange fails, and the connection is cut."""
    async with upstream(silent) as server:
        pool = transport(server.url)
        with pytest.raises(ValueError, match="length"):
            await whole(pool, get(method="POST", body=pieces(*parts), length=5))
        await server.peers[0].ended.wait()
        await pool.aclose()


@on_both_loops
async def test_an_early_answer_ends_the_upload() -> None:
    """A server that has answered needs no more of the body; its connection is not used again."""

    async def refuse(peer: Peer) -> None:
        await peer.head()
        await peer.write(response(b"too large", status=b"413 No"))
        await peer.rest()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1000
            await asyncio.sleep(0)

    async with upstream(refuse) as server:
        pool = transport(server.url)
        status, _, body = await whole(pool, get(method="POST", body=endless()))
        assert (status, body, pool.idle_connections) == (413, b"too large", 0)
        await pool.aclose()


@on_both_loops
async def test_whoever_gives_the_body_may_fail() -> None:
    """What the giver raises is what the reader gets, and the upstream sees no end of the body."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError("client left")

    async with upstream(silent) as server:
        pool = transport(server.url)
        with pytest.raises(LookupError):
            await whole(pool, get(method="POST", body=broken()))
        await server.peers[0].ended.wait()
        assert not server.peers[0].received.endswith(b"0\r\n\r\n")
        await pool.aclose()


@on_both_loops
async def test_nothing_is_read_that_nobody_takes() -> None:
    """An endless answer without a reader holds what fits below the mark, and goes on when somebody reads."""
    written = 0

    async def endless(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.write(b"x" * 65536)
            written += 65536

    async with upstream(endless) as server:
        pool = transport(server.url)
        answer = await pool.send(get())
        before = -1
        while before != written or not written:
            before = written
            await asyncio.sleep(SOON)
        first = await answer.read()
        assert HIGH_WATER // 2 < len(first) < HIGH_WATER + 512 * 1024
        assert len(await answer.read()) > 0
        answer.close()
        await server.peers[0].ended.wait()
        await pool.aclose()


@on_both_loops
async def test_an_upstream_that_does_not_read_stops_the_upload() -> None:
    """No more is taken from the giver than the connection takes."""
    given = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 65536
            yield b"x" * 65536

    async def deaf(peer: Peer) -> None:
        await peer.head()
        await asyncio.Event().wait()

    async with upstream(deaf) as server:
        pool = transport(server.url)
        sending = asyncio.create_task(pool.send(get(method="POST", body=much())))
        before = -1
        while before != given or not given:
            before = given
            await asyncio.sleep(SOON)
        assert 0 < given < 32 * 2**20
        sending.cancel()
        await asyncio.wait({sending})
        await pool.aclose()
        assert server.peers


@on_both_loops
async def test_limits_of_the_body() -> None:
    """A body that declares or has more than allowed is refused as soon as that is known."""
    for sent in (response(b"x" * 11), b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 11):

        async def script(peer: Peer, sent: bytes = sent) -> None:
            await peer.request()
            await peer.write(sent)
            await peer.rest()

        async with upstream(script) as server:
            pool = transport(server.url, max_response_bytes=10)
            error = await failing(pool, get())
            assert error.reason.failure is Failure.RESPONSE_TOO_LARGE
            await server.peers[0].ended.wait()
            await pool.aclose()


@on_both_loops
async def test_many_tiny_chunks() -> None:
    """A hundred thousand chunks of a byte each are one body."""
    sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    async with upstream(answering(sent)) as server:
        pool = transport(server.url)
        assert (await whole(pool, get()))[2] == b"x" * 100_000
        await pool.aclose()


@on_both_loops
async def test_tiny_pieces_count_for_what_they_take() -> None:
    """An endless answer in chunks of a byte is held back long before it takes the mark's memory in objects."""
    stopped = asyncio.Event()

    async def endless(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            try:
                await asyncio.wait_for(peer.write(b"1\r\nx\r\n" * 10_000), SOON)
            except TimeoutError:
                stopped.set()

    async with upstream(endless) as server:
        pool = transport(server.url)
        answer = await pool.send(get())
        await stopped.wait()
        assert 0 < len(await answer.read()) < HIGH_WATER // 2
        answer.close()
        await server.peers[0].ended.wait()
        await pool.aclose()


@pytest.mark.parametrize("answer", [response(b"no", status=b"413 No"), b"HTTP/1.1 413 No\r\n\r\nno"])
@on_both_loops
async def test_an_early_answer_to_an_upload_that_is_stuck(answer: bytes) -> None:
    """It is read to its end, the rest of the upload is given up, and its giver is told."""
    told = asyncio.Event()

    async def refuse(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(0)
        await peer.write(answer)
        peer.writer.write_eof()
        await told.wait()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            told.set()

    async with upstream(refuse) as server:
        pool = transport(server.url)
        status, _, body = await whole(pool, get(method="POST", body=endless()))
        assert (status, body, pool.idle_connections) == (413, b"no", 0)
        await told.wait()
        await pool.aclose()


@on_both_loops
async def test_an_early_answer_to_a_large_body() -> None:
    """A body that has not all left makes its connection useless, though the answer is whole."""

    async def refuse(peer: Peer) -> None:
        await peer.head()
        await peer.write(response(b"no", status=b"413 No"))
        await asyncio.Event().wait()

    async with upstream(refuse) as server:
        pool = transport(server.url)
        assert (await whole(pool, get(method="POST", body=b"x" * 50_000_000)))[0] == 413
        await pool.aclose()
        assert pool.idle_connections == 0
        assert server.peers


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 + 1, 20_000_000])
@on_both_loops
async def test_a_body_at_once(size: int) -> None:
    """Head and body arrive whole, with exactly one field that frames them."""
    async with upstream() as server:
        pool = transport(server.url)
        assert (await whole(pool, get(method="POST", body=b"x" * size)))[0] == 200
        assert pool.idle_connections == 1
        await pool.aclose()
    head, _, body = bytes(server.peers[0].received).partition(b"\r\n\r\n")
    assert head == b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d" % size
    assert body == b"x" * size


@on_both_loops
async def test_a_large_body_in_pieces_gets_through() -> None:
    """Writing stops when the connection is full, and goes on when it is not."""
    parts = [b"%07d" % number * 10_000 for number in range(100)]

    async def slow(peer: Peer) -> None:
        await peer.head()
        for _ in range(100):
            await peer.exactly(70_000)
            await asyncio.sleep(0)
        await peer.write(response())
        await peer.rest()

    async with upstream(slow) as server:
        pool = transport(server.url)
        assert (await whole(pool, get(method="PUT", body=pieces(*parts), length=7_000_000)))[0] == 200
        assert pool.idle_connections == 1
        await pool.aclose()
    assert bytes(server.peers[0].received).partition(b"\r\n\r\n")[2] == b"".join(parts)
