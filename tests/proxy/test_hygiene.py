"""What an upstream gets of a request and a client of an answer: every byte, alone and as an item."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from batchproxy.engine.routing import Route
from batchproxy.proxy.forwarding import Forwarding
from batchproxy.proxy.settings import Upstream

from .fronting import WAYS, Front, fronted, proxied, served
from .on_a_loop import on_a_loop
from .scripted import answering, response, upstream

both_ways = pytest.mark.parametrize("way", WAYS)

TOLD = (
    b"x-forwarded-for: 127.0.0.1\r\n"
    b"x-forwarded-proto: http\r\n"
    b"x-forwarded-host: testserver\r\n"
    b"x-forwarded-port: 80\r\n"
    b"forwarded: for=127.0.0.1;host=testserver;proto=http\r\n"
    b"via: 1.1 batchproxy\r\n"
    b"cdn-loop: batchproxy\r\n"
)


async def sent_with(front: Front, way: str, *headers: tuple[str, str]) -> bytes:
    """What the upstream got of a GET whose client sends these headers; for an item, with the batch."""
    if way == "alone":
        answered = await front.alone("GET", "/x", headers)
    else:
        answered = await front.item("GET", "/x", outer=headers)
    assert answered.status == 200
    return front.received()


@both_ways
def test_the_whole_request(way: str) -> None:
    """Nothing is added but what tells of the client; end-to-end headers come in their order, byte for byte."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            given = (("X-B", "2"), ("Cookie", "a=1"), ("X-A", 'q="\xff\xe9"; b'), ("X-B", "1"), ("X-Empty", ""))
            received = await sent_with(front, way, *given)
            assert received == (
                b"GET /x HTTP/1.1\r\nhost: testserver\r\nx-b: 2\r\ncookie: a=1\r\n"
                b'x-a: q="\xff\xe9"; b\r\nx-b: 1\r\nx-empty: \r\n' + TOLD + b"\r\n"
            )

    check()


@both_ways
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("size", [0, 1, 65537, 300_000])
def test_a_body_is_framed_once(way: str, method: str, size: int) -> None:
    """Exactly one framing header, equal to the length of the body, and the body unchanged."""
    body = bytes(number % 251 for number in range(size))

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            assert (await front.send(way, method, "/x", [("Content-Type", "a/b")], body)).status == 200
            head, _, rest = front.received().partition(b"\r\n\r\n")
            fields = head.lower().split(b"\r\n")
            assert [each for each in fields if each.startswith((b"content-length", b"transfer-encoding"))] == [
                b"content-length: %d" % size
            ]
            assert rest == body

    check()


@on_a_loop
async def test_a_chunked_body_that_is_there_gets_a_length() -> None:
    """The framing is the proxy's own: chunk extensions end here, as does what was said about trailers."""
    async with fronted() as front:
        about = b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTrailer: x-end\r\nTransfer-Encoding: chunked"
        await front.raw(about + b"\r\n\r\n3;x=y\r\nabc\r\n0\r\n\r\n")
        head, _, rest = front.received().partition(b"\r\n\r\n")
        assert head.endswith(b"cdn-loop: batchproxy\r\ncontent-length: 3")
        assert b"railer" not in head
        assert b"encoding" not in head
        assert rest == b"abc"


@both_ways
def test_nobody_lists_our_headers_away(way: str) -> None:
    """What `Connection` lists of the client's is left out; the proxy's own come after, and cannot be listed away."""

    @on_a_loop
    async def check() -> None:
        listing = "close, X-Forwarded-For, Forwarded, Via, authorization , Host, content-length, x-mine"
        async with fronted() as front:
            given = (("Connection", listing), ("Authorization", "secret"), ("X-Mine", "1"), ("X-Other", "2"))
            received = await sent_with(front, way, *given, ("X-Forwarded-For", "10.0.0.1"))
            assert received == b"GET /x HTTP/1.1\r\nhost: testserver\r\nx-other: 2\r\n" + TOLD + b"\r\n"

    check()


HOP_BY_HOP = (
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "keep-alive"),
    ("Proxy-Authorization", "Basic eDp5"),
    ("Proxy-Authenticate", "Basic"),
    ("TE", "trailers"),
    ("Trailer", "x"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABk"),
    ("Expect", "100-continue"),
)


@both_ways
@pytest.mark.parametrize("given", HOP_BY_HOP, ids=lambda given: given[0])
def test_hop_by_hop_headers_end_here(way: str, given: tuple[str, str]) -> None:
    """What concerns the client's connection, or was answered by our server, does not reach the upstream."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            received = await sent_with(front, way, given)
            assert received == b"GET /x HTTP/1.1\r\nhost: testserver\r\n" + TOLD + b"\r\n"

    check()


@both_ways
def test_hop_by_hop_headers_of_an_answer_end_here(way: str) -> None:
    """Nor does what concerns the upstream's connection reach the client; the rest does, in order, byte for byte."""
    fields = [f"{name}: {value}".encode() for name, value in HOP_BY_HOP if name not in ("Upgrade", "Expect")]
    fields += [b"Connection: X-Gone, keep-alive", b"X-Gone: 1", b"X-B: 2", b"x-a: \xff", b"X-B: 1", b"Via: 1.0 deep"]
    fields += [b"Set-Cookie: a=1; Expires=Wed, 21 Oct 2030 07:28:00 GMT", b"Set-Cookie: b=2", b"Server: old"]

    @on_a_loop
    async def check() -> None:
        async with fronted(answering(response(b"ok", *fields))) as front:
            answered = await front.send(way, "GET", "/x")
            ours = ("content-length", "connection", "date")
            kept = [pair for pair in answered.headers if pair[0] not in ours]
            expected = [("x-b", "2"), ("x-a", "\xff"), ("x-b", "1"), ("via", "1.0 deep")]
            expected += [("set-cookie", "a=1; Expires=Wed, 21 Oct 2030 07:28:00 GMT"), ("set-cookie", "b=2")]
            assert sorted(kept) == sorted([*expected, ("server", "old")])
            assert answered.values("set-cookie") == ["a=1; Expires=Wed, 21 Oct 2030 07:28:00 GMT", "b=2"]

    check()


@both_ways
@pytest.mark.parametrize(
    ("method", "answer", "status", "body"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", 200, b""),
        ("GET", b"HTTP/1.1 204 No Content\r\nx: 1\r\n\r\n", 204, b""),
        ("GET", b'HTTP/1.1 304 Not Modified\r\netag: "a"\r\ncontent-length: 1234\r\n\r\n', 304, b""),
        ("DELETE", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        ("GET", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 200, b"abc"),
        ("GET", b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno", 500, b"no"),
    ],
)
def test_answers_with_and_without_a_body(way: str, method: str, answer: bytes, status: int, body: bytes) -> None:
    """HEAD keeps the length it was told; 204 and 304 have no body and none declared; all others are whole."""

    @on_a_loop
    async def check() -> None:
        async with fronted(answering(answer)) as front:
            answered = await front.send(way, method, "/x")
            assert (answered.status, answered.body) == (status, body)
            if method == "HEAD":
                assert answered.values("content-length") == ["1234"]
            if status in (204, 304):
                assert answered.values("content-length") == []

    check()


@both_ways
def test_redirects_are_for_the_client(way: str) -> None:
    """A redirect is passed on with its `Location`; nobody is asked a second time."""

    @on_a_loop
    async def check() -> None:
        async with upstream() as evil:
            location = f"Location: {evil.url}/secret".encode()
            async with fronted(answering(response(b"", location, status=b"302 Found"))) as front:
                answered = await front.send(way, "GET", "/x")
                assert (answered.status, answered.values("location")) == (302, [f"{evil.url}/secret"])
            assert evil.peers == []

    check()


@both_ways
def test_the_environment_changes_nothing(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy that the environment names is ever asked."""

    @on_a_loop
    async def check() -> None:
        async with upstream() as evil:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, evil.url)
            async with fronted() as front:
                assert (await front.send(way, "GET", "/x")).status == 200
            assert evil.peers == []

    check()


@both_ways
def test_cookies_are_kept_by_nobody(way: str) -> None:
    """What one caller was told to keep is never sent with another's request, over the same connection or not."""

    @on_a_loop
    async def check() -> None:
        async with fronted(answering(response(b"", b"Set-Cookie: session=1; Path=/"))) as front:
            for _ in range(3):
                assert (await front.send(way, "GET", "/x")).values("set-cookie") == ["session=1; Path=/"]
            assert len(front.upstream.peers) == 1
            assert b"ookie" not in front.received()

    check()


@both_ways
def test_a_route_changes_headers(way: str) -> None:
    """A route's headers replace the client's, in any spelling; those it removes do not arrive."""
    route = Route(
        upstream="api", add_headers={"X-Api-Key": "ours", "X-New": "1"}, remove_headers=["Cookie", "authorization"]
    )

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[route]) as front:
            given = (("X-API-KEY", "theirs"), ("X_Api_Key", "theirs"), ("Cookie", "a=1"), ("Authorization", "b"))
            received = await sent_with(front, way, *given, ("X-Kept", "1"))
            head = b"GET /x HTTP/1.1\r\nhost: testserver\r\nx-kept: 1\r\n"
            assert received == head + TOLD + b"x-api-key: ours\r\nx-new: 1\r\n\r\n"

    check()


@both_ways
@pytest.mark.parametrize(
    ("route", "is_kept"),
    [
        (Route(upstream="api"), True),
        (Route(upstream="api", methods=["GET"]), False),
        (Route(upstream="api", deny=["DELETE /x"]), False),
        (Route(upstream="api", deny=["/y"]), True),
    ],
)
def test_the_method_that_is_judged_is_the_one_that_is_obeyed(way: str, route: Route, is_kept: bool) -> None:
    """Where a route judges by the method, no header asks the upstream for another one."""

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[route]) as front:
            received = await sent_with(front, way, ("X-HTTP-Method-Override", "DELETE"), ("X_Method_Override", "PUT"))
            assert (b"override" in received) == is_kept

    check()


CLAIMS = (
    *("X-Forwarded-For", "X_Forwarded_For", "x-forwarded_for", "Forwarded", "X-Real-IP", "X_Real_Ip", "True-Client-IP"),
    *("CF-Connecting-IP", "X-Original-URL", "X-Rewrite-URL", "X_Original_Url", "X-Forwarded-Prefix", "X-Forwarded-Foo"),
    *("X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Client-IP", "Client-IP", "Script-Name"),
)


@both_ways
@pytest.mark.parametrize("name", CLAIMS)
def test_a_client_does_not_say_who_it_is(way: str, name: str) -> None:
    """What only proxies have to say is dropped when somebody else says it, in any spelling."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            received = await sent_with(front, way, (name, "203.0.113.9"))
            assert received == b"GET /x HTTP/1.1\r\nhost: testserver\r\n" + TOLD + b"\r\n"

    check()


@pytest.mark.parametrize("name", [*CLAIMS, "Host", "Via", "CDN-Loop", "Connection", "Content-Length", "TE", "Sec-X"])
def test_an_item_does_not_say_who_its_client_is(name: str) -> None:
    """An item that sets such a header is refused, and nothing is sent."""

    @on_a_loop
    async def check() -> None:
        trusting = Forwarding(trusted_proxies=["127.0.0.0/8"])
        async with fronted(forwarding=trusting) as front:
            answered = await front.item("GET", "/x", [(name, "203.0.113.9")])
            assert (answered.status, answered.error) == (400, "header_refused")
            assert front.upstream.peers == []

    check()


@both_ways
def test_a_trusted_proxy_says_who_the_client_is(way: str) -> None:
    """Behind a trusted proxy the client is the last one who is none, and the upstream is told the way from there."""

    @on_a_loop
    async def check() -> None:
        trusting = Forwarding(trusted_proxies=["127.0.0.1", "10.0.0.0/8"], name="edge-2")
        async with fronted(forwarding=trusting) as front:
            received = await sent_with(
                front,
                way,
                ("X-Forwarded-For", "6.6.6.6, 203.0.113.9:4711, 10.1.1.1"),
                ("X-Forwarded-Proto", "https"),
                ("X-Forwarded-Host", "api.example.com"),
                ("X-Real-IP", "203.0.113.9"),
                ("X_Real_IP", "6.6.6.6"),
                ("Via", "2 edge-1"),
            )
            assert received == (
                b"GET /x HTTP/1.1\r\nhost: testserver\r\nx-real-ip: 203.0.113.9\r\nvia: 2 edge-1\r\n"
                b"x-forwarded-for: 203.0.113.9, 10.1.1.1, 127.0.0.1\r\nx-forwarded-proto: https\r\n"
                b"x-forwarded-host: api.example.com\r\nx-forwarded-port: 443\r\n"
                b"forwarded: for=203.0.113.9;host=api.example.com;proto=https, for=10.1.1.1, for=127.0.0.1\r\n"
                b"via: 1.1 edge-2\r\ncdn-loop: edge-2\r\n\r\n"
            )

    check()


@both_ways
def test_a_body_that_is_compressed_is_not_opened(way: str) -> None:
    """What the upstream compressed stays compressed, however large it would become."""
    bomb = gzip.compress(bytes(50_000_000))

    @on_a_loop
    async def check() -> None:
        async with fronted(answering(response(bomb, b"Content-Encoding: gzip"))) as front:
            answered = await front.send(way, "GET", "/x")
            assert (answered.body, answered.values("content-encoding")) == (bomb, ["gzip"])
            assert b"accept-encoding" not in front.received()

    check()


@on_a_loop
async def test_answers_of_items_decide_nothing_about_the_batch() -> None:
    """Cookies, CORS and caching that an upstream asks for stay with the item; the outer answer has its own."""
    fields = (b"Access-Control-Allow-Origin: *", b"Set-Cookie: a=1", b"Cache-Control: public", b"ETag: x")
    async with fronted(answering(response(b"", *fields))) as front:
        item = await front.item("OPTIONS", "/x", outer=[("Access-Control-Request-Method", "GET")])
        assert item.values("access-control-allow-origin") == ["*"]
        [outer] = front.outer
        names = {name.lower() for name, _ in outer.headers}
        assert not names & {"access-control-allow-origin", "set-cookie", "etag"}
        assert outer.values("cache-control") == ["no-store"]


@both_ways
@pytest.mark.parametrize(
    ("policy", "expected"), [("auto", b"testserver"), ("upstream", None), ("preserve", b"testserver"), ("h:1", b"h:1")]
)
def test_the_host_that_an_upstream_sees(way: str, policy: str, expected: bytes | None) -> None:
    """`host` decides; there is exactly one."""

    @on_a_loop
    async def check() -> None:
        async with fronted(host=policy) as front:
            received = await sent_with(front, way)
            wanted = expected or b"127.0.0.1:%d" % front.upstream.port
            assert received.startswith(b"GET /x HTTP/1.1\r\nhost: " + wanted + b"\r\n")
            assert received.count(b"\r\nhost:") == 1

    check()


@on_a_loop
async def test_an_old_client_without_a_host() -> None:
    """HTTP/1.0 knows requests without `Host`; the upstream gets that of its address."""
    async with fronted() as front:
        answer = await front.raw(b"GET /x HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert front.received().count(b"host: 127.0.0.1:%d\r\n" % front.upstream.port) >= 1


@on_a_loop
async def test_identities_of_two_upstreams_share_nothing() -> None:
    """Each upstream has connections of its own, even to one address: what one has proved is of no use to another."""
    async with upstream() as behind:
        upstreams: dict[str, Any] = {name: Upstream(url=behind.url) for name in "ab"}
        routes = [Route(upstream="a", path="/a"), Route(upstream="b", path="/b", remove_headers=["Authorization"])]
        with served(proxied(upstreams, routes), behind) as front:
            answers = await front.batch([{"path": "/a"}, {"path": "/b"}], outer=[("Authorization", "secret")])
            assert [each.status for each in answers] == [200, 200]
        received = sorted(bytes(peer.received) for peer in behind.peers)
        assert len(received) == 2
        assert [b"secret" in each for each in received] == [True, False]
