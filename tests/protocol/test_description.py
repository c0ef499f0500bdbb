"""Section 2, "Self-description": what an endpoint says about itself, and that it is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batchproxy import BatchMiddleware, InFlight

from .api import Api, answer
from .exchange import JSON, ask, send_batch
from .schemas import faults

CODES_OF_A_BATCH = {
    "malformed_json": 400,
    "invalid_batch": 400,
    "duplicate_id": 400,
    "unknown_id": 400,
    "dependency_cycle": 400,
    "cross_site": 403,
    "forbidden": 403,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "unsupported_media_type": 415,
    "request_timeout": 408,
    "batch_too_large": 413,
    "too_many_items": 413,
    "rate_limited": 429,
    "overloaded": 503,
    "loop_detected": 508,
}
CODES_OF_AN_ITEM = {
    "invalid_path": 400,
    "header_refused": 400,
    "invalid_header": 400,
    "invalid_body": 400,
    "nested_batch": 400,
    "forbidden": 403,
    "method_refused": 405,
    "body_too_large": 413,
    "path_too_long": 414,
    "headers_too_large": 431,
    "dependency_failed": 424,
    "reference_failed": 424,
    "stopped": 424,
    "too_many_for_route": 429,
    "app_error": 500,
    "unreachable": 502,
    "bad_response": 502,
    "truncated": 502,
    "response_too_large": 502,
    "unbatchable_response": 502,
    "upstream_overloaded": 503,
    "not_started": 503,
    "timeout": 504,
    "batch_timeout": 504,
}
DEFAULT_LIMITS = {
    "max_items": 100,
    "max_batch_bytes": 8 * 1024 * 1024,
    "max_item_bytes": 4 * 1024 * 1024,
    "max_response_bytes": 8 * 1024 * 1024,
    "max_total_response_bytes": 32 * 1024 * 1024,
    "max_path_bytes": 8 * 1024,
    "max_headers": 64,
    "max_header_bytes": 16 * 1024,
    "max_depth": 128,
    "max_vars": 16,
    "max_var_bytes": 8 * 1024,
    "max_dependency_depth": 32,
    "concurrency": 16,
    "item_timeout": 15,
    "batch_timeout": 30,
    "read_timeout": 10,
    "read_total_timeout": 60,
    "write_timeout": 30,
}


async def described(**settings: Any) -> JSON:
    """What `GET /batch` says under these settings."""
    reply = await ask(BatchMiddleware(Api(), **settings), method="GET")
    assert (reply.status, reply.header("content-type")) == (200, "application/json")
    return reply.json()


# What it says


async def test_get_gives_the_limits_in_force() -> None:
    """`GET /batch` gives the limits in force: the defaults of the page."""
    limits = (await described())["limits"]
    assert {name: limits[name] for name in DEFAULT_LIMITS} == DEFAULT_LIMITS
    assert (limits["in_flight"], limits["queue"]) == (256, 1024)


async def test_get_gives_the_limits_that_were_set() -> None:
    """`GET /batch` gives the limits in force, also those that were set."""
    changed = {name: value // 2 for name, value in DEFAULT_LIMITS.items()}
    limits = (await described(**changed, in_flight=InFlight(7, queue=9)))["limits"]
    assert {name: limits[name] for name in changed} == changed
    assert (limits["in_flight"], limits["queue"]) == (7, 9)


async def test_get_gives_formats_and_methods() -> None:
    """`GET /batch` gives the formats and the methods, those that are in force."""
    found = await described()
    assert set(found["formats"]) == {"application/json", "application/x-ndjson", "text/event-stream"}
    assert set(found["methods"]) == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    assert (await described(methods=["GET"]))["methods"] == ["GET"]


async def test_get_gives_the_codes() -> None:
    """`GET /batch` gives the codes, each with its status."""
    codes = (await described())["codes"]
    assert {code: entry["status"] for code, entry in codes["batch"].items()} == CODES_OF_A_BATCH
    assert {code: entry["status"] for code, entry in codes["item"].items()} == CODES_OF_AN_ITEM
    assert all(entry["title"] for kind in codes.values() for entry in kind.values())


async def test_options_gives_the_same_with_allow() -> None:
    """`OPTIONS` the same with `Allow`."""
    app = BatchMiddleware(Api(), max_items=7)
    described_by_get = await ask(app, method="GET")
    reply = await ask(app, method="OPTIONS")
    assert (reply.status, reply.json()) == (200, described_by_get.json())
    allowed = {each.strip() for each in (reply.header("allow") or "").split(",")}
    assert {"GET", "OPTIONS", "POST"} <= allowed


async def test_each_endpoint_describes_itself() -> None:
    """Each endpoint describes itself, with its own settings, at its own path."""
    api = Api()
    app = BatchMiddleware(api, path="/bulk", max_items=3)
    reply = await ask(app, method="GET", path="/bulk")
    assert reply.json()["limits"]["max_items"] == 3
    assert (await ask(app, method="GET", path="/batch")).json()["target"] == "/batch"


# Where it is off


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"])
async def test_where_describe_is_off_other_methods_go_to_the_app(method: str) -> None:
    """Where the setting `describe` is off, every method but POST goes to the wrapped app."""
    api = Api({"/batch": answer("{}", status=299)})
    app = BatchMiddleware(api, describe=False)
    assert (await ask(app, method=method)).status == 299
    assert api.only.method == method
    assert (await send_batch(app, [{"path": "/a"}])).only["status"] == 200


async def test_where_describe_is_on_nothing_goes_to_the_app() -> None:
    """Where `describe` is on, as by default, the endpoint answers GET and OPTIONS, and all others but POST with 405."""
    api = Api()
    app = BatchMiddleware(api)
    statuses = [(await ask(app, method=method)).status for method in ("GET", "OPTIONS", "PUT", "DELETE", "PATCH")]
    assert statuses == [200, 200, 405, 405, 405]
    assert api.arrived == []


# The schema


VALID: list[JSON] = [
    {"requests": []},
    {"requests": [{"path": "/a"}]},
    {"requests": [{"path": "/a", "method": "POST", "body": None}], "options": {}},
    {
        "requests": [
            {
                "id": "a.b_c:d-1",
                "method": "PUT",
                "path": "/a/{x}",
                "query": {"s": "x", "i": 1, "f": 1.5, "b": True, "l": ["x", 1, False], "none": []},
                "headers": {"X-One": "1", "X-Many": ["1", "2"]},
                "body": {"any": ["thing", None]},
                "body_encoding": "json",
                "depends_on": ["s"],
                "vars": {"x": "s#/body/id"},
                "timeout": 1.5,
            },
            {"id": "s", "path": "/s"},
            {"path": "/t", "method": "POST", "body": "x", "body_encoding": "text"},
            {"path": "/u", "method": "POST", "body": "eA==", "body_encoding": "base64"},
        ],
        "options": {"execution": "sequential", "on_error": "stop", "timeout": 10},
    },
    *[{"requests": [{"path": "/a", "method": each}]} for each in ("GET", "HEAD", "PATCH", "DELETE", "OPTIONS")],
    *[{"requests": [], "options": {"execution": each}} for each in ("parallel", "ordered_writes")],
]
INVALID: list[JSON] = [
    [],
    {},
    {"requests": {}},
    {"requests": ["/a"]},
    {"requests": [{}]},
    {"requests": [{"path": 1}]},
    {"requests": [{"path": "/a", "url": "/a"}]},
    {"requests": [{"path": "/a", "method": 1}]},
    {"requests": [{"path": "/a", "id": "a b"}]},
    {"requests": [{"path": "/a", "id": ""}]},
    {"requests": [{"path": "/a", "id": "x" * 65}]},
    {"requests": [{"path": "/a", "query": []}]},
    {"requests": [{"path": "/a", "query": {"a": {}}}]},
    {"requests": [{"path": "/a", "query": {"a": None}}]},
    {"requests": [{"path": "/a", "headers": {"X": 1}}]},
    {"requests": [{"path": "/a", "body_encoding": "hex"}]},
    {"requests": [{"path": "/a", "depends_on": "a"}]},
    {"requests": [{"path": "/a", "vars": {"x": 1}}]},
    {"requests": [{"path": "/a", "vars": {"x": "s"}}]},
    {"requests": [{"path": "/a", "timeout": 0}]},
    {"requests": [{"path": "/a", "timeout": "1"}]},
    {"requests": [], "options": []},
    {"requests": [], "options": {"execution": "fast"}},
    {"requests": [], "options": {"on_error": "x"}},
    {"requests": [], "options": {"timeout": -1}},
    {"requests": [], "options": {"nope": 1}},
    {"requests": [], "nope": 1},
]


async def schema_of(which: str, **settings: Any) -> JSON:
    schema = (await described(**settings))["schema"][which]
    assert isinstance(schema, dict)
    return schema


@pytest.mark.parametrize("batch", VALID)
async def test_the_schema_accepts_what_the_endpoint_accepts(batch: JSON) -> None:
    """A JSON Schema of the request: what it accepts the endpoint accepts."""
    assert faults(await schema_of("request"), batch) == []
    assert (await send_batch(BatchMiddleware(Api()), json.dumps(batch).encode())).status == 200


@pytest.mark.parametrize("batch", INVALID)
async def test_the_schema_refuses_what_the_endpoint_refuses(batch: JSON) -> None:
    """A JSON Schema of the request: what it refuses the endpoint refuses."""
    assert faults(await schema_of("request"), batch) != []
    assert (await send_batch(BatchMiddleware(Api()), json.dumps(batch).encode())).status == 400


async def test_the_schema_has_the_limits_in_force() -> None:
    """A JSON Schema of the request, with the number of items and the methods that are in force."""
    schema = await schema_of("request", max_items=2, methods=["GET"])
    assert faults(schema, {"requests": [{"path": "/a"}] * 2}) == []
    assert faults(schema, {"requests": [{"path": "/a"}] * 3}) != []
    assert faults(schema, {"requests": [{"path": "/a", "method": "POST"}]}) != []


async def test_the_schema_describes_real_answers() -> None:
    """A JSON Schema of the answer: what the endpoint really answers fits, and what it never answers does not."""
    api = Api(
        {
            "/text": answer("x", headers=[("content-type", "text/plain")]),
            "/binary": answer(b"\xff", headers=[("set-cookie", "a"), ("set-cookie", "b")]),
            "/broken": answer("{"),
            "/empty": answer("", status=204),
            "/fails": answer(status=500),
        }
    )
    paths = ["/a", "/text", "/binary", "/broken", "/empty", "/fails", "//", "/batch"]
    items: list[JSON] = [{"id": f"i{number}", "path": path} for number, path in enumerate(paths)]
    items.append({"path": "/b", "depends_on": ["i5"]})
    schema = await schema_of("response")
    document = (await send_batch(BatchMiddleware(api), items)).json()
    assert len(document["responses"]) == 9
    assert faults(schema, document) == []
    assert faults(schema, (await send_batch(BatchMiddleware(api), [])).json()) == []
    wrong_answers: list[JSON] = [
        {},
        {"responses": []},
        {"responses": {}, "summary": document["summary"]},
        {"responses": [None], "summary": document["summary"]},
        {"responses": [{"status": "200", "headers": {}}], "summary": document["summary"]},
        {"responses": [{"status": 200}], "summary": document["summary"]},
        {"responses": [{"status": 200, "headers": {}, "error": "nope"}], "summary": document["summary"]},
        {"responses": [], "summary": {"total": "0"}},
    ]
    for wrong in wrong_answers:
        assert faults(schema, wrong) != []


def test_the_codes_of_this_page_are_those_of_the_tests() -> None:
    """Every code of section 3 is reached by a test of this folder."""
    folder = Path(__file__).parent
    tests = "".join(path.read_text() for path in folder.glob("test_*.py") if path.name != Path(__file__).name)
    missing = {code for code in CODES_OF_A_BATCH | CODES_OF_AN_ITEM if not re.search(rf'"{code}"', tests)}
    assert missing == set()
