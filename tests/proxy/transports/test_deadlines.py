"""Upstreams that keep a request waiting."""

from __future__ import annotations

import asyncio

from batchproxy.engine.errors import Failure
from batchproxy.proxy.settings import Timeouts
from batchproxy.proxy.transports import Sent

from ..scripted import Peer, answering, response, upstream
from .exchanging import SOON, Clock, failing, get, on_asyncio, on_both_loops, silent, soon, transport, whole


@on_both_loops
async def test_deadlines() -> None:
    """First byte, pause and whole: each has its own reason, and cuts the connection."""

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.write(response(b"12345")[:-2])
        await peer.rest()

    async with upstream(silent) as mute, upstream(half) as pausing:
        for server, timeouts, has_deadline, reason in (
            (mute, Timeouts(first_byte=SOON), False, "first-byte-timeout"),
            (pausing, Timeouts(idle=SOON), False, "idle-timeout"),
            (mute, Timeouts(), True, "total-timeout"),
            (pausing, Timeouts(), True, "total-timeout"),
        ):
            deadline = asyncio.get_running_loop().time() + SOON if has_deadline else None
            pool = transport(server.url, timeouts=timeouts)
            error = await failing(pool, get(deadline=deadline))
            assert (error.reason.name, error.reason.failure) == (reason, Failure.TIMEOUT)
            await server.peers[-1].ended.wait()
            await pool.aclose()


@on_both_loops
async def test_a_reader_may_take_its_time() -> None:
    """The pause that counts is the server's; an answer that waits for its reader does not run into it."""
    async with upstream(answering(response(b"12345"))) as server:
        pool = transport(server.url, timeouts=Timeouts(idle=SOON, first_byte=SOON))
        answer = await pool.send(get())
        await asyncio.sleep(3 * SOON)
        assert await answer.read() == b"12345"
        await pool.aclose()


@on_both_loops
async def test_idle_connections_expire() -> None:
    """A connection that nobody needs is closed."""
    async with upstream() as server:
        pool = transport(server.url, idle_expiry=SOON)
        await whole(pool, get())
        assert (pool.open_connections, pool.idle_connections) == (1, 1)
        await server.peers[0].ended.wait()
        await asyncio.sleep(0)
        assert pool.open_connections == 0
        await pool.aclose()


@on_both_loops
async def test_connecting_has_an_end() -> None:
    """A server that accepts and says nothing: the handshake is cut in time, be it ours or the request's."""
    async with upstream(silent) as server:
        url = server.url.replace("http:", "https:")
        for timeouts, has_deadline, reason in (
            (Timeouts(connect=SOON), False, "connect-timeout"),
            (Timeouts(), True, "total-timeout"),
        ):
            pool = transport(url, timeouts=timeouts)
            error = await failing(pool, get(deadline=soon() if has_deadline else None))
            assert (error.reason.name, error.sent) == (reason, Sent.NOTHING)
            await server.peers[-1].ended.wait()
            await pool.aclose()


@on_asyncio
async def test_a_body_that_moves_is_not_idle() -> None:
    """A large body may take longer than a pause, as long as the server takes some of it; then it counts as a pause."""
    clock = Clock()
    read = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.head()
        await read.wait()
        await peer.exactly(10_000_000)
        read.clear()
        await asyncio.Event().wait()

    async with upstream(slow) as server:
        pool = transport(server.url, timeouts=Timeouts(idle=10, first_byte=10))
        sending = asyncio.create_task(failing(pool, get(method="PUT", body=b"x" * 40_000_000)))
        while not server.peers or not server.peers[0].received:
            await asyncio.sleep(0)
        read.set()
        while read.is_set():
            await asyncio.sleep(0)
        await clock.advance(11)
        assert not sending.done()
        while not sending.done():
            await clock.advance(11)
        error = await sending
        assert (error.reason.name, error.sent) == ("idle-timeout", Sent.PARTLY)
        await pool.aclose()


@on_asyncio
async def test_one_timer_serves_all_deadlines() -> None:
    """Connections that are used again and again keep within their deadlines, however these follow each other."""
    clock = Clock()
    async with upstream() as server:
        pool = transport(server.url, timeouts=Timeouts(first_byte=10, idle=20), idle_expiry=30)
        for seconds in (5, 29, 9, 29):
            assert (await whole(pool, get()))[2] == b"ok"
            await clock.advance(seconds)
        assert len(server.peers) == 1
        assert pool.idle_connections == 1
        await clock.advance(2)
        await server.peers[0].ended.wait()
        await pool.aclose()
