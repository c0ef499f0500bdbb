"""A lone request on servers that behave otherwise than the one that the process runs on: called as ASGI apps are."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from batchproxy import BatchMiddleware
from batchproxy.engine.model import ASGIApp, Message, Receive, Scope, Send
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.lone import Broken
from batchproxy.proxy.settings import Timeouts, Upstream
from batchproxy.proxy.uploads import GATHERED, BodyTimeout, BodyTooLarge, ClientLeft, Upload, take

from .on_a_loop import on_a_loop
from .scripted import Peer, Script, answering, response, upstream

NO_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}
LEFT: Message = {"type": "http.disconnect"}


@asynccontextmanager
async def proxy(script: Script | None = None, **settings: Any) -> AsyncIterator[tuple[ReverseProxy, Any]]:
    async with upstream(script) as behind:
        app = ReverseProxy(RouteTable([Route(upstream="api")]), {"api": Upstream(url=behind.url, **settings)})
        try:
            yield app, behind
        finally:
            await app.aclose()


def scope(**more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": "/x"}
    base |= {"raw_path": b"/x", "query_string": b"", "headers": [(b"host", b"h")], "client": ("192.0.2.1", 1)}
    return base | more


def messages(*given: Message, then: Message | None = None) -> Callable[[], Awaitable[Message]]:
    """What `receive` gives; in the end always the same, or nothing any more."""
    left = list(given)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        if then is None:
            await asyncio.get_running_loop().create_future()
        assert then is not None
        return then

    return receive


async def batch_of(app: ASGIApp, item: dict[str, Any]) -> dict[str, Any]:
    """The entry of a batch of this item alone."""
    sent = Sent()
    body = json.dumps({"requests": [item]}).encode()
    fields = [(b"host", b"h"), (b"content-type", b"application/json")]
    whole: Message = {"type": "http.request", "body": body, "more_body": False}
    await BatchMiddleware(app)(
        scope(method="POST", raw_path=b"/batch", path="/batch", headers=fields), messages(whole), sent
    )
    entries = json.loads(b"".join(each.get("body", b"") for each in sent))["responses"]
    found: dict[str, Any] = entries[0]
    return found


class Sent(list[Message]):
    async def __call__(self, message: Message) -> None:
        self.append(message)


@on_a_loop
async def test_a_client_that_is_gone_when_it_is_answered() -> None:
    """Servers that raise when nobody reads (ASGI since 2.4) end the exchange quietly."""

    async def gone(message: Message) -> None:
        raise OSError

    async with proxy() as (app, _):
        notes: dict[str, Any] = {}
        await app(scope(extensions={"batchproxy.notes": notes}), messages(NO_BODY), gone)
        assert (notes["flags"], notes["upstream"]) == ("DC", "api")


@pytest.mark.parametrize("before", [(), ({"type": "http.request", "body": b"a", "more_body": True},)])
def test_a_client_that_leaves_with_its_body(before: tuple[Message, ...]) -> None:
    """One that is gone before its body is there is not answered, and nothing is sent on."""

    @on_a_loop
    async def check() -> None:
        async with proxy() as (app, behind):
            sent = Sent()
            fields = [(b"host", b"h"), (b"content-length", b"2")]
            await app(scope(method="POST", headers=fields), messages(*before, LEFT), sent)
            assert sent == []
            assert behind.peers == []

    check()


@on_a_loop
async def test_a_layer_that_replays_the_body_for_ever() -> None:
    """It is asked once more, and then left alone."""
    async with proxy(answering(response(b"ok"))) as (app, _):
        sent = Sent()
        await app(scope(), messages(then=NO_BODY), sent)
        assert [each["type"] for each in sent] == ["http.response.start", "http.response.body"]


@on_a_loop
async def test_a_watch_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What a server's `receive` raises while an answer is on its way is logged, and changes nothing."""
    asked = [NO_BODY]

    async def receive() -> Message:
        if not asked:
            raise RuntimeError("no more")
        return asked.pop()

    async with proxy() as (app, _):
        sent = Sent()
        await app(scope(), receive, sent)
        assert sent[0]["status"] == 200
        assert "client.watching_failed" in caplog.text


@on_a_loop
async def test_the_log_can_be_joined_by_its_id(caplog: pytest.LogCaptureFixture) -> None:
    """The id of the access log is the one that a failure is logged under, and answered with."""

    async def hang_up(peer: Peer) -> None:
        await peer.head()

    async with proxy(hang_up) as (app, _):
        with caplog.at_level(logging.WARNING, "batchproxy"):
            sent, notes = Sent(), {"request_id": "log-1"}
            await app(scope(method="POST", extensions={"batchproxy.notes": notes}), messages(NO_BODY), sent)
        assert dict(sent[0]["headers"])[b"x-request-id"] == b"log-1"
        assert notes["code"] == "unreachable"
        assert "request=log-1" in caplog.text
        odd = scope(method="POST", headers=[(b"host", b"h"), (b"x-request-id", b"a\x1b[2J")])
        sent = Sent()
        await app(odd, messages(NO_BODY), sent)
        assert b"\x1b" not in dict(sent[0]["headers"])[b"x-request-id"]


@on_a_loop
async def test_no_connection_header_where_there_is_none() -> None:
    """HTTP/2 knows no `Connection`."""
    async with proxy(max_request_bytes=1) as (app, _):
        sent = Sent()
        fields = [(b"host", b"h"), (b"content-length", b"9")]
        await app(scope(method="POST", http_version="2", headers=fields), messages(NO_BODY), sent)
        assert sent[0]["status"] == 413
        assert not [value for name, value in sent[0]["headers"] if name == b"connection"]


@on_a_loop
async def test_a_loop_and_an_odd_scope() -> None:
    """Without an entrance in front the proxy sees loops itself; scopes that it does not know are mistakes."""
    async with proxy() as (app, behind):
        sent = Sent()
        await app(scope(headers=[(b"host", b"h"), (b"via", b"1.1 batchproxy")]), messages(NO_BODY), sent)
        assert sent[0]["status"] == 508
        assert behind.peers == []
        with pytest.raises(ValueError, match="odd"):
            await app({"type": "odd"}, messages(), Sent())


@on_a_loop
async def test_an_item_whose_body_comes_in_pieces() -> None:
    """A layer between the batch and the proxy may cut an item's body; it goes on in one piece."""
    parts = [{"type": "http.request", "body": each, "more_body": each != b"c"} for each in (b"a", b"b", b"c")]
    async with proxy() as (app, behind):

        async def layer(given: Scope, receive: Receive, send: Send) -> None:
            assert (await receive())["body"] == b"abc"
            await app(given, messages(*parts), send)

        item = {"method": "POST", "path": "/x", "body": "abc", "body_encoding": "text"}
        assert (await batch_of(layer, item))["status"] == 200
        assert bytes(behind.peers[0].received).endswith(b"content-length: 3\r\n\r\nabc")


@on_a_loop
async def test_a_layer_that_changes_what_items_get() -> None:
    """What stands between the batch and the proxy sees every message of an item's answer, and may change it."""
    seen: list[str] = []
    async with proxy() as (app, _):

        async def layer(given: Scope, receive: Receive, send: Send) -> None:
            async def changed(message: Message) -> None:
                seen.append(message["type"])
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], (b"x-layer", b"1")]}
                await send(message)

            await app(given, receive, changed)

        answer = await batch_of(layer, {"path": "/x"})
        assert answer["headers"]["x-layer"] == "1"
        assert seen == ["http.response.start", "http.response.body"]


@on_a_loop
async def test_cancelled_in_the_middle() -> None:
    """When the server gives a request up, its exchange is cut off, and nothing of it is left."""

    async def stalls(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
        await peer.rest()

    async with proxy(stalls) as (app, behind):
        sent = Sent()
        serving = asyncio.create_task(app(scope(), messages(NO_BODY), sent))
        while len(sent) < 2:
            await asyncio.sleep(0)
        serving.cancel()
        await asyncio.wait([serving])
        assert serving.cancelled()
        await behind.peers[0].ended.wait()


@on_a_loop
async def test_a_reader_that_takes_nothing() -> None:
    """An answer that nobody takes is broken off, so that the server cuts the connection."""

    async def stuck(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.get_running_loop().create_future()

    async with proxy(timeouts=Timeouts(idle=0.05)) as (app, _):
        with pytest.raises(Broken):
            await app(scope(), messages(NO_BODY), stuck)


@on_a_loop
async def test_only_the_clients_own_time_counts_for_its_rate() -> None:
    """A body that waits for the upstream is not too slow; one that the upstream waits for is."""
    given = 0

    async def slow() -> Message:
        nonlocal given
        given += 1
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"a", "more_body": given < 200}

    async def quick() -> Message:
        return {"type": "http.request", "body": b"a", "more_body": True}

    def upload(receive: Receive) -> Upload:
        return Upload(receive, b"", most=None, least=1000, patience=0.5, ended=lambda: None)

    taken = upload(quick)
    for _ in range(40):
        await asyncio.sleep(0.02)
        assert await anext(taken) in (b"", b"a")
    with pytest.raises(BodyTimeout):
        [piece async for piece in upload(slow)]


@on_a_loop
async def test_the_pieces_of_a_body() -> None:
    """A short body is gathered, a long one is handed over piece by piece; both are counted."""
    ends: list[int] = []

    def part(body: bytes, *, more: bool = True) -> Message:
        return {"type": "http.request", "body": body, "more_body": more}

    async def taken(*given: Message, declared: int | None, most: int | None = None) -> bytes | Upload:
        return await take(messages(*given), declared=declared, most=most, patience=5, ended=lambda: ends.append(1))

    assert await taken(part(b"a"), part(b"b"), part(b"", more=False), declared=2) == b"ab"
    upload = await taken(part(b"a"), part(b"b"), part(b"c", more=False), declared=GATHERED + 1)
    assert isinstance(upload, Upload)
    assert [piece async for piece in upload] == [b"a", b"b", b"c"]
    assert len(ends) == 2
    assert repr(upload) == "Upload(size=3, done)"
    upload = await taken(part(b"a"), LEFT, declared=None)
    with pytest.raises(ClientLeft):
        [piece async for piece in upload]  # type: ignore[union-attr]
    upload = await taken(part(b"a"), part(b"b"), declared=None, most=1)
    with pytest.raises(BodyTooLarge):
        [piece async for piece in upload]  # type: ignore[union-attr]
    with pytest.raises(BodyTooLarge):
        await taken(part(b"ab"), declared=None, most=1)
