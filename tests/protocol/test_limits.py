"""Section 5: every limit at n and at n + 1, and that it is checked early."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

from batchproxy import BatchMiddleware, Endpoint, InFlight
from tests.serving import parse, raw, serve

from .api import Api, answer, start, value
from .exchange import JSON, Exchange, Receive, Scope, Send, ask, exchange_of, failures, send_batch, written
from .virtual_time import now, settled, until

MiB = 1024 * 1024
JSON_HEADERS = {"content-type": "application/json"}


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that no test here may reach."""
    raise AssertionError(scope["path"])


def padded(size: int) -> bytes:
    """A batch of one item, of exactly this many bytes."""
    document = written([{"path": "/a"}])
    return document + b" " * (size - len(document))


# max_items


@pytest.mark.parametrize(("settings", "most"), [({}, 100), ({"max_items": 3}, 3), ({"max_items": 1}, 1)])
async def test_max_items(settings: JSON, most: int) -> None:
    """`max_items` is 100 by default; one more is 413 `too_many_items`, which says the limit and the actual value."""
    api = Api()
    app = BatchMiddleware(api, **settings)
    assert failures(await send_batch(app, [{"path": "/a"}] * most)) == [None] * most
    reply = await send_batch(app, [{"path": "/a"}] * (most + 1))
    assert reply.refusal[:2] == (413, "too_many_items")
    assert str(most) in reply.problem["detail"]
    assert str(most + 1) in reply.problem["detail"]
    assert len(api.arrived) == most


@pytest.mark.parametrize("item", [{}, {"nope": 1}, {"path": 1}, {"path": "/a", "id": "a"}])
async def test_items_are_counted_before_any_is_decoded(item: JSON) -> None:
    """Items are counted before any of them is decoded: too many faulty ones are too many."""
    reply = await send_batch(BatchMiddleware(Api(), max_items=3), [item] * 4)
    assert reply.refusal[:2] == (413, "too_many_items")


async def test_a_huge_number_of_items_is_refused() -> None:
    """Items are counted before any of them is decoded: 280 000 of them cost no more than their bytes."""
    document = b'{"requests": [' + b",".join([b'{"path":"/abcdefghijklm"}'] * 280_000) + b"]}"
    reply = await send_batch(BatchMiddleware(Api()), document)
    assert reply.refusal[:2] == (413, "too_many_items")


# max_batch_bytes


@pytest.mark.parametrize(("settings", "most"), [({}, 8 * MiB), ({"max_batch_bytes": 1000}, 1000)])
@pytest.mark.parametrize("declared", [True, False])
async def test_max_batch_bytes(settings: JSON, most: int, declared: bool) -> None:
    """`max_batch_bytes` is 8 MiB by default; one more is 413 `batch_too_large`, with or without `Content-Length`."""
    headers = JSON_HEADERS if declared else {**JSON_HEADERS, "transfer-encoding": "chunked"}
    api = Api()
    app = BatchMiddleware(api, **settings)
    assert (await ask(app, body=padded(most), headers=headers)).status == 200
    reply = await ask(app, body=padded(most + 1), headers=headers)
    assert reply.refusal == (413, "batch_too_large", None)
    assert str(most) in reply.problem["detail"]
    assert str(most + 1) in reply.problem["detail"]
    assert len(api.arrived) == 1


async def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    """Checked as early as possible: a declared length over the limit is refused before a byte is read."""
    app = BatchMiddleware(Api(), max_batch_bytes=1000)
    headers = {**JSON_HEADERS, "content-length": "1001"}
    exchange = Exchange(app, headers=headers, chunks=[], complete=False)
    assert (await exchange.finished()).refusal[:2] == (413, "batch_too_large")
    assert (exchange.taken, now()) == (0, 0)


async def test_a_body_is_not_read_beyond_its_limit() -> None:
    """Checked as early as possible: an endless body is refused with the chunk that exceeds the limit."""
    app = BatchMiddleware(Api(), max_batch_bytes=1000)
    headers = {**JSON_HEADERS, "transfer-encoding": "chunked"}
    exchange = Exchange(app, headers=headers, chunks=[b" " * 100] * 10_000, complete=False)
    assert (await exchange.finished()).refusal[:2] == (413, "batch_too_large")
    assert exchange.taken == 11


# max_item_bytes


@pytest.mark.parametrize(("settings", "most"), [({}, 4 * MiB), ({"max_item_bytes": 1000}, 1000)])
@pytest.mark.parametrize("encoding", ["json", "text", "base64"])
async def test_max_item_bytes(settings: JSON, most: int, encoding: str) -> None:
    """`max_item_bytes` is 4 MiB by default, of the body as it is sent; one more is 413 `body_too_large`."""

    def item(size: int) -> JSON:
        body = {
            "json": "x" * (size - 2),
            "text": "é" * (size // 2) + "x" * (size % 2),
            "base64": base64.b64encode(b"\xff" * size).decode(),
        }
        return {"method": "POST", "path": "/a", "body": body[encoding], "body_encoding": encoding}

    api = Api({"/a": answer()})
    app = BatchMiddleware(api, max_batch_bytes=64 * MiB, **settings)
    reply = await send_batch(app, [item(most), item(most + 1), {"path": "/b"}])
    assert failures(reply) == [None, (413, "body_too_large"), None]
    assert len(api.arrived[0].body) == most
    assert len(api.arrived) == 2


# Answers


@pytest.mark.parametrize(("settings", "most"), [({}, 8 * MiB), ({"max_response_bytes": 1000}, 1000)])
async def test_max_response_bytes(settings: JSON, most: int) -> None:
    """`max_response_bytes`, one answer's body, is 8 MiB by default; one more is 502 `response_too_large`."""
    api = Api({"/n": answer(json.dumps("x" * (most - 2))), "/more": answer(json.dumps("x" * (most - 1)))})
    reply = await send_batch(BatchMiddleware(api, **settings), [{"path": "/n"}, {"path": "/more"}, {"path": "/c"}])
    assert failures(reply) == [None, (502, "response_too_large"), None]
    assert reply.responses[0]["body"] == "x" * (most - 2)


async def test_an_endless_answer_is_stopped() -> None:
    """Checked as early as possible: an answer is not taken beyond its limit, and its app is cancelled."""
    sent = 0
    ended: list[float] = []

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        try:
            await start(send)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})
                sent += 1
                await asyncio.sleep(0)
        finally:
            ended.append(now())

    app = BatchMiddleware(Api({"/endless": endless}), max_response_bytes=1000)
    reply = await send_batch(app, [{"path": "/endless"}, {"path": "/b"}])
    assert failures(reply) == [(502, "response_too_large"), None]
    assert sent <= 12
    assert ended == [0]


async def test_an_answer_declared_too_large_fails() -> None:
    """An answer whose declared length is over the limit is `response_too_large`, however it goes on."""
    api = Api({"/a": answer("x" * 1001, headers=[("content-length", "1001")])})
    reply = await send_batch(BatchMiddleware(api, max_response_bytes=1000), [{"path": "/a"}])
    assert failures(reply) == [(502, "response_too_large")]


async def test_max_total_response_bytes() -> None:
    """`max_total_response_bytes`, all answers of a buffered batch: what exceeds it fails, the rest does not start."""
    api = Api({"/a": answer(json.dumps("x" * 398))})
    options = {"execution": "sequential"}
    app = BatchMiddleware(api, max_total_response_bytes=1200)
    assert failures(await send_batch(app, [{"path": "/a"}] * 3, options=options)) == [None] * 3
    api.arrived.clear()
    reply = await send_batch(app, [{"path": "/a"}] * 6, options=options)
    not_started = (503, "not_started")
    assert failures(reply) == [None] * 3 + [(502, "response_too_large"), not_started, not_started]
    assert len(api.arrived) == 4


@pytest.mark.parametrize(
    ("content_type", "body", "size"), [("text/plain", b"\0" * 100, 600), ("image/png", b"\xff" * 300, 400)]
)
async def test_max_total_response_bytes_counts_what_is_written(content_type: str, body: bytes, size: int) -> None:
    """Bodies that are not JSON count as they are written: escaped, or in base64."""
    api = Api({"/a": answer(body, headers=[("content-type", content_type)])})
    for most, last in ((3 * size, None), (2 * size - 1, (503, "not_started"))):
        app = BatchMiddleware(api, max_total_response_bytes=most)
        reply = await send_batch(app, [{"path": "/a"}] * 3, options={"execution": "sequential"})
        assert failures(reply) == [None, None, last]


async def test_max_total_response_bytes_is_32_mib_by_default() -> None:
    """`max_total_response_bytes` is 32 MiB by default."""
    api = Api({"/a": answer(b"x" * (8 * MiB), headers=[("content-type", "text/plain")])})
    options = {"execution": "sequential"}
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}] * 4 + [{"path": "/b"}], options=options)
    assert failures(reply) == [None] * 4 + [(502, "response_too_large")]


# Paths and headers


@pytest.mark.parametrize(("settings", "most"), [({}, 8 * 1024), ({"max_path_bytes": 100}, 100)])
async def test_max_path_bytes(settings: JSON, most: int) -> None:
    """`max_path_bytes` is 8 KiB by default; more is 414 `path_too_long`."""
    api = Api()
    app = BatchMiddleware(api, **settings)
    reply = await send_batch(app, [{"path": "/" + "x" * (most - 1)}, {"path": "/" + "x" * most}])
    assert failures(reply) == [None, (414, "path_too_long")]
    assert len(api.arrived) == 1


async def test_max_path_bytes_counts_what_is_sent() -> None:
    """`max_path_bytes` counts the path and its query as they are sent, percent-encoded, `base_path` included."""
    api = Api()
    app = BatchMiddleware(api, max_path_bytes=100, base_path="/base")
    too_long = (414, "path_too_long")
    items: list[JSON] = [
        {"path": "/" + "é" * 15},
        {"path": "/" + "é" * 16},
        {"path": "/?" + "x" * 90},
        {"path": "/?" + "x" * 100},
        {"path": "/", "query": {"q": "x" * 80}},
        {"path": "/", "query": {"q": "x" * 100}},
    ]
    reply = await send_batch(app, items)
    assert failures(reply) == [None, too_long, None, too_long, None, too_long]


@pytest.mark.parametrize(("settings", "most"), [({}, 64), ({"max_headers": 5}, 5)])
async def test_max_headers(settings: JSON, most: int) -> None:
    """`max_headers` of an item is 64 by default; more is 431 `headers_too_large`."""
    api = Api()
    items: list[JSON] = [
        {"path": "/a", "headers": {f"X-{number}": "1" for number in range(most)}},
        {"path": "/a", "headers": {f"X-{number}": "1" for number in range(most + 1)}},
        {"path": "/a", "headers": {"X": ["1"] * (most + 1)}},
    ]
    too_large = (431, "headers_too_large")
    assert failures(await send_batch(BatchMiddleware(api, **settings), items)) == [None, too_large, too_large]
    assert len(api.arrived) == 1


@pytest.mark.parametrize(("settings", "most"), [({}, 16 * 1024), ({"max_header_bytes": 100}, 100)])
async def test_max_header_bytes(settings: JSON, most: int) -> None:
    """`max_header_bytes` of an item, names and values, is 16 KiB by default; more is 431 `headers_too_large`."""
    items: list[JSON] = [
        {"path": "/a", "headers": {"X-A": "1" * (most // 2), "X-B": "1" * (most - most // 2 - 6)}},
        {"path": "/a", "headers": {"X-A": "1" * (most // 2), "X-B": "1" * (most - most // 2 - 5)}},
        {"path": "/a", "headers": {"X": ["1" * (most // 2)] * 2}},
    ]
    too_large = (431, "headers_too_large")
    reply = await send_batch(BatchMiddleware(Api(), **settings), items)
    assert failures(reply) == [None, too_large, too_large]


async def test_inherited_headers_are_not_an_items_own() -> None:
    """`max_headers` and `max_header_bytes` are of the item: what it inherits does not count."""
    outer = {f"X-Outer-{number}": "1" for number in range(50)}
    app = BatchMiddleware(Api(), max_headers=1, max_header_bytes=10)
    reply = await send_batch(app, [{"path": "/a", "headers": {"X": "1"}}], headers=outer)
    assert failures(reply) == [None]


# Depth


@pytest.mark.parametrize(("settings", "most"), [({}, 128), ({"max_depth": 3}, 3)])
@pytest.mark.parametrize("kind", ["lists", "objects", "both"])
async def test_max_depth(settings: JSON, most: int, kind: str) -> None:
    """`max_depth` of a JSON body is 128 by default; deeper is 400 `invalid_body`."""

    def nested(depth: int) -> bytes:
        openings = {"lists": [b"["], "objects": [b'{"a":'], "both": [b"[", b'{"[":']}[kind]
        opened = [openings[level % len(openings)] for level in range(depth)]
        return b"".join(opened) + b'"[{["' + b"".join(b"]" if each == b"[" else b"}" for each in reversed(opened))

    document = (
        b'{"requests": [{"method": "POST", "path": "/a", "body": %b}, {"method": "POST", "path": "/b", "body": %b}]}'
    )
    api = Api()
    reply = await send_batch(BatchMiddleware(api, **settings), document % (nested(most), nested(most + 1)))
    assert failures(reply) == [None, (400, "invalid_body")]
    assert api.only.body == nested(most)


# vars


@pytest.mark.parametrize(("settings", "most"), [({}, 16), ({"max_vars": 2}, 2)])
async def test_max_vars(settings: JSON, most: int) -> None:
    """`max_vars` of an item is 16 by default; more is an error that points at them."""

    def items(count: int) -> list[JSON]:
        names = [f"x{number}" for number in range(count)]
        path = "/b/" + "".join(f"{{{name}}}" for name in names)
        return [{"id": "s", "path": "/s"}, {"path": path, "vars": dict.fromkeys(names, "s#/status")}]

    api = Api()
    app = BatchMiddleware(api, **settings)
    assert failures(await send_batch(app, items(most))) == [None, None]
    assert (await send_batch(app, items(most + 1))).refusal == (400, "invalid_batch", "/requests/1/vars")
    assert api.targets == ["/s", "/b/" + "200" * most]


@pytest.mark.parametrize(("settings", "most"), [({}, 8 * 1024), ({"max_var_bytes": 100}, 100)])
async def test_max_var_bytes(settings: JSON, most: int) -> None:
    """`max_var_bytes` is 8 KiB by default, of the JSON value; a larger value is 424 `reference_failed`."""
    api = Api({"/n": value("x" * (most - 2)), "/more": value("x" * (most - 1)), "/list": value([1] * most)})
    items: list[JSON] = [
        {"id": "n", "path": "/n"},
        {"id": "more", "path": "/more"},
        {"id": "list", "path": "/list"},
        {"method": "POST", "path": "/b", "body": "{x}", "vars": {"x": "n#/body"}},
        {"method": "POST", "path": "/c", "body": "{x}", "vars": {"x": "more#/body"}},
        {"method": "POST", "path": "/d", "body": "{x}", "vars": {"x": "list#/body"}},
        {"method": "POST", "path": "/e", "body": "{x}", "vars": {"x": "list#/body/7"}},
    ]
    failed = (424, "reference_failed")
    assert failures(await send_batch(BatchMiddleware(api, **settings), items)) == [None] * 4 + [failed, failed, None]


@pytest.mark.parametrize(("settings", "most"), [({}, 32), ({"max_dependency_depth": 2}, 2)])
@pytest.mark.parametrize("by", ["depends_on", "vars"])
async def test_max_dependency_depth(settings: JSON, most: int, by: str) -> None:
    """The depth of dependencies is 32 by default; a longer chain is an error of the batch."""

    def chain(length: int) -> list[JSON]:
        items: list[JSON] = [{"id": "i0", "path": "/0"}]
        for number in range(1, length + 1):
            before = f"i{number - 1}"
            link = {"depends_on": [before]} if by == "depends_on" else {"vars": {"x": f"{before}#/status"}}
            path = f"/{number}" if by == "depends_on" else f"/{number}/{{x}}"
            items.append({"id": f"i{number}", "path": path, **link})
        return items

    api = Api()
    app = BatchMiddleware(api, **settings)
    assert failures(await send_batch(app, chain(most))) == [None] * (most + 1)
    api.arrived.clear()
    reply = await send_batch(app, chain(most + 1))
    status, code, pointer = reply.refusal
    assert (status, code) == (400, "invalid_batch")
    assert pointer is not None
    assert pointer.startswith("/requests")
    assert api.arrived == []


# Items at once


@pytest.mark.parametrize(("settings", "most"), [({}, 16), ({"concurrency": 3}, 3), ({"concurrency": 1}, 1)])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
async def test_concurrency(settings: JSON, most: int, accept: str) -> None:
    """`concurrency`: items in flight per batch are 16 by default."""
    api = Api({"/a": answer(takes=1)})
    items = [{"path": "/a"}] * (2 * most)
    reply = await send_batch(BatchMiddleware(api, **settings), items, headers={"Accept": accept})
    assert api.most_at_once == most
    assert reply.at == 2


async def test_in_flight_bounds_all_batches_together() -> None:
    """`in_flight`: at most so many items at once, of all batches; those beyond wait."""
    api = Api({"/a": answer(takes=1)})
    app = BatchMiddleware(api, in_flight=InFlight(4, queue=100))
    exchanges = [exchange_of(app, [{"path": "/a"}] * 4) for _ in range(3)]
    replies = [await exchange.finished() for exchange in exchanges]
    assert api.most_at_once == 4
    assert [failures(reply) for reply in replies] == [[None] * 4] * 3
    assert max(reply.at for reply in replies) == 3


async def test_in_flight_is_256_with_a_queue_of_1024_by_default() -> None:
    """`in_flight` is `InFlight(256, queue=1024)` by default, one per middleware; then 503."""
    api = Api({"/a": answer(takes=1)})
    app = BatchMiddleware(api)
    exchanges = [exchange_of(app, [{"path": "/a"}] * 16) for _ in range((256 + 1024) // 16)]
    await settled()
    assert api.running == 256
    assert (await send_batch(app, [{"path": "/a"}])).refusal[:2] == (503, "overloaded")
    assert failures(await send_batch(BatchMiddleware(api), [{"path": "/b"}])) == [None]
    for exchange in exchanges:
        assert failures(await exchange.finished()) == [None] * 16
    assert failures(await send_batch(app, [{"path": "/b"}])) == [None]


async def test_in_flight_is_fair_between_batches() -> None:
    """`in_flight` is fair between batches: a small one does not wait for a large one to end."""
    api = Api({"/a": answer(takes=1)})
    app = BatchMiddleware(api, in_flight=InFlight(2, queue=100))
    large = exchange_of(app, [{"path": "/a"}] * 20)
    await until(0.5)
    small = exchange_of(app, [{"path": "/a"}] * 2)
    assert (await small.finished()).at <= 4
    assert (await large.finished()).at == 11


async def test_one_in_flight_may_be_shared() -> None:
    """`in_flight`: share one between several middlewares."""
    shared = InFlight(2, queue=4)
    api = Api({"/a": answer(takes=1)})
    apps = [
        BatchMiddleware(api, in_flight=shared),
        BatchMiddleware(api, endpoints=[Endpoint(path="/batch", in_flight=shared)]),
    ]
    exchanges = [exchange_of(apps[number % 2], [{"path": "/a"}] * 2) for number in range(3)]
    await settled()
    assert api.running == 2
    assert (await send_batch(apps[0], [{"path": "/a"}])).refusal[:2] == (503, "overloaded")
    assert [failures(await exchange.finished()) for exchange in exchanges] == [[None, None]] * 3
    assert now() == 3
    assert api.most_at_once == 2


async def test_a_batch_larger_than_the_process_may_run_at_once_is_not_refused() -> None:
    """`in_flight`: a batch asks for what it can use at once; an idle server takes any batch within its limits."""
    app = BatchMiddleware(Api(), in_flight=InFlight(1, queue=0))
    assert failures(await send_batch(app, [{"path": "/a"}] * 50)) == [None] * 50


# Reading


@pytest.mark.parametrize(("settings", "pause"), [({}, 10), ({"read_timeout": 2}, 2)])
@pytest.mark.parametrize("chunks", [[], [b'{"requests": [']])
async def test_read_timeout(settings: JSON, pause: float, chunks: list[bytes]) -> None:
    """`read_timeout`: 10 s without a byte of the batch body is 408 `request_timeout`."""
    exchange = Exchange(BatchMiddleware(Api(), **settings), headers=JSON_HEADERS, chunks=chunks, complete=False)
    reply = await exchange.finished()
    assert (reply.refusal[:2], reply.at) == ((408, "request_timeout"), pause)


@pytest.mark.parametrize(("settings", "whole"), [({}, 60), ({"read_total_timeout": 20}, 20)])
async def test_the_whole_of_reading_is_bounded(settings: JSON, whole: float) -> None:
    """`read_timeout`, and its whole: a body that drips for 60 s is 408 `request_timeout`."""
    exchange = Exchange(BatchMiddleware(Api(), **settings), headers=JSON_HEADERS, chunks=[b"{"], complete=False)
    moment = 0.0
    while moment + 9 < whole:
        moment += 9
        await until(moment)
        exchange.feed(b" ")
    reply = await exchange.finished()
    assert (reply.refusal[:2], reply.at) == ((408, "request_timeout"), whole)


async def test_a_slow_body_within_its_time_is_read() -> None:
    """A body that takes less than its time is read, however slowly it comes."""
    exchange = Exchange(BatchMiddleware(Api()), headers=JSON_HEADERS, chunks=[b'{"requests":'], complete=False)
    for moment, piece in ((9.5, b' [{"path": '), (19, b'"/a"}'), (28, b"]")):
        await until(moment)
        exchange.feed(piece)
    exchange.feed(b"}", complete=True)
    reply = await exchange.finished()
    assert (failures(reply), reply.at) == ([None], 28)


async def test_reading_takes_no_time_of_the_batch() -> None:
    """The deadline of the batch begins when it has been read: the limits of reading are their own."""
    api = Api({"/a": answer(takes=14)})
    exchange = Exchange(
        BatchMiddleware(api), headers=JSON_HEADERS, chunks=[b'{"requests": [{"path": "/a"}'], complete=False
    )
    for moment in (9, 18):
        await until(moment)
        exchange.feed(b" ")
    exchange.feed(b"]}", complete=True)
    reply = await exchange.finished()
    assert (failures(reply), reply.at) == ([None], 32)


async def test_nothing_is_no_byte() -> None:
    """`read_timeout`: a message without a byte does not keep a batch waiting."""
    exchange = Exchange(BatchMiddleware(Api()), headers=JSON_HEADERS, chunks=[b"{"], complete=False)
    for moment in (4, 8, 12, 16):
        if exchange.task.done():
            break
        exchange.feed(b"")
        await until(moment)
    reply = await exchange.finished()
    assert (reply.refusal[:2], reply.at) == ((408, "request_timeout"), 10)


# Writing


@pytest.mark.parametrize(("settings", "patience"), [({}, 30), ({"write_timeout": 4}, 4)])
async def test_write_timeout(settings: JSON, patience: float) -> None:
    """`write_timeout`: a reader that takes nothing for 30 s is treated as gone."""
    exchange = exchange_of(BatchMiddleware(Api(), **settings), [{"path": "/a"}])
    exchange.stop_reading()
    await exchange.task
    assert (exchange.sent, now()) == ([], patience)


def test_over_a_socket_an_endless_body_is_cut_off() -> None:
    """Checked as early as possible: over a real connection a body over the limit is answered before it ends."""
    head = b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
    with serve(BatchMiddleware(bare, max_batch_bytes=2000), lifespan="off") as server:
        response = parse(raw(server, head + chunk + chunk))
    assert (response.status, response.json()["code"]) == (413, "batch_too_large")


# Each setting, also of an endpoint


async def test_limits_are_of_an_endpoint() -> None:
    """Each limit is a setting, also of an endpoint: another endpoint has its own."""
    api = Api()
    strict = Endpoint(path="/strict", max_items=1, max_path_bytes=10, max_depth=1)
    app = BatchMiddleware(api, endpoints=[Endpoint(path="/lax"), strict])
    items: list[JSON] = [{"path": "/01234567890"}, {"method": "POST", "path": "/a", "body": [[]]}]
    assert failures(await send_batch(app, items, path="/lax")) == [None, None]
    assert (await send_batch(app, items, path="/strict")).refusal[1] == "too_many_items"
    assert failures(await send_batch(app, items[:1], path="/strict")) == [(414, "path_too_long")]
    assert failures(await send_batch(app, items[1:], path="/strict")) == [(400, "invalid_body")]
