"""Connections that are kept, used again, waited for and given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from batchproxy.proxy.transports import Sent, UpstreamError

from ..scripted import Peer, response, upstream
from .exchanging import failing, get, on_both_loops, silent, soon, transport, whole


@on_both_loops
async def test_the_pool_has_a_limit() -> None:
    """Requests beyond it wait for a connection, in order, and use it again."""
    async with upstream() as server:
        pool = transport(server.url, max_connections=2)
        answers = await asyncio.gather(*(whole(pool, get(b"/%d" % number)) for number in range(10)))
        assert [status for status, _, _ in answers] == [200] * 10
        await pool.aclose()
    assert len(server.peers) == 2


@on_both_loops
async def test_waiting_for_a_connection_has_an_end() -> None:
    """A request whose deadline comes while it waits fails, and one that is cancelled leaves its place."""
    async with upstream(silent) as server:
        pool = transport(server.url, max_connections=1)
        first = asyncio.create_task(pool.send(get()))
        second = asyncio.create_task(pool.send(get()))
        while not server.peers:
            await asyncio.sleep(0)
        third = await failing(pool, get(deadline=soon()))
        assert (third.reason.name, third.sent) == ("total-timeout", Sent.NOTHING)
        second.cancel()
        first.cancel()
        await asyncio.wait({first, second})
        await pool.aclose()
        assert "idle=0" in repr(pool)


@pytest.mark.parametrize("steps", range(12))
@on_both_loops
async def test_cancelled_at_any_step(steps: int) -> None:
    """Whenever a request is cancelled, the next one is served, and nothing is left open at the end."""

    async def script(peer: Peer) -> None:
        while await peer.request():
            for byte in response(b"0123456789"):
                await peer.write(bytes([byte]))
                await asyncio.sleep(0)

    async with upstream(script) as server:
        pool = transport(server.url, max_connections=1)
        doomed = asyncio.create_task(whole(pool, get()))
        for _ in range(steps * 4):
            await asyncio.sleep(0)
        doomed.cancel()
        await asyncio.wait({doomed})
        assert (await whole(pool, get()))[2] == b"0123456789"
        await pool.aclose()
        assert pool.open_connections == 0
    assert server.peers


@on_both_loops
async def test_after_expire_no_old_connection_serves() -> None:
    """Idle connections are closed, and those in use when they end."""
    async with upstream() as server:
        pool = transport(server.url)
        await whole(pool, get())
        answer = await pool.send(get())
        pool.expire()
        while await answer.read():
            pass
        await whole(pool, get())
        await pool.aclose()
    assert len(server.peers) == 2


@on_both_loops
async def test_unix_sockets(tmp_path: Path) -> None:
    """An upstream on a unix socket is served like any other."""
    path = str(tmp_path / "up.sock")
    async with upstream(path=path):
        pool = transport(f"unix:{path}")
        assert (await whole(pool, get()))[2] == b"ok"
        await pool.aclose()


@on_both_loops
async def test_the_last_used_is_used_next() -> None:
    """So that those that are not needed expire."""
    async with upstream() as server:
        pool = transport(server.url)
        await asyncio.gather(*(whole(pool, get()) for _ in range(3)))
        assert pool.idle_connections == 3
        for number in range(5):
            await whole(pool, get(b"/%d" % number))
        await pool.aclose()
    assert sorted(bytes(peer.received).count(b"GET") for peer in server.peers) == [1, 1, 6]


@on_both_loops
async def test_those_who_wait_are_served_in_order() -> None:
    """First come, first served, also when one of them leaves."""
    async with upstream() as server:
        pool = transport(server.url, max_connections=1)
        tasks = [asyncio.create_task(whole(pool, get(b"/%d" % number))) for number in range(8)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.wait(tasks)
        await pool.aclose()
    targets = [line.split(b" ")[1] for line in bytes(server.peers[0].received).split(b"\r\n") if b"GET" in line]
    assert targets == [b"/%d" % number for number in range(8) if number != 3]


@pytest.mark.parametrize("is_reset", [False, True])
@on_both_loops
async def test_who_gives_up_in_the_moment_of_its_turn_passes_it_on(is_reset: bool) -> None:
    """A connection, or the place for one, that comes along with a cancellation is not lost."""
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request():
            await gate.wait()
            if is_reset and len(server.peers) == 1:
                peer.reset()
                return
            await peer.write(response())

    async def first() -> None:
        with suppress(UpstreamError):
            await pool.send(get())
        second.cancel()

    async with upstream(script) as server:
        pool = transport(server.url, max_connections=1)
        leading = asyncio.create_task(first())
        await asyncio.sleep(0)
        second = asyncio.create_task(whole(pool, get()))
        third = asyncio.create_task(whole(pool, get()))
        while not server.peers or not server.peers[0].received:
            await asyncio.sleep(0)
        gate.set()
        assert (await third)[0] == 200
        assert second.cancelled()
        await leading
        await pool.aclose()
    assert len(server.peers) == 1 + is_reset


@pytest.mark.parametrize("phase", ["handshake", "head", "body", "upload", "queue"])
@on_both_loops
async def test_cancellation_leaves_nothing(phase: str) -> None:
    """Whatever a request waits for when it is cancelled, its connection is cut."""

    async def script(peer: Peer) -> None:
        if phase == "upload":
            await peer.head()
            await asyncio.Event().wait()
        if phase != "handshake":
            await peer.request()
        if phase == "body":
            await peer.write(response(b"01234")[:-1])
        await peer.rest()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                given.set()
                yield b"x" * 1_000_000
        finally:
            closed.set()

    given, closed = asyncio.Event(), asyncio.Event()
    async with upstream(script) as server:
        url = server.url.replace("http:", "https:") if phase == "handshake" else server.url
        pool = transport(url, max_connections=1)
        request = get(method="PUT", body=endless()) if phase == "upload" else get()
        doomed = [asyncio.create_task(whole(pool, request))]
        if phase == "queue":
            doomed.append(asyncio.create_task(whole(pool, get())))
        while not server.peers or (phase not in ("handshake",) and not server.peers[0].received):
            await asyncio.sleep(0)
        if phase == "upload":
            await given.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        for task in reversed(doomed):
            task.cancel()
        await asyncio.wait(doomed)
        assert all(task.cancelled() for task in doomed)
        if phase == "upload":
            await closed.wait()
        else:
            await server.peers[0].ended.wait()
        while pool.open_connections:
            await asyncio.sleep(0)
        assert (pool.idle_connections, len(server.peers)) == (0, 1)
        await pool.aclose()
