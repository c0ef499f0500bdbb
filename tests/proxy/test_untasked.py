"""Items that are sent and answered without a task: each ends as it would in one, whatever happens on the way."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from batchproxy.engine.events import BatchEnded, ItemEnded
from batchproxy.engine.model import ASGIApp, Message, Receive, Scope, Send
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.engine.target import Exchange
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.items import Untasked
from batchproxy.proxy.passage import Passage
from batchproxy.proxy.settings import CircuitBreaker, Retry, Timeouts, Upstream
from batchproxy.proxy.transports.answer import NativeAnswer
from batchproxy.proxy.upstream import LiveUpstream
from batchproxy.proxy.ways import Way

from .on_a_loop import LOOPS, on_a_loop, run
from .scripted import Peer, Upstream as Behind, response, upstream

SOON = 0.2
"""A deadline of those that must pass; nothing else depends on how long it is."""
OUTER: ContextVar[str] = ContextVar("outer", default="another")

PLAIN = response(b'{"a": 1}', b"content-type: application/json", b"connection: keep-alive", b"x-a: 1", b"x-a: 2")
ANSWERS = {
    "/plain": [PLAIN],
    "/empty": [response(b"")],
    "/missing?a=1": [PLAIN.replace(b"200 OK", b"404 Not Found")],
    "/missing": [PLAIN.replace(b"200 OK", b"404 Not Found")],
    "/broken": [PLAIN.replace(b"200 OK", b"503 Service Unavailable")],
    "/in-two": [PLAIN[:20], PLAIN[20:]],
    "/head-first": [PLAIN[:-8], PLAIN[-8:]],
    "/interim": [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", PLAIN],
    "/chunked": [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
    "/no-content": [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "/unchanged": [b"HTTP/1.1 304 Not Modified\r\netag: x\r\n\r\n"],
    "/listed": [PLAIN.replace(b"keep-alive", b"x-a, close")],
    "/closes": [b"HTTP/1.0 200 OK\r\n\r\nok", b""],
    "/truncated": [PLAIN[:-2], b""],
    "/garbage": [b"SSH-2.0\r\n", b""],
    "/too-many": [PLAIN + b"HTTP/1.1 200 OK\r\n\r\n", b""],
    "/large": [response(b"x" * 2000)],
    "/resets": [b""],
}


async def warm(app: ASGIApp, count: int = 8) -> None:
    """So many connections are open and idle then."""
    entries = await batch(app, [{"path": "/gather"}] * count)
    assert [entry["status"] for entry in entries] == [200] * count


@asynccontextmanager
async def warmed(app: ASGIApp) -> AsyncIterator[None]:
    await warm(app)
    yield


class Script:
    """Answers by path; `tasks` are those of items that were there when a request came."""

    def __init__(self) -> None:
        self.tasks: dict[bytes, int] = {}
        self.gathered = 0
        self.all_there = asyncio.Event()
        self.held: dict[bytes, asyncio.Event] = {}
        self.came = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        while head := await peer.request():
            path = head.split(b" ")[1]
            tasks = [each for each in asyncio.all_tasks() if each.get_name() == "batchproxy item"]
            self.tasks[path] = len(tasks)
            if path == b"/gather":
                self.gathered += 1
                if self.gathered >= 8:
                    self.all_there.set()
                await self.all_there.wait()
                await peer.write(PLAIN)
            elif path == b"/held":
                self.came.set()
                await peer.rest()
                return
            else:
                for piece in _pieces(ANSWERS[path.decode()], is_head=head.startswith(b"HEAD")):
                    if not piece:
                        if path == b"/resets":
                            peer.reset()
                        return
                    await peer.write(piece)
                    for _ in range(4):
                        await asyncio.sleep(0)
                if b"close" in b"".join(ANSWERS[path.decode()]):
                    return


def _pieces(answer: list[bytes], *, is_head: bool) -> list[bytes]:
    """No body follows the answer to HEAD: if one came late, the next request would meet it."""
    if not is_head:
        return answer
    length = b"".join(answer).rfind(b"\r\n\r\n") + 4
    pieces = []
    for piece in answer:
        if not piece or length > 0:
            pieces.append(piece[: max(length, 0)])
            length -= len(piece)
    return pieces


@asynccontextmanager
async def scene(
    *, routes: tuple[Route, ...] = (Route(upstream="api"),), endpoint: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[ASGIApp, LiveUpstream, Script, Behind]]:
    script = Script()
    async with upstream(script) as behind:
        live = LiveUpstream("api", Upstream(url=behind.url, **settings))
        app = BatchMiddleware(ReverseProxy(RouteTable(routes), {"api": live}, forwarding=None), **(endpoint or {}))
        try:
            yield app, live, script, behind
            assert live.state()["in_flight"] == 0
            assert live.addresses[0].in_flight == 0
        finally:
            await live.aclose()


def scope(body: bytes, *fields: tuple[bytes, bytes]) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/batch",
        "raw_path": b"/batch",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"h"), (b"content-type", b"application/json"), *fields],
        "client": ("192.0.2.1", 1),
    }


def request(items: list[dict[str, Any]], **options: Any) -> bytes:
    return json.dumps({"requests": items} | ({"options": options} if options else {})).encode()


def receiving(body: bytes, left: asyncio.Event | None = None) -> Callable[[], Awaitable[Message]]:
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await (left or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    return receive


async def batch(app: ASGIApp, items: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    body = request(items, **options)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope(body), receiving(body), send)
    assert sent[0]["status"] == 200, sent
    entries: list[dict[str, Any]] = json.loads(b"".join(each.get("body", b"") for each in sent))["responses"]
    return entries


@on_a_loop
async def test_without_a_task() -> None:
    """The first item opens a connection, in a task; whoever finds one idle needs none, with a body or without."""
    async with scene() as (app, _, script, behind):
        for expected in (1, 0, 0):
            [entry] = await batch(app, [{"path": "/plain"}])
            assert (entry["status"], entry["body"], entry["headers"]["x-a"]) == (200, {"a": 1}, ["1", "2"])
            assert script.tasks[b"/plain"] == expected
        item = {"method": "POST", "path": "/missing", "body": {"b": 2}, "headers": {"x-own": "1"}}
        [entry] = await batch(app, [item])
        assert entry["status"] == 404
        assert script.tasks[b"/missing"] == 0
        assert b"x-own: 1\r\n" in behind.peers[0].received
        assert behind.peers[0].received.endswith(b'content-length: 8\r\n\r\n{"b": 2}')
        assert len(behind.peers) == 1


@on_a_loop
async def test_beside_jobs(tmp_path: Path) -> None:
    """Jobs change nothing about that, and are out of reach in this way, too."""
    jobs = JobsSettings(store=StoreSettings(url=f"sqlite:///{tmp_path}/jobs.db"))
    async with scene(endpoint={"jobs": jobs}) as (app, _, script, _):
        for expected in (1, 0):
            [entry] = await batch(app, [{"path": "/plain"}])
            assert entry["status"] == 200
            assert script.tasks.pop(b"/plain") == expected
        for path in ("/batch/jobs", "/batch/jobs/7/cancel", "/batch%2Fjobs", "/%62atch/jobs"):
            [entry] = await batch(app, [{"path": path, "method": "POST"}])
            assert (entry["status"], entry["error"]) == (400, "nested_batch")
        assert script.tasks == {}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", sorted(ANSWERS))
def test_the_same_as_in_a_task(path: str, method: str, loop: str) -> None:
    """Each answer, whole or in pieces, good or bad, is the same over an idle connection as over a new one."""

    async def check() -> None:
        item = {"method": method, "path": path}
        async with scene() as (app, _, script, _):
            cold = await batch(app, [item])
            assert script.tasks[path.encode()] == 1
        async with scene() as (app, _, script, _), warmed(app):
            assert await batch(app, [item]) == cold
            # One that was found closed is tried anew in a task, over another connection.
            assert script.tasks[path.encode()] == (1 if path == "/resets" and method != "POST" else 0)
            assert (await batch(app, [{"path": "/plain"}]))[0]["status"] == 200

    run(check(), loop)


@on_a_loop
async def test_a_stale_connection() -> None:
    """A connection that ends before a byte of an answer came was stale: what may be repeated goes over a new one."""
    async with upstream(answers_once) as behind:
        live = LiveUpstream("api", Upstream(url=behind.url))
        app = BatchMiddleware(ReverseProxy(RouteTable([Route(upstream="api")]), {"api": live}, forwarding=None))
        assert (await batch(app, [{"path": "/1"}]))[0]["status"] == 200
        assert (await batch(app, [{"path": "/2"}]))[0]["status"] == 200
        assert (await batch(app, [{"method": "POST", "path": "/3"}]))[0]["error"] == "unreachable"
        await live.aclose()
    requests = [bytes(peer.received).count(b"HTTP/1.1\r\n") for peer in behind.peers]
    assert requests == [2, 2]


async def answers_once(peer: Peer) -> None:
    await peer.request()
    await peer.write(PLAIN)
    await peer.request()
    peer.reset()


@on_a_loop
async def test_answers_count_for_and_against_the_address() -> None:
    """As they do with a task: a 5xx is one failure more, anything else forgives those before."""
    async with scene() as (app, live, script, _):
        await batch(app, [{"path": "/plain"}])
        for streak in (1, 2):
            [entry] = await batch(app, [{"path": "/broken"}])
            assert (entry["status"], script.tasks[b"/broken"]) == (503, 0)
            assert live.addresses[0].streak == streak
        await batch(app, [{"path": "/plain"}])
        assert live.addresses[0].streak == 0


@on_a_loop
async def test_the_breaker_counts_failures_in_a_row() -> None:
    """An answer between two failures begins the count anew; two in a row open it."""
    breaker = CircuitBreaker(consecutive_failures=2)
    failing = {"path": "/resets", "method": "POST"}
    async with scene(circuit_breaker=breaker) as (app, _, script, _):
        for _ in range(2):
            [entry] = await batch(app, [failing])
            assert entry["status"] == 502
            [entry] = await batch(app, [{"path": "/plain"}])
            assert entry["status"] == 200
        for _ in range(2):
            await batch(app, [failing])
        script.tasks.clear()
        [entry] = await batch(app, [{"path": "/plain"}])
        assert entry["status"] == 503
        assert script.tasks == {}


@on_a_loop
async def test_another_attempt() -> None:
    """A failure is followed by what the settings of the upstream say."""
    retry = Retry(attempts=2, on=("reset-before-response",), backoff=0.001)
    async with scene(retry=retry) as (app, live, _, _):
        async with warmed(app):
            [entry] = await batch(app, [{"path": "/resets"}])
        assert entry["error"] == "unreachable"
        assert live.state()["retries"] == 2


@on_a_loop
async def test_timed_out() -> None:
    """At its deadline the connection is cut; whoever comes later finds the place free."""
    async with scene(max_in_flight=8) as (app, live, script, behind):
        async with warmed(app):
            entries = await batch(app, [{"path": "/held", "timeout": SOON}, {"path": "/plain"}])
        assert [entry["status"] for entry in entries] == [504, 200]
        assert entries[0]["error"] == "timeout"
        assert script.tasks[b"/held"] == 0
        await any_ended(behind)
        assert live.state()["in_flight"] == 0
        entries = await batch(app, [{"path": "/held"}], timeout=SOON)
        assert entries[0]["error"] == "batch_timeout"


@on_a_loop
async def test_the_upstream_takes_too_long() -> None:
    async with scene(timeouts=Timeouts(first_byte=SOON)) as (app, _, script, _):
        async with warmed(app):
            [entry] = await batch(app, [{"path": "/held"}])
        assert entry["error"] == "timeout"
        assert script.tasks[b"/held"] == 0


@on_a_loop
async def test_the_client_leaves() -> None:
    """What reads is cut off; what writes goes on until its deadline."""
    for method, is_cut in (("GET", True), ("POST", False)):
        async with scene() as (app, live, script, behind):
            async with warmed(app):
                left = asyncio.Event()
                body = request([{"method": method, "path": "/held"}], timeout=SOON if not is_cut else 60)
                running = asyncio.ensure_future(app(scope(body), receiving(body, left), nowhere))
                await script.came.wait()
                assert script.tasks[b"/held"] == 0
                left.set()
                await running
                await any_ended(behind)
            assert live.state()["in_flight"] == 0


@on_a_loop
async def test_the_server_stops() -> None:
    """Cancelled in its midst, a batch leaves no place taken and no connection open."""
    async with scene() as (app, live, script, behind):
        async with warmed(app):
            body = request([{"path": "/held"}, {"method": "POST", "path": "/held"}])
            running = asyncio.ensure_future(app(scope(body), receiving(body), nowhere))
            await script.came.wait()
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            await any_ended(behind)
        assert live.state()["in_flight"] == 0
        assert (await batch(app, [{"path": "/plain"}]))[0]["status"] == 200


@pytest.mark.parametrize("where", ["route", "endpoint", "batch"])
def test_larger_than_it_may_be(where: str) -> None:
    @on_a_loop
    async def check() -> None:
        routes = (Route(upstream="api", max_response_bytes=1000 if where == "route" else None),)
        endpoint = {"endpoint": {"max_response_bytes": 1000}, "batch": {"max_total_response_bytes": 1000}}
        async with scene(routes=routes, endpoint=endpoint.get(where)) as (app, _, script, _):
            async with warmed(app):
                entries = await batch(app, [{"path": "/large"}, {"path": "/plain"}], execution="sequential")
            assert entries[0]["error"] == "response_too_large"
            assert entries[1].get("error") == (None if where != "batch" else "not_started")
            assert script.tasks[b"/large"] == 0

    check()


@on_a_loop
async def test_observers_are_told_where_the_batch_is() -> None:
    """In the context of the batch, not in that of the connection over which an answer came."""
    told: list[tuple[str, str, int]] = []

    class Told:
        def item_ended(self, event: ItemEnded) -> None:
            told.append((OUTER.get(), str(event.notes.get("upstream")), event.result.status))

        def batch_ended(self, event: BatchEnded) -> None:
            pass

    async with scene(endpoint={"observers": [Told()]}) as (app, _, script, _):
        async with warmed(app):
            told.clear()
            OUTER.set("ours")
            await batch(app, [{"path": "/plain"}, {"path": "/missing"}, {"path": "/truncated"}])
        assert sorted(told) == [("ours", "api", status) for status in (200, 404, 502)]
        assert script.tasks[b"/plain"] == 0


@pytest.mark.parametrize(
    ("options", "serial"),
    [({"execution": "sequential"}, False), ({"execution": "ordered_writes"}, False), ({}, True)],
)
def test_in_order(options: dict[str, Any], serial: bool) -> None:
    """One after another, over one connection, where that is asked for; and all of them without a task."""

    @on_a_loop
    async def check() -> None:
        routes = (Route(upstream="api", path="/gather"), Route(upstream="api", path="/plain", serial=serial))
        async with scene(routes=routes, endpoint={"routes": RouteTable(routes)}) as (app, _, script, behind):
            await batch(app, [{"path": "/plain"}])
            entries = await batch(app, [{"method": "POST", "path": "/plain"}] * 5, **options)
            assert [entry["status"] for entry in entries] == [200] * 5
            assert len(behind.peers) == 1
            assert script.tasks[b"/plain"] == 0

    check()


@on_a_loop
async def test_values_of_one_go_into_another() -> None:
    async with scene() as (app, _, script, _):
        async with warmed(app):
            first = {"id": "first", "path": "/plain"}
            second = {"path": "/missing?a={a}", "vars": {"a": "first#/body/a"}}
            entries = await batch(app, [first, second])
        assert [entry["status"] for entry in entries] == [200, 404]
        assert script.tasks == {b"/gather": script.tasks[b"/gather"], b"/plain": 0, b"/missing?a=1": 0}


@on_a_loop
async def test_a_slow_reader_holds_up_what_has_not_begun() -> None:
    """Of a stream that nobody reads no more is begun than may wait for the reader."""
    large = response(b"x" * 100_000)
    begun = 0

    async def script(peer: Peer) -> None:
        nonlocal begun
        while await peer.request():
            begun += 1
            await peer.write(large)

    async with upstream(script) as behind:
        live = LiveUpstream("api", Upstream(url=behind.url))
        app = BatchMiddleware(
            ReverseProxy(RouteTable([Route(upstream="api")]), {"api": live}, forwarding=None), concurrency=2
        )
        body = request([{"path": "/x"}] * 40)
        reading, blocked = asyncio.Event(), asyncio.Event()
        size = 0

        async def send(message: Message) -> None:
            nonlocal size
            blocked.set()
            await reading.wait()
            size += len(message.get("body", b""))

        accept = (b"accept", b"application/x-ndjson")
        running = asyncio.ensure_future(app(scope(body, accept), receiving(body), send))
        await blocked.wait()
        for _ in range(200):
            await asyncio.sleep(0)
        assert begun < 10
        reading.set()
        await running
        assert begun == 40
        assert size > 40 * 100_000
        await live.aclose()


@pytest.mark.parametrize("path", ["/plain", "/resets", "/truncated", "/garbage", "/held"])
@pytest.mark.parametrize("is_warm", [False, True])
def test_nothing_is_left_to_the_collector(path: str, is_warm: bool) -> None:
    """Neither an answer nor a failure, tried again or not, waits in a cycle of references for the collector."""

    @on_a_loop
    async def check() -> None:
        async with scene(timeouts=Timeouts(first_byte=SOON)) as (app, _, _, _):
            if is_warm:
                await warm(app)
            await batch(app, [{"path": path}])
            gc.collect()
            gc.disable()
            try:
                before = _there()
                await batch(app, [{"path": path}] * 3)
                assert _there() <= before
            finally:
                gc.enable()

    check()


@on_a_loop
async def test_a_slow_reader_who_leaves_holds_no_place() -> None:
    """An item that was sent before the reader fell behind, and needs a task after that, gives everything back."""
    may_answer, came = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        while head := await peer.request():
            if b"/late" in head:
                came.set()
                await may_answer.wait()
                await peer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
                await peer.rest()
                return
            await peer.write(response(b"x" * (400_000 if b"/large" in head else 2)))

    async with upstream(script) as behind:
        live = LiveUpstream("api", Upstream(url=behind.url))
        app = BatchMiddleware(ReverseProxy(RouteTable([Route(upstream="api")]), {"api": live}, forwarding=None))
        await batch(app, [{"path": "/a"}, {"path": "/b"}])
        left, blocked = asyncio.Event(), asyncio.Event()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                blocked.set()
                await asyncio.Event().wait()

        body = request([{"path": "/late"}, {"path": "/large"}])
        accept = (b"accept", b"application/x-ndjson")
        running = asyncio.ensure_future(app(scope(body, accept), receiving(body, left), send))
        await came.wait()
        await blocked.wait()
        may_answer.set()
        for _ in range(20):
            await asyncio.sleep(0.001)
        left.set()
        running.cancel()
        await asyncio.wait([running])
        assert live.state()["in_flight"] == 0
        assert live.addresses[0].in_flight == 0
        await live.aclose()


@on_a_loop
async def test_a_proxy_of_ones_own_sees_every_item() -> None:
    """Neither a subclass nor a layer that passes on attributes is gone around."""
    seen: list[str] = []

    class Watching(ReverseProxy):
        async def __call__(self, given: Scope, receive: Receive, send: Send) -> None:
            seen.append(given["path"])
            await super().__call__(given, receive, send)

    class Layer:
        def __init__(self, app: ReverseProxy) -> None:
            self._app = app

        def __getattr__(self, name: str) -> Any:
            return getattr(self._app, name)

        async def __call__(self, given: Scope, receive: Receive, send: Send) -> None:
            seen.append(given["path"])
            await self._app(given, receive, send)

    async with upstream() as behind:
        live = LiveUpstream("api", Upstream(url=behind.url))
        routes = RouteTable([Route(upstream="api")])
        for proxy in (Watching(routes, {"api": live}, forwarding=None), Layer(ReverseProxy(routes, {"api": live}))):
            app = BatchMiddleware(proxy)
            for _ in range(3):
                await batch(app, [{"path": "/x"}])
            assert seen == ["/x"] * 3
            seen.clear()
        await live.aclose()


class Counting(bytes):
    """A value that counts how often it is compared with another one."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return super().__eq__(other)

    __hash__ = bytes.__hash__


@on_a_loop
async def test_headers_that_came_before_are_compared_once_for_a_batch() -> None:
    """Each batch brings a tuple of its own, and each of its items that very tuple."""
    live = LiveUpstream("api", Upstream(url="http://upstream.example"))
    way = Way(Route(upstream="api"), live)
    first, second = (((b"host", b"h"), (b"accept", Counting(b"*/*"))) for _ in range(2))
    kept = way.headers(first)
    assert way.headers(second) is kept
    compared = Counting.compared
    assert compared
    assert all(way.headers(second) is kept for _ in range(5))
    assert Counting.compared == compared
    await live.aclose()


def _there() -> set[int]:
    """What there is of exchanges; other tests may have left some."""
    return {id(each) for each in gc.get_objects() if type(each) in (Untasked, Passage, NativeAnswer, Exchange)}


async def nowhere(message: Message) -> None:
    pass


async def any_ended(behind: Behind) -> None:
    """Returns when a connection to the upstream has ended."""
    waiting = [asyncio.create_task(peer.ended.wait()) for peer in behind.peers]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)
