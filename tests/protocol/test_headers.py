"""Section 1, "Inherited headers": which headers an item has, and which it may not set."""

from __future__ import annotations

from typing import Any

import pytest

from batchproxy import BatchMiddleware

from .api import Api, answer
from .exchange import CLIENT, HOST, JSON, HeaderMap, failure, failures, send_batch

INHERITED = {
    "Authorization": "Bearer t0ken",
    "Cookie": "a=1; b=2",
    "Accept-Language": "de",
    "User-Agent": "client/1",
    "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Tracestate": "a=b",
    "Baggage": "k=v",
    "X-Custom": "custom",
    "X_Underscored": "as it came",
    "X-Forwarded-For": "198.51.100.7",
    "X-Real-IP": "198.51.100.7",
    "Forwarded": "for=198.51.100.7",
    "Via": "1.1 front",
    "Cache-Control": "no-cache",
    "Priority": "u=1",
}

NEVER_INHERITED = {
    "Content-Language": "de",
    "Content-Location": "/x",
    "Content-Disposition": "inline",
    "Content-Custom": "x",
    "Content-Digest": "sha-256=:x:",
    "Accept": "application/json",
    "Accept-Encoding": "gzip, br",
    "Prefer": "respond-async",
    "If-Match": '"1"',
    "If-None-Match": '"1"',
    "If-Modified-Since": "Tue, 24 Nov 2026 00:00:00 GMT",
    "If-Unmodified-Since": "Tue, 24 Nov 2026 00:00:00 GMT",
    "If-Range": '"1"',
    "If-Custom": "x",
    "Range": "bytes=0-1",
    "Expect": "100-continue",
    "Idempotency-Key": "k",
    "Digest": "sha-256=x",
    "Repr-Digest": "sha-256=:x:",
    "Unencoded-Digest": "sha-256=:x:",
    "Signature": "sig=:x:",
    "Signature-Input": 'sig=("@method")',
    "DPoP": "x",
    # hop by hop
    "Keep-Alive": "timeout=5",
    "Proxy-Connection": "keep-alive",
    "Proxy-Authorization": "Basic x",
    "Proxy-Authenticate": "Basic",
    "TE": "trailers",
    "Trailer": "Expires",
    "Upgrade": "h2c",
    "HTTP2-Settings": "x",
}

NEVER_SETTABLE = [
    # hop by hop
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "HTTP2-Settings",
    "Expect",
    # framing and target
    "Host",
    "Content-Length",
    # where the client is
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Email",
    "X-Forwarded-Anything",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Remote-IP",
    "X-Remote-Addr",
    "X-Originating-IP",
    "True-Client-IP",
    "Client-IP",
    "CF-Connecting-IP",
    "Fastly-Client-IP",
    "Fly-Client-IP",
    "X-Azure-ClientIP",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
    # loops
    "Via",
    "CDN-Loop",
    "Proxy-Anything",
    # browsers
    "Origin",
    "Sec-Fetch-Site",
    "Sec-Anything",
    # another method or another URL
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X-Rewrite-URL",
]


async def sent_headers(item: JSON, outer: HeaderMap | None = None, **settings: Any) -> list[tuple[str, str]]:
    """The headers with which an item reaches the API."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, **settings), [{"path": "/a", **item}], headers=outer)
    assert failure(reply.only) is None
    return api.only.headers


def twins(name: str) -> list[str]:
    return [name, name.lower(), name.upper(), name.replace("-", "_"), name.lower().replace("-", "_", 1)]


# Inherited


async def test_an_item_has_the_end_to_end_headers_of_the_batch() -> None:
    """An item has the outer request's end-to-end headers, each once and with its value."""
    outer = {**INHERITED, **NEVER_INHERITED}
    del outer["Expect"]
    seen = await sent_headers({}, outer)
    assert sorted(seen) == sorted([("host", HOST), *((name.lower(), value) for name, value in INHERITED.items())])


@pytest.mark.parametrize("name", NEVER_INHERITED)
async def test_what_belongs_to_the_batch_is_not_inherited(name: str) -> None:
    """Never inherited: what describes the outer message, its conditions and its connection."""
    seen = await sent_headers({}, {name: NEVER_INHERITED[name]})
    assert name.lower() not in dict(seen)


async def test_the_framing_of_the_batch_is_not_inherited() -> None:
    """Never inherited: the outer `Content-Type`, `Content-Length` and `Transfer-Encoding`."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    assert not {"content-type", "content-length", "transfer-encoding"} & set(dict(api.only.headers))
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": "/a"}], headers={"transfer-encoding": "chunked"})
    assert not {"content-type", "content-length", "transfer-encoding"} & set(dict(api.only.headers))


async def test_what_a_browser_says_is_inherited() -> None:
    """An item has the outer request's end-to-end headers, those of a browser page as well."""
    outer = {"Origin": f"http://{HOST}", "Referer": f"http://{HOST}/page", "Sec-Fetch-Site": "same-origin", "DNT": "1"}
    seen = dict(await sent_headers({}, outer))
    assert {name: seen.get(name.lower()) for name in outer} == outer


async def test_what_connection_lists_is_not_inherited() -> None:
    """Never inherited: hop-by-hop headers and those that `Connection` lists, in any letter case."""
    outer = {"Connection": "close, X-LISTED ,x-too", "X-Listed": "1", "x-TOO": "2", "X-Kept": "3"}
    seen = dict(await sent_headers({}, outer))
    assert (seen.get("connection"), seen.get("x-listed"), seen.get("x-too"), seen["x-kept"]) == (None, None, None, "3")


async def test_a_header_that_came_twice_is_inherited_twice() -> None:
    """An inherited header keeps all its fields, in their order."""
    seen = await sent_headers({}, {"X-Many": ["1", "2", "3"]})
    assert [value for name, value in seen if name == "x-many"] == ["1", "2", "3"]


async def test_every_item_has_the_client_and_host_of_the_batch() -> None:
    """Items are sent by the same caller over the same connection path: client, host, scheme, HTTP version."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"path": "/b"}], more_scope={"scheme": "https"})
    for arrived in api.arrived:
        assert arrived.scope["client"] == CLIENT
        assert arrived.header("host") == HOST
        assert (arrived.scope["scheme"], arrived.scope["server"]) == ("https", (HOST, 80))


# An item's own


async def test_an_item_replaces_inherited_headers_by_name() -> None:
    """An item's own headers replace the inherited ones name by name, all fields of a name, in any letter case."""
    outer = {"Authorization": "outer", "X-Many": ["1", "2"], "X-Kept": "kept"}
    seen = await sent_headers({"headers": {"AUTHORIZATION": "own", "x-many": "3", "X-New": "new"}}, outer)
    assert [pair for pair in seen if pair[0] != "host"] == [
        ("x-kept", "kept"),
        ("authorization", "own"),
        ("x-many", "3"),
        ("x-new", "new"),
    ]


async def test_a_header_may_have_several_values() -> None:
    """`headers` maps a name to a string or a list of strings; a list gives several fields."""
    seen = await sent_headers({"headers": {"X-Many": ["1", "2"], "X-One": ["3"]}})
    assert [value for name, value in seen if name == "x-many"] == ["1", "2"]
    assert [value for name, value in seen if name == "x-one"] == ["3"]


async def test_headers_of_one_item_are_not_those_of_another() -> None:
    """The headers are the item's own: a neighbour has only what it inherits."""
    api = Api()
    items = [{"path": "/a", "headers": {"X-Own": "1", "Authorization": "own"}}, {"path": "/b"}]
    await send_batch(BatchMiddleware(api), items, headers={"Authorization": "outer"})
    own, neighbour = api.arrived
    assert (own.header("x-own"), own.header("authorization")) == ("1", "own")
    assert (neighbour.header("x-own"), neighbour.header("authorization")) == (None, "outer")


@pytest.mark.parametrize(
    "name", ["Accept", "If-None-Match", "Range", "Prefer", "Idempotency-Key", "Content-Language", "Digest", "DPoP"]
)
async def test_what_is_not_inherited_may_be_the_items_own(name: str) -> None:
    """What is never inherited, because it belongs to one message, an item may set for itself."""
    seen = await sent_headers({"headers": {name: "own"}}, {name: "outer"} if name != "Accept" else {})
    assert [value for each, value in seen if each == name.lower()] == ["own"]


@pytest.mark.parametrize(
    "headers", [{"X-A": "1", "x-a": "2"}, {"ACCEPT": "a", "Accept": "b"}, {"Content-Type": "a", "content-type": "b"}]
)
async def test_a_name_in_two_letter_cases_is_an_error(headers: JSON) -> None:
    """The same name twice in different letter case is an error, of its item."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "headers": headers}, {"path": "/b"}])
    assert failures(reply) == [(400, "invalid_header"), None]
    assert api.targets == ["/b"]


async def test_a_value_is_latin_1() -> None:
    """A header value reaches the API byte for byte, also above ASCII."""
    seen = dict(await sent_headers({"headers": {"X-A": "caf\u00e9 \u00ff", "X-Tab": "a\tb", "X-Empty": ""}}))
    assert (seen["x-a"], seen["x-tab"], seen["x-empty"]) == ("caf\u00e9 \u00ff", "a\tb", "")


# Never settable


@pytest.mark.parametrize("name", NEVER_SETTABLE)
async def test_what_the_connection_says_may_not_be_set(name: str) -> None:
    """Never settable by an item, in any letter case, and their underscore twins: refused, not silently changed."""
    api = Api()
    spellings = list(dict.fromkeys(twins(name)))
    items = [{"path": f"/{index}", "headers": {each: "1"}} for index, each in enumerate(spellings)]
    reply = await send_batch(BatchMiddleware(api), [*items, {"path": "/beside"}])
    assert failures(reply) == [(400, "header_refused")] * len(spellings) + [None]
    assert api.targets == ["/beside"]


@pytest.mark.parametrize("value", ["", "close", ["a", "b"], []])
async def test_a_refused_name_is_refused_with_any_value(value: JSON) -> None:
    """An item that sets a refused header is refused, whatever the value."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a", "headers": {"X-Forwarded-For": value}}])
    assert failure(reply.only) == (400, "header_refused")


@pytest.mark.parametrize("name", ["X-User", "x-user", "X_USER", "X_User", "x-Client-cert", "X_Client_Cert"])
async def test_protected_headers_may_not_be_set(name: str) -> None:
    """Never settable: whatever the setting `protected_headers` adds, in any letter case, and the underscore twins."""
    api = Api()
    app = BatchMiddleware(api, protected_headers=["X-User", "X_Client_Cert"])
    items = [{"path": "/a", "headers": {name: "root"}}, {"path": "/b"}]
    reply = await send_batch(app, items, headers={"X-User": "alice"})
    assert failures(reply) == [(400, "header_refused"), None]
    assert api.only.header("x-user") == "alice"


async def test_unprotected_headers_may_be_set() -> None:
    """Without `protected_headers` an identity header is like any other."""
    assert dict(await sent_headers({"headers": {"X-User": "a"}}))["x-user"] == "a"


@pytest.mark.parametrize("name", ["Accept-Encoding", "accept-encoding", "ACCEPT-ENCODING"])
async def test_accept_encoding_of_an_item_is_ignored(name: str) -> None:
    """An item's `Accept-Encoding` is ignored; items are sent without any."""
    seen = await sent_headers({"headers": {name: "gzip", "X-Kept": "1"}}, {"Accept-Encoding": "br"})
    assert "accept-encoding" not in dict(seen)
    assert dict(seen)["x-kept"] == "1"


# Cookies from browsers


@pytest.mark.parametrize(
    "browser",
    [
        {"Origin": f"http://{HOST}"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Dest": "empty"},
    ],
)
@pytest.mark.parametrize("name", ["Cookie", "cookie", "COOKIE"])
async def test_a_page_may_not_set_cookies(browser: HeaderMap, name: str) -> None:
    """`Cookie` is never settable when the outer request comes from a browser page (`Origin` or `Sec-Fetch-*`)."""
    api = Api()
    items = [{"path": "/a", "headers": {name: "s=stolen"}}, {"path": "/b"}]
    reply = await send_batch(BatchMiddleware(api), items, headers={**browser, "Cookie": "s=own"})
    assert failures(reply) == [(400, "header_refused"), None]
    assert api.only.header("cookie") == "s=own"


async def test_another_client_may_set_cookies() -> None:
    """`Cookie` is settable when the outer request does not come from a browser page."""
    seen = await sent_headers({"headers": {"Cookie": "s=own"}}, {"Cookie": "s=outer"})
    assert [value for name, value in seen if name == "cookie"] == ["s=own"]


# Grammar


@pytest.mark.parametrize(
    "value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\x00b", "\r\n", "a\x0bb", "a\x7fb", "\x1b[2J", "日本", "😀"]
)
async def test_a_value_cannot_inject(value: str) -> None:
    """A header value with CR, LF, NUL, another control character or one above latin-1 is `invalid_header`."""
    api = Api()
    for each in (value, ["ok", value]):
        reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "headers": {"X-A": each}}, {"path": "/b"}])
        assert failures(reply) == [(400, "invalid_header"), None]
    assert api.targets == ["/b", "/b"]


@pytest.mark.parametrize(
    "name", ["", " ", "X A", "X-A ", " X-A", "X-A:", "X\r\nY", "X\n", "X\x00", "X(", "é", "X\u2028", "a/b", "a@b", "[]"]
)
async def test_a_name_cannot_inject(name: str) -> None:
    """A header name is a token; another one is `invalid_header`, and the app is not called."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "headers": {name: "x"}}, {"path": "/b"}])
    assert failures(reply) == [(400, "invalid_header"), None]
    assert api.targets == ["/b"]


async def test_a_token_may_have_any_of_its_characters() -> None:
    """Every name that HTTP allows is allowed."""
    name = "x!#$%&'*+-.^`|~0"
    assert dict(await sent_headers({"headers": {name: "1"}}))[name] == "1"


async def test_the_framing_is_made_for_the_body() -> None:
    """An item has exactly one framing header, equal to the length of its body."""
    api = Api()
    bodies = ["", "x", "y" * (64 * 1024 + 1)]
    items = [{"method": "POST", "path": "/a", "body": body, "body_encoding": "text"} for body in bodies]
    await send_batch(BatchMiddleware(api), items)
    for arrived, body in zip(api.arrived, bodies, strict=True):
        assert arrived.body == body.encode()
        assert arrived.values("transfer-encoding") == []
        assert arrived.values("content-length") == [str(len(body))] or not body


async def test_a_giant_map_of_headers_is_refused() -> None:
    """A giant header map is refused for its item; the others go on."""
    api = Api()
    headers = {f"X-{number}": "1" for number in range(100_000)}
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a", "headers": headers}, {"path": "/b"}])
    assert failures(reply) == [(431, "headers_too_large"), None]
    assert api.targets == ["/b"]


# Answers


async def test_headers_of_an_answer_are_lossless() -> None:
    """The headers of an item live inside JSON alone: bytes above ASCII are kept, and the document stays valid."""
    fields = [
        ("X-Latin", "\xff\x80é"),
        ("X-Huge", "h" * 100_000),
        ("X-Quote", '"\\'),
        ("X-Split", "a\r\nSet-Cookie: b"),
    ]
    api = Api({"/a": answer(headers=fields)})
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    headers = reply.only["headers"]
    assert (headers["x-latin"], headers["x-quote"], len(headers["x-huge"])) == ("\xff\x80é", '"\\', 100_000)
    assert headers.get("x-split") in ("a\r\nSet-Cookie: b", None)
    assert "set-cookie" not in headers
    assert not any("\n" in value for _, value in reply.headers)
