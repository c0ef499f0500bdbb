"""Which way a request takes and what is refused, alone and as an item, from the bytes at both ends."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.settings import TLS, Retry, Timeouts, Upstream
from tests.serving import StartupFailed, serve

from .fronting import WAYS, Answered, fronted, proxied, served
from .on_a_loop import on_a_loop
from .scripted import Peer, answering, response, upstream

both_ways = pytest.mark.parametrize("way", WAYS)


def line(received: bytes) -> bytes:
    return received.partition(b"\r\n")[0]


# Paths


@both_ways
@pytest.mark.parametrize(
    ("path", "route", "prefix", "expected"),
    [
        ("/a%2Fb;c=d/%7Ee?x=%20&y", Route(upstream="api"), "", b"/a%2Fb;c=d/%7Ee?x=%20&y"),
        ("/orders/1?q", Route(upstream="api", path="/orders", strip_prefix=True), "", b"/1?q"),
        ("/orders", Route(upstream="api", path="/orders", strip_prefix=True), "", b"/"),
        ("/orders/", Route(upstream="api", path="/orders", strip_prefix=True), "", b"/"),
        ("/%6Frders/%6F", Route(upstream="api", path="/orders", strip_prefix=True), "", b"/%6F"),
        ("/a/b/c", Route(upstream="api", path="/a/b", strip_prefix=True, add_prefix="/v1"), "", b"/v1/c"),
        ("/a/b", Route(upstream="api", path="/a/b", strip_prefix=True, add_prefix="/v1"), "", b"/v1/"),
        ("/x", Route(upstream="api", add_prefix="/v1/w"), "", b"/v1/w/x"),
        ("/x", Route(upstream="api", add_prefix="/v1"), "/base", b"/base/v1/x"),
        ("/@evil:80/x", Route(upstream="api"), "", b"/@evil:80/x"),
    ],
)
def test_a_path_is_sent_as_it_was_written(way: str, path: str, route: Route, prefix: str, expected: bytes) -> None:
    """Every byte of a path reaches the upstream; prefixes are cut and added at segment boundaries alone."""

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[route], prefix=prefix) as front:
            answered = await front.send(way, "GET", path)
            assert (answered.status, answered.body) == (200, b"ok")
            assert line(front.received()) == b"GET " + expected + b" HTTP/1.1"

    check()


@both_ways
@pytest.mark.parametrize("route", [Route(upstream="api"), Route(upstream="api", path="/pub", strip_prefix=True)])
@pytest.mark.parametrize(
    "path",
    [
        *("/pub/../x", "/pub/%2e%2e/x", "/pub/.%2E/x", "/pub/..", "/pub/.", "/pub/a\\b", "/pub/..%2fx", "/pub/..%5cx"),
        *("/pub/%252e%252e/x", "/pub/%c0%ae./x", "/pub/..;a/x", "/pub/%00", "/pub/%zz", "/pub/%", "//pub/x"),
    ],
)
def test_a_path_that_could_be_read_in_two_ways_is_refused(way: str, route: Route, path: str) -> None:
    """Dot segments in any spelling, backslashes, NUL and broken triplets go nowhere, whatever the route does."""

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[route]) as front:
            answered = await front.send(way, "GET", path)
            assert (answered.status, answered.code) == (400, "invalid_path")
            assert front.upstream.peers == []

    check()


@on_a_loop
async def test_empty_segments_go_the_same_way_with_and_without_them() -> None:
    """`//` is sent as it was written, unless leaving it out leads elsewhere, is denied, or it would come first."""
    routes = [
        Route(upstream="api", deny=["/admin/**"]),
        Route(upstream="other", path="/other/place"),
        Route(upstream="api", path="/cut", strip_prefix=True),
    ]
    async with fronted() as front:
        assert (await front.alone("GET", "/a//b/")).status == 200
        assert line(front.received()) == b"GET /a//b/ HTTP/1.1"
    async with upstream() as behind:
        upstreams = {"api": Upstream(url=behind.url), "other": Upstream(url=behind.url)}
        with served(proxied(upstreams, routes)) as front:
            paths = ("/other//place", "/cut//x", "/admin//y", "/cut/a//x")
            statuses = [(await front.alone("GET", path)).status for path in paths]
        assert statuses == [404, 400, 403, 200]
        assert [line(bytes(peer.received)) for peer in behind.peers] == [b"GET /a//x HTTP/1.1"]


@both_ways
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/orders/1", 200, None),
        ("DELETE", "/orders/1", 403, "forbidden"),
        ("DELETE", "/orders/1/", 403, "forbidden"),
        ("DELETE", "/%6frders/1", 403, "forbidden"),
        ("GET", "/orders/secret/1", 403, "forbidden"),
        ("GET", "/orders/secret%2F1", 403, "forbidden"),
        ("PUT", "/orders/1", 405, "method_refused"),
        ("GET", "/users/1", 403, "forbidden"),
        ("GET", "/users/me", 200, None),
        ("GET", "/ordersx", 404, "no_route"),
        ("GET", "/", 404, "no_route"),
    ],
)
def test_the_rules_of_a_route(way: str, method: str, path: str, status: int, code: str | None) -> None:
    """Methods, allow and deny hold for requests that come alone and for items, on both readings of the path."""
    routes = [
        Route(
            upstream="api",
            path="/orders",
            methods=["GET", "DELETE"],
            deny=["DELETE /orders/*", "/orders/secret/**"],
        ),
        Route(upstream="api", path="/users", allow=["GET /users/me"]),
    ]

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=routes) as front:
            answered = await front.send(way, method, path)
            assert (answered.status, answered.code) == (status, code)
            assert bool(front.upstream.peers) == (status == 200)

    check()


@on_a_loop
async def test_what_the_proxy_answers_itself_is_the_same_in_a_batch() -> None:
    """No route and a missing header are answers of the proxy: equal in status and body, and no failure is told."""
    routes = [Route(upstream="api", path="/a", require_headers=["X-Key"])]
    async with fronted(routes=routes) as front:
        for path, code in (("/b", "no_route"), ("/a", "header_missing")):
            alone, item = await front.alone("GET", path), await front.item("GET", path)
            assert (alone.status, alone.code, alone.values("content-type")) == (
                item.status,
                item.code,
                item.values("content-type"),
            )
            assert alone.code == code
            assert item.error is None
            assert sorted(alone.body) == sorted(item.body.replace(b'": ', b'":').replace(b', "', b',"'))
        assert (await front.alone("GET", "/a", [("x-key", "")])).status == 200
        assert (await front.item("GET", "/a", [("X-KEY", "1")])).status == 200


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND"])
def test_methods_that_come_alone(method: str) -> None:
    """What a server speaks of by itself is refused unless a route names it; any other method is passed on."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            answered = await front.alone(method, "/x")
            if method == "PROPFIND":
                assert answered.status == 200
                assert line(front.received()) == b"PROPFIND /x HTTP/1.1"
            else:
                assert answered.status in (400, 405)
                assert answered.status == 400 or answered.values("allow")
                assert front.upstream.peers == []

    check()


@both_ways
def test_how_often_a_request_may_be_passed_on(way: str) -> None:
    """`Max-Forwards` of an OPTIONS counts down, and at 0 the proxy answers itself; other methods have no use for it."""

    @on_a_loop
    async def check() -> None:
        async with fronted() as front:
            for given, passed in (("2", b"1"), ("1", b"0"), ("x", b"x")):
                for peer in front.upstream.peers:
                    peer.received.clear()
                assert (await front.send(way, "OPTIONS", "/x", [("Max-Forwards", given)])).body == b"ok"
                assert b"\r\nmax-forwards: " + passed + b"\r\n" in front.received()
            front.upstream.peers[0].received.clear()
            final = await front.send(way, "OPTIONS", "/x", [("Max-Forwards", "0")])
            assert (final.status, final.body, len(final.values("allow"))) == (200, b"", 1)
            assert front.received() == b""
            assert (await front.send(way, "GET", "/x", [("Max-Forwards", "0")])).body == b"ok"

    check()


@on_a_loop
async def test_trace_can_be_asked_for() -> None:
    """A route that names TRACE passes it on."""
    async with fronted(routes=[Route(upstream="api", methods=["TRACE"])]) as front:
        assert (await front.alone("TRACE", "/x")).status == 200
        assert (await front.alone("TRACE", "/x", [("Max-Forwards", "0")])).status == 405
        refused = await front.alone("GET", "/x")
        assert (refused.status, refused.values("allow")) == (405, ["TRACE"])


@on_a_loop
async def test_routes_by_host_and_prefix_mix_upstreams_in_one_batch() -> None:
    """Items of one batch go to different upstreams, by `Host` and the longest prefix; none names an upstream itself."""
    async with upstream(answering(response(b"first"))) as first, upstream(answering(response(b"second"))) as second:
        upstreams = {"first": Upstream(url=first.url), "second": Upstream(url=second.url)}
        routes = [Route(upstream="first"), Route(upstream="second", path="/a/b")]
        routes += [Route(upstream="second", host="*.example.com")]
        with served(proxied(upstreams, routes)) as front:
            got = [(await front.alone("GET", path)).body for path in ("/a", "/a/b", "/a/b/c", "/a/bc", "/A/b")]
            assert got == [b"first", b"second", b"second", b"first", b"first"]
            named = [("X-Upstream", "second"), ("Upstream", "second")]
            assert (await front.alone("GET", "/a?upstream=second", named)).body == b"first"
            assert (await front.alone("GET", "/", [("Host", "API.Example.com:8080")])).body == b"second"
            answers = await front.batch([{"path": "/a", "headers": dict(named)}, {"path": "/a/b"}])
            assert [each.body for each in answers] == [b"first", b"second"]


@on_a_loop
async def test_a_cap_of_a_route_holds_for_a_batch() -> None:
    """Of the items that take a capped route only so many are sent; requests that come alone are not counted."""
    async with fronted(routes=[Route(upstream="api", path="/login", max_per_batch=1)]) as front:
        answers = await front.batch([{"method": "POST", "path": path} for path in ("/login", "/%6cogin", "/login/")])
        assert [each.error for each in answers] == [None, "too_many_for_route", "too_many_for_route"]
        assert front.received().count(b"HTTP/1.1\r\n") == 1
        assert [(await front.alone("POST", "/login")).status for _ in range(2)] == [200, 200]


@on_a_loop
async def test_items_of_a_serial_route_do_not_race() -> None:
    """The next one is sent when the one before it has been answered."""
    at_once: list[int] = []
    running: set[Peer] = set()

    async def script(peer: Peer) -> None:
        while await peer.request():
            running.add(peer)
            at_once.append(len(running))
            await asyncio.sleep(0)
            running.discard(peer)
            await peer.write(response())

    async with fronted(script, routes=[Route(upstream="api", serial=True)]) as front:
        assert [each.status for each in await front.batch([{"path": "/x"}] * 10)] == [200] * 10
    assert at_once == [1] * 10


# Failures before an answer


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        found: int = listener.getsockname()[1]
        return found


async def hang_up(peer: Peer) -> None:
    if await peer.exactly(1) != BEGINNING_OF_TLS:
        await peer.head()


BEGINNING_OF_TLS = b"\x16"
FAILING = {
    "no such name": {"url": "http://nowhere.invalid:81"},
    "refused": {"url": f"http://127.0.0.1:{closed_port()}"},
    "hangs up": {},
    "not TLS": {"url": "https://127.0.0.1:{port}"},
}


@pytest.mark.parametrize("kind", FAILING)
def test_all_ways_of_not_reaching_an_upstream_look_alike(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever asks learns neither host, port nor cause; they are in the log, under the id that the answer bears."""

    @on_a_loop
    async def check() -> None:
        async with upstream(hang_up) as behind:
            url = FAILING[kind].get("url", behind.url).replace("{port}", str(behind.port))
            app = proxied({"api": Upstream(url=url, retry=Retry(attempts=0))}, [Route(upstream="api")])
            with caplog.at_level(logging.WARNING, "batchproxy"), served(app) as front:
                alone = await front.alone("GET", "/x", [("X-Request-ID", "trace-7")])
                item = await front.item("GET", "/x")
        told = json.loads(alone.body)
        assert told == {
            "type": "about:blank",
            "title": "Bad Gateway",
            "status": 502,
            "code": "unreachable",
            "detail": "The upstream could not be reached.",
        }
        assert alone.values("x-request-id") == ["trace-7"]
        assert [name for name, _ in alone.headers] == [
            *("content-type", "content-length", "cache-control", "x-request-id", "date", "connection")
        ]
        assert (item.status, item.error, json.loads(item.body)["detail"]) == (502, "unreachable", told["detail"])
        assert "trace-7" in caplog.text

    check()


@both_ways
@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 502, "bad_response"),
        (b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n", 502, "bad_response"),
        (b"SSH-2.0-OpenSSH\r\n", 502, "bad_response"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n", 502, "bad_response"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\ncontent-length: 0\r\n\r\n", 502, "bad_response"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"a" * 100, 502, "response_too_large"),
    ],
)
def test_answers_that_cannot_be_passed_on(way: str, answer: bytes, status: int, code: str) -> None:
    """What is not a sound answer within its limits is told as a failure, never passed on in part."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.write(answer)
        await peer.rest()

    @on_a_loop
    async def check() -> None:
        async with fronted(script, routes=[Route(upstream="api", max_response_bytes=99)]) as front:
            answered = await front.send(way, "GET", "/x")
            assert (answered.status, answered.code) == (status, code)

    check()


@both_ways
def test_interim_answers_are_swallowed(way: str) -> None:
    """Neither 100 nor 103 reaches the client; the final answer does."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"

    @on_a_loop
    async def check() -> None:
        async with fronted(answering(early + response(b"done", b"x-a: 1"))) as front:
            answered = await front.send(way, "GET", "/x")
            assert (answered.status, answered.body, answered.values("link")) == (200, b"done", [])

    check()


async def never_answers(peer: Peer) -> None:
    await peer.request()
    await peer.rest()


@both_ways
@pytest.mark.parametrize("where", ["first_byte", "route"])
def test_an_upstream_that_never_answers(way: str, where: str) -> None:
    """The upstream's deadline and the route's end the exchange with 504, and cut the connection."""
    route = Route(upstream="api", timeout=0.2 if where == "route" else None)
    timeouts = Timeouts(first_byte=0.2 if where == "first_byte" else 30)

    @on_a_loop
    async def check() -> None:
        async with fronted(never_answers, routes=[route], timeouts=timeouts) as front:
            answered = await front.send(way, "POST", "/x", (), b"1")
            assert (answered.status, answered.code) == (504, "timeout")
            # Who sent no batch has never heard of items.
            assert (b"item" in answered.body) == (way == "item")
            assert len(front.upstream.peers) == 1
            await front.upstream.peers[0].ended.wait()

    check()


@both_ways
@pytest.mark.parametrize("at", ["route", "upstream"])
def test_bodies_over_the_limit(way: str, at: str) -> None:
    """A body that is larger than the route or the upstream takes is refused before anything is sent."""
    route = Route(upstream="api", max_request_bytes=10 if at == "route" else None)
    more: dict[str, Any] = {"max_request_bytes": 10} if at == "upstream" else {}

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[route], **more) as front:
            refused = await front.send(way, "POST", "/x", (), b"a" * 11)
            assert (refused.status, refused.code) == (413, "body_too_large")
            assert front.upstream.peers == []
            assert (await front.send(way, "POST", "/x", (), b"a" * 10)).status == 200

    check()


@on_a_loop
async def test_an_upstream_that_is_full_is_busy() -> None:
    """What finds neither a place nor room in the queue gets 503 at once; alone with `Retry-After`."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.rest()

    async with fronted(script, max_in_flight=1, max_queue=0) as front:
        answers = await front.batch([{"path": "/a"}, {"path": "/b"}], timeout=1)
        assert sorted(each.error or "" for each in answers) == ["batch_timeout", "upstream_overloaded"]


# Making one


def test_a_route_to_nowhere_stops_the_start() -> None:
    """An unknown upstream is a wrong setting."""
    with pytest.raises(SettingError, match="known: api"):
        ReverseProxy(RouteTable([Route(upstream="apii")]), {"api": Upstream(url="http://h")})


def test_an_upstream_that_cannot_be_opened_stops_the_start() -> None:
    """What only shows when the upstream is opened is told as a failed start."""
    broken = Upstream(url="http://h", transport="no.such:thing")
    with pytest.raises(StartupFailed, match="transport"), serve(proxied({"api": broken}, [Route(upstream="api")])):
        pass


@on_a_loop
async def test_that_certificates_are_not_verified_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """By the name of the upstream, however many addresses it has."""
    urls = ["https://127.0.0.1:9", "https://127.0.0.1:10"]
    upstreams = {"api": Upstream(addresses=urls, tls=TLS(insecure_skip_verify=True)), "other": Upstream(url=urls[0])}
    app = ReverseProxy(RouteTable([Route(upstream="api")]), upstreams)
    app.open()
    await app.aclose()
    assert [each.getMessage() for each in caplog.records] == [
        "upstream.insecure: upstream=api certificates are not verified"
    ]


@on_a_loop
async def test_without_a_lifespan_it_opens_at_the_first_request() -> None:
    """A framework that keeps the lifespan to itself can mount it; what lies below the mount goes to the upstream."""
    async with upstream() as behind:
        app = ReverseProxy(RouteTable([Route(upstream="api")]), {"api": Upstream(url=behind.url)})
        sent: list[Any] = []

        async def mounted(path: str, root: str) -> Sequence[Any]:
            sent.clear()
            scope: dict[str, Any] = {
                "type": "http",
                "http_version": "1.1",
                "method": "GET",
                "scheme": "http",
                "headers": [(b"host", b"a.example")],
            }
            scope |= {"path": path, "root_path": root, "query_string": b"", "client": ("192.0.2.1", 5)}
            messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

            async def receive() -> Any:
                return next(messages, {"type": "http.request", "body": b"", "more_body": False})

            async def send(message: Any) -> None:
                sent.append(message)

            await app(scope, receive, send)
            return sent

        await mounted("/proxy/a b", "/proxy")
        assert sent[0]["status"] == 200
        received = bytes(behind.peers[0].received)
        assert received.startswith(b"GET /a%20b HTTP/1.1\r\n")
        assert b"\r\nx-forwarded-for: 192.0.2.1\r\n" in received
        await app.aclose()
        assert Answered(status=1, headers=(), body=b"").code is None
