"""Ways around the rules of a route that are closed: by host, by header, by method, by spelling, by mount."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from batchproxy import BatchMiddleware, Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.forwarding import Forwarding
from batchproxy.proxy.settings import Upstream

from .fronting import Front, fronted, served
from .on_a_loop import on_a_loop
from .scripted import upstream

UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


@pytest.mark.parametrize("framing", [b"Content-Length: 35\r\n", b"Transfer-Encoding: chunked\r\n"])
@on_a_loop
async def test_a_body_is_never_taken_for_a_request(framing: bytes) -> None:
    """A request with a body that asks for an upgrade is refused: servers would read its body as the next request."""
    async with fronted() as front:
        inner = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = await front.raw(b"POST /a HTTP/1.1\r\nHost: a\r\n" + UPGRADE + framing + b"\r\n" + inner)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert front.received() == b""


@on_a_loop
async def test_an_upgrade_without_a_body_is_passed_by() -> None:
    """Clients that offer HTTP/2 with a GET get their answer over HTTP/1.1."""
    # What follows an offer that is not taken up is not read: it is the end of the connection that is waited for.
    async with fronted(server={"timeout_keep_alive": 0.01}) as front:
        following = b"GET /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await front.raw(b"GET /a HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n" + following)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"upgrade" not in front.received().lower()


@pytest.mark.parametrize("host", ["api.example.com", "api.example.com.", "API.example.com.:80"])
@on_a_loop
async def test_a_dot_at_the_end_is_the_same_host(host: str) -> None:
    """A host's routes hold for its name with the dot of the root, too."""
    routes = [Route(upstream="api", host="api.example.com", deny=["/admin/**"]), Route(upstream="api")]
    async with fronted(routes=routes) as front:
        assert (await front.alone("GET", "/admin/x", [("Host", host)])).status == 403


@pytest.mark.parametrize("name", ["X-Original-URL", "X-Rewrite-URL", "X-Envoy-Original-Path", "x_original_url"])
@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
@on_a_loop
async def test_nobody_names_another_url(name: str, trusted: tuple[str, ...]) -> None:
    """Not even a peer that is believed about the client."""
    async with fronted(forwarding=Forwarding(trusted_proxies=trusted)) as front:
        await front.alone("GET", "/ok", [(name, "/admin/x")])
        await front.item("GET", "/ok", outer=[(name, "/admin/x")])
        assert b"/admin" not in front.received()


@pytest.mark.parametrize("path", ["/admin;a=1/x", "/admin;x", "/admin%3Bx/y", "/admin/x;y", "/admin"])
@pytest.mark.parametrize("way", ["alone", "item"])
def test_parameters_of_a_segment_hide_nothing(path: str, way: str) -> None:
    """`/admin;a=1` is `/admin` to many servers, so a rule for that holds."""

    @on_a_loop
    async def check() -> None:
        async with fronted(routes=[Route(upstream="api", deny=["/admin/**"])]) as front:
            assert (await front.send(way, "GET", path)).status == 403
            assert (await front.send(way, "GET", "/other;a=1")).status == 200

    check()


@on_a_loop
async def test_parameters_evade_no_cap() -> None:
    """Spellings with parameters count for the cap of a route, and of an endpoint."""
    routes = [Route(upstream="api"), Route(upstream="api", path="/login", max_per_batch=1)]
    async with fronted(routes=routes) as front:
        answers = await front.batch([{"path": "/login"}, {"path": "/login;a"}, {"path": "/login/;b"}])
        assert answers[0].status == 200
        assert all(each.status in (404, 429) for each in answers[1:])


@pytest.mark.parametrize("method", ["delete", "Delete", "trace", "connect"])
@on_a_loop
async def test_methods_are_in_capitals(method: str) -> None:
    """A method in other letters is refused, since some servers would obey it as if it were in capitals."""
    async with fronted(routes=[Route(upstream="api", deny=["DELETE /**"])], server={"http": "h11"}) as front:
        answered = await front.raw(f"{method} /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert answered.startswith((b"HTTP/1.1 405 ", b"HTTP/1.1 400 "))
        assert front.received() == b""


@on_a_loop
async def test_caps_and_lanes_hold_under_a_mount() -> None:
    """A route is looked up by the path below the mount, by the policy as by the proxy."""
    table = RouteTable([Route(upstream="api"), Route(upstream="api", path="/login", max_per_batch=1)])
    async with upstream() as behind:
        proxy = ReverseProxy(table, {"api": Upstream(url=behind.url)})

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            yield
            await proxy.aclose()

        app = Starlette(routes=[Mount("/mnt", BatchMiddleware(proxy, routes=table))], lifespan=lifespan)
        with served(app) as server_front:
            front = Front(server=server_front.server, upstream=behind, batches="/mnt/batch")
            answers = await front.batch([{"path": "/mnt/login"}] * 3)
            assert [each.status for each in answers] == [200, 429, 429]


@on_a_loop
async def test_a_proxy_without_an_entrance_checks_the_host() -> None:
    """In an app of one's own, too, two hosts or one that is none are refused."""
    async with upstream() as behind:
        app = ReverseProxy(RouteTable([Route(upstream="api")]), {"api": Upstream(url=behind.url)})
        with served(app) as front:
            for hosts in (b"Host: a.example\r\nHost: b.example\r\n", b"Host: a.example/../\r\n"):
                answer = await front.raw(b"GET / HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
                assert answer.startswith(b"HTTP/1.1 400 ")
        assert behind.peers == []
