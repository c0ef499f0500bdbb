"""Connections that end too early, in every phase; what is tried again, and what never is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from batchproxy.engine.errors import Failure
from batchproxy.proxy.transports import Sent, UpstreamError

from ..scripted import Peer, answering, response, upstream
from .exchanging import failing, get, on_both_loops, pieces, silent, transport, whole


async def _reset_at_once(peer: Peer) -> None:
    await peer.request()
    peer.reset()


async def _close_at_once(peer: Peer) -> None:
    await peer.request()


def _then(part: bytes, *, reset: bool = True) -> Callable[[Peer], Coroutine[Any, Any, None]]:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(part)
        # What was written has arrived before the connection ends.
        await asyncio.sleep(0.01)
        if reset:
            peer.reset()

    return script


PHASES = {
    "reset before the answer": (_reset_at_once, "reset-before-response", Failure.UNREACHABLE, False),
    "closed before the answer": (_close_at_once, "reset-before-response", Failure.UNREACHABLE, False),
    "reset in the head": (_then(b"HTTP/1.1 200 OK\r\nx"), "truncated", Failure.TRUNCATED, True),
    "closed in the head": (_then(b"HTTP/1.1 200 OK\r\nx", reset=False), "truncated", Failure.TRUNCATED, True),
    "reset in the body": (_then(response(b"0123456789")[:-4]), "truncated", Failure.TRUNCATED, True),
    "closed in the body": (_then(response(b"0123456789")[:-4], reset=False), "truncated", Failure.TRUNCATED, True),
    "no last chunk": (
        _then(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", reset=False),
        "truncated",
        Failure.TRUNCATED,
        True,
    ),
    "reset after an interim answer": (
        _then(b"HTTP/1.1 103 Hints\r\n\r\n"),
        "truncated",
        Failure.TRUNCATED,
        True,
    ),
    "reset in a chunk": (
        _then(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc"),
        "truncated",
        Failure.TRUNCATED,
        True,
    ),
    "reset in a body without length": (_then(b"HTTP/1.0 200 OK\r\n\r\nabc"), "truncated", Failure.TRUNCATED, True),
}


@pytest.mark.parametrize("name", PHASES)
@on_both_loops
async def test_failures_are_told_by_their_phase(name: str) -> None:
    """A connection that ends too early never looks like an answer; whether anything had arrived is known."""
    script, reason, failure, answered = PHASES[name]
    async with upstream(script) as server:
        pool = transport(server.url)
        error = await failing(pool, get(method="POST", body=b"x"))
        assert (error.reason.name, error.reason.failure, error.answered) == (reason, failure, answered)
        assert error.sent is Sent.ALL
        await pool.aclose()
    assert len(server.peers) == 1


@on_both_loops
async def test_refused_and_unknown() -> None:
    """No listener, no such name, no such socket: `connect-failure`, and nothing was sent."""
    async with upstream() as server:
        url = server.url
    for each in (url, "http://no-such-host.invalid", f"http://{'x' * 70}.invalid", "unix:/nowhere/at/all.sock"):
        pool = transport(each)
        error = await failing(pool, get())
        assert (error.reason.name, error.sent, error.answered) == ("connect-failure", Sent.NOTHING, False)
        await pool.aclose()


@on_both_loops
async def test_a_stale_connection_is_tried_once_more() -> None:
    """A kept connection that the server has just closed: GET is sent again on a new one, POST is not."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.write(response())
        await peer.request()
        peer.reset()

    for method, count in (("GET", 2), ("PUT", 2), ("POST", 1)):
        async with upstream(once) as server:
            pool = transport(server.url)
            await whole(pool, get())
            if count == 2:
                assert (await whole(pool, get(method=method)))[0] == 200
            else:
                error = await failing(pool, get(method=method))
                assert (error.reason.name, error.sent) == ("reset-before-response", Sent.ALL)
            await pool.aclose()
        assert len(server.peers) == count


@on_both_loops
async def test_a_closed_connection_is_not_used() -> None:
    """Once the end of an idle connection has been seen, even POST gets a new one."""

    async with upstream(answering(response(), then_close=True)) as server:
        pool = transport(server.url)
        await whole(pool, get())
        while pool.idle_connections:
            await asyncio.sleep(0)
        assert (await whole(pool, get(method="POST")))[0] == 200
        await pool.aclose()


@on_both_loops
async def test_an_end_after_the_answer_is_none_of_its_business() -> None:
    """A reset after the whole answer fails nothing, and the next request gets a new connection."""
    async with upstream(_then(response())) as server:
        pool = transport(server.url)
        for number in range(1, 3):
            assert (await whole(pool, get(method="POST")))[0] == 200
            await server.peers[-1].ended.wait()
            while pool.idle_connections:
                await asyncio.sleep(0)
            assert len(server.peers) == number
        await pool.aclose()


@on_both_loops
async def test_a_stale_connection_is_tried_only_once() -> None:
    """If the new connection fails as well, that is it; nor is a body in pieces ever sent again."""

    async def never(peer: Peer) -> None:
        await peer.request()
        if len(server.peers) == 1:
            await peer.write(response())
            await peer.head()
        peer.reset()

    for request, count in ((get(), 2), (get(method="PUT", body=pieces(b"x"), length=1), 1)):
        async with upstream(never) as server:
            pool = transport(server.url)
            await whole(pool, get())
            error = await failing(pool, request)
            assert (error.reason.name, error.answered) == ("reset-before-response", False)
            await pool.aclose()
        assert len(server.peers) == count


@on_both_loops
async def test_many_stale_connections_do_not_exceed_the_limit() -> None:
    """Requests that are tried again wait for their turn, before those that came later."""
    open_now = most = 0
    gate = asyncio.Barrier(2)

    async def script(peer: Peer) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        is_old = len(server.peers) <= 2
        try:
            while await peer.request():
                await peer.write(response())
                if is_old:
                    await peer.head()
                    await gate.wait()
                    peer.reset()
                    return
        finally:
            open_now -= 1

    async with upstream(script) as server:
        pool = transport(server.url, max_connections=2)
        await asyncio.gather(*(whole(pool, get()) for _ in range(2)))
        answers = await asyncio.gather(*(whole(pool, get()) for _ in range(6)))
        assert [status for status, _, _ in answers] == [200] * 6
        await pool.aclose()
    assert most == 2


@on_both_loops
async def test_part_of_a_request() -> None:
    """Of a body that has not all been taken, part has been sent, whether it comes in pieces or at once."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    for body in (b"x" * 50_000_000, pieces(*[b"x" * 500_000] * 100)):
        async with upstream(script) as server:
            pool = transport(server.url)
            error = await failing(pool, get(method="PUT", body=body))
            assert (error.reason.name, error.sent) == ("reset-before-response", Sent.PARTLY)
            await pool.aclose()


@on_both_loops
async def test_closing_cuts_everything() -> None:
    """Exchanges in every phase fail, also those whose body would end with the connection; later ones are refused."""

    async def half(peer: Peer) -> None:
        head = await peer.request()
        if b"/half" in head:
            await peer.write(b"HTTP/1.1 200 OK\r\n\r\npart")
        await peer.rest()

    async with upstream(half) as server:
        pool = transport(server.url, max_connections=2)
        answer = await pool.send(get(b"/half"))
        assert await answer.read() == b"part"
        waiting = [asyncio.create_task(pool.send(get())) for _ in range(2)]
        while len(server.peers) < 2 or not server.peers[1].received:
            await asyncio.sleep(0)
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        await pool.aclose()
        assert pool.open_connections == 0
        with pytest.raises(UpstreamError, match="truncated"):
            await reading
        with pytest.raises(UpstreamError, match="reset-before-response"):
            await waiting[0]
        with pytest.raises(UpstreamError, match="closed"):
            await waiting[1]
        assert (await failing(pool, get())).reason.name == "connect-failure"


@on_both_loops
async def test_closing_stops_connecting() -> None:
    """Nobody waits for a connection that would be closed at once."""
    async with upstream(silent) as server:
        # Nobody answers the handshake.
        pool = transport(server.url.replace("http:", "https:"))
        sending = asyncio.create_task(pool.send(get()))
        while not server.peers:
            await asyncio.sleep(0)
        await pool.aclose()
        with pytest.raises(UpstreamError, match="connect-failure"):
            await sending
        await server.peers[0].ended.wait()


@on_both_loops
async def test_reading_after_closing() -> None:
    """An answer that was closed too early has no more to read, nor does it leave its reader waiting."""
    async with upstream(_then(response(b"0123456789")[:-4], reset=False)) as server:
        pool = transport(server.url)
        answer = await pool.send(get())
        while not await answer.read():
            pass
        reading = asyncio.create_task(answer.read())
        await asyncio.sleep(0)
        answer.close()
        answer.close()
        with pytest.raises(UpstreamError, match="truncated"):
            await reading
        await pool.aclose()
        assert server.peers
