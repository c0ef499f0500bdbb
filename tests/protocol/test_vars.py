"""Section 4: values from other answers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, quote

import pytest
from hypothesis import given, settings, strategies as st

from batchproxy import BatchMiddleware

from .api import Api, answer, value
from .exchange import HOST, JSON, Reply, failures, send_batch
from .virtual_time import run

FAILED = (424, "reference_failed")


async def asked(item: JSON, document: JSON, pointer: str = "/body", **settings: Any) -> tuple[Reply, Api]:
    """Send an item that uses `{x}`, a value out of the answer of another one, whose body is `document`."""
    api = Api({"/source": value(document)})
    items = [{"id": "s", "path": "/source"}, {"vars": {"x": f"s#{pointer}"}, **item}]
    reply = await send_batch(BatchMiddleware(api, **settings), items)
    api.arrived = [arrived for arrived in api.arrived if arrived.path != "/source"]
    return reply, api


async def target_of(path: str, document: JSON, **more: JSON) -> str:
    """The target that a path with `{x}` becomes."""
    reply, api = await asked({"path": path, **more}, document)
    assert failures(reply) == [None, None], reply.responses[1]
    return api.only.target


async def refusal_of(item: JSON, document: JSON, **settings: Any) -> tuple[int, str]:
    """Status and code with which an item is refused, that must not reach the API."""
    reply, api = await asked(item, document, **settings)
    refused = failures(reply)[1]
    assert refused is not None, api.targets
    assert api.arrived == []
    return refused


async def body_of(body: JSON | bytes, document: JSON) -> bytes:
    """The body that a JSON body with `{x}` becomes."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    source = json.dumps(document)
    batch = (
        b"""{"requests": [{"id": "s", "path": "/source"},
        {"method": "POST", "path": "/b", "vars": {"x": "s#/body"}, "body": %b}]}"""
        % text
    )
    api = Api({"/source": answer(source)})
    reply = await send_batch(BatchMiddleware(api), batch)
    assert failures(reply) == [None, None], reply.responses[1]
    return api.arrived[1].body


# What a reference names


SOURCE: JSON = {"a": {"b": [10, {"c": "deep"}]}, "": "empty", "x/y": "slash", "m~n": "tilde", "0": "zero", "é": "e"}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("/status", "201"),
        ("/headers/location", "-items-7"),
        ("/headers/x-many/1", "second"),
        ("/id", "s"),
        ("/body/a/b/0", "10"),
        ("/body/a/b/1/c", "deep"),
        ("/body/", "empty"),
        ("/body/x~1y", "slash"),
        ("/body/m~0n", "tilde"),
        ("/body/0", "zero"),
        ("/body/é", "e"),
    ],
)
async def test_a_reference_is_an_id_and_a_pointer_into_its_answer(pointer: str, found: str) -> None:
    """Before the fragment an item's id; in it a JSON Pointer into that item's answer (`/status`, `/headers/…`)."""
    fields = [
        ("content-type", "application/json"),
        ("Location", "-items-7"),
        ("x-many", "first"),
        ("x-many", "second"),
    ]
    api = Api({"/source": answer(json.dumps(SOURCE), status=201, headers=fields)})
    items = [{"id": "s", "path": "/source"}, {"path": "/b/{x}", "vars": {"x": f"s#{pointer}"}}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [None, None]
    assert api.targets == ["/source", f"/b/{found}"]


@pytest.mark.parametrize(
    "pointer",
    [
        "/body/nothing",
        "/body/a/b/2",
        "/body/a/b/-",
        "/body/a/b/-1",
        "/body/a/b/01",
        "/body/a/b/x",
        "/body/a/nothing/deeper",
        "/body/a/b/0/x",
        "/nothing",
        "/headers/nothing",
        "/headers/Location",
        "/error",
        "/body/0/0",
    ],
)
async def test_a_missing_value_fails_the_item(pointer: str) -> None:
    """`reference_failed`: the value is missing."""
    reply, api = await asked({"path": "/b/{x}"}, SOURCE, pointer)
    assert failures(reply) == [None, FAILED]
    assert api.arrived == []


async def test_a_text_body_is_one_value() -> None:
    """The answer object is the entry: a body that is text there is a string for `vars`."""
    api = Api({"/source": answer("plain", headers=[("content-type", "text/plain")])})
    items = [{"id": "s", "path": "/source"}, {"path": "/b/{x}", "vars": {"x": "s#/body"}}]
    await send_batch(BatchMiddleware(api), items)
    assert api.targets == ["/source", "/b/plain"]


async def test_without_a_body_there_is_no_value() -> None:
    """`reference_failed`: an answer without content has no `/body`."""
    api = Api({"/source": answer("", status=204, headers=())})
    items = [{"id": "s", "path": "/source"}, {"path": "/b/{x}", "vars": {"x": "s#/body/id"}}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [None, FAILED]


async def test_vars_imply_depends_on() -> None:
    """`vars` implies `depends_on`: the item waits for the other, and fails with it; it may be a later one."""
    api = Api({"/source": value(7, takes=2)})
    items = [{"path": "/b/{x}", "vars": {"x": "s#/body"}}, {"id": "s", "path": "/source"}]
    await send_batch(BatchMiddleware(api), items)
    assert [(arrived.at, arrived.target) for arrived in api.arrived] == [(0, "/source"), (2, "/b/7")]
    failing = Api({"/source": value(7, status=400)})
    assert failures(await send_batch(BatchMiddleware(failing), items)) == [(424, "dependency_failed"), None]
    assert failing.targets == ["/source"]


async def test_an_item_may_use_several_values() -> None:
    """An item's path, query and header values and JSON body may use every declared name, as often as it likes."""
    api = Api({"/1": value({"id": 1}), "/2": value("two")})
    items = [
        {"id": "one", "path": "/1"},
        {"id": "two", "path": "/2"},
        {
            "method": "POST",
            "path": "/{x}/{y}/{x}?q={y}",
            "query": {"x": "{x}-{y}"},
            "headers": {"X-Both": ["{x}", "{y}{y}"]},
            "body": {"x": "{x}", "text": "{x} and {y}"},
            "vars": {"x": "one#/body/id", "y": "two#/body"},
        },
    ]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [None, None, None]
    arrived = api.arrived[-1]
    assert arrived.target == "/1/two/1?q=two&x=1-two"
    assert arrived.values("x-both") == ["1", "twotwo"]
    assert json.loads(arrived.body) == {"x": 1, "text": "1 and two"}


async def test_an_unknown_source_is_an_error_of_the_batch() -> None:
    """An unknown id in `vars` is an error of the whole batch."""
    api = Api()
    items = [{"id": "s", "path": "/a"}, {"path": "/b/{x}", "vars": {"x": "nothing#/body"}}]
    assert (await send_batch(BatchMiddleware(api), items)).refusal == (400, "unknown_id", "/requests/1/vars/x")
    assert api.arrived == []


@pytest.mark.parametrize("reference", ["s", "s#body", "#/body", "s/body", "", "s#/body/~", "s#/body/~2", "s#/~x"])
async def test_a_reference_has_one_form(reference: str) -> None:
    """`vars`: object name → `id#/pointer`; another form is a wrong value."""
    api = Api()
    items = [{"id": "s", "path": "/a"}, {"path": "/b/{x}", "vars": {"x": reference}}]
    assert (await send_batch(BatchMiddleware(api), items)).refusal == (400, "invalid_batch", "/requests/1/vars/x")
    assert api.arrived == []


# Declared names


async def test_only_declared_names_are_replaced() -> None:
    """Only names declared in `vars` are ever replaced, so text that happens to contain braces is safe."""
    item = {
        "method": "POST",
        "path": "/b/{x}",
        "query": {"q": "{y}{", "{x}": "}"},
        "headers": {"X-Braces": "{y} {} {{x} {x"},
        "body": {"{x}": "{y}", "text": "{ x} {X} {x }"},
    }
    reply, api = await asked(item, 7)
    assert failures(reply) == [None, None]
    assert api.only.path == "/b/7"
    assert api.only.header("x-braces") == "{y} {} {7 {x"
    assert json.loads(api.only.body) == {"{x}": "{y}", "text": "{ x} {X} {x }"}
    query = parse_qsl(api.only.target.partition("?")[2])
    assert query == [("q", "{y}{"), ("{x}", "}")]


async def test_without_vars_braces_are_text() -> None:
    """Without `vars` braces are text, in the path as well."""
    api = Api()
    item = {"method": "POST", "path": "/{x}", "headers": {"X-A": "{x}"}, "body": "{x}", "query": {"q": "{x}"}}
    await send_batch(BatchMiddleware(api), [item])
    assert (api.only.path, api.only.header("x-a"), api.only.body) == ("/{x}", "{x}", b'"{x}"')


@pytest.mark.parametrize(
    "item",
    [
        {"path": "/b"},
        {"path": "/b", "body": {"{x}": 1}, "method": "POST"},
        {"path": "/b", "body": "{x}", "body_encoding": "text", "method": "POST"},
        {"path": "/b", "headers": {"X-A": "{ x }"}},
    ],
)
async def test_a_declared_name_that_is_not_used_is_an_error(item: JSON) -> None:
    """A declared name that is not used is an error."""
    reply, api = await asked(item, 7)
    status, code, pointer = reply.refusal
    assert (status, code, pointer) == (400, "invalid_batch", "/requests/1/vars/x")
    assert api.arrived == []


@pytest.mark.parametrize("path", ["/{x}/{y}", "/{x}?q={y}", "/{x}/{X}"])
async def test_in_a_path_with_vars_every_name_is_declared(path: str) -> None:
    """In a path with `vars` a `{name}` that is not declared is an error."""
    reply, api = await asked({"path": path}, 7)
    assert reply.refusal == (400, "invalid_batch", "/requests/1/path")
    assert api.arrived == []


@pytest.mark.parametrize("name", ["uid", "user_id", "U2", "x" * 30])
async def test_a_name_may_be_any_identifier(name: str) -> None:
    """The member of `vars` is the name between the braces."""
    api = Api({"/source": value(7)})
    items = [{"id": "s", "path": "/source"}, {"path": f"/b/{{{name}}}", "vars": {name: "s#/body"}}]
    await send_batch(BatchMiddleware(api), items)
    assert api.targets[-1] == "/b/7"


# Path and query


@pytest.mark.parametrize(
    ("document", "segment"),
    [
        ("plain", "plain"),
        ("a b", "a%20b"),
        ("a&b=c", "a%26b%3Dc"),
        ("a?b#c", "a%3Fb%23c"),
        ("a%2fb", "a%252fb"),
        ("%2e%2e", "%252e%252e"),
        ("a;b", "a%3Bb"),
        ("x\r\nY: z", "x%0D%0AY%3A%20z"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("-._~", "-._~"),
        ("!$'()*+,:@", quote("!$'()*+,:@", safe="")),
        ("{x}", "%7Bx%7D"),
        (7, "7"),
        (-1.5, "-1.5"),
        (True, "true"),
        (False, "false"),
    ],
)
async def test_in_a_path_a_value_is_one_segment(document: JSON, segment: str) -> None:
    """In the path, RFC 6570 simple expansion: one segment, everything but unreserved characters percent-encoded."""
    reply, api = await asked({"path": "/b/{x}/c"}, document)
    outcome = failures(reply)[1]
    if outcome is None:
        assert api.only.target == f"/b/{segment}/c"
    else:
        # a fresh item may not have such a path either
        assert outcome in [(400, "invalid_path"), FAILED]
        assert document in ("%2e%2e",)


@pytest.mark.parametrize("document", ["a&b=c", "x\r\nY: z", "é", "a b", "#", "%", "+", 7, True, "{x}", "\x01"])
async def test_in_a_query_a_value_is_one_value(document: JSON) -> None:
    """In the query a value becomes one query value, wherever the query was written."""
    text = document if isinstance(document, str) else json.dumps(document)
    for more in ({"path": "/b?a=1&q={x}&z=2"}, {"path": "/b?a=1", "query": {"q": "{x}", "z": 2}}):
        reply, api = await asked(more, document)
        assert failures(reply) == [None, None]
        query = api.only.target.partition("?")[2]
        assert parse_qsl(query, strict_parsing=True) == [("a", "1"), ("q", text), ("z", "2")]
        assert "+" not in query


@pytest.mark.parametrize("document", ["1e400", "10000000000000000000000", "1.10"])
async def test_a_number_is_written_as_it_stood(document: str) -> None:
    """A scalar's text is what stood in the answer."""
    api = Api({"/source": answer(document)})
    items = [{"id": "s", "path": "/source"}, {"path": "/b/{x}", "vars": {"x": "s#/body"}}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [None, None]
    assert api.targets[-1] == f"/b/{document}"


@pytest.mark.parametrize("document", [None, {}, {"id": 7}, [], [1], {"$ref": "x"}])
@pytest.mark.parametrize(
    "item",
    [
        {"path": "/b/{x}"},
        {"path": "/b?q={x}"},
        {"path": "/b", "query": {"q": "{x}"}},
        {"path": "/b", "headers": {"X-A": "{x}"}},
        {"path": "/b", "method": "POST", "body": "a {x}"},
    ],
)
async def test_scalars_only(item: JSON, document: JSON) -> None:
    """In path, query, header and inside a longer string scalars only; another value is `reference_failed`."""
    assert await refusal_of(item, document) == FAILED


@pytest.mark.parametrize("document", ["../../admin", "a/b", "/", "a\\b", "..\\admin", "http://evil/"])
@pytest.mark.parametrize("item", [{"path": "/b/{x}"}, {"path": "/b?q={x}"}, {"path": "/b", "query": {"q": "{x}"}}])
async def test_a_value_with_a_slash_fails(item: JSON, document: str) -> None:
    """A value with `/` or `\\` in it is `reference_failed`, in the path and in the query."""
    assert await refusal_of(item, document) == FAILED


@pytest.mark.parametrize(("path", "document"), [("/b/{x}", ".."), ("/b/{x}", "."), ("/{x}.", "."), ("/b/{x}/c", "")])
async def test_the_result_passes_the_path_checks(path: str, document: str) -> None:
    """The result passes the same path checks as a fresh item."""
    assert await refusal_of({"path": path}, document) in [(400, "invalid_path"), FAILED]


@pytest.mark.parametrize(
    ("path", "document", "status", "code"),
    [
        ("/{x}", "admin", 403, "forbidden"),
        ("/{x}/y", "admin", 403, "forbidden"),
        ("/adm{x}", "in", 403, "forbidden"),
        ("/{x}", "batch", 400, "nested_batch"),
        ("/b{x}", "atch", 400, "nested_batch"),
        ("/{x}", "y" * 2000, 414, "path_too_long"),
        ("/b?q={x}", "y" * 2000, 414, "path_too_long"),
    ],
)
async def test_the_result_passes_the_policy(path: str, document: str, status: int, code: str) -> None:
    """The result passes the same checks and policy as a fresh item: deny, the nested batch, the length."""
    settings: JSON = {"deny": ["/admin/**"], "max_path_bytes": 1000}
    assert await refusal_of({"path": path, "method": "POST"}, document, **settings) == (status, code)


async def test_the_result_needs_to_be_allowed() -> None:
    """The result passes the same policy as a fresh item: allow."""
    settings: JSON = {"allow": ["/source", "/b/a"]}
    assert await refusal_of({"path": "/b/{x}"}, "c", **settings) == (403, "forbidden")
    assert (await asked({"path": "/b/{x}"}, "a", **settings))[1].targets == ["/b/a"]


async def test_the_result_counts_for_caps() -> None:
    """The result passes the same policy as a fresh item: caps."""
    api = Api({"/source": value("once")})
    items = [
        {"id": "s", "path": "/source"},
        {"path": "/{x}", "vars": {"x": "s#/body"}},
        {"path": "/o{x}", "vars": {"x": "t#/body"}},
        {"id": "t", "path": "/t"},
    ]
    api.routes["/t"] = value("nce")
    reply = await send_batch(BatchMiddleware(api, max_per_batch={"/once": 1}), items)
    assert sorted(filter(None, failures(reply))) == [(429, "too_many_for_route")]
    assert api.targets.count("/once") == 1


# A whole path


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/items/7", "/items/7"),
        ("/items/7?a=1&b=%20", "/items/7?a=1&b=%20"),
        ("/items/a%2Fb", "/items/a%2Fb"),
        (f"http://{HOST}/items/7", "/items/7"),
        (f"http://{HOST}/items/7?a=1", "/items/7?a=1"),
        ("/items/a b", "/items/a%20b"),
    ],
)
async def test_a_path_may_be_a_whole_value(location: str, target: str) -> None:
    """A `path` that is exactly `{name}` takes the whole value: origin-form, or absolute with its own origin."""
    fields = [("Location", location)]
    api = Api({"/source": answer(status=201, headers=fields)})
    items = [{"id": "s", "path": "/source"}, {"path": "{x}", "vars": {"x": "s#/headers/location"}}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [None, None]
    assert api.targets == ["/source", target]


async def test_query_is_added_to_a_whole_path() -> None:
    """A `path` that is exactly `{name}` may be given a `query`, which is added to the value's."""
    assert await target_of("{x}", "/items?a=1", query={"b": 2}) == "/items?a=1&b=2"


@pytest.mark.parametrize(
    "document",
    [
        "http://evil.example/items",
        "https://evil.example/",
        f"https://{HOST}/items",
        f"http://{HOST}:8080/items",
        f"http://{HOST}.evil.example/items",
        f"http://{HOST}@evil.example/items",
        f"http://user@{HOST}/items",
        f"ftp://{HOST}/items",
        f"//{HOST}/items",
        "//evil.example/items",
        "/\\evil.example",
        "items",
        "",
        "?a=1",
        "/../admin",
        "/a/%2e%2e/b",
        f"http://{HOST}/../admin",
        f"http://{HOST}//evil",
        "/a#b",
        "/a\r\nX: y",
        "/a//b",
        "/%zz",
        7,
        None,
        ["/a"],
        {"a": "/a"},
    ],
)
async def test_a_whole_path_is_checked(document: JSON) -> None:
    """A whole value as `path`: another origin, another form, and whatever a fresh item may not have, is refused."""
    assert await refusal_of({"path": "{x}"}, document) in [(400, "invalid_path"), FAILED]


@pytest.mark.parametrize("document", ["/admin", "/admin/x", f"http://{HOST}/admin", "/%61dmin"])
async def test_a_whole_path_passes_the_policy(document: str) -> None:
    """A whole value as `path` passes the same checks, the policy included."""
    assert await refusal_of({"path": "{x}"}, document, deny=["/admin/**"]) == (403, "forbidden")


async def test_a_whole_path_may_be_no_batch() -> None:
    """A whole value as `path` passes the same checks, the nested-batch check included."""
    assert await refusal_of({"path": "{x}"}, "/batch") == (400, "nested_batch")


@pytest.mark.parametrize(
    ("document", "target"),
    [
        ("/api/items/7", "/api/items/7"),
        (f"http://{HOST}/api/items/7", "/api/items/7"),
        ("/api", "/api"),
        ("/items/7", None),
        ("/apiary", None),
        ("/", None),
        (f"http://{HOST}/other", None),
        ("/%61pi/items", None),
    ],
)
async def test_a_whole_path_lies_under_base_path(document: str, target: str | None) -> None:
    """A whole value as `path` must lie under `base_path`, which is not put before it again."""
    api = Api({"/api/source": value(document)})
    items = [{"id": "s", "path": "/source"}, {"path": "{x}", "vars": {"x": "s#/body"}}]
    reply = await send_batch(BatchMiddleware(api, base_path="/api"), items)
    if target is None:
        assert failures(reply)[1] in [(400, "invalid_path"), FAILED]
        assert api.targets == ["/api/source"]
    else:
        assert failures(reply) == [None, None]
        assert api.targets == ["/api/source", target]


async def test_a_value_inside_a_path_has_the_base_path_before_it() -> None:
    """Only a path that is exactly `{name}` is whole; any other has `base_path` before it."""
    api = Api({"/api/source": value("7")})
    items = [{"id": "s", "path": "/source"}, {"path": "/{x}", "vars": {"x": "s#/body"}}]
    await send_batch(BatchMiddleware(api, base_path="/api"), items)
    assert api.targets == ["/api/source", "/api/7"]


# Headers


@pytest.mark.parametrize(
    ("document", "sent"),
    [("v1", "v1"), ('"etag"', '"etag"'), (7, "7"), (True, "true"), ("é", "é"), ("a/b\\c", "a/b\\c")],
)
async def test_in_a_header_a_value_is_text(document: JSON, sent: str) -> None:
    """In a header: scalars, as their text."""
    reply, api = await asked({"path": "/b", "headers": {"If-Match": "{x}", "X-A": "a {x} b"}}, document)
    assert failures(reply) == [None, None]
    assert (api.only.header("if-match"), api.only.header("x-a")) == (sent, f"a {sent} b")


@pytest.mark.parametrize("document", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\x00b", "\r\n", "日本"])
async def test_a_value_cannot_inject_a_header(document: str) -> None:
    """In a header CR, LF and NUL are refused, and what no header value may hold."""
    assert await refusal_of({"path": "/b", "headers": {"X-A": "{x}"}}, document) in [FAILED, (400, "invalid_header")]


async def test_header_names_are_not_replaced() -> None:
    """The item's header values may use `{name}`: names are not replaced."""
    reply, _ = await asked({"path": "/b/{x}", "headers": {"{x}": "1"}}, "X-Forwarded-For")
    assert failures(reply) == [None, (400, "invalid_header")]


async def test_headers_with_values_keep_their_limit() -> None:
    """A header with a value in it counts with that value."""
    item = {"path": "/b", "headers": {"X-A": "{x}"}}
    assert await refusal_of(item, "y" * 2000, max_header_bytes=1000) == (431, "headers_too_large")


# JSON bodies


@pytest.mark.parametrize("document", ["text", 7, 1.5, True, None, [], [1, {"a": None}], {"id": 7, "a": ["x"]}, ""])
async def test_a_string_that_is_the_name_becomes_the_value(document: JSON) -> None:
    """In a JSON body a string that is exactly `"{uid}"` becomes the JSON value, whatever its type."""
    assert json.loads(await body_of({"a": "{x}", "l": ["{x}"]}, document)) == {"a": document, "l": [document]}
    assert json.loads(await body_of("{x}", document)) == document


@pytest.mark.parametrize(
    ("document", "text"),
    [("x", "x"), (7, "7"), (-0.5, "-0.5"), (True, "true"), ('"\\\n\x01é😀', '"\\\n\x01é😀'), ("", "")],
)
async def test_inside_a_longer_string_a_value_is_text(document: JSON, text: str) -> None:
    """Inside a longer string: a scalar's text."""
    assert json.loads(await body_of(["a {x} b", "{x}{x}", " {x}"], document)) == [f"a {text} b", text * 2, f" {text}"]


async def test_a_json_value_keeps_its_bytes() -> None:
    """The JSON value is put in as it stood in the other answer."""
    api = Api({"/source": answer('{"n": 12345678901234567890.10, "s": "\\u00e9"}')})
    items = [
        {"id": "s", "path": "/source"},
        {"method": "POST", "path": "/b", "vars": {"x": "s#/body/n"}, "body": ["{x}"]},
    ]
    await send_batch(BatchMiddleware(api), items)
    assert api.arrived[1].body == b"[12345678901234567890.10]"


async def test_every_other_byte_stays() -> None:
    """Only string tokens that contain a declared name change, never object keys; every other byte stays."""
    body = (
        b'{ "{x}" : "{x}" ,\n "n": 1.10, "e": 1E5, "u": "\\u00e9\\/ {y}", "k": {"{x}":[ "{x}" ,null]}, "d": 1, "d": 2 }'
    )
    expected = b'{ "{x}" : 7 ,\n "n": 1.10, "e": 1E5, "u": "\\u00e9\\/ {y}", "k": {"{x}":[ 7 ,null]}, "d": 1, "d": 2 }'
    assert await body_of(body, 7) == expected


async def test_escapes_are_read_before_names() -> None:
    """A string token stands for its characters: an escaped brace is a brace, an escaped quote ends nothing."""
    assert json.loads(await body_of(rb'["\u007bx}", "a\"{x}\"", "\\{x}", "\\"]', 7)) == [7, 'a"7"', "\\7", "\\"]


@pytest.mark.parametrize("document", ["{x}", "{y}", "{x}{y}", '"{x}"'])
async def test_a_value_is_not_expanded_again(document: str) -> None:
    """One pass: text that came from a value is not expanded again."""
    assert json.loads(await body_of(["{x}", "a{x}"], document)) == [document, f"a{document}"]
    api = Api({"/source": value({"a": document, "b": "B"})})
    item = {
        "path": "/b",
        "headers": {"X-A": "{x}{y}"},
        "query": {"q": "{y}{x}"},
        "vars": {"x": "s#/body/a", "y": "s#/body/b"},
    }
    await send_batch(BatchMiddleware(api), [{"id": "s", "path": "/source"}, item])
    assert api.arrived[1].header("x-a") == f"{document}B"
    assert parse_qsl(api.arrived[1].target.partition("?")[2]) == [("q", f"B{document}")]


async def test_a_value_cannot_leave_its_place_in_a_body() -> None:
    """A value is inserted as a JSON value: what it holds changes nothing around it."""
    for document in ('"}],"x":[', "\\", '\\"', "\u2028", "a\r\nb", '{"$ref": 1}'):
        assert json.loads(await body_of({"a": "{x}", "b": "<{x}>"}, document)) == {"a": document, "b": f"<{document}>"}


async def test_a_lone_surrogate_is_inert() -> None:
    """A value that no UTF-8 can stand for is refused or harmless, and the document stays valid."""
    api = Api({"/source": answer('{"a": "\\ud800"}')})
    for item in ({"path": "/b/{x}"}, {"path": "/b", "headers": {"X": "{x}"}}, {"path": "/b", "body": "{x}"}):
        items = [{"id": "s", "path": "/source"}, {**item, "vars": {"x": "s#/body/a"}}]
        assert failures(await send_batch(BatchMiddleware(api), items)) == [None, FAILED]


async def test_the_length_of_a_completed_body_is_declared() -> None:
    """A body with values in it is framed anew."""
    reply, api = await asked({"method": "POST", "path": "/b", "body": ["{x}"]}, "long enough")
    assert failures(reply) == [None, None]
    assert api.only.values("content-length") == [str(len(api.only.body))]
    assert api.only.header("content-type") == "application/json"


@pytest.mark.parametrize(("size", "accepted"), [(256 * 1024, True), (256 * 1024 + 1, False)])
async def test_a_json_body_with_vars_is_bounded(size: int, accepted: bool) -> None:
    """In a JSON body with `vars` (up to 256 KiB)."""
    padding = "y" * (size - len('["{x}", ""]'))
    reply, api = await asked({"method": "POST", "path": "/b", "body": ["{x}", padding]}, 7)
    if accepted:
        assert failures(reply) == [None, None]
        assert json.loads(api.only.body) == [7, padding]
    else:
        assert failures(reply) == [None, (413, "body_too_large")]
        assert api.arrived == []


@pytest.mark.parametrize("encoding", ["text", "base64"])
async def test_other_bodies_are_not_replaced(encoding: str) -> None:
    """Path, query, headers and a JSON body may use `{name}`; another body is sent as it is."""
    item = {"method": "POST", "path": "/b/{x}", "body_encoding": encoding}
    body = "{x}" if encoding == "text" else "e3h9"
    reply, api = await asked({**item, "body": body}, 7)
    assert failures(reply) == [None, None]
    assert api.only.body == b"{x}"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.integers() | st.booleans())
def test_no_value_gets_out_of_its_place(document: JSON) -> None:
    """Whatever the value is, it is refused, or stands as one segment, one query value, one header, one string."""
    text = document if isinstance(document, str) else json.dumps(document)

    async def scenario() -> None:
        reply, api = await asked({"path": "/b/{x}/c", "query": {"q": "{x}", "r": 1}}, document)
        if failures(reply)[1] is None:
            assert api.only.path == f"/b/{text}/c"
            assert "/" not in text
            query = parse_qsl(api.only.target.partition("?")[2], keep_blank_values=True, strict_parsing=True)
            assert query == [("q", text), ("r", "1")]
        _, api = await asked({"path": "/b", "headers": {"X-A": "<{x}>"}}, document)
        for arrived in api.arrived:
            assert arrived.values("x-a") == [f"<{text}>"]
        assert json.loads(await body_of(["{x}", "<{x}>"], document)) == [document, f"<{text}>"]

    run(scenario())
