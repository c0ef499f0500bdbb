"""No item can see or change another one, or the request that brought them."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from contextvars import ContextVar
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from websockets.sync.client import connect

from batchproxy import BatchMiddleware, InFlight
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import answer, start
from tests.protocol.exchange import (
    JSON,
    App,
    Message,
    Receive,
    Reply,
    Scope,
    Send,
    exchange_of,
    failure,
    send_batch,
    written,
)
from tests.protocol.virtual_time import now
from tests.serving import PATIENCE, StartupFailed, ask, raw, request, serve

MODES = ["parallel", "ordered_writes", "sequential"]
FORMS = ["application/json", "application/x-ndjson", "text/event-stream"]
JSON_BODY = [("Content-Type", "application/json")]

every_way = pytest.mark.parametrize(
    ("mode", "accept"), [(mode, accept) for mode in MODES for accept in FORMS], ids=lambda text: text.split("/")[-1]
)


def entries_of(reply: Reply) -> list[JSON]:
    """The entries in request order, whichever form the answer has."""
    media_type = reply.header("content-type") or ""
    if media_type.startswith("application/json"):
        return reply.responses
    records = reply.lines if "ndjson" in media_type else [record for _, record in reply.events]
    return sorted((record for record in records if "index" in record), key=lambda record: int(record["index"]))


def spoil(value: Any) -> None:
    """Changes everything in a scope that can be changed, at any depth, and puts another value for every key."""
    if isinstance(value, dict):
        for each in value.values():
            spoil(each)
        for key in list(value):
            if key not in ("report", "type"):
                value[key] = "spoiled"
        value["spoiled"] = True
    elif isinstance(value, list):
        for each in value:
            spoil(each)
        value.append((b"spoiled", b"1"))


@pytest.mark.parametrize("mode", MODES)
@on_virtual_time
async def test_what_an_item_does_to_its_scope_stays_there(mode: str) -> None:
    """Each key of a scope that one item sets or changes, at any depth, is not seen by the next, nor outside."""
    seen: list[JSON] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        respond = answer()
        seen.append(repr({key: value for key, value in scope.items() if key not in ("path", "raw_path", "extensions")}))
        seen[-1] += repr({key: value for key, value in scope["extensions"].items() if key != "batchproxy"})
        spoil(scope)
        await respond(scope, receive, send)

    more: dict[str, Any] = {
        "root_path": "/m",
        "path_params": {"tenant": "a"},
        "state": {"pool": "p"},
        "extensions": {"tls": {"server_cert": None, "client_cert_chain": ["c"]}, "http.response.pathsend": {}},
        # Some servers give the addresses as lists.
        "client": ["203.0.113.9", 4711],
        "server": ["api.example", 80],
    }
    before = copy.deepcopy(more)
    exchange = exchange_of(
        BatchMiddleware(app),
        [{"path": "/m/a"}, {"path": "/m/b"}, {"path": "/m/c"}],
        options={"execution": mode},
        path="/m/batch",
        more_scope=more,
    )
    outer = copy.deepcopy(exchange.scope)
    assert [entry["status"] for entry in (await exchange.finished()).responses] == [200] * 3
    assert "spoiled" not in "".join(seen)
    assert len(set(seen)) == 1
    assert "pathsend" not in seen[0]
    assert exchange.scope == outer
    assert more == before


# Context variables

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


async def takes_over(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the tenant that it found, and sets its own, before and after it lets others run."""
    found = [tenant.get()]
    tenant.set(scope["path"])
    await receive()
    await asyncio.sleep(0.1)
    found.append(tenant.get())
    tenant.set("answering " + scope["path"])
    await answer(json.dumps(found))(scope, receive, send)
    tenant.set("after " + scope["path"])


@every_way
@on_virtual_time
async def test_context_variables_of_an_item_are_its_own(mode: str, accept: str) -> None:
    """Each item finds the context of the request that brought the batch, and keeps what it sets to itself."""
    after: list[str] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        tenant.set("outer")
        await batch(scope, receive, send)
        after.append(tenant.get())

    batch = BatchMiddleware(takes_over, concurrency=2)
    items: list[JSON] = [
        {"path": "/0", "id": "first"},
        {"path": "/1", "method": "POST", "depends_on": ["first"]},
        {"path": "/2", "method": "POST"},
        {"path": "/{x}", "vars": {"x": "first#/status"}},
        {"path": "/4"},
    ]
    reply = await send_batch(outer, items, options={"execution": mode}, headers={"accept": accept})
    paths = ["/0", "/1", "/2", "/200", "/4"]
    assert [entry["body"] for entry in entries_of(reply)] == [["outer", path] for path in paths]
    assert after == ["outer"]


@on_virtual_time
async def test_who_gives_a_place_gives_no_context_with_it() -> None:
    """Items that start because another batch gave them its place have the context of their own batch."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        tenant.set(dict(scope["headers"])[b"x-tenant"].decode())
        await batch(scope, receive, send)

    batch = BatchMiddleware(takes_over, in_flight=InFlight(1))
    items = [{"path": "/0"}, {"path": "/1"}]
    exchanges = [exchange_of(outer, items, headers={"x-tenant": name}) for name in "abc"]
    replies = [await exchange.finished() for exchange in exchanges]
    assert [[entry["body"][0] for entry in reply.responses] for reply in replies] == [["a"] * 2, ["b"] * 2, ["c"] * 2]


@pytest.mark.parametrize("http", ["h11", "httptools"])
@pytest.mark.parametrize("accept", FORMS[:2])
def test_pipelined_batches_do_not_share_a_context(http: str, accept: str) -> None:
    """Of two batches that come at once on one connection, the second finds nothing that items of the first set."""
    batch = request("POST", "/batch", [*JSON_BODY, ("Accept", accept)], written([{"path": "/0"}, {"path": "/1"}]))
    first = batch.replace(b"Connection: close\r\n", b"")
    with serve(BatchMiddleware(takes_over), lifespan="off", http=http) as server:
        received = raw(server, first + batch)
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.count(b'"nobody"') == 4
    assert received.count(b"after") == received.count(b"answering") == 0


# Whatever an app does, its item is answered


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("secret")


async def raises_later(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.1)
    raise LookupError("secret")


async def raises_when_begun(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await asyncio.sleep(0.1)
    raise LookupError("secret")


async def raises_in_the_middle(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b"secret", "more_body": True})
    raise LookupError("secret")


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit("secret")


async def interrupts(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    raise KeyboardInterrupt("secret")


async def cancels(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError("secret")


async def awaits_what_was_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel("secret")
    await future


async def closes(scope: Scope, receive: Receive, send: Send) -> None:
    raise GeneratorExit("secret")


async def raises_a_group(scope: Scope, receive: Receive, send: Send) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(raises(scope, receive, send))
        group.create_task(raises_later(scope, receive, send))


async def raises_a_group_of_exits(scope: Scope, receive: Receive, send: Send) -> None:
    raise BaseExceptionGroup("secret", [SystemExit("secret"), LookupError("secret")])


async def raises_what_has_no_text(scope: Scope, receive: Receive, send: Send) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError("secret")

    raise Mute


async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(0.1)


async def only_begins(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)


async def sends_the_body_first(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"secret"})


async def begins_twice(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await start(send)


async def misspells(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.strat", "secret": 1})


def is_no_coroutine(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("secret")


BROKEN: list[tuple[Any, int, str]] = [
    (raises, 500, "app_error"),
    (raises_later, 500, "app_error"),
    (raises_when_begun, 502, "truncated"),
    (raises_in_the_middle, 502, "truncated"),
    (exits, 500, "app_error"),
    (interrupts, 500, "app_error"),
    (cancels, 500, "app_error"),
    (awaits_what_was_cancelled, 500, "app_error"),
    (closes, 500, "app_error"),
    (raises_a_group, 500, "app_error"),
    (raises_a_group_of_exits, 500, "app_error"),
    (raises_what_has_no_text, 500, "app_error"),
    (says_nothing, 500, "app_error"),
    (only_begins, 502, "truncated"),
    (sends_the_body_first, 500, "app_error"),
    (begins_twice, 500, "app_error"),
    (misspells, 500, "app_error"),
    (is_no_coroutine, 500, "app_error"),
]


@pytest.mark.parametrize(("broken", "status", "code"), BROKEN, ids=lambda each: getattr(each, "__name__", None))
@every_way
@on_virtual_time
async def test_an_item_whose_app_is_broken_is_answered_and_the_others_go_on(
    broken: App, status: int, code: str, mode: str, accept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever an app raises or leaves out, its item has an answer that tells nothing; the others have theirs."""
    interrupted: list[str] = []

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        # Alone, a KeyboardInterrupt would end the server; it does so here, when everything is answered.
        try:
            await batch(scope, receive, send)
        except KeyboardInterrupt as fault:
            interrupted.append(str(fault))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (broken if scope["path"] == "/broken" else answer(takes=0.2))(scope, receive, send)

    pool = InFlight(2)
    batch = BatchMiddleware(app, in_flight=pool)
    items = [{"path": "/a"}, {"id": "it", "path": "/broken"}, {"method": "POST", "path": "/b"}, {"path": "/c"}]
    with caplog.at_level(logging.WARNING):
        reply = await send_batch(outer, items, options={"execution": mode}, headers={"accept": accept})
    assert [failure(entry) for entry in entries_of(reply)] == [None, (status, code), None, None]
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body
    assert interrupted == (["secret"] if broken is interrupts else [])
    assert (pool.used, pool.wanted) == (0, 0)
    if broken not in (says_nothing, only_begins):
        (record,) = caplog.records
        assert (record.name, record.levelname) == ("batchproxy", "ERROR")
        assert "index=1 id=it" in record.getMessage()
        assert "/broken" not in record.getMessage()


@pytest.mark.parametrize("broken", [says_nothing, only_begins])
@on_virtual_time
async def test_an_app_that_ends_without_its_answer_is_logged(broken: App, caplog: pytest.LogCaptureFixture) -> None:
    """An app that returns too early raises nothing; its owner finds it in the log all the same, once."""
    with caplog.at_level(logging.WARNING):
        await send_batch(BatchMiddleware(broken), [{"id": "it", "path": "/broken"}])
    assert [(record.name, "index=0 id=it" in record.getMessage()) for record in caplog.records] == [
        ("batchproxy", True)
    ]


@pytest.mark.parametrize("accept", FORMS)
@on_virtual_time
async def test_what_is_raised_after_the_answer_is_only_logged(accept: str, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that is complete stands; what the app raises after it is in the log, once."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer()(scope, receive, send)
        await asyncio.sleep(1)
        raise LookupError("secret")

    reply = await send_batch(BatchMiddleware(app), [{"path": "/a"}], headers={"accept": accept})
    assert [failure(entry) for entry in entries_of(reply)] == [None]
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == ["batchproxy"]


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_a_server_outlives_what_an_item_raises(exception: type[BaseException]) -> None:
    """Under a real server nothing but an interrupt ends it: the batch is answered, and the next one too."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/broken":
            raise exception
        await answer()(scope, receive, send)

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await batch(scope, receive, send)
        except KeyboardInterrupt:
            assert exception is KeyboardInterrupt

    batch = BatchMiddleware(app)
    body = written([{"path": "/a"}, {"path": "/broken"}, {"path": "/b"}])
    with serve(outer, lifespan="off") as server:
        for _ in range(2):
            response = ask(server, "POST", "/batch", JSON_BODY, body)
            assert [entry["status"] for entry in response.json()["responses"]] == [200, 500, 200]


# Apps without an end


@pytest.mark.parametrize("accept", FORMS)
@on_virtual_time
async def test_an_app_that_runs_on_after_it_was_cancelled_is_let_go(accept: str) -> None:
    """An app that obeys no cancellation is answered for at its deadline; what it sends afterwards changes nothing."""
    late: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/a":
            await answer()(scope, receive, send)
            return
        while now() < 50:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                late.append(f"cancelled at {now():g}")
        try:
            await answer()(scope, receive, send)
        except OSError as fault:
            late.append(type(fault).__name__)

    pool = InFlight(2, queue=0)
    exchange = exchange_of(
        BatchMiddleware(app, item_timeout=5, in_flight=pool),
        [{"path": "/stubborn"}, {"path": "/a"}],
        headers={"accept": accept},
    )
    reply = await exchange.answered()
    assert now() == 5
    assert [failure(entry) for entry in entries_of(reply)] == [(504, "timeout"), None]
    assert (pool.used, pool.wanted) == (1, 1)
    await exchange.finished()
    assert late == ["cancelled at 5", "OSError"]
    assert (now(), pool.used, pool.wanted) == (55, 0, 0)


@pytest.mark.parametrize("accept", FORMS)
@pytest.mark.parametrize("obeys", [True, False])
@on_virtual_time
async def test_an_app_that_sends_for_ever_is_stopped(accept: str, obeys: bool) -> None:
    """An endless answer ends at its limit: `send` fails from then on, and the app is cancelled if it goes on."""
    sent = 0
    ended: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["path"] == "/a":
            await answer()(scope, receive, send)
            return
        await start(send)
        try:
            while True:
                try:
                    await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
                    sent += 1
                except OSError:
                    if obeys:
                        raise
                await asyncio.sleep(0)
        finally:
            ended.append("ended")

    batch = BatchMiddleware(app, max_response_bytes=10_000)
    reply = await send_batch(batch, [{"path": "/endless"}, {"path": "/a"}], headers={"accept": accept})
    assert [failure(entry) for entry in entries_of(reply)] == [(502, "response_too_large"), None]
    assert (sent, ended, now()) == (11, ["ended"], 0)


@pytest.mark.parametrize("accept", FORMS)
@on_virtual_time
async def test_an_endless_stream_of_events_ends_at_its_deadline(accept: str) -> None:
    """A stream that never ends is said not to fit, its app is cancelled and cleans up, the others were in time."""
    ended: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/a":
            await answer()(scope, receive, send)
            return
        await start(send, headers=[("content-type", "text/event-stream")])
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
                await asyncio.sleep(1)
        finally:
            await asyncio.sleep(0.5)
            ended.append(now())

    batch = BatchMiddleware(app, item_timeout=7)
    items = [{"path": "/events"}, {"path": "/a"}, {"path": "/events"}]
    reply = await send_batch(batch, items, headers={"accept": accept})
    unbatchable = (502, "unbatchable_response")
    assert [failure(entry) for entry in entries_of(reply)] == [unbatchable, None, unbatchable]
    assert ended == [7.5, 7.5]


# After the answer


def test_background_tasks_outlive_their_answer_and_the_servers_end() -> None:
    """The batch is answered while background tasks still wait; a server that is told to stop lets them finish."""
    release = threading.Event()
    done: list[str] = []

    async def work(name: str) -> None:
        assert await asyncio.to_thread(release.wait, PATIENCE)
        done.append(name)

    async def endpoint(asked: Request) -> JSONResponse:
        return JSONResponse({}, background=BackgroundTask(work, asked.url.path))

    app = Starlette(routes=[Route("/{name}", endpoint)])
    app.add_middleware(BatchMiddleware)
    asked = request("POST", "/batch", JSON_BODY, written([{"path": "/a"}, {"path": "/b"}]))
    with closing(socket.socket()) as connection:
        connection.settimeout(PATIENCE)

        def release_at_the_end() -> None:
            # A server that stops closes its idle connections first.
            if connection.recv(1) == b"":
                release.set()

        with serve(app) as server:
            connection.connect((server.host, server.port))
            connection.sendall(asked.replace(b"Connection: close\r\n", b""))
            received = b""
            while not received.endswith(b'"summary":{"total":2,"succeeded":2,"failed":0}}'):
                received += connection.recv(65536)
            assert done == []
            watcher = threading.Thread(target=release_at_the_end)
            watcher.start()
        watcher.join(PATIENCE)
    assert sorted(done) == ["/a", "/b"]


# Lifespan


def stateful() -> tuple[Starlette, list[str]]:
    """A Starlette app with a lifespan state, and what happened to it."""
    diary: list[str] = []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        diary.append("started")
        yield {"pool": {"size": 7}, "tenant": "nobody"}
        diary.append("stopped")

    async def endpoint(asked: Request) -> JSONResponse:
        found = [asked.state.pool["size"], asked.state.tenant]
        asked.state.tenant = asked.url.path
        return JSONResponse(found)

    return Starlette(routes=[Route("/{name}", endpoint)], lifespan=lifespan), diary


@pytest.mark.parametrize("is_wrapped", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_every_item_finds_the_state_of_the_lifespan(is_wrapped: bool, mode: str) -> None:
    """What the app's start has put into the state is there for each item; what an item puts there is its own."""
    app, diary = stateful()
    served: App = app
    if is_wrapped:
        served = BatchMiddleware(app)
    else:
        app.add_middleware(BatchMiddleware)
    body = written([{"path": "/a"}, {"path": "/b"}, {"path": "/c"}], {"execution": mode})
    with serve(served) as server:
        assert diary == ["started"]
        entries = ask(server, "POST", "/batch", JSON_BODY, body).json()["responses"]
        assert [entry["body"] for entry in entries] == [[7, "nobody"]] * 3
        assert ask(server, "GET", "/d").json() == [7, "nobody"]
    assert diary == ["started", "stopped"]


def test_a_start_that_fails_is_not_hidden() -> None:
    """If the app's start fails, so does the server's."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    with pytest.raises(StartupFailed, match="no database"), serve(BatchMiddleware(Starlette(lifespan=lifespan))):
        pass


def test_an_app_without_a_lifespan_is_served() -> None:
    """An app that knows no lifespan, and raises when it is asked for one, is served with a batch endpoint."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await answer('"ok"')(scope, receive, send)

    with serve(BatchMiddleware(app), lifespan="auto") as server:
        response = ask(server, "POST", "/batch", JSON_BODY, written([{"path": "/a"}]))
    assert response.json()["responses"][0]["body"] == "ok"


# What is no batch


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "websocket", "path": "/batch", "headers": [], "method": "POST"},
        {"type": "websocket", "path": "/a", "headers": []},
        {"type": "lifespan", "asgi": {}, "state": {}},
        {"type": "webtransport", "path": "/batch"},
        {"type": "http", "path": "/batch/a", "method": "POST", "headers": []},
        {"type": "http", "path": "/Batch", "method": "POST", "headers": [], "extensions": {"http.response.push": {}}},
    ],
    ids=lambda scope: f"{scope['type']} {scope.get('path')}",
)
@on_virtual_time
async def test_everything_else_passes_through_untouched(scope: Scope) -> None:
    """The app gets the very scope, `receive` and `send` of the server, of whatever type; what it raises goes on."""
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend((scope, receive, send))
        raise LookupError("as it is")

    async def receive() -> Message:
        raise AssertionError("nobody asked")

    async def send(message: Message) -> None:
        raise AssertionError("nobody asked")

    before = copy.deepcopy(scope)
    with pytest.raises(LookupError, match="as it is"):
        await BatchMiddleware(app)(scope, receive, send)
    assert [id(each) for each in seen] == [id(scope), id(receive), id(send)]
    assert scope == before


def test_a_websocket_is_served_beside_a_batch() -> None:
    """A real websocket reaches the app through the middleware, there and back."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "websocket"
        while (message := await receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            else:
                await send({"type": "websocket.send", "text": message["text"] + " back"})

    with (
        serve(BatchMiddleware(app), lifespan="off", ws="websockets-sansio") as server,
        connect(f"ws://{server.host}:{server.port}/batch") as connection,
    ):
        connection.send("there and")
        assert connection.recv(PATIENCE) == "there and back"


class Gate:
    """A middleware that keeps the next layer under a name of its own, and lets nobody to `/admin`."""

    def __init__(self, inner: App) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forbidden = scope["type"] == "http" and scope["path"] == "/admin"
        await (answer(status=403) if forbidden else self._inner)(scope, receive, send)


@on_virtual_time
async def test_items_pass_layers_that_hide_the_next_one() -> None:
    """An item enters at the outermost app, also where a layer in front of ours does not call the next one `app`."""
    app = Starlette(routes=[Mount("/", answer())], middleware=[Middleware(Gate), Middleware(BatchMiddleware)])
    reply = await send_batch(app, [{"path": "/admin"}, {"path": "/open"}])
    assert [entry["status"] for entry in reply.responses] == [403, 200]
