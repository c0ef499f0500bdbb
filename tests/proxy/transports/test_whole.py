"""An answer that comes in one read is taken as the parser would take it: whatever it is, and also what it is not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from batchproxy.proxy.transports import Outgoing, UpstreamError
from batchproxy.proxy.transports.connection import Connection
from batchproxy.proxy.transports.whole import _heads, read_whole

from ..scripted import Peer, response, upstream
from .exchanging import get, on_both_loops, transport, whole

MOST = 64 * 1024


def remembered() -> dict[bytes, Any]:
    """Heads of answers that need not be read a second time."""
    return dict(_heads)


class Wire(asyncio.Transport):
    """The other side is the test."""

    def __init__(self) -> None:
        super().__init__()
        self.is_cut = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.is_cut

    def abort(self) -> None:
        self.is_cut = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


def outcome(method: str, *parts: bytes, **more: Any) -> Any:
    """What becomes of an exchange when these parts arrive, and whether the connection is kept."""

    async def run() -> Any:
        pool = transport("http://127.0.0.1:9", **more)
        connection = Connection(pool, asyncio.get_running_loop())
        wire = Wire()
        connection.connection_made(wire)
        answer = connection.begin(Outgoing(method, b"/", []), b"")
        for part in parts:
            if not wire.is_cut:
                connection.data_received(part)
        body: bytes | str | None = None
        if answer.finished or answer.error is not None:
            try:
                body = await answer.read()
            except UpstreamError as error:
                body = error.reason.name
        found = (answer.status, answer.headers, answer.has_head, body, pool.idle_connections, wire.is_cut)
        connection.abort()
        connection.connection_lost(None)
        return found

    return asyncio.run(run())


PLAIN = b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 2\r\n\r\nok"

NAMES = st.sampled_from(
    [b"Server", b"X-A", b"x-a", b"Set-Cookie", b"Date", b"ETag", b"Keep-Alive", b"Upgrade", b"X A", b"", b"X\xe9"]
)
VALUES = st.sampled_from(
    [b"", b"1", b" a b ", b"\tx\t", b"keep-alive", b"caf\xc3\xa9", b"a\x00b", b"a\rb", b"a\nb", b"\x7f"]
)
FRAMES = st.sampled_from(
    [
        b"Content-Length: 2",
        b"content-length:2",
        b"Content-Length: 02",
        b"Content-Length: +2",
        b"Content-Length: 2, 2",
        b"Content-Length: 3",
        b"Content-Length: 1",
        b"Content-Length : 2",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity",
        b"Connection: keep-alive",
        b"Connection: Keep-Alive",
        b"Connection: close",
        b"Connection: x-a",
        b" folded",
        b"no colon",
    ]
)
LINES = st.one_of(FRAMES, st.builds(lambda name, value: name + b": " + value, NAMES, VALUES))
STATUS_LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 404 Not Found",
        b"HTTP/1.1 599 ",
        b"HTTP/1.1 200",
        b"HTTP/1.1 204 No Content",
        b"HTTP/1.1 304 Not Modified",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 101 Switching Protocols",
        b"HTTP/1.1 600 Odd",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.0 200 OK",
        b"HTTP/2.0 200 OK",
        b"http/1.1 200 OK",
        b"RTSP/1.0 200 OK",
        b"HTTP/1.1 200 caf\xc3\xa9",
        b"HTTP/1.1 200 a\tb",
        b"HTTP/1.1 200 a\x00b",
    ]
)
BODIES = st.sampled_from([b"ok", b"", b"okx", b"HTTP/1.1 200 OK\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n"])
ENDS = st.sampled_from([b"\r\n"] * 6 + [b"\n"])


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    lines = [draw(STATUS_LINES), *draw(st.lists(LINES, max_size=5))]
    end = draw(ENDS)
    return end.join(lines) + end + end + draw(BODIES)


@given(method=st.sampled_from(["GET", "POST", "HEAD"]), data=answers(), cut=st.integers(1, 40))
@example(method="GET", data=PLAIN, cut=9)
@example(method="HEAD", data=PLAIN, cut=9)
@example(method="GET", data=PLAIN + b"x", cut=9)
@example(method="GET", data=b"\r\n" + PLAIN, cut=1)
@settings(max_examples=400, deadline=None)
def test_in_one_read_or_in_two(method: str, data: bytes, cut: int) -> None:
    """Cut in two it goes through the parser; all that can be seen is the same."""
    once, twice = outcome(method, data), outcome(method, *filter(None, (data[:cut], data[cut:])))
    if read_whole(data, MOST) is not None and method != "HEAD":
        assert once == twice
    else:
        # Both are the parser's, which may hear of a mistake a little sooner or later.
        assert once[3:] == twice[3:]


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        b"HTTP/1.1 500 \r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\nX-A:\r\n\r\nok",
    ],
)
def test_plain_answers_need_no_parser(data: bytes) -> None:
    """Else all of this would be for nothing."""
    assert read_whole(data, MOST) is not None
    assert outcome("GET", data)[4:] == (1, False)


@pytest.mark.parametrize(
    "data",
    [
        PLAIN + b"x",
        PLAIN[:-1],
        PLAIN.replace(b"\r\n", b"\n"),
        PLAIN.replace(b"Server: s", b"Transfer-Encoding: chunked"),
        PLAIN.replace(b"Server: s", b"Content-Length: 2"),
        PLAIN.replace(b"Server: s", b"Connection: close"),
        PLAIN.replace(b"Server: s", b"Upgrade: h2c"),
        PLAIN.replace(b"Server: s", b" folded: s"),
        PLAIN.replace(b"Server: s", b"Server: a\nb"),
        PLAIN.replace(b"Server: s", b"Ser ver: s"),
        PLAIN.replace(b"200", b"204"),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"Server: s", b"Server: " + b"s" * MOST),
    ],
)
def test_what_is_not_plain_is_left_to_the_parser(data: bytes) -> None:
    assert read_whole(data, MOST) is None


def test_the_limits_hold() -> None:
    """Those of the head and of the body are told as they are when the answer comes in pieces."""
    for more in ({"max_response_bytes": 1}, {"max_response_header_bytes": 10}):
        assert outcome("GET", PLAIN, **more) == outcome("GET", PLAIN[:50], PLAIN[50:], **more)
        assert outcome("GET", PLAIN, **more)[3] in ("response-too-large", "bad-response")


def test_neither_secrets_nor_large_heads_are_remembered() -> None:
    """An answer that comes again is the same; what is kept of it until then is small, and no cookie."""
    before = set(remembered())
    cookie = PLAIN.replace(b"Server: s", b"Set-Cookie: session=7")
    large = PLAIN.replace(b"Server: s", b"X-Large: " + b"s" * 1024)
    for data in (cookie, large, PLAIN):
        assert outcome("GET", data) == outcome("GET", data)
    assert set(remembered()) - before <= {PLAIN.partition(b"\r\n\r\n")[0]}
    for number in range(2000):
        assert read_whole(PLAIN.replace(b"Server: s", b"Server: %d" % number), MOST) is not None
        assert len(remembered()) <= 512


@on_both_loops
async def test_what_is_remembered_of_lines_is_bounded() -> None:
    """Thousands of fields that never come again neither pile up nor keep the right answers from being given."""

    async def counts(peer: Peer) -> None:
        number = 0
        while await peer.request():
            number += 1
            await peer.write(response(b"ok", b"x-number: %d" % number, b"content-type: text/plain"))

    async with upstream(counts) as server:
        pool = transport(server.url)
        for number in range(1, 2500):
            _, headers, body = await whole(pool, get())
            assert (b"x-number", b"%d" % number) in headers
            assert body == b"ok"
        await pool.aclose()
    assert len(server.peers) == 1
