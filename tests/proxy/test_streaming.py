"""Bodies that are longer than anybody should hold, and ends that come too early: alone and as an item."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from batchproxy.engine.routing import Route
from batchproxy.proxy.settings import Timeouts
from tests.serving import Malformed, parse

from .fronting import WAYS, Front, fronted
from .on_a_loop import on_a_loop
from .scripted import Peer, Script, answering, response

both_ways = pytest.mark.parametrize("way", WAYS)

PIECE = bytes(64 * 1024)
AT_MOST_HELD = 24 * 1024 * 1024
"""What the buffers of four sockets, of the server and of the proxy may hold together; far less than what is offered."""


@dataclass(frozen=True)
class Client:
    """A connection to the proxy that a test reads and writes step by step."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def begin(self, method: str, target: str, *fields: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: h", "Connection: close", *fields, "", ""]
        await self.write("\r\n".join(lines).encode())

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, mark: bytes) -> bytes:
        return await self.reader.readuntil(mark)


@asynccontextmanager
async def client(front: Front) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(front.server.host, front.server.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


def endless(head: bytes, piece: bytes) -> tuple[Script, list[int]]:
    """An upstream that never stops; how much it got rid of shows in the list."""
    written = [0]

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(head)
        while True:
            await peer.write(piece)
            written[0] += len(piece)

    return script, written


async def at_rest(measure: Callable[[], int]) -> int:
    """The value once it stops changing."""
    last, calm = measure(), 0
    while calm < 20:
        await asyncio.sleep(0.01)
        calm = calm + 1 if measure() == last else 0
        last = measure()
    return last


# Down


@on_a_loop
async def test_events_pass_one_by_one() -> None:
    """Each event of a stream reaches the client before the next one is made."""
    told = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for number in range(3):
            await peer.write(b"data: %d\n\n" % number)
            await told.wait()
            told.clear()

    async with fronted(script) as front, client(front) as reader:
        await reader.begin("GET", "/events")
        assert b"text/event-stream" in await reader.until(b"\r\n\r\n")
        for number in range(3):
            assert await reader.until(b"\r\n") == b"9\r\n"
            assert await reader.until(b"\n\n\r\n") == b"data: %d\n\n\r\n" % number
            told.set()
        assert await reader.reader.read() == b"0\r\n\r\n"


@on_a_loop
async def test_a_slow_reader_slows_the_upstream() -> None:
    """What a client does not take is not read from the upstream either; when it leaves, the upstream is cut off."""
    script, written = endless(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", PIECE)
    async with fronted(script) as front:
        async with client(front) as reader:
            await reader.begin("GET", "/x")
            await reader.until(b"\r\n\r\n")
            assert await at_rest(lambda: written[0]) < AT_MOST_HELD
        await front.upstream.peers[0].ended.wait()


@on_a_loop
async def test_a_download_is_whole() -> None:
    """A body of many pieces arrives as it was sent, framed by its length or by chunks."""
    body = bytes(number % 251 for number in range(3_000_000))
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    for answer in (response(body), chunked):
        async with fronted(answering(answer)) as front:
            assert (await front.alone("GET", "/x")).body == body
            assert (await front.item("GET", "/x")).body == body


@on_a_loop
async def test_an_item_without_an_end_is_ended() -> None:
    """An item whose answer never ends stops at its limit or deadline; the upstream is cut off, its neighbours live."""
    script, _ = endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
    async with fronted(script, endpoint={"max_response_bytes": 1_000_000}) as front:
        answered = await front.item("GET", "/x")
        assert (answered.status, answered.error) == (502, "response_too_large")
        await front.upstream.peers[0].ended.wait()

    async def events(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        await peer.rest()

    async with fronted(events) as front:
        [answered] = await front.batch([{"path": "/x", "timeout": 0.5}])
        assert (answered.status, answered.error) == (502, "unbatchable_response")
        await front.upstream.peers[0].ended.wait()


# Up


@on_a_loop
async def test_an_upload_streams_at_the_pace_of_the_upstream() -> None:
    """A long body is passed on as it comes, and a slow upstream slows the client."""
    read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(5)
        await read.wait()
        left = 40_000_000 - 5
        while left:
            left -= len(await peer.reader.read(min(left, 1 << 20)))
        await peer.write(response())

    async with fronted(script) as front, client(front) as writer:
        await writer.begin("PUT", "/x", "Content-Length: 40000000")
        await writer.write(b"first")
        while not front.upstream.peers or len(front.upstream.peers[0].received) < 5:
            await asyncio.sleep(0)
        sent = [5]

        async def pour() -> None:
            for _ in range(613):
                size = min(len(PIECE), 40_000_000 - sent[0])
                await writer.write(PIECE[:size])
                sent[0] += size

        pouring = asyncio.create_task(pour())
        assert await at_rest(lambda: sent[0]) < AT_MOST_HELD
        read.set()
        await pouring
        assert sent == [40_000_000]
        assert parse(await writer.reader.read()).status == 200


@on_a_loop
async def test_a_chunked_upload_streams() -> None:
    """A body without a length goes on in chunks, each when it comes."""

    async def script(peer: Peer) -> None:
        await peer.head()
        assert await peer.until(b"\r\n") == b"3\r\n"
        await peer.until(b"\r\n")
        told.set()
        await peer.until(b"0\r\n\r\n")
        await peer.write(response())

    told = asyncio.Event()
    async with fronted(script) as front, client(front) as writer:
        await writer.begin("POST", "/x", "Transfer-Encoding: chunked")
        await writer.write(b"3\r\nabc\r\n")
        await told.wait()
        await writer.write(b"2\r\nde\r\n0\r\n\r\n")
        assert parse(await writer.reader.read()).status == 200
        head, _, body = front.received().partition(b"\r\n\r\n")
        assert b"transfer-encoding: chunked" in head
        assert b"content-length" not in head
        assert body == b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


@on_a_loop
async def test_an_upload_that_grows_too_large() -> None:
    """A body without a length is counted as it comes: 413, the connection closed, the upstream cut off."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.rest()

    routes = [Route(upstream="api", max_request_bytes=200_000)]
    async with fronted(script, routes=routes) as front, client(front) as writer:
        await writer.begin("POST", "/x", "Transfer-Encoding: chunked")
        await writer.write(b"%x\r\n%b" % (200_001, bytes(200_001)))
        answered = parse(await writer.reader.read())
        assert (answered.status, answered.json()["code"]) == (413, "body_too_large")
        assert answered.header("connection") == "close"
        for peer in front.upstream.peers:
            await peer.ended.wait()


@on_a_loop
async def test_a_declared_length_over_the_limit_asks_for_nothing() -> None:
    """Who waits for leave to send a body that is too large is refused without it; else it is given once."""
    async with fronted(routes=[Route(upstream="api", max_request_bytes=10)]) as front:
        async with client(front) as writer:
            await writer.begin("POST", "/x", "Content-Length: 11", "Expect: 100-continue")
            assert (await writer.reader.read()).startswith(b"HTTP/1.1 413 ")
        async with client(front) as writer:
            await writer.begin("POST", "/x", "Content-Length: 2", "Expect: 100-continue")
            assert await writer.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await writer.write(b"ok")
            assert parse(await writer.reader.read()).status == 200
        assert b"xpect" not in front.received()


@pytest.mark.parametrize("length", [100, 1_000_000])
def test_a_body_that_does_not_come(length: int) -> None:
    """A client that stops in the middle of its body gets 408, however long it is; the upstream is not kept waiting."""

    async def patient(peer: Peer) -> None:
        await peer.head()
        await peer.rest()

    @on_a_loop
    async def check() -> None:
        async with fronted(patient, timeouts=Timeouts(idle=0.3)) as front, client(front) as writer:
            await writer.begin("POST", "/x", f"Content-Length: {length}")
            await writer.write(b"some")
            answered = parse(await writer.reader.read())
            assert (answered.status, answered.json()["code"]) == (408, "request_timeout")
            assert answered.header("connection") == "close"
            for peer in front.upstream.peers:
                await peer.ended.wait()
            assert len(front.upstream.peers) == (length > 65536)

    check()


@on_a_loop
async def test_a_body_that_drips() -> None:
    """With `min_upload_rate`, pauses that are short enough do not help a client that sends next to nothing."""

    async def patient(peer: Peer) -> None:
        await peer.head()
        await peer.rest()

    async with fronted(patient, timeouts=Timeouts(idle=0.5), min_upload_rate=1000) as front, client(front) as writer:
        await writer.begin("POST", "/x", "Content-Length: 1000000")
        received = b""
        while not received:
            with suppress(TimeoutError):
                await writer.write(b"s")
                async with asyncio.timeout(0.05):
                    received = await writer.reader.read(1)
        answered = parse(received + await writer.reader.read())
        assert (answered.status, answered.json()["code"]) == (408, "request_timeout")
        for peer in front.upstream.peers:
            await peer.ended.wait()


@on_a_loop
async def test_an_answer_may_come_before_the_body() -> None:
    """An upstream that refuses an upload at its head is heard, and no more is sent to it."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.write(response(b"no", status=b"403 Forbidden"))
        await peer.rest()

    async with fronted(script) as front, client(front) as writer:
        await writer.begin("POST", "/x", "Content-Length: 1000000")
        await writer.write(b"some")
        assert b" 403 " in await writer.until(b"\r\n\r\n")
        assert await writer.reader.readexactly(2) == b"no"
        await front.upstream.peers[0].ended.wait()


# Answers that break off


async def reset(peer: Peer) -> None:
    peer.reset()


async def close(peer: Peer) -> None:
    peer.close()


BROKEN = {
    "length": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"a" * 40,
    "chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n28\r\n" + b"a" * 40,
    "last chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n28\r\n" + b"a" * 40 + b"\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("end", [reset, close])
@pytest.mark.parametrize("http", ["httptools", "h11"])
def test_part_of_an_answer_is_never_taken_for_the_whole(
    kind: str, end: Callable[[Peer], Awaitable[None]], http: str
) -> None:
    """Alone, the client's connection is cut before the answer is complete; an item is `truncated`, without a body."""
    seen = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(BROKEN[kind])
        await seen.wait()
        await end(peer)

    @on_a_loop
    async def check() -> None:
        async with fronted(script, server={"http": http}) as front:
            async with client(front) as reader:
                await reader.begin("GET", "/x")
                head = await reader.until(b"\r\n\r\n")
                start = await reader.until(b"a" * 40)
                seen.set()
                with pytest.raises(Malformed):
                    parse(head + start + await reader.reader.read())
            answered = await front.item("GET", "/x")
            assert (answered.status, answered.error) == (502, "truncated")
            assert b"aaa" not in answered.body

    check()


@on_a_loop
async def test_an_answer_that_ends_with_its_connection_is_whole() -> None:
    """Without a length and without chunks, the end of the connection is the end of the body."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    async with fronted(script) as front:
        assert (await front.alone("GET", "/x")).body == b"all of it"
        assert (await front.item("GET", "/x")).body == b"all of it"


@on_a_loop
async def test_an_answer_that_stalls_breaks_off() -> None:
    """An upstream that stops in the middle is given up at the idle deadline: cut off alone, 504 as an item."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nsome")
        await peer.rest()

    async with fronted(script, timeouts=Timeouts(idle=0.3)) as front:
        with pytest.raises(Malformed):
            await front.alone("GET", "/x")
        answered = await front.item("GET", "/x")
        assert (answered.status, answered.error) == (504, "timeout")


@both_ways
def test_an_answer_over_the_limit_of_its_route(way: str) -> None:
    """A route's limit ends an answer without a length where it goes over it."""
    script, _ = endless(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n" % (len(PIECE), PIECE))

    @on_a_loop
    async def check() -> None:
        async with fronted(script, routes=[Route(upstream="api", max_response_bytes=100_000)]) as front:
            if way == "alone":
                with pytest.raises(Malformed):
                    await front.alone("GET", "/x")
            else:
                assert (await front.item("GET", "/x")).error == "response_too_large"
            await front.upstream.peers[0].ended.wait()

    check()


# Clients that leave


@pytest.mark.parametrize("fields", [(), ("Content-Length: 4",), ("Content-Length: 1000000",)])
def test_a_client_that_leaves_ends_the_exchange(fields: tuple[str, ...]) -> None:
    """Whether its body is whole or not: when the client is gone, nobody waits for the upstream's answer."""

    async def script(peer: Peer) -> None:
        await peer.head()
        if fields:
            await peer.exactly(4)
        await peer.rest()

    @on_a_loop
    async def check() -> None:
        async with fronted(script) as front:
            async with client(front) as leaving:
                await leaving.begin("POST" if fields else "GET", "/x", *fields)
                if fields:
                    await leaving.write(b"some")
                while not (front.upstream.peers and re.search(rb"\r\n\r\n(some)?$", front.received())):
                    await asyncio.sleep(0)
            await front.upstream.peers[0].ended.wait()
            assert len(front.upstream.peers) == 1

    check()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_batch_that_is_left(method: str) -> None:
    """Safe items are cut off when their client leaves; others run on, and have their effect."""
    went_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if method == "GET":
            assert await peer.rest() == b""
        else:
            await left.wait()
            await peer.write(response())
            # The proxy takes the answer, and keeps the connection.
        went_on.set()

    left = asyncio.Event()

    @on_a_loop
    async def check() -> None:
        async with fronted(script) as front:
            async with client(front) as leaving:
                body = b'{"requests":[{"method":"%b","path":"/x"}]}' % method.encode()
                await leaving.begin("POST", "/batch", "Content-Type: application/json", f"Content-Length: {len(body)}")
                await leaving.write(body)
                while not (front.upstream.peers and front.received().endswith(b"\r\n\r\n")):
                    await asyncio.sleep(0)
            left.set()
            await went_on.wait()
            assert (await front.alone("GET", "/batch")).status == 200

    check()


@on_a_loop
async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    """A client that stops reading holds its exchange no longer than the idle deadline."""
    script, _ = endless(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n", PIECE)
    async with fronted(script, timeouts=Timeouts(idle=0.5)) as front, client(front) as reader:
        await reader.begin("GET", "/x")
        await reader.until(b"\r\n\r\n")
        await front.upstream.peers[0].ended.wait()


@on_a_loop
async def test_a_connection_is_used_again() -> None:
    """After an answer the client's connection serves the next request, and so does the upstream's."""
    async with fronted() as front, client(front) as keeper:
        for _ in range(3):
            await keeper.write(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na")
            assert (await keeper.until(b"ok")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert len(front.upstream.peers) == 1
