"""Section 2, "Streaming": NDJSON and server-sent events."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import threading

import pytest
from hypothesis import given, settings, strategies as st

from batchproxy import BatchMiddleware
from tests.serving import PATIENCE, request, serve

from .api import Api, answer
from .exchange import JSON, App, Exchange, Receive, Reply, Scope, Send, exchange_of, send_batch, written
from .virtual_time import now, run, settled, until

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


async def streamed(app: App, items: list[JSON], accept: str = NDJSON, **request: object) -> Reply:
    return await send_batch(app, items, headers={"Accept": accept}, **request)


def records(reply: Reply, accept: str) -> list[JSON]:
    """The records of a streamed answer in either form, the summary last."""
    if accept == NDJSON:
        return reply.lines
    names = [name for name, _ in reply.events]
    assert names == ["response"] * (len(names) - 1) + ["summary"]
    return [data for _, data in reply.events]


def by_index(reply: Reply, accept: str) -> list[JSON]:
    """The entries of a streamed answer as the buffered form has them."""
    entries = sorted(records(reply, accept)[:-1], key=lambda entry: int(entry["index"]))
    return [{name: value for name, value in entry.items() if name != "index"} for entry in entries]


# Lines


async def test_each_entry_is_a_line_with_its_index_the_moment_it_ends() -> None:
    """`Accept: application/x-ndjson`: each entry is one line the moment its item ends, in completion order."""
    api = Api({"/a": answer('"a"', takes=3), "/b": answer('"b"', takes=1), "/c": answer('"c"', takes=2)})
    reply = await streamed(BatchMiddleware(api), [{"id": "a", "path": "/a"}, {"path": "/b"}, {"path": "/c"}])
    assert reply.header("content-type") == NDJSON
    headers = {"content-type": "application/json"}
    assert reply.lines == [
        {"index": 1, "status": 200, "headers": headers, "body": "b"},
        {"index": 2, "status": 200, "headers": headers, "body": "c"},
        {"index": 0, "id": "a", "status": 200, "headers": headers, "body": "a"},
        {"summary": {"total": 3, "succeeded": 3, "failed": 0}},
    ]
    assert [reply.moment_of(text) for text in (b'"b"', b'"c"', b'"a"', b"summary")] == [1, 2, 3, 3]


async def test_a_line_does_not_wait_for_background_work() -> None:
    """Each entry is sent the moment its item ends, not when the app returns."""
    api = Api({"/a": answer('"a"', takes=1, then=5), "/b": answer('"b"', takes=2)})
    reply = await streamed(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}])
    assert [reply.moment_of(text) for text in (b'"a"', b'"b"', b"summary")] == [1, 2, 2]


async def test_the_last_line_is_the_summary() -> None:
    """The last line is `{"summary": {…}}`, counted as in the buffered form."""
    api = Api({"/a": answer(status=404)})
    reply = await streamed(BatchMiddleware(api), [{"path": "/a"}, {"path": "//"}, {"path": "/c"}])
    assert reply.lines[-1] == {"summary": {"total": 3, "succeeded": 1, "failed": 2}}
    assert sum("summary" in line for line in reply.lines) == 1


async def test_a_json_body_keeps_its_line() -> None:
    """In the streamed forms line breaks between the tokens of a JSON body become blanks; the rest is byte for byte."""
    text = b'{\n  "a":  1.10,\r\n  "b": "\\n",\r  "c": 1E2\n}'
    api = Api({"/a": answer(text)})
    for accept in (NDJSON, SSE):
        reply = await streamed(BatchMiddleware(api), [{"path": "/a"}], accept)
        (entry, _) = records(reply, accept)
        assert entry["body"] == {"a": 1.1, "b": "\n", "c": 100.0}
        assert text.replace(b"\n", b" ").replace(b"\r", b" ") in reply.body
    buffered = await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    assert text in buffered.body


RECORDS: list[JSON] = [
    "line\nbreak",
    "carriage\rreturn\r\n",
    "\u2028 \u2029 \x85 \x0b \x0c",
    "data: x\n\nevent: summary\ndata: {}",
    ": comment",
    "id: 1\nretry: 1",
    '{"summary": {}}\n{"index": 0}',
    "\x00\x1b",
    "",
]


@pytest.mark.parametrize("accept", [NDJSON, SSE])
async def test_a_body_cannot_add_records(accept: str) -> None:
    """Whatever is in a body, one item is one record."""
    routes: dict[str, App] = {}
    for number, text in enumerate(RECORDS):
        routes[f"/text{number}"] = answer(text, headers=[("content-type", "text/plain"), ("x-data", "data: x")])
        routes[f"/json{number}"] = answer(json.dumps({text: [text]}, indent=1, ensure_ascii=False))
    reply = await streamed(BatchMiddleware(Api(routes)), [{"path": path} for path in routes], accept)
    bodies = [entry.get("body", "") for entry in by_index(reply, accept)]
    assert bodies == [each for text in RECORDS for each in (text, {text: [text]})]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=20), st.sampled_from([NDJSON, SSE]), st.booleans())
def test_any_text_makes_one_record(text: str, accept: str, as_json: bool) -> None:
    """Whatever is in a body, one item is one record, and the text comes back whole."""
    headers = [("content-type", "application/json" if as_json else "text/plain")]
    body = json.dumps({"text": text}, indent=2, ensure_ascii=False) if as_json else text
    app = BatchMiddleware(Api({"/a": answer(body, headers=headers)}))
    reply = run(streamed(app, [{"path": "/a"}], accept))
    (entry,) = by_index(reply, accept)
    assert entry.get("body", "") == ({"text": text} if as_json else text)


@pytest.mark.parametrize("accept", [NDJSON, SSE])
async def test_entries_are_as_complete_as_in_the_buffered_form(accept: str) -> None:
    """Statuses, headers and bodies are as complete as in the buffered form."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError

    api = Api(
        {
            "/binary": answer(b"\xff\x00", headers=[("content-type", "image/png")]),
            "/cookies": answer("x", status=404, headers=[("set-cookie", "a=1"), ("set-cookie", "b=2")]),
            "/empty": answer("", status=204, headers=()),
            "/broken": answer('{"a"'),
            "/fails": fails,
        }
    )
    items = [
        {"id": "ok", "path": "/ok"},
        {"path": "/binary"},
        {"path": "/cookies"},
        {"path": "/empty"},
        {"path": "/broken"},
        {"path": "/fails"},
        {"path": "//refused"},
        {"path": "/after", "depends_on": ["ok"]},
        {"method": "HEAD", "path": "/ok"},
    ]
    app = BatchMiddleware(api)
    buffered = await send_batch(app, items)
    reply = await streamed(app, items, accept)
    assert by_index(reply, accept) == buffered.responses
    summary = records(reply, accept)[-1]
    assert summary.get("summary", summary) == buffered.json()["summary"]


# Server-sent events


async def test_the_same_records_come_as_events() -> None:
    """`Accept: text/event-stream` gives the same records as events `response` and `summary`."""
    api = Api({"/a": answer('"a"', takes=3), "/b": answer('"b"', takes=1)})
    items = [{"id": "a", "path": "/a"}, {"path": "/b"}]
    reply = await streamed(BatchMiddleware(api), items, SSE)
    assert (reply.header("content-type") or "").partition(";")[0] == SSE
    headers = {"content-type": "application/json"}
    assert reply.events == [
        ("response", {"index": 1, "status": 200, "headers": headers, "body": "b"}),
        ("response", {"index": 0, "id": "a", "status": 200, "headers": headers, "body": "a"}),
        ("summary", {"summary": {"total": 2, "succeeded": 2, "failed": 0}}),
    ]
    assert [reply.moment_of(text) for text in (b'"b"', b'"a"', b"event: summary")] == [1, 3, 3]


async def test_a_comment_is_the_heartbeat_of_events() -> None:
    """Events have a comment as heartbeat every 15 s."""
    app = BatchMiddleware(Api({"/a": answer(takes=50)}), item_timeout=60, batch_timeout=60)
    reply = await streamed(app, [{"path": "/a"}], SSE)
    assert [at for at, piece in reply.pieces if piece.startswith(b":")] == [15, 30, 45]
    assert len(reply.comments) == 3
    assert len(reply.events) == 2


async def test_lines_have_no_heartbeat() -> None:
    """The heartbeat is a comment of events; NDJSON has none."""
    app = BatchMiddleware(Api({"/a": answer(takes=50)}), item_timeout=60, batch_timeout=60)
    assert len((await streamed(app, [{"path": "/a"}])).lines) == 2


async def test_a_quick_batch_has_no_heartbeat() -> None:
    """The heartbeat comes every 15 s, so a quick batch has none."""
    assert (await streamed(BatchMiddleware(Api()), [{"path": "/a"}], SSE)).comments == []


# Which form


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (NDJSON, NDJSON),
        ("Application/X-NDJSON", NDJSON),
        (f"{NDJSON}, application/json;q=0.5", NDJSON),
        (f"application/json;q=0.5, {NDJSON};q=0.9", NDJSON),
        (f"application/json, {NDJSON}", "application/json"),
        (f"{NDJSON};q=0, */*", "application/json"),
        (SSE, SSE),
        (f"{SSE}, */*;q=0.1", SSE),
        (f"application/json;q=0, {SSE};q=0.1", SSE),
        (f"text/html, {NDJSON};q=0.2", NDJSON),
    ],
)
async def test_accept_chooses_the_form(accept: str, media_type: str) -> None:
    """`Accept` chooses the form of the batch answer; weights are honoured."""
    reply = await streamed(BatchMiddleware(Api()), [{"path": "/a"}], accept)
    assert (reply.header("content-type") or "").partition(";")[0] == media_type


@pytest.mark.parametrize("accept", [NDJSON, SSE])
async def test_a_refused_batch_is_a_problem_document_in_any_form(accept: str) -> None:
    """An error of the whole batch comes before anything has run, as a problem document, whatever was accepted."""
    reply = await streamed(BatchMiddleware(Api()), [{"nope": 1}], accept)
    assert reply.refusal[:2] == (400, "invalid_batch")


@pytest.mark.parametrize("accept", [NDJSON, SSE])
async def test_a_stream_has_no_length(accept: str) -> None:
    """A streamed answer cannot know its length and declares none."""
    assert (await streamed(BatchMiddleware(Api()), [{"path": "/a"}], accept)).header("content-length") is None


# A slow reader


@pytest.mark.parametrize("accept", [NDJSON, SSE])
async def test_a_slow_reader_slows_the_start_of_items(accept: str) -> None:
    """A slow reader slows the start of further items instead of filling memory."""
    count = 100
    body = "x" * 100_000
    api = Api({f"/{number}": answer(json.dumps(body), takes=0.01) for number in range(count)})
    app = BatchMiddleware(api, concurrency=4, max_items=count, write_timeout=25)
    exchange = exchange_of(app, [{"path": f"/{number}"} for number in range(count)], headers={"Accept": accept})
    exchange.stop_reading()
    await until(20)
    begun = len(api.arrived)
    assert begun < count / 2
    await until(21)
    assert len(api.arrived) == begun
    exchange.read_on()
    reply = await exchange.finished()
    assert len(api.arrived) == count
    assert [entry["body"] == body for entry in by_index(reply, accept)] == [True] * count


async def test_a_reader_that_takes_nothing_is_treated_as_gone() -> None:
    """`write_timeout`: a reader that takes nothing is treated as gone: nothing new starts."""
    api = Api({f"/{number}": answer(takes=1) for number in range(20)})
    app = BatchMiddleware(api, concurrency=1, write_timeout=3, batch_timeout=100)
    exchange = exchange_of(app, [{"path": f"/{number}"} for number in range(20)], headers={"Accept": NDJSON})
    exchange.stop_reading()
    await until(60)
    begun = len(api.arrived)
    assert begun < 20
    exchange.leave()
    await exchange.task
    assert len(api.arrived) == begun
    assert now() == 60


async def test_write_timeout_is_30_seconds_by_default() -> None:
    """`write_timeout` is 30 s by default: a reader that goes on before that loses nothing."""
    api = Api({f"/{number}": answer() for number in range(20)})
    app = BatchMiddleware(api, concurrency=1, batch_timeout=100)
    exchange = exchange_of(app, [{"path": f"/{number}"} for number in range(20)], headers={"Accept": NDJSON})
    exchange.stop_reading()
    await until(29)
    exchange.read_on()
    assert len((await exchange.finished()).lines) == 21


async def test_a_streamed_answer_has_no_budget_in_all() -> None:
    """`max_total_response_bytes`: streamed, only what is in flight counts."""
    api = Api({f"/{number}": answer(json.dumps("x" * 1000)) for number in range(20)})
    app = BatchMiddleware(api, max_total_response_bytes=5000, max_response_bytes=2000, concurrency=2)
    items: list[JSON] = [{"path": f"/{number}"} for number in range(20)]
    reply = await streamed(app, items)
    assert [entry["status"] for entry in by_index(reply, NDJSON)] == [200] * 20


# Over a socket


def test_over_a_socket_an_entry_arrives_before_the_next_item_ends() -> None:
    """Each entry is sent the moment its item ends: the reader has it while another item still waits for the reader."""
    read = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await asyncio.to_thread(read.wait, PATIENCE)
        await answer(json.dumps(scope["path"]))(scope, receive, send)

    asked = request(
        "POST",
        "/batch",
        [("Content-Type", "application/json"), ("Accept", NDJSON)],
        written([{"path": "/late"}, {"path": "/early"}]),
    )
    with (
        serve(BatchMiddleware(app), lifespan="off") as server,
        socket.create_connection((server.host, server.port), timeout=PATIENCE) as connection,
    ):
        connection.sendall(asked)
        received = b""
        while b"/early" not in received:
            received += connection.recv(65536)
        assert b"/late" not in received
        read.set()
        while data := connection.recv(65536):
            received += data
    assert b"/late" in received
    assert b"summary" in received


def test_base64_is_standard() -> None:
    """A binary body is given in the standard alphabet, on one line, in every form."""
    body = bytes(range(256)) * 10
    app = BatchMiddleware(Api({"/a": answer(body, headers=[("content-type", "image/png")])}))
    for accept in (NDJSON, SSE):
        (entry,) = by_index(run(streamed(app, [{"path": "/a"}], accept)), accept)
        assert entry["body"] == base64.b64encode(body).decode()


async def test_an_open_stream_ends_when_the_batch_does() -> None:
    """Nothing more is sent after the summary, and the app returns."""
    exchange: Exchange = exchange_of(BatchMiddleware(Api()), [{"path": "/a"}], headers={"Accept": NDJSON})
    reply = await exchange.finished()
    await settled()
    assert reply.lines[-1].keys() == {"summary"}
    assert exchange.task.done()
