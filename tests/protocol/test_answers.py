"""Section 2: the answer, its entries, and what a body becomes."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given, settings, strategies as st

from batchproxy import Batch, BatchMiddleware, RateLimited

from .api import Api, Fields, answer, start, value
from .exchange import JSON, Receive, Scope, Send, ask, exchange_of, failure, failures, send_batch
from .virtual_time import run


async def entry_of(body: bytes | str, content_type: str | None, *more: tuple[str, str], status: int = 200) -> JSON:
    """The entry of an item that the API answers so."""
    headers = [*([] if content_type is None else [("content-type", content_type)]), *more]
    api = Api({"/a": answer(body, status=status, headers=headers)})
    return (await send_batch(BatchMiddleware(api), [{"path": "/a"}])).only


async def limiting(batch: Batch) -> Batch:
    raise RateLimited("Too much today.")


# The outer answer


async def test_the_answer_is_200_and_json() -> None:
    """`200`, `Content-Type: application/json`, whatever became of the items."""
    api = Api({"/a": answer(status=500)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "//"}])
    assert reply.status == 200
    assert reply.header("content-type") == "application/json"
    assert set(reply.json()) == {"responses", "summary"}


async def test_the_answer_comes_as_soon_as_the_last_item_ended() -> None:
    """The answer comes as soon as the last item ended, not later."""
    api = Api({"/a": answer(takes=2), "/b": answer(takes=1, then=5)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}])
    assert reply.at == 2


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_no_cache_stores_an_answer(accept: str) -> None:
    """`Cache-Control: no-store`, in every form."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers={"Accept": accept})
    assert (reply.status, reply.header("cache-control")) == (200, "no-store")


async def test_no_cache_stores_a_refusal() -> None:
    """`Cache-Control: no-store` on every status that the endpoint answers with."""
    app = BatchMiddleware(Api(), max_items=1)
    replies = [
        await send_batch(app, b"{"),
        await send_batch(app, [{"path": "/a"}] * 2),
        await send_batch(app, [], headers={"Accept": "image/png"}),
        await send_batch(app, [], headers={"Content-Type": "text/plain"}),
        await send_batch(app, [], headers={"Sec-Fetch-Site": "cross-site"}),
        await exchange_of(app, b"{", complete=False).finished(),
        await send_batch(BatchMiddleware(Api(), guards=[limiting]), []),
        await ask(app, method="PUT"),
        await ask(app, method="GET"),
        await ask(app, method="OPTIONS"),
    ]
    assert [reply.status for reply in replies] == [400, 413, 406, 415, 403, 408, 429, 405, 200, 200]
    assert [reply.header("cache-control") for reply in replies] == ["no-store"] * 10


async def test_the_request_id_is_the_callers() -> None:
    """`X-Request-ID`: the caller's."""
    app = BatchMiddleware(Api())
    for accept in ("application/json", "application/x-ndjson"):
        reply = await send_batch(app, [{"path": "/a"}], headers={"X-Request-ID": "abc-123", "Accept": accept})
        assert reply.header("x-request-id") == "abc-123"
    assert (await send_batch(app, b"{", headers={"X-Request-ID": "abc-123"})).header("x-request-id") == "abc-123"


async def test_without_the_callers_the_request_id_is_new() -> None:
    """`X-Request-ID`: the caller's or a new one."""
    app = BatchMiddleware(Api())
    names = {(await send_batch(app, [])).header("x-request-id") for _ in range(5)}
    assert len(names) == 5
    assert all(names)


async def test_an_answer_is_not_compressed() -> None:
    """A batch answer comes uncompressed, even if the caller would take it otherwise."""
    api = Api({"/a": value("x" * 5000)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers={"Accept-Encoding": "gzip, br, zstd"})
    assert reply.header("content-encoding") is None
    assert reply.only["body"] == "x" * 5000


@pytest.mark.parametrize(
    "accept",
    [None, "*/*", "application/*", "application/json", "text/html, application/json;q=0.1", "application/json, */*"],
)
async def test_the_buffered_form_is_the_default(accept: str | None) -> None:
    """Without a wish for a streamed form the answer is one JSON document."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers={"Accept": accept})
    assert (reply.header("content-type"), reply.only["status"]) == ("application/json", 200)


# Entries


async def test_exactly_one_entry_per_item_in_request_order() -> None:
    """Exactly one entry per item, in request order, never null, in whatever order they end."""
    api = Api({"/0": answer("0", takes=3), "/1": answer("1", takes=1), "/3": answer("3", takes=2)})
    items = [{"path": "/0"}, {"path": "/1"}, {"path": "//"}, {"path": "/3"}, {"path": "/4", "depends_on": ["x"]}]
    items.append({"id": "x", "path": "/5"})
    responses = (await send_batch(BatchMiddleware(api), items)).responses
    assert len(responses) == 6
    assert all(isinstance(entry, dict) for entry in responses)
    assert [responses[index]["body"] for index in (0, 1, 3)] == [0, 1, 3]
    assert [responses[index]["body"]["target"] for index in (4, 5)] == ["/4", "/5"]
    assert failure(responses[2]) == (400, "invalid_path")


async def test_an_entry_has_only_the_members_of_the_page() -> None:
    """An entry has id, status, headers, body, and error or body_encoding where they apply: no durations, no more."""
    api = Api({"/b": answer(b"\xff", headers=()), "/c": answer("")})
    items = [{"path": "/a"}, {"id": "b", "path": "/b"}, {"path": "/c"}, {"id": "d", "path": "//"}]
    reply = await send_batch(BatchMiddleware(api), items)
    assert [set(entry) for entry in reply.responses] == [
        {"status", "headers", "body"},
        {"id", "status", "headers", "body", "body_encoding"},
        {"status", "headers"},
        {"id", "status", "error", "headers", "body"},
    ]
    assert set(reply.json()) == {"responses", "summary"}
    assert not {name.lower() for name, _ in reply.headers} & {"server-timing", "x-process-time", "x-response-time"}


async def test_the_summary_counts_statuses_below_400_as_succeeded() -> None:
    """`succeeded` counts statuses below 400."""
    statuses = [200, 204, 302, 399, 400, 404, 500]
    api = Api({f"/{status}": answer(status=status) for status in statuses})
    reply = await send_batch(BatchMiddleware(api), [{"path": f"/{status}"} for status in statuses] + [{"path": "//"}])
    assert reply.json()["summary"] == {"total": 8, "succeeded": 4, "failed": 4}


async def test_header_names_are_lower_case_and_repeated_ones_a_list() -> None:
    """`headers`: lower-case names; a header that came several times is a list, nothing folded or lost."""
    cookies = [
        "a=1; Expires=Tue, 24 Nov 2026 00:00:00 GMT",
        "b=2; Expires=Wed, 25 Nov 2026 00:00:00 GMT; Path=/",
    ]
    fields = [
        ("X-Once", "1"),
        ("Set-Cookie", cookies[0]),
        ("X-TWICE", "a"),
        ("set-cookie", cookies[1]),
        ("x-twice", "b"),
    ]
    entry = await entry_of("{}", "application/json", *fields)
    assert entry["headers"] == {
        "content-type": "application/json",
        "x-once": "1",
        "set-cookie": cookies,
        "x-twice": ["a", "b"],
    }


async def test_hop_by_hop_headers_and_the_length_are_left_out() -> None:
    """Hop-by-hop headers and `content-length` are left out."""
    hop_by_hop = [
        ("Connection", "close, X-Listed"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "Basic"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "x"),
        ("X-Listed", "1"),
    ]
    entry = await entry_of("{}", None, *hop_by_hop, ("X-Kept", "1"))
    assert entry["headers"] == {"x-kept": "1"}
    assert (await entry_of("{}", None, ("Content-Length", "2")))["headers"] == {}


async def test_the_length_is_kept_for_head() -> None:
    """`content-length` is kept for HEAD, where it says how long the body would be."""
    api = Api({"/a": answer("", headers=[("Content-Length", "1234")])})
    reply = await send_batch(BatchMiddleware(api), [{"method": "HEAD", "path": "/a"}, {"path": "/b"}])
    assert reply.responses[0] == {"status": 200, "headers": {"content-length": "1234"}}


async def test_nothing_of_an_item_is_copied_to_the_outer_answer() -> None:
    """Nothing of an item is copied to the outer response."""
    fields = [
        ("Set-Cookie", "a=1"),
        ("Cache-Control", "public, max-age=3600"),
        ("ETag", '"1"'),
        ("Age", "5"),
        ("Vary", "Cookie"),
        ("Location", "/x"),
        ("X-Own", "1"),
        ("X-Request-ID", "item"),
        ("WWW-Authenticate", "Basic"),
        ("Retry-After", "5"),
        ("Content-Security-Policy", "x"),
    ]
    for accept in ("application/json", "application/x-ndjson"):
        api = Api({"/a": answer(status=401, headers=fields)})
        asked = {"X-Request-ID": "outer", "Accept": accept}
        reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers=asked)
        plain = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers=asked)
        assert reply.status == 200
        assert {name for name, _ in reply.headers} <= {name for name, _ in plain.headers}
        assert reply.header("cache-control") == "no-store"
        assert reply.header("x-request-id") == "outer"


# Bodies that are JSON


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON;charset=UTF-8",
        "application/problem+json",
        "application/vnd.api+json",
        "application/ld+json; profile=x",
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b"true",
        b"1.10",
        b'"text"',
        b"[]",
        b'{"a":  1.10,\t"a": 12345678901234567890123, "e": 1E5, "u": "\\u00e9\xc3\xa9\\/"}',
    ],
)
async def test_a_json_body_is_in_the_document_byte_for_byte(content_type: str, text: bytes) -> None:
    """For a JSON media type whose content is one valid JSON document, that document, byte for byte."""
    api = Api({"/a": answer(text, headers=[("content-type", content_type)])})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    assert reply.only["body"] == json.loads(text)
    assert "body_encoding" not in reply.only
    assert b'"body":' + text in reply.body or b'"body": ' + text in reply.body


async def test_blanks_around_a_json_document_do_no_harm() -> None:
    """A JSON document may have blanks and line breaks around and between its tokens."""
    entry = await entry_of(b' \r\n{"a":\n [1,\r\n2]}\n', "application/json")
    assert entry["body"] == {"a": [1, 2]}
    assert "body_encoding" not in entry


BROKEN_JSON = {
    "envelope injection": b'{"a":1}],"x":[{"y":2',
    "closing": b'{"a":1}}',
    "trailing garbage": b'{"a":1} x',
    "two documents": b'{"a":1}{"b":2}',
    "two lines": b'{"a":1}\n{"b":2}\n',
    "cut off": b'{"a":',
    "blank": b" \n ",
    "NaN": b'{"a":NaN}',
    "Infinity": b"-Infinity",
    "comment": b'{"a":1 /* x */}',
    "single quotes": b"{'a':1}",
    "trailing comma": b"[1,]",
    "control character": b'"a\nb"',
    "bad escape": b'"\\x41"',
    "leading zero": b"01",
    "html": b"<html></html>",
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep and open": b"[" * 100_000,
    "deep objects": b'{"a":' * 5000 + b"1" + b"}" * 5000,
}
BROKEN_UTF8 = {
    "invalid UTF-8": b'{"a":"\xff"}',
    "invalid UTF-8 in a key": b'{"\xc3":1}',
    "latin-1": '{"a":"é"}'.encode("latin-1"),
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "encoded surrogate": b'"\xed\xa0\x80"',
    "overlong": b'"\xc0\xaf"',
}
ODD_JSON = {
    "mark": b'\xef\xbb\xbf{"a":1}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "huge integer": b"1" * 10_000,
    "huge exponent": b"1e999",
    "no content but a type": b"",
}


@pytest.mark.parametrize("name", BROKEN_JSON)
async def test_a_body_labelled_json_that_is_none_is_text(name: str) -> None:
    """A body labelled JSON that is not one valid document, or is nested too deeply, is a string: `text`."""
    entry = await entry_of(BROKEN_JSON[name], "application/json")
    assert (entry["status"], entry.get("body_encoding")) == (200, "text")
    assert entry["body"].encode() == BROKEN_JSON[name]


@pytest.mark.parametrize("name", BROKEN_JSON | BROKEN_UTF8 | ODD_JSON)
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_however_broken_a_body_is_the_document_is_valid(name: str, accept: str) -> None:
    """However broken an item's body is, the outer document is valid JSON with the right number of entries."""
    body = (BROKEN_JSON | BROKEN_UTF8 | ODD_JSON)[name]
    api = Api({"/broken": answer(body)})
    items = [{"path": "/a"}, {"path": "/broken"}, {"path": "/b"}]
    reply = await send_batch(BatchMiddleware(api), items, headers={"Accept": accept})
    if accept == "application/json":
        entries = reply.responses
    elif accept == "application/x-ndjson":
        entries = [line for line in reply.lines if "status" in line]
    else:
        entries = [data for kind, data in reply.events if kind == "response"]
    assert len(entries) == 3
    assert [entry["status"] for entry in entries] == [200, 200, 200]
    (broken,) = [entry for entry in entries if "target" not in json.dumps(entry.get("body"))]
    if name in BROKEN_UTF8:
        assert broken["body_encoding"] in ("text", "base64")
        assert broken["body_encoding"] == "text" or base64.b64decode(broken["body"]) == body


@pytest.mark.parametrize(("depth", "is_json"), [(10, True), (11, False)])
async def test_json_nested_deeper_than_the_limit_is_text(depth: int, is_json: bool) -> None:
    """A body that is nested deeper than the limit is a string with `"body_encoding": "text"`."""
    text = "[" * depth + "]" * depth
    api = Api({"/a": answer(text)})
    entry = (await send_batch(BatchMiddleware(api, max_depth=10), [{"path": "/a"}])).only
    assert entry.get("body_encoding") == (None if is_json else "text")
    assert entry["body"] == (json.loads(text) if is_json else text)


@pytest.mark.parametrize(("depth", "is_json"), [(128, True), (129, False)])
async def test_brackets_in_strings_do_not_nest(depth: int, is_json: bool) -> None:
    """Depth counts arrays and objects, not brackets inside strings; the limit is 128 by default."""
    text = '{"a":' * (depth - 1) + '["' + "[" * 500 + '\\"{"]' + "}" * (depth - 1)
    entry = await entry_of(text, "application/json")
    assert entry.get("body_encoding") == (None if is_json else "text")


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=40) | st.text(max_size=40).map(str.encode), st.sampled_from(["application/json", "text/plain"])
)
def test_any_bytes_leave_the_document_valid(body: bytes, content_type: str) -> None:
    """However broken an item's body is, the outer document is valid and nothing of the body is lost."""
    entry = run(entry_of(body, content_type))
    if entry.get("body_encoding") == "base64":
        assert base64.b64decode(entry["body"]) == body
    elif not body:
        assert "body" not in entry
    elif content_type == "text/plain" or entry.get("body_encoding") == "text":
        assert entry["body"].encode() == body
    else:
        assert entry["body"] == json.loads(body)


# Other bodies


TEXT_TYPES = [
    "text/plain",
    "Text/HTML",
    "text/csv",
    "text/x-anything",
    "application/xml",
    "image/svg+xml",
    "application/atom+xml",
    "application/javascript",
    "text/javascript",
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
]


@pytest.mark.parametrize("content_type", TEXT_TYPES)
@pytest.mark.parametrize(
    "charset", ["", "; charset=utf-8", '; charset="UTF-8"', ";charset=us-ascii", "; Charset=ASCII"]
)
async def test_text_is_a_string(content_type: str, charset: str) -> None:
    """For `text/*`, xml, JavaScript, form and NDJSON types, charset absent, ASCII or UTF-8, a string."""
    entry = await entry_of('a="b"\n<c/>', content_type + charset)
    assert entry["body"] == 'a="b"\n<c/>'
    assert "body_encoding" not in entry


@pytest.mark.parametrize("content_type", ["text/plain", "text/plain; charset=utf-8", "application/xml"])
@pytest.mark.parametrize(
    "text", ["é日😀", "\u2028\u2029", "\x00\x01\x1f\x7f", '"\\', "]}],", "data: x\r\n\r\nevent: y"]
)
async def test_any_text_is_a_string(content_type: str, text: str) -> None:
    """Text that is valid as such is a string, whatever its characters."""
    entry = await entry_of(text, content_type)
    assert entry["body"] == text
    assert "body_encoding" not in entry


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (None, b"text"),
        ("application/octet-stream", b"text"),
        ("image/png", b"\x89PNG\r\n\x1a\n"),
        ("multipart/mixed; boundary=x", b"--x--"),
        ("application/pdf", b"%PDF"),
        ("", b"x"),
        ("nonsense", b"x"),
        # text in another charset, or not valid in its own
        ("text/plain; charset=iso-8859-1", b"\xe9"),
        ("text/plain; charset=iso-8859-1", b"plain"),
        ("text/plain; charset=utf-16", "é".encode("utf-16")),
        ("text/plain", b"\xff"),
        ("text/plain; charset=utf-8", b"\xc3("),
        ("text/plain; charset=us-ascii", "é".encode()),
        ("application/xml", b"\xff"),
    ],
)
async def test_everything_else_is_base64(content_type: str | None, body: bytes) -> None:
    """Otherwise base64 with `"body_encoding": "base64"`."""
    entry = await entry_of(body, content_type)
    assert entry["body_encoding"] == "base64"
    assert base64.b64decode(entry["body"], validate=True) == body


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png", None])
@pytest.mark.parametrize("status", [200, 201, 404])
async def test_no_content_is_no_member(content_type: str | None, status: int) -> None:
    """No content: the member `body` is absent, and no encoding is told of."""
    entry = await entry_of(b"", content_type, status=status)
    assert set(entry) == {"status", "headers"}


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("HEAD", 404), ("GET", 204), ("GET", 304), ("PUT", 204)])
async def test_head_204_and_304_have_no_content(method: str, status: int) -> None:
    """No content (also HEAD, 204, 304), even if the app sent some: the member is absent."""
    api = Api({"/a": answer('{"a": 1}', status=status, headers=[("content-type", "application/json"), ("etag", "1")])})
    entry = (await send_batch(BatchMiddleware(api), [{"method": method, "path": "/a"}])).only
    assert entry == {"status": status, "headers": {"content-type": "application/json", "etag": "1"}}


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png"])
async def test_a_compressed_body_is_base64_undecoded(content_type: str) -> None:
    """An API that compresses unasked keeps its `content-encoding`; its body is given as base64, undecoded."""
    body = gzip.compress(b'{"a": 1}')
    entry = await entry_of(body, content_type, ("Content-Encoding", "gzip"))
    assert entry["headers"]["content-encoding"] == "gzip"
    assert entry["body_encoding"] == "base64"
    assert base64.b64decode(entry["body"]) == body


async def test_a_compressed_bomb_is_not_inflated() -> None:
    """A compressed body is given undecoded: it counts as what it is on the wire."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    entry = await entry_of(bomb, "application/json", ("Content-Encoding", "gzip"))
    assert base64.b64decode(entry["body"]) == bomb


async def test_a_body_in_pieces_is_one_body() -> None:
    """A streaming answer is complete at its last piece."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        for piece in (b"", b'{"a"', b"", b": 1}"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    entry = (await send_batch(BatchMiddleware(Api({"/a": app})), [{"path": "/a"}])).only
    assert entry["body"] == {"a": 1}


# error


@pytest.mark.parametrize("status", [400, 403, 404, 424, 429, 500, 502, 503, 504])
async def test_an_answer_of_the_api_has_no_error(status: int) -> None:
    """`error` is present only when the answer was made by the batch layer, not by the API."""
    headers: Fields = [("content-type", "application/problem+json")]
    api = Api({"/a": answer('{"code": "timeout"}', status=status, headers=headers)})
    entry = (await send_batch(BatchMiddleware(api), [{"path": "/a"}])).only
    assert (entry["status"], entry["body"]) == (status, {"code": "timeout"})
    assert "error" not in entry


async def test_an_answer_of_the_batch_layer_is_a_problem_document() -> None:
    """`error`: a stable code, and the body is an RFC 9457 problem document."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, path="/bulk"), [{"id": "x", "path": "//"}], path="/bulk")
    entry = reply.only
    assert (entry["id"], entry["status"], entry["error"]) == ("x", 400, "invalid_path")
    assert entry["headers"] == {"content-type": "application/problem+json"}
    assert {name: entry["body"][name] for name in ("type", "status", "code")} == {
        "type": "/bulk#invalid_path",
        "status": 400,
        "code": "invalid_path",
    }
    assert isinstance(entry["body"]["title"], str)
    assert isinstance(entry["body"]["detail"], str)


async def test_a_completed_answer_stands() -> None:
    """An answer that the API completed stands, even if it raises afterwards."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer('{"a": 1}', status=201)(scope, receive, send)
        raise ZeroDivisionError

    entry = (await send_batch(BatchMiddleware(Api({"/a": app})), [{"path": "/a"}])).only
    assert (entry["status"], entry["body"]) == (201, {"a": 1})
    assert "error" not in entry


# Prefer: return=minimal


@pytest.mark.parametrize(
    "prefer",
    [
        "return=minimal",
        "Return=minimal",
        'return="minimal"',
        "return = minimal",
        "respond-async, return=minimal",
        "return=minimal; foo=bar",
        "wait=10,return=minimal",
        ["wait=10", "return=minimal"],
    ],
)
async def test_return_minimal_leaves_out_bodies_of_items_that_succeeded(prefer: str) -> None:
    """`Prefer: return=minimal` leaves out the bodies of items that succeeded; the answer says `Preference-Applied`."""
    api = Api({"/no": answer('{"why": 1}', status=404)})
    items = [{"id": "a", "path": "/a"}, {"path": "/no"}, {"path": "//"}]
    reply = await send_batch(BatchMiddleware(api), items, headers={"Prefer": prefer})
    good, failed, refused = reply.responses
    assert good == {"id": "a", "status": 200, "headers": {"content-type": "application/json"}}
    assert failed["body"] == {"why": 1}
    assert failure(refused) == (400, "invalid_path")
    assert reply.header("preference-applied") == "return=minimal"
    assert reply.json()["summary"] == {"total": 3, "succeeded": 1, "failed": 2}


async def test_return_minimal_works_in_streams() -> None:
    """`Prefer: return=minimal` leaves out the same bodies in a streamed form."""
    headers = {"Prefer": "return=minimal", "Accept": "application/x-ndjson"}
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers=headers)
    assert "body" not in reply.lines[0]
    assert reply.header("preference-applied") == "return=minimal"


async def test_return_minimal_does_not_hide_values_from_vars() -> None:
    """`return=minimal` is a form of the answer: `vars` still find the body of an item that succeeded."""
    api = Api({"/a": value({"id": 7})})
    items = [{"id": "a", "path": "/a"}, {"path": "/b/{x}", "vars": {"x": "a#/body/id"}}]
    await send_batch(BatchMiddleware(api), items, headers={"Prefer": "return=minimal"})
    assert api.targets == ["/a", "/b/7"]


@pytest.mark.parametrize("prefer", [None, "return=representation", "respond-async", "x=return=minimal", "return"])
async def test_without_the_preference_bodies_are_there(prefer: str | None) -> None:
    """Without `return=minimal` bodies are given, and no preference was applied."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers={"Prefer": prefer})
    assert reply.only["body"]["target"] == "/a"
    assert reply.header("preference-applied") is None


# Statuses that HTTP does not have


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 103, 199, 600, 999, 1000])
async def test_a_status_outside_http_is_a_bad_response(status: int) -> None:
    """A status that no final answer has is `bad_response`."""
    api = Api({"/a": answer(status=status)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}])
    assert failures(reply) == [(502, "bad_response"), None]


@pytest.mark.parametrize("status", ["200", None, 200.5, b"200"])
async def test_a_status_that_is_no_number_fails_its_item_alone(status: object) -> None:
    """A status that is not even a number breaks its own item, not the document."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    reply = await send_batch(BatchMiddleware(Api({"/a": app})), [{"path": "/a"}, {"path": "/b"}])
    refused, beside = failures(reply)
    assert refused in [(502, "bad_response"), (500, "app_error")]
    assert beside is None


async def test_an_exchange_ends_with_one_message() -> None:
    """The outer answer is one well-formed ASGI answer: a start, a body, an end."""
    exchange = exchange_of(BatchMiddleware(Api()), [{"path": "/a"}])
    reply = await exchange.finished()
    assert [message["type"] for _, message in exchange.sent[:1]] == ["http.response.start"]
    assert reply.header("content-length") in (None, str(len(reply.body)))
