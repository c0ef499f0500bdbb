"""Section 1, "Paths", "Mounts", "Where an item enters": what may be a path, who judges it, where it leads."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given, settings, strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from batchproxy import BatchMiddleware, Endpoint
from tests.serving import ask as ask_server, serve

from .api import Api, answer
from .exchange import HOST, App, Receive, Scope, Send, ask, failure, failures, send_batch, written
from .virtual_time import run

REFUSED = (400, "invalid_path")


async def outcome(path: str, **settings: Any) -> tuple[tuple[int, str] | None, list[str]]:
    """How an item with this path fails, and what reaches the API; a healthy item beside it must not care."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, **settings), [{"path": path}, {"path": "/beside"}])
    refused, beside = failures(reply)
    assert beside is None
    return refused, [target for target in api.targets if not target.endswith("/beside")]


# What is refused


@pytest.mark.parametrize(
    "path",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://api.example/a",
        "https://api.example/a",
        "HTTP:/x",
        "http:x",
        "file:///etc/passwd",
        "//evil.example/x",
        "///x",
        "////x",
        "/\\evil.example/x",
        "\\\\evil.example\\x",
        "\\/x",
        "\\x",
        "evil.example/x",
        "evil.example:80/x",
        "@evil.example/x",
        ":80/x",
        "?q=1",
        "*",
        "a",
        "",
        " /a",
        "\t/a",
    ],
)
async def test_an_absolute_url_is_refused(path: str) -> None:
    """One leading `/`, not followed by `/` or `\\`; an absolute URL is refused (400 `invalid_path`)."""
    assert await outcome(path) == (REFUSED, [])


@pytest.mark.parametrize(
    "path", ["/@evil.example", "/x@evil.example:80", "/:80/x", "/http://x".replace("//", "/"), "/user:pass@h/x", "/a:b"]
)
async def test_at_and_colon_are_ordinary_bytes(path: str) -> None:
    """`@` and `:` inside a path never change the authority: the bytes arrive, at the same host."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": path}])
    assert (api.only.target, api.only.header("host")) == (path, HOST)


@pytest.mark.parametrize(
    "path",
    [
        "/.",
        "/..",
        "/./a",
        "/../a",
        "/a/.",
        "/a/..",
        "/a/./b",
        "/a/../b",
        "/public/../admin",
        "/%2e",
        "/%2E%2e/a",
        "/.%2e/a",
        "/%2e./a",
        "/a/%2e%2e/b",
        "/a/.%2E",
        "/%252e%252e/a",
        "/a/%2e%252e",
        "/a%2f..%2fb",
        "/a%2F%2e%2e",
        "/a%5c..%5cb",
        "/..%2fa",
        "/..%5ca",
        "/%c0%ae%c0%ae/a",
        "/a/%C0%AE./b",
        "/..;/a",
        "/a/..;x=1/b",
        "/%2e%2e?q=1",
    ],
)
async def test_dot_segments_are_refused(path: str) -> None:
    """`.` and `..` segments plain or encoded in any way are refused."""
    assert await outcome(path) == (REFUSED, [])


@pytest.mark.parametrize("path", ["/...", "/.a", "/a.", "/..a", "/a..b", "/.well-known/x", "/a/.../b", "/a?x=/../b"])
async def test_dots_in_a_name_are_no_dot_segments(path: str) -> None:
    """Everything else reaches the API as it was written: dots in a name, and in a query."""
    assert await outcome(path) == (None, [path])


@pytest.mark.parametrize(
    "path",
    [
        "/a\\b",
        "/a\\..\\b",
        "/a#b",
        "/a?x#b",
        "/#",
        "/a\x00b",
        "/a\r\nX: y",
        "/a\nb",
        "/a\tb",
        "/a\x1bb",
        "/a\x7fb",
        "/a?x=\r\ny",
        "/a%00",
        "/a%00b",
        "/%zz",
        "/a%",
        "/a%2",
        "/a%g1",
        "/a%%41",
        "/a?x=%zz",
        "/a//b",
        "/a//",
        "/a///b",
    ],
)
async def test_what_servers_disagree_about_is_refused(path: str) -> None:
    """Refused: `\\`, `#`, control characters, `%00`, broken triplets, an empty segment."""
    assert await outcome(path) == (REFUSED, [])


@pytest.mark.parametrize("path", ["/a//b", "/a//", "/a///b"])
async def test_empty_segments_may_be_allowed(path: str) -> None:
    """An empty segment is refused unless the setting `allow_empty_segments` is on."""
    assert await outcome(path, allow_empty_segments=True) == (None, [path])


@pytest.mark.parametrize("path", ["//a", "/\\a", "///a"])
async def test_allowed_empty_segments_do_not_allow_a_host(path: str) -> None:
    """`allow_empty_segments` does not change that the leading `/` is not followed by another."""
    assert await outcome(path, allow_empty_segments=True) == (REFUSED, [])


# What is sent


@pytest.mark.parametrize(
    ("written_as", "sent_as"),
    [
        ("/a b", "/a%20b"),
        ("/é", "/%C3%A9"),
        ("/日本/😀", "/%E6%97%A5%E6%9C%AC/%F0%9F%98%80"),
        ('/"<>^`{|}', "/%22%3C%3E%5E%60%7B%7C%7D"),
        ('/a?x=é "<>', "/a?x=%C3%A9%20%22%3C%3E"),
        ("/a?$filter=Name eq 'x'", "/a?$filter=Name%20eq%20'x'"),
        ("/a ?b ", "/a%20?b%20"),
    ],
)
async def test_what_a_browser_encodes_is_encoded(written_as: str, sent_as: str) -> None:
    """Blanks, non-ASCII characters and `" < > ^ { } |` and backtick are percent-encoded as UTF-8, as a browser does."""
    refused, targets = await outcome(written_as)
    assert refused is None
    assert [target.replace("%7b", "%7B") for target in targets] == [sent_as]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a/",
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a%5cb",
        "/a;b=c/d;e",
        "/a%3bb",
        "/a%25b",
        "/a%2525b",
        "/%41%7a",
        "/%C0%AF",
        "/%ff%FE",
        "/%23%3f",
        "/!$&'()*+,;=:@-._~",
        "/[x]",
        "/a?[x]=1&y[]=2",
        "/a?a/b?c=d",
        "/a?%2F%5C%25",
        "/a?",
        "/a?//",
    ],
)
async def test_everything_else_is_sent_as_written(path: str) -> None:
    """Everything else reaches the API as it was written; `%2F`, `%5C`, `;` and `%25` are sent as they are."""
    refused, targets = await outcome(path)
    assert refused is None
    assert [target.rstrip("?") for target in targets] == [path.rstrip("?")]


async def test_the_scope_has_the_path_as_a_server_gives_it() -> None:
    """An item's path is decoded once for `path`, and stands undecoded in `raw_path`, as from a server."""
    api = Api()
    await send_batch(BatchMiddleware(api), [{"path": "/a%2Fb/%25/é?x=%20"}])
    scope = api.only.scope
    assert (scope["path"], scope["raw_path"]) == ("/a/b/%/é", b"/a%2Fb/%25/%C3%A9")
    assert scope["query_string"] == b"x=%20"


# Allow, deny and caps


async def judged(path: str, method: str = "GET", **settings: Any) -> int:
    """The status of an item under these settings."""
    api = Api()
    reply = await send_batch(BatchMiddleware(api, **settings), [{"path": path, "method": method}])
    entry = reply.only
    assert failure(entry) in (None, (403, "forbidden"))
    assert (entry["status"] == 200) is (len(api.arrived) == 1)
    status: int = entry["status"]
    return status


@pytest.mark.parametrize(
    ("rule", "path", "method", "matches"),
    [
        ("/admin", "/admin", "GET", True),
        ("/admin", "/admin", "POST", True),
        ("/admin", "/admin?x=1", "GET", True),
        ("/admin", "/admins", "GET", False),
        ("/admin", "/admin/x", "GET", False),
        ("/admin", "/x/admin", "GET", False),
        ("/admin", "/ADMIN", "GET", False),
        ("/admin", "/a", "GET", False),
        ("DELETE /admin", "/admin", "DELETE", True),
        ("DELETE /admin", "/admin", "GET", False),
        ("/users/*", "/users/7", "GET", True),
        ("/users/*", "/users/7/x", "GET", False),
        ("/users/*", "/users", "GET", False),
        ("/users/*/keys", "/users/7/keys", "GET", True),
        ("/users/*/keys", "/users/7/8/keys", "GET", False),
        ("/files/*.key", "/files/my.key", "GET", True),
        ("/files/*.key", "/files/my.txt", "GET", False),
        ("/files/a*b*c", "/files/a-b-c", "GET", True),
        ("/files/a*b*c", "/files/abc", "GET", True),
        ("/files/a*b*c", "/files/acb", "GET", False),
        ("/admin/**", "/admin", "GET", True),
        ("/admin/**", "/admin/x", "GET", True),
        ("/admin/**", "/admin/x/y/z", "GET", True),
        ("/admin/**", "/adminx", "GET", False),
        ("/**", "/anything/at/all", "GET", True),
        ("/**", "/", "GET", True),
        ("PUT /v*/**", "/v2/x", "PUT", True),
        ("PUT /v*/**", "/v2/x", "GET", False),
        # no regular expressions
        ("/a.c", "/abc", "GET", False),
        ("/a.c", "/a.c", "GET", True),
        ("/(a|b)+", "/a", "GET", False),
    ],
)
async def test_a_rule_is_method_and_segments(rule: str, path: str, method: str, matches: bool) -> None:
    """A rule is `[METHOD ]/seg/*/seg`: `*` any characters inside a segment, a final `/**` the path and all below it."""
    assert await judged(path, method, deny=[rule]) == (403 if matches else 200)
    assert await judged(path, method, allow=[rule]) == (200 if matches else 403)


async def test_without_rules_everything_is_allowed() -> None:
    """`allow` and `deny` are off by default; an empty `deny` denies nothing."""
    assert await judged("/a") == 200
    assert await judged("/a", deny=[]) == 200


async def test_deny_wins() -> None:
    """Deny wins over allow, in whatever order they are given."""
    rules: dict[str, Any] = {"allow": ["/a/**"], "deny": ["/a/b"]}
    assert await judged("/a/b", **rules) == 403
    assert await judged("/a/c", **rules) == 200
    assert await judged("/d", **rules) == 403
    assert await judged("/a/b", allow=["/a/b"], deny=["/**"]) == 403


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/%61dmin",
        "/%61%64%6d%69%6e",
        "/admin/x",
        "/admin%2Fx",
        "/admin%2fx",
        "/%61dmin%2F",
        "/admin/",
        "/admin%2F%2Fx",
    ],
)
async def test_deny_applies_if_either_reading_matches(path: str) -> None:
    """Deny applies if either reading matches: segments decoded after splitting, or decoded and then split."""
    assert await judged(path, deny=["/admin/**"]) == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/files/a", 200),
        ("/files/%61", 200),
        ("/files/a%20b", 200),
        # one segment when split first, two when decoded first: not allowed by both
        ("/files/a%2Fb", 403),
        ("/files%2Fa", 403),
    ],
)
async def test_allow_needs_both_readings(path: str, status: int) -> None:
    """Allow needs both readings of the path."""
    assert await judged(path, allow=["/files/*"]) == status


async def test_both_readings_may_be_allowed() -> None:
    """What both readings allow is sent, as it was written."""
    assert await judged("/files/a%2Fb", allow=["/files/**"]) == 200


async def test_a_rule_may_be_written_encoded() -> None:
    """Rules are compared with decoded segments, in whichever spelling the rule or the path is."""
    assert await judged("/caf%C3%A9", deny=["/café"]) == 403
    assert await judged("/café", deny=["/café"]) == 403


async def test_a_double_encoding_is_decoded_once() -> None:
    """Servers and frameworks decode once: `%25` stays a percent sign and does not match what it might become."""
    assert await judged("/%2561dmin", deny=["/%61dmin/**"]) in (200, 403)
    assert await judged("/%2561dmin", deny=["/admin/**"]) == 200


@pytest.mark.parametrize("second", ["/login", "/%6Cogin", "/login?x=1", "/login/", "/log%69n"])
async def test_caps_count_every_spelling(second: str) -> None:
    """Caps apply if either reading matches, so another spelling of the path counts as well."""
    api = Api()
    app = BatchMiddleware(api, max_per_batch={"POST /login": 1})
    items = [{"path": "/login", "method": "POST"}, {"path": second, "method": "POST"}, {"path": "/login"}]
    assert failures(await send_batch(app, items)) == [None, (429, "too_many_for_route"), None]
    assert sorted(api.targets) == ["/login", "/login"]


async def test_caps_apply_to_the_reading_that_splits_last() -> None:
    """Caps apply if either reading matches: `%2F` may be a separator to the API."""
    app = BatchMiddleware(Api(), max_per_batch={"/a/b": 1})
    reply = await send_batch(app, [{"path": "/a/b"}, {"path": "/a%2Fb"}, {"path": "/c"}])
    assert failures(reply) == [None, (429, "too_many_for_route"), None]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(["/", "%2F", "%2f", "%5C", ".", "%2e", "..", "%2E%2e", "admin", "%61dmin", "adm%69n", "x", ";"])
        | st.text("%25aA/.\\;", min_size=1, max_size=4),
        max_size=6,
    )
)
def test_no_spelling_reaches_what_is_denied(parts: list[str]) -> None:
    """Whatever an item's path is, it is refused, or the API does not see it below a denied prefix."""
    path = "/" + "".join(parts)
    api = Api()
    reply = run(send_batch(BatchMiddleware(api, deny=["/admin/**"], allow_empty_segments=False), [{"path": path}]))
    if failure(reply.only) is None:
        raw = api.only.scope["raw_path"].decode()
        decoded = unquote(raw)
        assert decoded.split("/")[1] != "admin"
        assert [unquote(segment) for segment in raw.split("/")][1] != "admin"
        assert not {".", ".."} & set(unquote_to_bytes(raw).replace(b"\\", b"/").decode("latin-1").split("/"))


# A batch within a batch


@pytest.mark.parametrize("path", ["/batch", "/batch/", "/batch?x=1", "/%62atch", "/bat%63h/", "/batch%2F"])
async def test_a_batch_within_a_batch_is_refused_by_path(path: str) -> None:
    """A batch within a batch is refused by path, in any spelling."""
    api = Api()
    items = [{"method": "POST", "path": path, "body": {"requests": [{"path": "/inner"}]}}, {"path": "/beside"}]
    assert failures(await send_batch(BatchMiddleware(api), items)) == [(400, "nested_batch"), None]
    assert api.targets == ["/beside"]


@pytest.mark.parametrize(
    "path", ["//batch", "/x/../batch", "/./batch", "/batch/.", "/%2e/batch", "/batch#", "/\\batch"]
)
async def test_spellings_that_are_no_paths_reach_no_batch(path: str) -> None:
    """A batch within a batch is refused in any spelling; some are no path at all."""
    assert await outcome(path) == (REFUSED, [])


@pytest.mark.parametrize("path", ["/api/batch", "/api%2Fbatch", "/%61pi/batch", "/other", "/other/"])
async def test_every_endpoint_refuses_every_endpoint(path: str) -> None:
    """A batch within a batch is refused, also through another endpoint of the app, and when decoded before split."""
    api = Api()
    app = BatchMiddleware(api, endpoints=[Endpoint(path="/api/batch"), Endpoint(path="/other")])
    for entrance in ("/api/batch", "/other"):
        reply = await send_batch(app, [{"method": "POST", "path": path, "body": {"requests": []}}], path=entrance)
        assert failure(reply.only) == (400, "nested_batch")
    assert api.arrived == []


async def test_a_batch_within_a_batch_is_refused_below_a_base_path() -> None:
    """The nested-batch check sees the path with `base_path` in front."""
    api = Api()
    app = BatchMiddleware(api, path="/api/batch", base_path="/api")
    reply = await send_batch(app, [{"path": "/batch"}, {"path": "/api/batch"}], path="/api/batch")
    assert failures(reply) == [(400, "nested_batch"), None]
    assert api.targets == ["/api/api/batch"]


class Rewriting:
    """A framework: it sets `scope["app"]` as Starlette does, and its middleware gives `/alias` as `/batch`."""

    def __init__(self, api: App, **settings: Any) -> None:
        self.inside: App = BatchMiddleware(api, **settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        if scope["path"] == "/alias":
            scope = {**scope, "path": "/batch", "raw_path": b"/batch"}
        await self.inside(scope, receive, send)


async def test_a_batch_within_a_batch_is_refused_by_the_mark() -> None:
    """A batch within a batch is refused by the mark in the scope, when the path did not show it."""
    api = Api()
    inner = {"method": "POST", "path": "/alias", "body": {"requests": [{"path": "/inner"}]}}
    reply = await send_batch(Rewriting(api), [inner, {"path": "/beside"}])
    refused, beside = reply.responses
    assert refused["status"] in (400, 508)
    assert refused["body"]["code"] in ("nested_batch", "loop_detected")
    assert beside["status"] == 200
    assert api.targets == ["/beside"]


# Mounts


async def test_a_path_is_absolute_on_the_origin() -> None:
    """`path` is absolute on the origin, the batch endpoint's own prefix included."""
    api = Api()
    app = BatchMiddleware(api, path="/api/batch")
    await send_batch(app, [{"path": "/api/items"}, {"path": "/items"}], path="/api/batch")
    assert api.targets == ["/api/items", "/items"]


@pytest.mark.parametrize("base_path", ["/api", "/api/v1"])
async def test_base_path_is_put_before_every_path(base_path: str) -> None:
    """The setting `base_path` is put before every item path."""
    api = Api()
    app = BatchMiddleware(api, path="/api/batch", base_path=base_path)
    items = [{"path": "/items?x=1"}, {"path": "/"}, {"path": "/api/x"}, {"path": "/a", "query": {"b": 1}}]
    await send_batch(app, items, path="/api/batch")
    assert api.targets == [f"{base_path}{path}" for path in ("/items?x=1", "/", "/api/x", "/a?b=1")]


@pytest.mark.parametrize("path", ["//evil", "/../x", "/%2e%2e/x", "/..%2fx", "x", "", "\\x", "@evil/x", "./x"])
async def test_base_path_is_not_escaped_from(path: str) -> None:
    """The path rules hold for what the client wrote, before `base_path` is put in front."""
    assert await outcome(path, base_path="/api") == (REFUSED, [])


async def test_rules_speak_of_the_path_with_its_base() -> None:
    """`allow` and `deny` judge the path that the API sees."""
    api = Api()
    app = BatchMiddleware(api, base_path="/api", deny=["/api/admin/**"], allow=["/api/**"])
    reply = await send_batch(app, [{"path": "/admin"}, {"path": "/items"}])
    assert failures(reply) == [(403, "forbidden"), None]


async def seen_by(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.scope['root_path']} {request.scope['path']} {request.url_for('here').path}")


def mounted(**settings: Any) -> Starlette:
    """A Starlette app whose part below `/app` is wrapped."""
    inner = Starlette(routes=[Route("/here", seen_by, name="here")])
    inner.add_middleware(BatchMiddleware, **settings)
    return Starlette(routes=[Mount("/app", inner), Route("/outside", seen_by)])


async def test_under_a_mount_a_path_is_what_a_direct_client_writes() -> None:
    """Under a mount (`root_path`) the rule is the same: what a direct client writes."""
    alone = await ask(mounted(), method="GET", path="/app/here")
    reply = await send_batch(mounted(), [{"path": "/app/here"}], path="/app/batch")
    assert reply.only["body"] == alone.body.decode()
    assert reply.only["body"].startswith("/app /app/here ")


@pytest.mark.parametrize("path", ["/outside", "/here", "/ap", "/apple/here", "/app%2Fhere", "/"])
async def test_outside_the_mount_is_no_path(path: str) -> None:
    """An item outside the mount is `invalid_path`, and says so."""
    reply = await send_batch(mounted(), [{"path": path}], path="/app/batch")
    assert failure(reply.only) == REFUSED
    assert "/app" in reply.only["body"]["detail"]


@pytest.mark.parametrize("path", ["/app/batch", "/app/%62atch", "/app/batch/", "/app%2Fbatch"])
async def test_a_batch_within_a_batch_is_refused_under_a_mount(path: str) -> None:
    """A batch within a batch is refused by its path on the origin, the prefix of a mount included."""
    reply = await send_batch(mounted(), [{"path": path}], path="/app/batch")
    assert failure(reply.only) in [(400, "nested_batch"), REFUSED]
    assert path == "/app%2Fbatch" or failure(reply.only) == (400, "nested_batch")


async def test_under_the_root_path_of_a_server_a_path_is_what_a_direct_client_writes() -> None:
    """Under a `root_path` that the server gives, an item's scope is what a direct request's scope is."""
    api = Api()
    scope = {"root_path": "/prefix"}
    reply = await send_batch(BatchMiddleware(api), [{"path": "/prefix/a"}], path="/prefix/batch", more_scope=scope)
    assert reply.only["status"] == 200
    assert (api.only.scope["root_path"], api.only.path, api.only.target) == ("/prefix", "/prefix/a", "/prefix/a")


# Where an item enters


class Framework:
    """Sets `scope["app"]` as Starlette does; one middleware stands before the batch middleware, and counts."""

    def __init__(self, api: App) -> None:
        self.counted: list[str] = []
        self.inside: App = BatchMiddleware(api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        self.counted.append(scope["path"])
        await self.inside(scope, receive, send)


async def test_an_item_enters_at_the_outermost_known_app() -> None:
    """At `scope["app"]` where the framework sets it; the mark lets our own middleware pass the item on."""
    api = Api()
    app = Framework(api)
    await send_batch(app, [{"path": "/a"}, {"path": "/b"}])
    assert app.counted == ["/batch", "/a", "/b"]
    assert api.targets == ["/a", "/b"]
    assert all(arrived.scope["app"] is app for arrived in api.arrived)


async def test_otherwise_an_item_enters_at_the_wrapped_app() -> None:
    """Otherwise the wrapped app: nothing says that what stands before our middleware belongs to the app."""
    api = Api()
    inside = BatchMiddleware(api)
    counted: list[str] = []

    async def outside(scope: Scope, receive: Receive, send: Send) -> None:
        counted.append(scope["path"])
        await inside(scope, receive, send)

    await send_batch(outside, [{"path": "/a"}])
    assert (counted, api.targets) == (["/batch"], ["/a"])


class Tagging:
    """Adds a header to every answer."""

    def __init__(self, app: App, tag: str) -> None:
        self.app = app
        self.tag = tag

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def tagging(message: object) -> None:
            assert isinstance(message, dict)
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-tag", self.tag.encode())]
            await send(message)

        await self.app(scope, receive, tagging if scope["type"] == "http" else send)


async def fails(_: Request) -> PlainTextResponse:
    raise ZeroDivisionError


async def handles(_: Request, error: Exception) -> PlainTextResponse:
    return PlainTextResponse(f"handled {type(error).__name__}", status_code=503)


async def test_every_middleware_and_exception_handler_sees_the_item() -> None:
    """Every middleware and exception handler of a Starlette app sees the item, wherever ours was added."""
    app = Starlette(routes=[Route("/fails", fails)], exception_handlers={ZeroDivisionError: handles})
    app.add_middleware(Tagging, tag="inside")
    app.add_middleware(BatchMiddleware)
    app.add_middleware(Tagging, tag="outside")
    entry = (await send_batch(app, [{"path": "/fails"}])).only
    assert (entry["status"], entry["body"]) == (503, "handled ZeroDivisionError")
    assert entry["headers"]["x-tag"] == ["inside", "outside"]


async def test_two_wrappers_of_one_app_pass_items_on() -> None:
    """The mark lets our own middleware pass an item on, also a second one around the same app."""
    api = Api()
    app = BatchMiddleware(BatchMiddleware(api, path="/inner"), path="/outer")
    reply = await send_batch(app, [{"path": "/a"}], path="/outer")
    assert (reply.only["status"], api.targets) == (200, ["/a"])


async def test_a_batch_through_a_second_wrapper_is_a_batch_within_a_batch() -> None:
    """A batch within a batch is refused by the mark, also if another middleware of ours would answer it."""
    api = Api()
    app = BatchMiddleware(BatchMiddleware(api, path="/inner"), path="/outer")
    inner = {"method": "POST", "path": "/inner", "body": {"requests": [{"path": "/a"}]}}
    entry = (await send_batch(app, [inner], path="/outer")).only
    assert entry["status"] in (400, 508)
    assert entry["body"]["code"] in ("nested_batch", "loop_detected")
    assert api.arrived == []


# Over a socket


def test_over_a_socket_no_path_leaves_the_app() -> None:
    """The whole way through a real server: bad paths are refused, odd ones arrive byte for byte."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        await answer(scope["raw_path"], headers=[("content-type", "text/plain")])(scope, receive, send)

    paths = ["/x@evil:80", "/a%2Fb;c", "/é", "http://evil/", "//evil", "/a/%2e%2e/b", "/%zz"]
    with serve(BatchMiddleware(app), lifespan="off") as server:
        reply = ask_server(
            server,
            "POST",
            "/batch",
            [("Content-Type", "application/json")],
            written([{"path": path} for path in paths]),
        )
    entries = reply.json()["responses"]
    assert [entry["body"] for entry in entries[:3]] == ["/x@evil:80", "/a%2Fb;c", "/%C3%A9"]
    assert [failure(entry) for entry in entries[3:]] == [REFUSED] * 4


@pytest.mark.parametrize("path", ["/admin", "/admin/"])
async def test_a_rule_may_end_in_a_slash(path: str) -> None:
    """`deny` and caps speak of a path with and without the slash at its end, however the rule is written."""
    api = Api()
    assert failures(await send_batch(BatchMiddleware(api, deny=["/admin/"]), [{"path": path}])) == [(403, "forbidden")]
    capped = BatchMiddleware(api, max_per_batch={"/admin/": 0})
    assert failures(await send_batch(capped, [{"path": path}])) == [(429, "too_many_for_route")]
    assert api.arrived == []
