"""The upstream transport against upstreams made of sockets: bytes, framing, failures in every phase, deadlines."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import trustme

from batchproxy.engine.errors import Failure, SettingError
from batchproxy.proxy.settings import TLS, Timeouts
from batchproxy.proxy.transports import Outgoing, Sent, UpstreamError
from batchproxy.proxy.transports.connection import HIGH_WATER
from batchproxy.proxy.transports.native import NativeTransport

from .scripted import Peer, answering, response, upstream

SOON = 0.05


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test that is a coroutine; afterwards no task may be left."""

    @wraps(test)
    def ordinary(**given: Any) -> None:
        async def whole() -> None:
            await asyncio.wait_for(test(**given), 20)
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if left:
                await asyncio.wait(left, timeout=5)
            assert not [task for task in left if not task.done()]

        asyncio.run(whole())

    return ordinary


def transport(url: str, **more: Any) -> NativeTransport:
    settings: dict[str, Any] = {
        "timeouts": Timeouts(),
        "tls": None,
        "max_connections": 10,
        "idle_expiry": 30.0,
        "max_response_header_bytes": 64 * 1024,
        "max_response_bytes": None,
    }
    return NativeTransport(url, **(settings | more))


def get(target: bytes = b"/", *headers: tuple[bytes, bytes], method: str = "GET", **more: Any) -> Outgoing:
    return Outgoing(method, target, [(b"host", b"h"), *headers], **more)


async def whole(pool: NativeTransport, request: Outgoing) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    answer = await pool.send(request)
    pieces = []
    while piece := await answer.read():
        pieces.append(piece)
    answer.close()
    return answer.status, answer.headers, b"".join(pieces)


async def failing(pool: NativeTransport, request: Outgoing) -> UpstreamError:
    with pytest.raises(UpstreamError) as error:
        await whole(pool, request)
    return error.value


# Bytes


@on_a_loop
async def test_the_request_is_written_as_it_is() -> None:
    """Path, names and values go out byte for byte; only framing is added."""
    async with upstream() as server:
        pool = transport(server.url)
        await whole(pool, get(b"/a%2Fb;c?d=%zz&e", (b"x-odd", b"\xe4\xff \t;"), (b"x-odd", b"2")))
        await whole(pool, get(method="POST"))
        await whole(pool, get(method="POST", body=b"hello"))
        await whole(pool, get(method="DELETE", body=b"why"))
        await pool.aclose()
    assert bytes(server.peers[0].received) == (
        b"GET /a%2Fb;c?d=%zz&e HTTP/1.1\r\nhost: h\r\nx-odd: \xe4\xff \t;\r\nx-odd: 2\r\n\r\n"
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello"
        b"DELETE / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nwhy"
    )


@pytest.mark.parametrize(
    "request_",
    [
        get(b"/ HTTP/1.1\r\nx: y\r\n\r\nGET /"),
        get(b"/a b"),
        get(b"/\0"),
        get(b"/", (b"a", b"b\r\nc: d")),
        get(b"/", (b"a\n", b"b")),
        get(b"/", (b"a", b"\0")),
        Outgoing("GET\r\n", b"/", []),
    ],
)
@on_a_loop
async def test_nothing_can_break_out_of_its_place(request_: Outgoing) -> None:
    """A target or field with a line break, a blank or a NUL is a mistake of the caller's, and never goes out."""
    async with upstream() as server:
        pool = transport(server.url)
        with pytest.raises(ValueError, match="break"):
            await pool.send(request_)
        await pool.aclose()
    assert server.peers == []


CHUNKED = b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n2\r\nde\r\n0\r\nt: v\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (response(b"body", b"X-A: 1", b"x-a:  2 "), (200, [(b"x-a", b"1"), (b"x-a", b"2")], b"body")),
        (
            b"HTTP/1.1 200\r\ntransfer-encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n2\r\nde\r\n0\r\nt: v\r\n\r\n",
            (200, [], b"abcde"),
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nlink: x\r\n\r\n" + response(b"z"), (200, [], b"z")),
        (b"HTTP/1.1 204 No\r\nx-a: \xe4\xff\r\n\r\n", (204, [(b"x-a", b"\xe4\xff")], b"")),
        (b"HTTP/1.1 304 Not\r\ncontent-length: 10\r\n\r\n", (304, [], b"")),
        (response(status=b"599 X"), (599, [], b"ok")),
    ],
)
@on_a_loop
async def test_answers_are_read(sent: bytes, expected: tuple[int, list[tuple[bytes, bytes]], bytes]) -> None:
    """Length, chunks, none: the body ends where it should, interim answers are skipped, the connection is kept."""
    async with upstream(answering(sent)) as server:
        pool = transport(server.url)
        for _ in range(2):
            status, headers, body = await whole(pool, get())
            framing = (b"content-length", b"transfer-encoding")
            assert (status, [pair for pair in headers if pair[0] not in framing], body) == expected
        await pool.aclose()
    assert len(server.peers) == 1


@on_a_loop
async def test_byte_by_byte_is_the_same() -> None:
    """However an answer is cut into packets, it is the same."""

    async def drip(peer: Peer) -> None:
        await peer.request()
        for byte in b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n":
            await peer.write(bytes([byte]))
            await asyncio.sleep(0)
        await peer.rest()

    async with upstream(drip) as server:
        pool = transport(server.url)
        assert (await whole(pool, get()))[2] == b"hello"
        await pool.aclose()


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@on_a_loop
async def test_head_has_no_body(method: str) -> None:
    """The answer to HEAD ends with its head, whatever length it declares, and the connection is kept."""

    async def script(peer: Peer) -> None:
        while head := await peer.request():
            await peer.write(response(b"12345")[: -5 if head.startswith(b"HEAD") else None])

    async with upstream(script) as server:
        pool = transport(server.url)
        for each in ("HEAD", method, "HEAD"):
            status, headers, body = await whole(pool, get(method=each))
            assert (status, dict(headers)[b"content-length"], body) == (200, b"5", b"" if each == "HEAD" else b"12345")
        await pool.aclose()
    assert len(server.peers) == 1


@on_a_loop
async def test_a_body_that_ends_with_its_connection() -> None:
    """Without length and chunks the body ends where the connection does, and that is not used again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.0 200 OK\r\n\r\nto the end")

    async with upstream(script) as server:
        pool = transport(server.url)
        assert [(await whole(pool, get()))[2] for _ in range(2)] == [b"to the end"] * 2
        await pool.aclose()
    assert len(server.peers) == 2


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
    "bad chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", BAD)
@on_a_loop
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
        await asyncio.wait_for(server.peers[0].ended.wait(), 5)
        assert pool.open_connections == 0
        await pool.aclose()


@pytest.mark.parametrize("extra", [b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison", b"x"])
@on_a_loop
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


# Failures


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
    "reset in a body without length": (_then(b"HTTP/1.0 200 OK\r\n\r\nabc"), "truncated", Failure.TRUNCATED, True),
}


@pytest.mark.parametrize("name", PHASES)
@on_a_loop
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


@on_a_loop
async def test_refused_and_unknown() -> None:
    """No listener, no such name, no such socket: `connect-failure`, and nothing was sent."""
    async with upstream() as server:
        url = server.url
    for each in (url, "http://no-such-host.invalid", "unix:/nowhere/at/all.sock"):
        pool = transport(each)
        error = await failing(pool, get())
        assert (error.reason.name, error.sent, error.answered) == ("connect-failure", Sent.NOTHING, False)
        await pool.aclose()


@on_a_loop
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


@on_a_loop
async def test_a_closed_connection_is_not_used() -> None:
    """Once the end of an idle connection has been seen, even POST gets a new one."""

    async with upstream(answering(response(), then_close=True)) as server:
        pool = transport(server.url)
        await whole(pool, get())
        while pool.idle_connections:
            await asyncio.sleep(0)
        assert (await whole(pool, get(method="POST")))[0] == 200
        await pool.aclose()


# Time


async def _silent(peer: Peer) -> None:
    await peer.rest()


@on_a_loop
async def test_deadlines() -> None:
    """First byte, pause and whole: each has its own reason, and cuts the connection."""

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.write(response(b"12345")[:-2])
        await peer.rest()

    async with upstream(_silent) as silent, upstream(half) as pausing:
        for server, timeouts, has_deadline, reason in (
            (silent, Timeouts(first_byte=SOON), False, "first-byte-timeout"),
            (pausing, Timeouts(idle=SOON), False, "idle-timeout"),
            (silent, Timeouts(), True, "total-timeout"),
            (pausing, Timeouts(), True, "total-timeout"),
        ):
            deadline = asyncio.get_running_loop().time() + SOON if has_deadline else None
            pool = transport(server.url, timeouts=timeouts)
            error = await failing(pool, get(deadline=deadline))
            assert (error.reason.name, error.reason.failure) == (reason, Failure.TIMEOUT)
            await server.peers[-1].ended.wait()
            await pool.aclose()


@on_a_loop
async def test_a_reader_may_take_its_time() -> None:
    """The pause that counts is the server's; an answer that waits for its reader does not run into it."""
    async with upstream(answering(response(b"12345"))) as server:
        pool = transport(server.url, timeouts=Timeouts(idle=SOON, first_byte=SOON))
        answer = await pool.send(get())
        await asyncio.sleep(3 * SOON)
        assert await answer.read() == b"12345"
        await pool.aclose()


@on_a_loop
async def test_idle_connections_expire() -> None:
    """A connection that nobody needs is closed."""
    async with upstream() as server:
        pool = transport(server.url, idle_expiry=SOON)
        await whole(pool, get())
        assert (pool.open_connections, pool.idle_connections) == (1, 1)
        await asyncio.wait_for(server.peers[0].ended.wait(), 5)
        await asyncio.sleep(0)
        assert pool.open_connections == 0
        await pool.aclose()


# Bodies


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


@pytest.mark.parametrize(("length", "expected"), [(None, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), (5, b"abcde")])
@on_a_loop
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
@on_a_loop
async def test_a_body_of_another_length_is_not_sent_as_whole(parts: tuple[bytes, ...]) -> None:
    """Neither too little nor too much: the exchange fails, and the connection is cut."""
    async with upstream(_silent) as server:
        pool = transport(server.url)
        with pytest.raises(ValueError, match="length"):
            await whole(pool, get(method="POST", body=pieces(*parts), length=5))
        await server.peers[0].ended.wait()
        await pool.aclose()


@on_a_loop
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


@on_a_loop
async def test_whoever_gives_the_body_may_fail() -> None:
    """What the giver raises is what the reader gets, and the upstream sees no end of the body."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError("client left")

    async with upstream(_silent) as server:
        pool = transport(server.url)
        with pytest.raises(LookupError):
            await whole(pool, get(method="POST", body=broken()))
        await server.peers[0].ended.wait()
        assert not server.peers[0].received.endswith(b"0\r\n\r\n")
        await pool.aclose()


@on_a_loop
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
        while before != written:
            before = written
            await asyncio.sleep(SOON)
        first = await answer.read()
        assert HIGH_WATER < len(first) < HIGH_WATER + 512 * 1024
        assert len(await answer.read()) > 0
        answer.close()
        await server.peers[0].ended.wait()
        await pool.aclose()


@on_a_loop
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
        while before != given:
            before = given
            await asyncio.sleep(SOON)
        assert 0 < given < 32 * 2**20
        sending.cancel()
        await asyncio.wait({sending})
        await pool.aclose()
        assert server.peers


@on_a_loop
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


@on_a_loop
async def test_many_tiny_chunks() -> None:
    """A hundred thousand chunks of a byte each are one body."""
    sent = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"
    async with upstream(answering(sent)) as server:
        pool = transport(server.url)
        assert (await whole(pool, get()))[2] == b"x" * 100_000
        await pool.aclose()


# Pool


@on_a_loop
async def test_the_pool_has_a_limit() -> None:
    """Requests beyond it wait for a connection, in order, and use it again."""
    async with upstream() as server:
        pool = transport(server.url, max_connections=2)
        answers = await asyncio.gather(*(whole(pool, get(b"/%d" % number)) for number in range(10)))
        assert [status for status, _, _ in answers] == [200] * 10
        await pool.aclose()
    assert len(server.peers) == 2


@on_a_loop
async def test_waiting_for_a_connection_has_an_end() -> None:
    """A request whose deadline comes while it waits fails, and one that is cancelled leaves its place."""
    async with upstream(_silent) as server:
        pool = transport(server.url, max_connections=1)
        first = asyncio.create_task(pool.send(get()))
        second = asyncio.create_task(pool.send(get()))
        while not server.peers:
            await asyncio.sleep(0)
        third = await failing(pool, get(deadline=asyncio.get_running_loop().time() + SOON))
        assert (third.reason.name, third.sent) == ("total-timeout", Sent.NOTHING)
        second.cancel()
        first.cancel()
        await asyncio.wait({first, second})
        await pool.aclose()
        assert "idle=0" in repr(pool)


@pytest.mark.parametrize("steps", range(12))
@on_a_loop
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


@on_a_loop
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


@on_a_loop
async def test_unix_sockets(tmp_path: Path) -> None:
    """An upstream on a unix socket is served like any other."""
    path = str(tmp_path / "up.sock")
    async with upstream(path=path):
        pool = transport(f"unix:{path}")
        assert (await whole(pool, get()))[2] == b"ok"
        await pool.aclose()


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(tmp_path: Path, authority: trustme.CA) -> dict[str, str]:
    """The authority's certificate, another one's, and a client certificate with its key."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    client = authority.issue_cert("client@example.com")
    client.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "client.pem"))
    return {name: str(tmp_path / f"{name}.pem") for name in ("ca", "other", "client")}


def server_context(authority: trustme.CA, *names: str, asks: bool = False, **more: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, **more).configure_cert(context)
    if asks:
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@on_a_loop
async def test_tls(authority: trustme.CA, files: dict[str, str]) -> None:
    """A certificate of a trusted authority with the right name is taken; client certificates are shown when asked."""
    context = server_context(authority, "orders.internal", "127.0.0.1", asks=True)
    async with upstream(tls=context) as server:
        url = f"https://127.0.0.1:{server.port}"
        for tls in (
            TLS(ca=files["ca"], certificate=files["client"]),
            TLS(ca=files["ca"], certificate=files["client"], server_name="orders.internal", min_version="1.3"),
        ):
            pool = transport(url, tls=tls)
            assert (await whole(pool, get()))[2] == b"ok"
            await pool.aclose()


@pytest.mark.parametrize("fault", ["unknown authority", "wrong name", "expired", "no client certificate", "no TLS"])
@on_a_loop
async def test_tls_failures(fault: str, authority: trustme.CA, files: dict[str, str]) -> None:
    """Each fails before anything of the request is sent in the clear or to the wrong server."""
    more: dict[str, Any] = {"not_after": datetime(2020, 1, 1, tzinfo=UTC)} if fault == "expired" else {}
    context = server_context(authority, "127.0.0.1", asks=fault == "no client certificate", **more)
    async with upstream(_silent, tls=None if fault == "no TLS" else context) as server:
        tls = TLS(
            ca=files["other" if fault == "unknown authority" else "ca"],
            server_name="elsewhere.example" if fault == "wrong name" else None,
            min_version="1.2",
        )
        pool = transport(f"https://127.0.0.1:{server.port}", tls=tls, timeouts=Timeouts(connect=0.5))
        error = await failing(pool, get(b"/secret"))
        assert error.reason.failure is Failure.UNREACHABLE
        await pool.aclose()
    assert b"secret" not in b"".join(bytes(peer.received) for peer in server.peers)


@on_a_loop
async def test_verification_can_be_switched_off(
    authority: trustme.CA, caplog: pytest.LogCaptureFixture, files: dict[str, str]
) -> None:
    """`insecure_skip_verify` takes any certificate, and says so in the log."""
    async with upstream(tls=server_context(authority, "else.example")) as server:
        pool = transport(f"https://127.0.0.1:{server.port}", tls=TLS(insecure_skip_verify=True))
        assert (await whole(pool, get()))[2] == b"ok"
        await pool.aclose()
    assert "insecure_skip_verify" in caplog.text


@pytest.mark.parametrize("setting", ["ca", "certificate"])
def test_files_that_cannot_be_read(setting: str, tmp_path: Path) -> None:
    """A missing or broken file is a wrong setting."""
    broken = tmp_path / "broken.pem"
    broken.write_text("not a certificate")
    for path in (str(broken), str(tmp_path / "missing.pem")):
        with pytest.raises(SettingError) as error:
            transport("https://h", tls=TLS(ca=path) if setting == "ca" else TLS(certificate=path))
        assert error.value.setting == setting
