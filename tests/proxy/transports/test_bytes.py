"""What goes onto the wire, and what is read from it, byte for byte."""

from __future__ import annotations

import asyncio

import pytest

from batchproxy.proxy.transports import Outgoing

from ..scripted import Peer, answering, response, upstream
from .exchanging import get, on_both_loops, transport, whole


@on_both_loops
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
        Outgoing("GET /other", b"/", []),
    ],
)
@on_both_loops
async def test_nothing_can_break_out_of_its_place(request_: Outgoing) -> None:
    """A target or field with a line break, a blank or a NUL is a mistake of the caller's, and never goes out."""
    async with upstream() as server:
        pool = transport(server.url)
        with pytest.raises(ValueError, match="break"):
            await pool.send(request_)
        await pool.aclose()
    assert server.peers == []


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
@on_both_loops
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


@on_both_loops
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
@on_both_loops
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


@on_both_loops
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


KEPT = {
    "HTTP/1.1": (response(), True),
    "HTTP/1.1, close": (response(b"ok", b"connection: x, Close"), False),
    "HTTP/1.0": (response().replace(b"1.1", b"1.0"), False),
    "HTTP/1.0, kept": (response(b"ok", b"connection: Keep-Alive").replace(b"1.1", b"1.0"), True),
    "another protocol offered": (response(b"ok", b"upgrade: h2c", b"connection: Upgrade"), True),
    "not changed": (b"HTTP/1.1 304 Not\r\ntransfer-encoding: chunked\r\n\r\n", True),
    "empty value": (response(b"ok", b"x:"), True),
    "no reason": (response(status=b"200"), True),
}


@pytest.mark.parametrize("name", KEPT)
@on_both_loops
async def test_a_connection_is_kept_if_both_agree(name: str) -> None:
    """Kept is what the answer leaves open and the version allows."""
    sent, is_kept = KEPT[name]
    async with upstream(answering(sent)) as server:
        pool = transport(server.url)
        for _ in range(2):
            await whole(pool, get())
            assert pool.idle_connections == int(is_kept)
        await pool.aclose()
    assert len(server.peers) == (1 if is_kept else 2)


@pytest.mark.parametrize(("headers", "is_kept"), [(b"", True), (b"connection: close\r\n", False)])
@on_both_loops
async def test_head_without_a_length(headers: bytes, is_kept: bool) -> None:
    """The answer to HEAD needs no length for its connection to be kept."""
    async with upstream(answering(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n")) as server:
        pool = transport(server.url)
        assert (await whole(pool, get(method="HEAD")))[2] == b""
        assert pool.idle_connections == int(is_kept)
        await pool.aclose()


@on_both_loops
async def test_what_is_there_is_read_at_once() -> None:
    """Reading does not suspend if something is there, nor at the end."""
    async with upstream() as server:
        pool = transport(server.url)
        answer = await pool.send(get())
        steps = answer.read()
        with pytest.raises(StopIteration) as read:
            steps.send(None)
        assert read.value.value == b"ok"
        steps = answer.read()
        with pytest.raises(StopIteration) as end:
            steps.send(None)
        assert end.value.value == b""
        assert "finished" in repr(answer)
        await pool.aclose()
