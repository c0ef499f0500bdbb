"""What is refused before anything else sees it, on bytes that servers do not agree about."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.engine.model import Message
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.entrance import Entrance
from batchproxy.proxy.forwarding import Forwarding
from batchproxy.proxy.settings import Upstream
from tests.serving import parse

from .fronting import fronted, served
from .on_a_loop import PATIENCE, on_a_loop

SERVERS = ("httptools", "h11")

REFUSED = {
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "empty host": b"GET /x HTTP/1.1\r\nHost:\r\n\r\n",
    "a path in it": b"GET /x HTTP/1.1\r\nHost: a/b?c#\r\n\r\n",
    "a user in it": b"GET /x HTTP/1.1\r\nHost: user@a\r\n\r\n",
    "a list": b"GET /x HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "a port that is none": b"GET /x HTTP/1.1\r\nHost: a:99999\r\n\r\n",
    "no address": b"GET /x HTTP/1.1\r\nHost: [::g]\r\n\r\n",
    "both framings": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "the other way": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "chunks of HTTP/1.0": b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "no number": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
    "a folded line": b"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 3\r\n\r\nabc",
}


@pytest.mark.parametrize("http", SERVERS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(kind: str, http: str) -> None:
    """400, the connection closed, what was sent behind it not taken for a request; on every server."""
    behind = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

    @on_a_loop
    async def check() -> None:
        async with fronted(server={"http": http}) as front:
            data = await front.raw(REFUSED[kind] + behind)
            assert data.startswith(b"HTTP/1.1 400 ")
            assert len(re.findall(rb"HTTP/1\.1 \d", data)) == 1
            assert front.upstream.peers == []

    check()


@pytest.mark.parametrize("path", ["/x", "/batch"])
def test_a_loop_is_refused_as_a_whole(path: str) -> None:
    """Who has passed us before gets 508, for a lone request and for a whole batch alike."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            for field in (("Via", "1.1 other, 1.1 batchproxy"), ("CDN-Loop", "batchproxy")):
                asked = [field, ("Content-Type", "application/json")]
                answered = await front.alone("POST", path, asked, b'{"requests":[{"path":"/x"}]}')
                assert (answered.status, answered.code) == (508, "loop_detected")
            assert front.upstream.peers == []

    check()


@on_a_loop
async def test_a_proxy_in_front_of_itself() -> None:
    """An upstream that leads back to the proxy costs one more hop, then the loop is seen."""
    hops: list[str] = []
    behind: list[ReverseProxy] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            hops.append(scope["path"])
            await Entrance(behind[0], forwarding=Forwarding())(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await behind[0].aclose()
        await send({"type": "lifespan.shutdown.complete"})

    with served(app) as front:
        table = RouteTable([Route(upstream="api")])
        behind.append(ReverseProxy(table, {"api": Upstream(url=front.server.url)}, forwarding=None))
        answered = await front.alone("GET", "/x")
        assert (answered.status, answered.code, hops) == (508, "loop_detected", ["/x", "/x"])


@pytest.mark.parametrize("http", SERVERS)
def test_heads_that_are_too_large(http: str) -> None:
    """More bytes of headers than allowed are 431, a longer URL is 414."""

    @on_a_loop
    async def check() -> None:
        async with fronted(server={"http": http}, entrance={"max_header_bytes": 2000}) as front:
            assert (await front.alone("GET", "/x", [("X-A", "a" * 1900)])).status == 200
            many = await front.alone("GET", "/x", [("X-A", "a" * 2000)])
            assert (many.status, many.code) == (431, "headers_too_large")
            long = await front.alone("GET", "/" + "x" * 2001)
            assert (long.status, long.code) == (414, "path_too_long")
            assert [value for each in (many, long) for value in each.values("connection")] == ["close", "close"]
            assert len(front.upstream.peers) == 1

    check()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("api.example.com", 200),
        ("API.example.com:8080", 200),
        ("a.b.other.test", 200),
        ("[::1]:80", 200),
        ("other.test", 421),
        ("evilother.test", 421),
        ("api.example.com.evil.test", 421),
        ("127.0.0.1", 421),
    ],
)
def test_only_the_hosts_that_are_ours(host: str, status: int) -> None:
    """Where hosts are named, a request for another one is misdirected."""

    @on_a_loop
    async def check() -> None:
        allowed = ["api.example.com", "*.other.test", "[::1]"]
        async with fronted(entrance={"allowed_hosts": allowed}) as front:
            answered = await front.alone("GET", "/x", [("Host", host)])
            assert answered.status == status
            assert answered.code == (None if status == 200 else "misdirected_request")

    check()


@pytest.mark.parametrize("wrong", [["API.test"], ["a.test:80"], ["a/b"], "a.test", [1]])
def test_wrong_hosts(wrong: Any) -> None:
    """A host that could never match is a wrong setting."""

    async def app(*_: object) -> None:
        pass

    with pytest.raises(SettingError):
        Entrance(app, forwarding=Forwarding(), allowed_hosts=wrong)


@on_a_loop
async def test_every_answer_has_a_date() -> None:
    """One that has none gets one; the upstream's own is kept."""
    async with fronted() as front:
        assert len((await front.alone("GET", "/x")).values("date")) == 1
        assert len((await front.alone("GET", "/batch")).values("date")) == 1


def run(app: Entrance, scope: dict[str, Any], first: str) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": first}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), PATIENCE))
    return sent


@pytest.mark.parametrize("can_answer", [True, False])
def test_a_handshake_is_judged_as_well(can_answer: bool) -> None:
    """A websocket without a sound `Host` is refused: with an answer, where the server can send one."""

    async def never(*_: object) -> None:
        raise AssertionError

    scope: dict[str, Any] = {"type": "websocket", "headers": [(b"host", b"a/b")], "query_string": b"", "raw_path": b"/"}
    scope |= {"extensions": {"websocket.http.response": {}} if can_answer else {}}
    sent = run(Entrance(never, forwarding=Forwarding()), scope, "websocket.connect")
    if can_answer:
        assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 400)
        assert len(sent[1]["body"]) == int(dict(sent[0]["headers"])[b"content-length"])
    else:
        assert sent == [{"type": "websocket.close", "code": 1000}]


def test_a_handshake_keeps_what_it_needs() -> None:
    """Of a websocket's hop-by-hop headers only those of the handshake stay."""
    seen: list[Any] = []

    async def app(scope: Any, _receive: object, _send: object) -> None:
        seen.append(scope)

    fields = [(b"host", b"a"), (b"connection", b"Upgrade, x-gone"), (b"upgrade", b"websocket"), (b"x-gone", b"1")]
    fields += [(b"te", b"trailers"), (b"sec-websocket-key", b"k")]
    scope = {"type": "websocket", "scheme": "ws", "headers": fields, "query_string": b"", "client": ("1.2.3.4", 1)}
    assert run(Entrance(app, forwarding=Forwarding()), scope, "websocket.connect") == []
    kept = [name for name, _ in seen[0]["headers"][:4]]
    assert kept == [b"host", b"connection", b"upgrade", b"sec-websocket-key"]
    assert run(Entrance(app, forwarding=Forwarding()), {"type": "lifespan"}, "lifespan.startup") == []
    assert seen[1] == {"type": "lifespan"}


@on_a_loop
async def test_clients_that_send_byte_by_byte_and_pipeline() -> None:
    """However the bytes of sound requests come, each is answered, in order."""
    async with fronted() as front:
        reader, writer = await asyncio.open_connection(front.server.host, front.server.port)
        for byte in b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok":
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(b"GET /b HTTP/1.1\r\nHost: h\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        answers = [b"HTTP/1.1 " + each for each in data.split(b"HTTP/1.1 ")[1:]]
        assert [parse(each).status for each in answers] == [200, 200, 200]
        assert re.findall(rb"(?:GET|POST) (/\w) ", front.received()) == [b"/a", b"/b", b"/c"]
