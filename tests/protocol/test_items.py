"""Section 1: what a batch and an item are made of."""

from __future__ import annotations

import base64
from urllib.parse import parse_qsl

import pytest

from batchproxy import BatchMiddleware, Endpoint

from .api import Api, answer
from .exchange import JSON, ask, failure, failures, send_batch, written

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"


# The request


async def test_a_batch_is_posted_to_a_path_that_is_a_setting() -> None:
    """`POST /batch`: the path is a setting; its default is `/batch`."""
    by_default, set_otherwise = Api(), Api()
    reply = await send_batch(BatchMiddleware(by_default), [{"path": "/a"}])
    assert (reply.only["status"], by_default.targets) == (200, ["/a"])
    reply = await send_batch(BatchMiddleware(set_otherwise, path="/v1/bulk"), [{"path": "/b"}], path="/v1/bulk")
    assert (reply.only["status"], set_otherwise.targets) == (200, ["/b"])


async def test_other_paths_reach_the_app_untouched() -> None:
    """Only the endpoint's own path is the endpoint: neighbours, and paths below it, are the API's."""
    api = Api()
    app = BatchMiddleware(api)
    paths = ["/", "/batches", "/batch/1", "/Batch", "/x/batch"]
    for path in paths:
        reply = await ask(app, path=path, body=b"as it is")
        assert reply.json()["body"] == "as it is"
    assert api.targets == paths


async def test_several_endpoints_live_side_by_side() -> None:
    """Several batch endpoints may live side by side, each with its own settings."""
    api = Api()
    app = BatchMiddleware(api, endpoints=[Endpoint(path="/batch"), Endpoint(path="/other", max_items=1)])
    two = [{"path": "/a"}, {"path": "/b"}]
    assert [entry["status"] for entry in (await send_batch(app, two)).responses] == [200, 200]
    assert (await send_batch(app, two, path="/other")).refusal[1] == "too_many_items"
    assert (await send_batch(app, two[:1], path="/other")).only["status"] == 200


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "Application/JSON",
        "application/vnd.api+json",
        "text/x-batch+json",
        "application/merge-patch+json ; profile=x",
    ],
)
async def test_json_media_types_are_read(media_type: str) -> None:
    """`Content-Type: application/json` or `*/*+json`."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}], headers={"content-type": media_type})
    assert reply.only["status"] == 200


async def test_the_example_of_the_page_runs() -> None:
    """The batch that the page begins with does what the page says."""
    api = Api({"/api/users": answer('{"id": 7}', status=201)})
    document = b"""{
      "requests": [
        {"method": "GET", "path": "/api/item1"},
        {"id": "create", "method": "POST", "path": "/api/users", "body": {"name": "Ada"}},
        {"id": "avatar", "method": "PUT", "path": "/api/users/{uid}/avatar", "vars": {"uid": "create#/body/id"},
         "headers": {"content-type": "image/png"}, "body": "iVBORw0KGgo=", "body_encoding": "base64"}
      ],
      "options": {"execution": "parallel", "on_error": "continue", "timeout": 20}
    }"""
    reply = await send_batch(BatchMiddleware(api), document)
    assert [entry["status"] for entry in reply.responses] == [200, 201, 200]
    assert [(each.method, each.target) for each in api.arrived] == [
        ("GET", "/api/item1"),
        ("POST", "/api/users"),
        ("PUT", "/api/users/7/avatar"),
    ]
    assert [each.body for each in api.arrived] == [b"", b'{"name": "Ada"}', b"\x89PNG\r\n\x1a\n"]
    assert [each.header("content-type") for each in api.arrived] == [None, "application/json", "image/png"]


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        (b"[]", ("", None)),
        (b"null", ("", None)),
        (b'"requests"', ("", None)),
        (b"{}", ("/requests", "", None)),
        (b'{"requests": null}', ("/requests",)),
        (b'{"requests": {}}', ("/requests",)),
        (b'{"requests": [{"path": "/a"}, null]}', ("/requests/1",)),
        (b'{"requests": ["/a"]}', ("/requests/0",)),
        (b'{"requests": [[]]}', ("/requests/0",)),
    ],
)
async def test_a_batch_is_an_object_with_a_list_of_objects(document: bytes, pointer: tuple[str | None, ...]) -> None:
    """The document is an object, `requests` a list, an item an object."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), document)
    status, code, at = reply.refusal
    assert (status, code) == (400, "invalid_batch")
    assert at in pointer
    assert api.arrived == []


async def test_an_empty_batch_is_answered_with_no_responses() -> None:
    """An empty `requests` is answered 200 with no responses."""
    reply = await send_batch(BatchMiddleware(Api()), [])
    assert reply.json() == {"responses": [], "summary": {"total": 0, "succeeded": 0, "failed": 0}}


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "text/event-stream"])
async def test_an_empty_batch_is_streamed_as_a_summary(media_type: str) -> None:
    """An empty `requests` is answered 200 with no responses, streamed too."""
    reply = await send_batch(BatchMiddleware(Api()), [], headers={"accept": media_type})
    records = reply.lines if media_type == "application/x-ndjson" else [data for _, data in reply.events]
    summary = {"total": 0, "succeeded": 0, "failed": 0}
    assert [record.get("summary", record) for record in records] == [summary]


async def test_of_duplicate_members_the_last_wins() -> None:
    """Of duplicate JSON members the last wins, on every level."""
    api = Api()
    document = b"""{"requests": [{"path": "/no"}], "options": {"timeout": 1}, "options": {"timeout": 5},
        "requests": [{"method": "DELETE", "method": "PUT", "path": "/a", "path": "/b", "headers": {"x-a": "1"},
                      "headers": {"x-b": "1", "x-b": "2"}, "query": {"q": 1, "q": 2}, "body": 1, "body": 2}]}"""
    assert (await send_batch(BatchMiddleware(api), document)).only["status"] == 200
    assert (api.only.method, api.only.target, api.only.body) == ("PUT", "/b?q=2", b"2")
    assert (api.only.header("x-a"), api.only.header("x-b")) == (None, "2")


# method


@pytest.mark.parametrize("method", METHODS)
async def test_every_method_reaches_the_api(method: str) -> None:
    """`method`: GET HEAD POST PUT PATCH DELETE OPTIONS."""
    api = Api()
    assert (await send_batch(BatchMiddleware(api), [{"method": method, "path": "/a"}])).only["status"] == 200
    assert api.only.method == method


async def test_the_method_is_get_by_default() -> None:
    """`method` has the default GET."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": "/a"}])
    assert api.only.method == "GET"


@pytest.mark.parametrize("method", ["get", "Post", "TRACE", "CONNECT", "QUERY", "PROPFIND", "", "GET ", "GET\r\nX: y"])
async def test_other_methods_are_refused(method: str) -> None:
    """`method` is one of seven and case-sensitive; another one is refused for its item, and the others go on."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"method": method, "path": "/a"}, {"path": "/b"}])
    assert failures(reply) == [(405, "method_refused"), None]
    assert api.targets == ["/b"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_body_goes_with_every_method(method: str) -> None:
    """A body is sent with any method, GET and HEAD as well."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"method": method, "path": "/a", "body": [1]}])
    assert (api.only.method, api.only.body, api.only.values("content-length")) == (method, b"[1]", ["3"])


# path, query


async def test_the_path_is_required() -> None:
    """`path` is required."""
    status, code, pointer = (await send_batch(BatchMiddleware(Api()), [{"method": "GET"}])).refusal
    assert (status, code) == (400, "invalid_batch")
    assert pointer in ("/requests/0", "/requests/0/path")


async def test_path_and_query_are_written_as_a_direct_client_writes_them() -> None:
    """`path` is origin-form: path and query exactly as a direct client would write them."""
    api = Api()
    target = "/a/b%20c;v=1/@x:80?q=1&q=2&flag&empty=&plus=a+b&enc=%26%3d&deep=/x?y"
    await send_batch(BatchMiddleware(api), [{"path": target}])
    assert api.only.target == target


async def test_query_is_added_to_the_query_of_the_path() -> None:
    """`query` is added to the path's query."""
    api = Api()
    items = [
        {"path": "/a", "query": {"x": 1}},
        {"path": "/a?y=0", "query": {"x": 1, "z": "2"}},
        {"path": "/a?", "query": {"x": 1}},
        {"path": "/a", "query": {}},
        {"path": "/a?y=0", "query": {}},
    ]
    await send_batch(BatchMiddleware(api), items)
    assert api.targets == ["/a?x=1", "/a?y=0&x=1&z=2", "/a?x=1", "/a", "/a?y=0"]


async def test_query_values_are_scalars_or_lists_of_scalars() -> None:
    """`query` maps a name to a scalar or to a list of scalars, which gives the name several times."""
    api = Api()
    query = {"s": "text", "i": 7, "f": 1.5, "t": True, "n": False, "l": ["a", 2, True], "none": [], "empty": ""}
    await send_batch(BatchMiddleware(api), [{"path": "/a", "query": query}])
    assert api.only.target == "/a?s=text&i=7&f=1.5&t=true&n=false&l=a&l=2&l=true&empty="


async def test_query_is_percent_encoded() -> None:
    """`query` is percent-encoded for you, names and values."""
    api = Api()
    query = {"a b&c=d": "e f&g=h#?/+%20é\r\n\u2028😀", "~-._": "~-._", "[x]": "{y}|"}
    await send_batch(BatchMiddleware(api), [{"path": "/a", "query": query}])
    encoded = api.only.target.removeprefix("/a?")
    assert parse_qsl(encoded, keep_blank_values=True, strict_parsing=True) == list(query.items())
    assert encoded.startswith("a%20b%26c%3Dd=e%20f%26g%3Dh%23")
    assert encoded.endswith("&~-._=~-._&%5Bx%5D=%7By%7D%7C")


@pytest.mark.parametrize("query", ["a=1", [["a", 1]], {"a": {"b": 1}}, {"a": [[1]]}, {"a": None}, {"a": [None]}, None])
async def test_query_has_no_other_form(query: JSON) -> None:
    """A `query` that is not an object of scalars or lists of scalars is an error of the batch."""
    status, code, pointer = (await send_batch(BatchMiddleware(Api()), [{"path": "/a", "query": query}])).refusal
    assert (status, code) == (400, "invalid_batch")
    assert pointer is not None
    assert pointer.startswith("/requests/0/query")


# id


@pytest.mark.parametrize("name", ["a", ID_CHARACTERS[:64], ID_CHARACTERS[-64:], "x" * 64, "-", ".", "0", "a:b-c_d.e"])
async def test_an_id_is_echoed(name: str) -> None:
    """`id`: 1-64 of `A-Z a-z 0-9 . _ : -`, echoed in the answer."""
    assert (await send_batch(BatchMiddleware(Api()), [{"id": name, "path": "/a"}])).only["id"] == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "a#b", "a\n", "é", "a,b", "{a}", 1, None, ["a"]])
async def test_no_other_id_is_accepted(name: JSON) -> None:
    """`id` is a string of 1-64 of `A-Z a-z 0-9 . _ : -`."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}, {"id": name, "path": "/b"}])
    assert reply.refusal == (400, "invalid_batch", "/requests/1/id")
    assert api.arrived == []


async def test_without_an_id_the_index_identifies_an_item() -> None:
    """Without `id` the index identifies the item: the entry has none and stands in its place."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a"}, {"id": "b", "path": "/b"}, {"path": "/c"}])
    assert [entry.get("id") for entry in reply.responses] == [None, "b", None]
    assert "id" not in reply.responses[0]
    assert [entry["body"]["target"] for entry in reply.responses] == ["/a", "/b", "/c"]


async def test_a_duplicate_id_is_an_error_of_the_batch() -> None:
    """`id` is unique in the batch; a duplicate one is an error of the whole batch."""
    api = Api()
    items = [{"id": "a", "path": "/a"}, {"id": "b", "path": "/b"}, {"id": "a", "path": "/c"}]
    assert (await send_batch(BatchMiddleware(api), items)).refusal == (400, "duplicate_id", "/requests/2/id")
    assert api.arrived == []


async def test_ids_differ_by_letter_case() -> None:
    """An id is compared as it is written."""
    reply = await send_batch(BatchMiddleware(Api()), [{"id": "a", "path": "/a"}, {"id": "A", "path": "/b"}])
    assert [entry["id"] for entry in reply.responses] == ["a", "A"]


# body


@pytest.mark.parametrize(
    "text",
    [
        b"null",
        b"true",
        b"0",
        b'""',
        b"[]",
        b"{}",
        b'{"b": 1.10, "a" : 12345678901234567890123, "a": -0.0, "e": 1E5}',
        b'"\\u00e9\\/ \xc3\xa9 \\ud83d\\ude00"',
        b'{\n\t"lines": [1,\r\n 2]\n}',
    ],
)
async def test_a_json_body_is_sent_byte_for_byte(text: bytes) -> None:
    """`json`, the default encoding: the bytes of the JSON value exactly as they stood in the batch; null is four."""
    api = Api()
    await send_batch(BatchMiddleware(api), b'{"requests": [{"method": "POST", "path": "/a", "body": ' + text + b" }]}")
    assert api.only.body == text
    assert api.only.values("content-type") == ["application/json"]
    assert api.only.values("content-length") == [str(len(text))]


async def test_body_encoding_json_may_be_written_out() -> None:
    """`body_encoding` has the default `json`."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"method": "PUT", "path": "/a", "body": "x", "body_encoding": "json"}])
    assert (api.only.body, api.only.header("content-type")) == (b'"x"', "application/json")


async def test_without_the_member_there_is_no_body() -> None:
    """Leave `body` out for no body: no bytes, no content type."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"method": "POST", "path": "/a"}])
    assert api.only.body == b""
    assert api.only.header("content-type") is None


@pytest.mark.parametrize("text", ["", "plain", "é\u2028😀\x00\r\n", '{"a": 1}'])
async def test_a_text_body_is_the_utf8_of_the_string(text: str) -> None:
    """`text`: the string's UTF-8, `text/plain; charset=utf-8`."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"method": "POST", "path": "/a", "body": text, "body_encoding": "text"}])
    assert api.only.body == text.encode()
    assert api.only.header("content-type") == "text/plain; charset=utf-8"


@pytest.mark.parametrize("data", [b"", b"\x00\xff\xfe", bytes(range(256)), b"text"])
async def test_a_base64_body_is_the_decoded_bytes(data: bytes) -> None:
    """`base64`: the decoded bytes, `application/octet-stream`."""
    api = Api()
    body = base64.b64encode(data).decode()
    await send_batch(BatchMiddleware(api), [{"method": "POST", "path": "/a", "body": body, "body_encoding": "base64"}])
    assert api.only.body == data
    assert api.only.header("content-type") == "application/octet-stream"


@pytest.mark.parametrize(("encoding", "body"), [("json", {"a": 1}), ("text", "a=1"), ("base64", "YT0x")])
async def test_the_item_may_say_another_content_type(encoding: str, body: JSON) -> None:
    """Each encoding has its content type unless the item says otherwise, in any letter case."""
    api = Api()
    item = {"method": "POST", "path": "/a", "body": body, "body_encoding": encoding}
    await send_batch(BatchMiddleware(api), [{**item, "headers": {"Content-TYPE": "application/x-www-form-urlencoded"}}])
    assert api.only.values("content-type") == ["application/x-www-form-urlencoded"]


@pytest.mark.parametrize("body", ["a", "YQ", "YQ=", "Y Q==", "YQ==\n", "YQ==YQ==", "-_8=", "é===", "!!!!"])
async def test_bad_base64_is_an_error_of_the_item(body: str) -> None:
    """Bad base64 is `invalid_body` of its item; the others go on."""
    api = Api()
    items = [{"method": "POST", "path": "/a", "body": body, "body_encoding": "base64"}, {"path": "/b"}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [(400, "invalid_body"), None]
    assert api.targets == ["/b"]


@pytest.mark.parametrize("encoding", ["text", "base64"])
@pytest.mark.parametrize("body", [None, 1, True, {"a": 1}, ["x"]])
async def test_text_and_base64_stand_for_strings(encoding: str, body: JSON) -> None:
    """`text` and `base64` stand for a string: another value is a member of the wrong type."""
    api = Api()
    item = {"method": "POST", "path": "/a", "body": body, "body_encoding": encoding}
    reply = await send_batch(BatchMiddleware(api), [item])
    assert reply.refusal == (400, "invalid_batch", "/requests/0/body")
    assert api.arrived == []


async def test_a_lone_surrogate_is_no_text() -> None:
    """A string that no UTF-8 can stand for is refused, and nothing of it reaches the API."""
    api = Api()
    document = b'{"requests": [{"method": "POST", "path": "/a", "body": "\\ud800", "body_encoding": "text"}]}'
    reply = await send_batch(BatchMiddleware(api), document)
    assert reply.status == 400 or failure(reply.only) == (400, "invalid_body")
    assert api.arrived == []


@pytest.mark.parametrize(
    "item",
    [
        b'{"path": "/\\ud800"}',
        b'{"path": "/a", "query": {"q": "\\ud800"}}',
        b'{"path": "/a", "headers": {"X": "\\udfff"}}',
        b'{"path": "/a", "id": "\\ud800"}',
    ],
)
async def test_a_lone_surrogate_is_nowhere_text(item: bytes) -> None:
    """A string that no UTF-8 can stand for is refused wherever it stands."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), b'{"requests": [%b]}' % item)
    assert reply.status == 400
    assert api.arrived == []


# Members of a wrong type or value, and unknown ones


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("method", 1),
        ("method", None),
        ("path", 1),
        ("path", None),
        ("path", ["/a"]),
        ("headers", []),
        ("headers", "x: y"),
        ("headers", None),
        ("headers", {"x": 1}),
        ("headers", {"x": None}),
        ("headers", {"x": {"y": "z"}}),
        ("headers", {"x": ["y", 1]}),
        ("body_encoding", "hex"),
        ("body_encoding", "JSON"),
        ("body_encoding", None),
        ("depends_on", "a"),
        ("depends_on", [1]),
        ("depends_on", None),
        ("depends_on", {"a": 1}),
        ("vars", []),
        ("vars", {"x": 1}),
        ("vars", None),
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", "1"),
        ("timeout", True),
        ("timeout", None),
        ("timeout", [1]),
    ],
)
async def test_a_wrong_type_or_value_is_pointed_at(member: str, value: JSON) -> None:
    """Each member has its type; a wrong one is an error of the batch, with a pointer to the member at fault."""
    api = Api()
    items = [{"id": "a", "path": "/a"}, {"path": "/b"}, {"path": "/c"}, {"path": "/d", member: value}]
    status, code, pointer = (await send_batch(BatchMiddleware(api), items)).refusal
    assert (status, code) == (400, "invalid_batch")
    assert pointer is not None
    assert pointer == f"/requests/3/{member}" or pointer.startswith(f"/requests/3/{member}/")
    assert api.arrived == []


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ([], "/options"),
        ("parallel", "/options"),
        (7, "/options"),
        ({"execution": "fast"}, "/options/execution"),
        ({"execution": "Parallel"}, "/options/execution"),
        ({"execution": None}, "/options/execution"),
        ({"on_error": "abort"}, "/options/on_error"),
        ({"on_error": True}, "/options/on_error"),
        ({"timeout": 0}, "/options/timeout"),
        ({"timeout": -1}, "/options/timeout"),
        ({"timeout": "5"}, "/options/timeout"),
        ({"timeout": True}, "/options/timeout"),
    ],
)
async def test_a_wrong_option_is_pointed_at(options: JSON, pointer: str) -> None:
    """Each option has its values; another one is an error of the batch, with a pointer to it."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), [{"path": "/a"}], options=options)
    assert reply.refusal == (400, "invalid_batch", pointer)
    assert api.arrived == []


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("pth", "path"),
        ("Path", "path"),
        ("metod", "method"),
        ("header", "headers"),
        ("querry", "query"),
        ("body_encodng", "body_encoding"),
        ("dependson", "depends_on"),
        ("var", "vars"),
        ("timeuot", "timeout"),
        # aliases, which no spelling check would find
        ("url", "path"),
        ("data", "body"),
        ("dependsOn", "depends_on"),
    ],
)
async def test_an_unknown_member_is_named_with_the_nearest_known_one(unknown: str, known: str) -> None:
    """An unknown member is an error that names it and the nearest known one, also common aliases."""
    api = Api()
    items: list[JSON] = [{"path": "/a"}, {"path": "/b", unknown: "/c"}]
    reply = await send_batch(BatchMiddleware(api), items)
    assert reply.refusal == (400, "invalid_batch", f"/requests/1/{unknown}")
    words = reply.problem["detail"].replace("`", " ").replace('"', " ").replace("'", " ").replace("?", " ").split()
    assert unknown in words
    assert known in words
    assert api.arrived == []


async def test_an_unknown_member_with_nothing_near_is_named() -> None:
    """An unknown member is an error that names it, even if no known one is near."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a", "zzzzzzzzzz": 1}])
    assert reply.refusal == (400, "invalid_batch", "/requests/0/zzzzzzzzzz")
    assert "zzzzzzzzzz" in reply.problem["detail"]


@pytest.mark.parametrize(
    ("document", "pointer", "known"),
    [
        (b'{"request": [{"path": "/a"}]}', "/request", "requests"),
        (b'{"requests": [{"path": "/a"}], "option": {}}', "/option", "options"),
        (b'{"requests": [{"path": "/a"}], "options": {"on_eror": "stop"}}', "/options/on_eror", "on_error"),
        (b'{"requests": [{"path": "/a"}], "options": {"executon": "parallel"}}', "/options/executon", "execution"),
    ],
)
async def test_unknown_members_of_the_batch_and_its_options_are_named(
    document: bytes, pointer: str, known: str
) -> None:
    """An unknown member is an error that names it and the nearest known one, on every level."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api), document)
    assert reply.refusal == (400, "invalid_batch", pointer)
    assert pointer.rpartition("/")[2] in reply.problem["detail"]
    assert known in reply.problem["detail"]
    assert api.arrived == []


async def test_a_pointer_is_escaped() -> None:
    """A `pointer` is an RFC 6901 JSON Pointer: `~` and `/` in a name are escaped."""
    reply = await send_batch(BatchMiddleware(Api()), [{"path": "/a", "a/b~c": 1}])
    assert reply.refusal == (400, "invalid_batch", "/requests/0/a~1b~0c")


async def test_members_at_their_defaults_change_nothing() -> None:
    """Defaults may be written out: GET, {} and [] are as good as nothing."""
    plain, written_out = Api(), Api()
    await send_batch(BatchMiddleware(plain), [{"path": "/a"}])
    defaults = {"method": "GET", "headers": {}, "depends_on": [], "vars": {}, "query": {}, "body_encoding": "json"}
    options = {"execution": "parallel", "on_error": "continue"}
    reply = await send_batch(BatchMiddleware(written_out), [{"path": "/a", **defaults}], options=options)
    assert reply.only["status"] == 200
    assert written_out.only.headers == plain.only.headers
    assert (written_out.only.method, written_out.only.target, written_out.only.body) == ("GET", "/a", b"")


async def test_a_body_may_arrive_in_any_pieces() -> None:
    """A batch is one document, however its bytes are cut on the way."""
    api = Api()
    document = written([{"method": "POST", "path": "/é", "body": {"a": "é"}}])
    chunks = [bytes([byte]) for byte in document]
    reply = await ask(BatchMiddleware(api), body=chunks, headers={"content-type": "application/json"})
    assert reply.only["status"] == 200
    assert api.only.body == b'{"a": "\\u00e9"}'
