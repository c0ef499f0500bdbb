"""Section 3: every code of the table is reached, with its status, and its pointer where a member is at fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable

import pytest

from batchproxy import Batch, BatchMiddleware, Failure, InFlight, RateLimited, Refused

from .api import Api, answer, start, value
from .exchange import JSON, App, Receive, Scope, Send, ask, exchange_of, failure, failures, send_batch
from .virtual_time import until

CANARY = "c4n4ry"

# Of the whole batch


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b" ",
        b"{",
        b'{"requests": [}',
        b'{"requests": [],}',
        b"{'requests': []}",
        b'{"requests": []} x',
        b'{"requests": []}{"requests": []}',
        b'{"requests": []}\x00',
        b'{"requests": [{"path": "/a", "body": NaN}]}',
        b'{"requests": [{"path": "/a", "body": Infinity}]}',
        b'{"requests": [{"path": "/a", "body": [-Infinity]}]}',
        b'{"requests": [{"path": "/\xff"}]}',
        b'{"requests": [{"path": "/a", "body": "\xff"}]}',
        b'{"requests": [{"path": "/a", "body": {"\xc3": 1}}]}',
        b'{"requests": [{"path": "/a", "body": "\xed\xa0\x80"}]}',
        b'\xef\xbb\xbf{"requests": []}',
        '{"requests": []}'.encode("utf-16"),
        b'{"requests": [{"path": "/a", "body": "\n"}]}',
        b'{"requests": [{"path": "/a", "body": 01}]}',
        b'{"requests": [{"path": "/a"}] /* x */}',
        b"requests=1",
    ],
)
async def test_what_is_not_json_is_malformed(document: bytes) -> None:
    """400 `malformed_json`: bad UTF-8, trailing data, NaN, or otherwise not one JSON document."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), document)
    assert reply.refusal[:2] == (400, "malformed_json")
    assert api.arrived == []


@pytest.mark.parametrize("depth", [100, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("where", ["whole", "requests", "options", "headers", "unknown", "open"])
async def test_nesting_beyond_reading_is_an_error(depth: int, where: str) -> None:
    """400 `malformed_json`: nesting beyond reading; whatever is read is a wrong value, and nothing runs."""
    deep = b"[" * depth + b"]" * depth
    documents = {
        "whole": deep,
        "requests": b'{"requests": %b}' % deep,
        "options": b'{"requests": [{"path": "/a"}], "options": %b}' % deep,
        "headers": b'{"requests": [{"path": "/a", "headers": {"x": %b}}]}' % deep,
        "unknown": b'{"requests": [{"path": "/a", "zzz": %b}]}' % deep,
        "open": b'{"requests": [{"path": "/a", "body": ' + b"[" * depth,
    }
    api = Api()
    reply = await send_batch(BatchMiddleware(api), documents[where])
    assert reply.status == 400
    assert reply.problem["code"] in (["malformed_json"] if where == "open" else ["malformed_json", "invalid_batch"])
    assert api.arrived == []


@pytest.mark.parametrize("depth", [200, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("kind", ["lists", "objects"])
async def test_a_deep_body_fails_its_item_or_the_batch(depth: int, kind: str) -> None:
    """`invalid_body` where nesting is over the limit, `malformed_json` where it is beyond reading; never a crash."""
    body = b"[" * depth + b"]" * depth if kind == "lists" else b'{"a":' * depth + b"1" + b"}" * depth
    api = Api()
    document = b'{"requests": [{"method": "POST", "path": "/a", "body": %b}, {"path": "/b"}]}' % body
    reply = await send_batch(BatchMiddleware(api), document)
    if reply.status == 400:
        assert depth >= 1000
        assert reply.refusal[:2] == (400, "malformed_json")
        assert api.arrived == []
    elif depth * (1 if kind == "lists" else 5) > 4 * 1024 * 1024:
        assert failures(reply) == [(413, "body_too_large"), None]
    else:
        assert failures(reply) == [(400, "invalid_body"), None]
        assert api.targets == ["/b"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_cross_site(site: str) -> None:
    """403 `cross_site`."""
    reply = await send_batch(BatchMiddleware(Api()), [], headers={"Sec-Fetch-Site": site})
    assert reply.refusal == (403, "cross_site", None)


async def refusing(batch: Batch) -> Batch:
    raise Refused("Closed on Sundays.")


async def limiting(batch: Batch) -> Batch:
    raise RateLimited("Too much today.", retry_after=7)


async def test_a_guard_may_refuse_the_batch() -> None:
    """403 `forbidden`: a guard refuses the whole, and its reason is the detail."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, guards=[refusing]), [{"path": "/a"}])
    assert reply.refusal[:2] == (403, "forbidden")
    assert reply.problem["detail"] == "Closed on Sundays."
    assert api.arrived == []


async def test_a_guard_may_limit_the_rate() -> None:
    """429 `rate_limited` (a guard), with `Retry-After`."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, guards=[limiting]), [{"path": "/a"}])
    assert reply.refusal[:2] == (429, "rate_limited")
    assert reply.header("retry-after") == "7"
    assert api.arrived == []


async def test_a_guard_may_refuse_one_item() -> None:
    """403 `forbidden` of one item: a guard refuses it, the others go on."""

    async def no_deletes(batch: Batch) -> Batch:
        for item in batch.items:
            if item.method == "DELETE":
                batch = batch.refuse(item.index, "Nothing is deleted here.")
        return batch

    api = Api()
    items = [{"path": "/a"}, {"method": "DELETE", "path": "/b"}, {"path": "/c"}]
    reply = await send_batch(BatchMiddleware(api, guards=[no_deletes]), items)
    assert failures(reply) == [None, (403, "forbidden"), None]
    assert reply.responses[1]["body"]["detail"] == "Nothing is deleted here."
    assert api.targets == ["/a", "/c"]


async def test_guards_run_one_after_another() -> None:
    """Guards see the batch one after another, before anything has run; the first that refuses ends it."""
    seen: list[str] = []

    async def first(batch: Batch) -> Batch:
        seen.append("first")
        return batch

    async def never(batch: Batch) -> Batch:
        seen.append("never")
        return batch

    await send_batch(BatchMiddleware(Api(), guards=[first, refusing, never]), [{"path": "/a"}])
    assert seen == ["first"]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "QUERY", "post", "BREW"])
async def test_method_not_allowed(method: str) -> None:
    """405 `method_not_allowed` for any other method, with `Allow`."""
    api = Api()
    reply = await ask(BatchMiddleware(api), method=method, body=b'{"requests": [{"path": "/a"}]}')
    assert reply.refusal == (405, "method_not_allowed", None)
    allowed = {each.strip() for each in (reply.header("allow") or "").split(",")}
    assert "POST" in allowed
    assert allowed <= {"POST", "GET", "OPTIONS", "HEAD"}
    assert api.arrived == []


@pytest.mark.parametrize("accept", ["text/html", "image/*", "application/xml", "application/json;q=0", "*/*;q=0"])
async def test_not_acceptable(accept: str) -> None:
    """406 `not_acceptable`: no form of the batch answer is accepted."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers={"Accept": accept})
    assert reply.refusal == (406, "not_acceptable", None)
    assert api.arrived == []


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/xml", "multipart/mixed", "json", "*/*"])
async def test_unsupported_media_type(media_type: str | None) -> None:
    """415 `unsupported_media_type`, which names the header to send."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers={"content-type": media_type})
    assert reply.refusal[:2] == (415, "unsupported_media_type")
    assert "content-type: application/json" in reply.problem["detail"].lower()
    assert api.arrived == []


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, gzip", "GZIP", "zstd", "unknown"])
async def test_any_content_encoding_is_unsupported(coding: str) -> None:
    """415 `unsupported_media_type`, also any `Content-Encoding`: nothing is inflated."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers={"Content-Encoding": coding})
    assert reply.refusal[:2] == (415, "unsupported_media_type")
    assert "content-encoding" in reply.problem["detail"].lower()
    assert api.arrived == []


async def test_request_timeout() -> None:
    """408 `request_timeout`: the body of the batch did not arrive in time."""
    api = Api()
    exchange = exchange_of(BatchMiddleware(api), b'{"requests": [', complete=False)
    reply = await exchange.finished()
    assert reply.refusal == (408, "request_timeout", None)
    assert api.arrived == []


async def test_overloaded() -> None:
    """503 `overloaded`, with `Retry-After`: every place and the queue are full; before anything has run."""
    api = Api({"/slow": answer(takes=5)})
    app = BatchMiddleware(api, in_flight=InFlight(1, queue=1))
    running = exchange_of(app, [{"path": "/slow"}])
    waiting = exchange_of(app, [{"path": "/slow"}])
    await until(1)
    reply = await send_batch(app, [{"path": "/a"}])
    assert reply.refusal == (503, "overloaded", None)
    assert int(reply.header("retry-after") or "") >= 1
    assert [(await each.finished()).only["status"] for each in (running, waiting)] == [200, 200]
    assert api.targets == ["/slow", "/slow"]


class Looping:
    """A framework whose middleware leads every item back to the batch endpoint."""

    def __init__(self, api: App) -> None:
        self.inside = BatchMiddleware(api)
        self.entered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered += 1
        scope = {**scope, "app": self, "path": "/batch", "raw_path": b"/batch"}
        await self.inside(scope, receive, send)


async def test_a_batch_that_comes_out_of_a_batch_is_refused() -> None:
    """A batch within a batch is refused by the mark in the scope, where its path did not show it."""
    api = Api()
    app = Looping(api)
    inner = {"requests": [{"path": "/a"}]}
    reply = await send_batch(app, [{"method": "POST", "path": "/a", "body": inner}])
    entry = reply.only
    assert failure(entry) == (400, "nested_batch")
    assert app.entered == 2
    assert api.arrived == []


# Nothing is echoed

FAULTY_BATCHES: list[tuple[bytes, str | None]] = [
    (b'{"requests": [{"path": "/c4n4ry", }]}', None),
    (b'{"requests": [{"path": "/a", "body": "c4n4ry\xff"}]}', None),
    (b'{"requests": "c4n4ry"}', "/requests"),
    (b'{"requests": ["c4n4ry"]}', "/requests/0"),
    (b'{"requests": [{"path": 1, "method": "c4n4ry"}]}', "/requests/0/path"),
    (b'{"requests": [{"path": "/a"}, {"path": ["c4n4ry"]}]}', "/requests/1/path"),
    (b'{"requests": [{"path":"/"}, {"path":"/"}, {"path":"/"}, {"path":"/c4n4ry","method":1}]}', "/requests/3/method"),
    (b'{"requests": [{"path": "/a", "headers": "c4n4ry"}]}', "/requests/0/headers"),
    (b'{"requests": [{"path": "/a", "body": "c4n4ry", "body_encoding": "c4n4ry"}]}', "/requests/0/body_encoding"),
    (b'{"requests": [{"path": "/a", "timeout": "c4n4ry"}]}', "/requests/0/timeout"),
    (b'{"requests": [{"path": "/a", "id": "c4n4ry c4n4ry"}]}', "/requests/0/id"),
    (b'{"requests": [{"path": "/c4n4ry", "query": 1}]}', "/requests/0/query"),
    (b'{"requests": [{"path": "/c4n4ry", "zzz": "c4n4ry"}]}', "/requests/0/zzz"),
    (b'{"requests": [{"path": "/c4n4ry"}], "options": {"execution": "c4n4ry"}}', "/options/execution"),
    (b'{"requests": [{"path": "/c4n4ry", "vars": {"x": 1}}]}', "/requests/0/vars/x"),
    (b'{"requests": [{"path": "/c4n4ry", "id": "a"}, {"path": "/c4n4ry", "id": "a"}]}', "/requests/1/id"),
    (b'{"requests": [{"path": "/c4n4ry", "depends_on": ["x"]}]}', "/requests/0/depends_on/0"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "pointer"), FAULTY_BATCHES)
async def test_no_part_of_the_body_is_echoed(document: bytes, pointer: str | None) -> None:
    """A `pointer` to the member at fault; no part of the body is echoed."""
    reply = await send_batch(BatchMiddleware(Api()), document)
    assert reply.status == 400
    assert CANARY.encode() not in reply.body
    assert CANARY not in repr(reply.headers)
    found = reply.problem.get("pointer")
    assert found == pointer or (pointer is not None and found == pointer.rpartition("/")[0])


async def test_a_refusal_is_a_problem_document() -> None:
    """Of the whole batch: `application/problem+json` with `code`, as RFC 9457 has it."""
    reply = await send_batch(BatchMiddleware(Api(), path="/bulk"), b"{", path="/bulk")
    problem = reply.problem
    assert (problem["type"], problem["status"], problem["code"]) == ("/bulk#malformed_json", 400, "malformed_json")
    assert problem["title"]
    assert problem["detail"]
    assert set(problem) <= {"type", "title", "status", "code", "detail", "pointer", "instance", "limit", "actual"}


# Of one item


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    raise ZeroDivisionError("secret detail")


async def raises_exit(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit(3)


async def cancels_itself(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


async def returns_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    pass


async def begins_with_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.body", "body": b"x"})


async def sends_nonsense(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.nonsense"})


async def raises_in_the_middle(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b'{"secret', "more_body": True})
    raise ZeroDivisionError("secret detail")


async def returns_in_the_middle(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b'{"secret', "more_body": True})


async def returns_after_the_start(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send)


async def stream(pieces: Iterable[bytes], every: float) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(every)


async def endless_events(scope: Scope, receive: Receive, send: Send) -> None:
    await start(send, headers=[("content-type", "text/event-stream; charset=utf-8")])
    async for piece in stream([b"data: x\n\n"] * 1000, every=1):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


BIG = answer(json.dumps("x" * 2000))

ITEM_ERRORS: list[tuple[str, JSON, int, str]] = [
    ("no path", {"path": "a"}, 400, "invalid_path"),
    ("a header of the connection", {"path": "/a", "headers": {"Host": "evil"}}, 400, "header_refused"),
    ("a broken header", {"path": "/a", "headers": {"X": "a\r\nb"}}, 400, "invalid_header"),
    ("bad base64", {"path": "/a", "method": "POST", "body": "!", "body_encoding": "base64"}, 400, "invalid_body"),
    ("a deep body", {"path": "/a", "method": "POST", "body": [[[[[[[1]]]]]]]}, 400, "invalid_body"),
    ("a batch", {"path": "/batch", "method": "POST", "body": {"requests": []}}, 400, "nested_batch"),
    ("a denied path", {"path": "/denied"}, 403, "forbidden"),
    ("a path not allowed", {"path": "/elsewhere"}, 403, "forbidden"),
    ("a refused method", {"path": "/a", "method": "DELETE"}, 405, "method_refused"),
    ("a large body", {"path": "/a", "method": "POST", "body": "x" * 2000}, 413, "body_too_large"),
    ("a long path", {"path": "/a/" + "x" * 2000}, 414, "path_too_long"),
    ("large headers", {"path": "/a", "headers": {"X": "x" * 2000}}, 431, "headers_too_large"),
    ("a failed dependency", {"path": "/a", "depends_on": ["fails"]}, 424, "dependency_failed"),
    ("a missing value", {"path": "/a/{x}", "vars": {"x": "works#/body/nothing"}}, 424, "reference_failed"),
    ("the second of a route", {"path": "/once"}, 429, "too_many_for_route"),
    ("the app raises", {"path": "/a/raises"}, 500, "app_error"),
    ("the app exits", {"path": "/a/exits"}, 500, "app_error"),
    ("the app cancels itself", {"path": "/a/cancels"}, 500, "app_error"),
    ("the app ends", {"path": "/a/nothing"}, 500, "app_error"),
    ("the app begins with the body", {"path": "/a/body-first"}, 500, "app_error"),
    ("the app sends nonsense", {"path": "/a/nonsense"}, 500, "app_error"),
    ("a status beyond HTTP", {"path": "/a/status"}, 502, "bad_response"),
    ("the app raises in the middle", {"path": "/a/half"}, 502, "truncated"),
    ("the app ends in the middle", {"path": "/a/cut"}, 502, "truncated"),
    ("the app ends after the start", {"path": "/a/started"}, 502, "truncated"),
    ("a body shorter than declared", {"path": "/a/short"}, 502, "truncated"),
    ("a large answer", {"path": "/a/big"}, 502, "response_too_large"),
    ("an endless stream of events", {"path": "/a/events", "timeout": 3}, 502, "unbatchable_response"),
    ("an upgrade", {"path": "/a/upgrade"}, 502, "unbatchable_response"),
    ("a deadline", {"path": "/a/slow", "timeout": 3}, 504, "timeout"),
]


@pytest.mark.parametrize(
    ("item", "status", "code"), [row[1:] for row in ITEM_ERRORS], ids=[row[0] for row in ITEM_ERRORS]
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_an_item_fails_alone(item: JSON, status: int, code: str, accept: str) -> None:
    """Each code of one item, with its status; the others go on; nothing of the inside is told."""
    api = Api(
        {
            "/a/fails": answer(status=400),
            "/a/raises": raises,
            "/a/exits": raises_exit,
            "/a/cancels": cancels_itself,
            "/a/nothing": returns_nothing,
            "/a/body-first": begins_with_the_body,
            "/a/nonsense": sends_nonsense,
            "/a/status": answer(status=999),
            "/a/half": raises_in_the_middle,
            "/a/cut": returns_in_the_middle,
            "/a/started": returns_after_the_start,
            "/a/short": answer("{}", headers=[("content-length", "10")]),
            "/a/big": BIG,
            "/a/events": endless_events,
            "/a/upgrade": answer("", status=101, headers=[("upgrade", "websocket")]),
            "/a/slow": answer(takes=100),
        }
    )
    app = BatchMiddleware(
        api,
        methods=["GET", "POST"],
        allow=["/a/**", "/batch", "/once", "/denied"],
        deny=["/denied"],
        max_per_batch={"/once": 1},
        max_depth=5,
        max_item_bytes=1000,
        max_path_bytes=1000,
        max_header_bytes=1000,
        max_response_bytes=1000,
    )
    beside = [{"id": "works", "path": "/a"}, {"id": "fails", "path": "/a/fails"}, {"path": "/once"}]
    items = [*beside, item, {"path": "/a/last"}]
    reply = await send_batch(app, items, headers={"Accept": accept})
    if accept == "application/json":
        entries = reply.responses
    else:
        entries = sorted(reply.lines[:-1], key=lambda line: int(line["index"]))
    assert [entry["status"] for entry in entries] == [200, 400, 200, status, 200]
    assert [failure(entry) for entry in entries] == [None, None, None, (status, code), None]
    assert b"secret" not in reply.body
    assert b"Traceback" not in reply.body


async def test_the_details_of_an_app_error_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """`app_error`: details only in the log."""
    await send_batch(BatchMiddleware(Api({"/a": raises})), [{"path": "/a"}])
    assert "ZeroDivisionError: secret detail" in caplog.text


START = {"type": "http.response.start", "status": 200, "headers": []}


@pytest.mark.parametrize(
    "messages",
    [
        [{}],
        [{"type": None}],
        [{"type": "http.response.start"}],
        [{"type": "http.response.start", "status": 200, "headers": [("x", "y")]}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"x",)]}],
        [{"type": "http.response.start", "status": 200, "headers": [(b"x", None)]}],
        [{"type": "http.response.start", "status": 200, "headers": 7}],
        [START, START],
        [START, {"type": "http.response.body", "body": "text"}],
        [START, {"type": "http.response.body", "body": 7}],
        [START, {"type": "http.response.pathsend", "path": "/etc/hostname"}],
        [START, {"type": "http.response.zerocopysend", "file": 0}],
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_messages_that_asgi_does_not_have_fail_their_item_alone(messages: list[JSON], accept: str) -> None:
    """Whatever an app sends, its own item fails, the others go on, and the document is valid."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(dict(message))

    reply = await send_batch(
        BatchMiddleware(Api({"/a": app})), [{"path": "/a"}, {"path": "/b"}], headers={"Accept": accept}
    )
    entries = (
        reply.responses if accept == "application/json" else sorted(reply.lines[:-1], key=lambda line: line["index"])
    )
    broken, beside = entries
    assert failure(broken) in [(500, "app_error"), (502, "truncated"), (502, "bad_response")]
    assert (beside["status"], failure(beside)) == (200, None)


async def test_headers_may_be_left_out() -> None:
    """An answer without `headers` in its first message, as ASGI allows, is an answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    assert (await send_batch(BatchMiddleware(Api({"/a": app})), [{"path": "/a"}])).only == {
        "status": 204,
        "headers": {},
    }


async def test_what_an_app_sends_after_its_answer_is_dropped() -> None:
    """An answer that the API completed stands, whatever comes after it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer('"first"')(scope, receive, send)
        await answer('"second"', status=500)(scope, receive, send)

    reply = await send_batch(BatchMiddleware(Api({"/a": app})), [{"path": "/a"}, {"path": "/b"}])
    assert (reply.responses[0]["status"], reply.responses[0]["body"]) == (200, "first")


async def test_stopped() -> None:
    """424 `stopped`."""
    api = Api({"/a": answer(status=500)})
    options = {"on_error": "stop", "execution": "sequential"}
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}], options=options)
    assert failures(reply) == [None, (424, "stopped")]


async def test_batch_timeout_and_not_started() -> None:
    """504 `batch_timeout` of what runs at the batch deadline, 503 `not_started` of the rest."""
    api = Api({"/a": answer(takes=100)})
    app = BatchMiddleware(api, concurrency=1)
    reply = await send_batch(app, [{"path": "/a"}, {"path": "/b"}], options={"timeout": 3})
    assert failures(reply) == [(504, "batch_timeout"), (503, "not_started")]


@pytest.mark.parametrize(
    ("failed", "status"),
    [("unreachable", 502), ("truncated", 502), ("bad_response", 502), ("upstream_overloaded", 503)],
)
async def test_an_app_that_stands_for_an_upstream_reports_its_failure(failed: str, status: int) -> None:
    """502 `unreachable` and 503 `upstream_overloaded`: what an app reports, that only passes an item on."""

    async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"]["batchproxy"]["report"](Failure[failed.upper()])
        await answer('{"internal": "10.0.0.5"}', status=status)(scope, receive, send)

    reply = await send_batch(BatchMiddleware(Api({"/a": gateway})), [{"path": "/a"}, {"path": "/b"}])
    assert failures(reply) == [(status, failed), None]
    assert b"10.0.0.5" not in reply.body


async def test_an_event_stream_that_ends_is_an_answer() -> None:
    """`unbatchable_response`: an event stream that had not ended at the deadline; one that ends is text."""
    api = Api({"/a": answer("data: x\n\n", headers=[("content-type", "text/event-stream")])})
    entry = (await send_batch(BatchMiddleware(api), [{"path": "/a"}])).only
    assert (entry["status"], entry["body"]) == (200, "data: x\n\n")


async def test_an_event_stream_is_cancelled_at_its_deadline() -> None:
    """An endless item ends with its deadline, and its `finally` runs."""
    ended: list[str] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await endless_events(scope, receive, send)
        finally:
            ended.append("finally")

    app = BatchMiddleware(Api({"/a": endless}))
    reply = await send_batch(app, [{"path": "/a", "timeout": 4}])
    assert (failures(reply), reply.at, ended) == ([(502, "unbatchable_response")], 4, ["finally"])


@pytest.mark.parametrize("length", ["5", "500"])
async def test_the_declared_length_is_compared(length: str) -> None:
    """`truncated`: ended before its declared length; a body that has it is whole."""
    api = Api({"/a": answer('"abc"', headers=[("content-length", length), ("content-type", "application/json")])})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    assert failures(reply) == [None if length == "5" else (502, "truncated")]


async def test_a_failure_reads_no_different_for_its_cause() -> None:
    """`app_error`: details only in the log: two causes give the same entry."""
    other = Api({"/a": raises, "/b": raises_exit})
    first, second = (await send_batch(BatchMiddleware(other), [{"path": "/a"}, {"path": "/b"}])).responses
    assert first["headers"] == second["headers"]
    assert {key: first["body"][key] for key in ("title", "status", "code")} == {
        key: second["body"][key] for key in ("title", "status", "code")
    }
    assert "ZeroDivisionError" not in json.dumps([first, second])
    assert "SystemExit" not in json.dumps([first, second])


async def test_item_errors_echo_nothing_of_headers_and_bodies() -> None:
    """What an item sent as header or body is not shown in its error."""
    items: list[JSON] = [
        {"path": "/a", "headers": {"X-A": f"{CANARY}\n"}},
        {"path": "/a", "headers": {"Host": CANARY}},
        {"path": "/a", "method": "POST", "body": f"{CANARY}!", "body_encoding": "base64"},
        {"path": "/a", "method": "POST", "body": CANARY * 1000},
        {"path": "/a", "headers": {"X-A": CANARY * 1000}},
    ]
    reply = await send_batch(BatchMiddleware(Api(), max_item_bytes=1000, max_header_bytes=1000), items)
    assert all(failures(reply))
    assert CANARY.encode() not in reply.body


async def test_a_cap_refuses_what_is_over_it() -> None:
    """429 `too_many_for_route`: the first n items of a route are sent, in request order."""
    api = Api()
    app = BatchMiddleware(api, max_per_batch={"POST /login": 2, "/search/**": 1})
    items: list[JSON] = [
        *[{"method": "POST", "path": "/login"}] * 3,
        *[{"path": "/login"}] * 3,
        {"path": "/search/a"},
        {"path": "/search/b"},
    ]
    over = (429, "too_many_for_route")
    assert failures(await send_batch(app, items)) == [None, None, over, None, None, None, None, over]


async def test_a_cap_counts_within_one_batch() -> None:
    """`max_per_batch` counts within one batch."""
    app = BatchMiddleware(Api({"/once": value(1)}), max_per_batch={"/once": 1})
    for _ in range(3):
        assert failures(await send_batch(app, [{"path": "/once"}])) == [None]
