"""Where a request goes: hosts, prefixes, and paths that can be read in two ways."""

from __future__ import annotations

from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.engine.paths import readings
from batchproxy.engine.routing import Route, RouteTable, without_port


def route(path: str = "/", upstream: str = "", **settings: Any) -> Route:
    return Route(upstream=upstream or path, path=path, **settings)


def found(table: RouteTable, path: str, host: str = "any.example") -> str | None:
    route = table.find(host, readings(path.encode()))
    return None if route is None else route.upstream


PREFIXES = RouteTable([route("/"), route("/orders"), route("/orders/archive/"), route("/users")])


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/orders", "/orders"),
        ("/orders/", "/orders"),
        ("/orders/7", "/orders"),
        ("/ordersx", "/"),
        ("/orders/archive", "/orders/archive/"),
        ("/orders/archive/1", "/orders/archive/"),
        ("/orders/archived", "/orders"),
        ("/Orders", "/"),
        ("/", "/"),
        ("/users/%2e/x", "/users"),
        ("/%6frders/7", "/orders"),
        ("/orders;x/7", "/"),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: str, upstream: str) -> None:
    """A prefix ends where a segment ends, in small and capital letters as written, decoded once."""
    assert found(PREFIXES, path) == upstream


@pytest.mark.parametrize("path", ["/orders%2Farchive/1", "/orders%2farchive", "/x%2F../orders", "/%2Forders"])
def test_a_path_that_can_be_read_in_two_ways_goes_where_both_lead(path: str) -> None:
    """Split and decoded, or decoded and split: if the two would go to different upstreams, it goes to none."""
    first, second = readings(path.encode())
    table = PREFIXES
    alone = {table.find("h", [first]), table.find("h", [second])}
    assert found(table, path) == (next(iter(alone)).upstream if len(alone) == 1 else None)  # type: ignore[union-attr]
    assert found(RouteTable([route("/orders"), route("/orders/archive")]), "/orders%2Farchive/1") is None


HOSTS = RouteTable(
    [
        route("/", "any"),
        route("/", "api", host="api.example"),
        route("/users", "users", host="api.example"),
        route("/", "wild", host="*.example"),
        route("/", "deep", host="*.api.example"),
        route("/", "six", host="[::1]"),
        route("/only", "only"),
    ]
)


@pytest.mark.parametrize(
    ("host", "path", "upstream"),
    [
        ("api.example", "/x", "api"),
        ("API.example:8080", "/x", "api"),
        ("api.example", "/users/1", "users"),
        ("www.example", "/users/1", "wild"),
        ("a.api.example", "/", "deep"),
        ("example", "/", "any"),
        (".example", "/", "any"),
        ("elsewhere", "/", "any"),
        ("[::1]:80", "/", "six"),
        ("", "/", "any"),
        ("api.example", "/only", "api"),
    ],
)
def test_a_host_of_its_own_comes_before_any_host(host: str, path: str, upstream: str) -> None:
    """The host itself, then names with `*` from the longest, then any; letter case and port do not matter."""
    assert found(HOSTS, path, host) == upstream


def test_where_there_is_no_route() -> None:
    """A table without a route for the root has none for what lies beside its prefixes."""
    assert found(RouteTable([route("/a")]), "/b") is None
    assert found(RouteTable([]), "/") is None
    assert found(RouteTable([route("/", host="a.example")]), "/", "b.example") is None


def test_two_routes_of_one_place_are_refused() -> None:
    """A slash at the end makes no other place."""
    with pytest.raises(SettingError, match="there twice"):
        RouteTable([route("/a"), route("/a/", "other")])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("path", "orders"),
        ("path", "/a/../b"),
        ("path", "/a?b"),
        ("path", "/%61"),
        ("path", "//a"),
        ("path", 7),
        ("add_prefix", "/a/"),
        ("add_prefix", "a"),
        ("host", "Api.example"),
        ("host", "api.example:80"),
        ("host", "a b"),
        ("strip_prefix", "yes"),
        ("serial", 1),
        ("methods", ["get"]),
        ("methods", "GET"),
        ("allow", ["orders"]),
        ("deny", ["get /x"]),
        ("add_headers", {"Host": "x"}),
        ("add_headers", {"Transfer-Encoding": "x"}),
        ("add_headers", {"a b": "x"}),
        ("add_headers", {"a": "x\r\ny: z"}),
        ("remove_headers", ["Content-Length"]),
        ("require_headers", [""]),
        ("max_per_batch", -1),
        ("max_request_bytes", "1"),
        ("timeout", 0),
        ("upstream", ""),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(setting: str, value: Any) -> None:
    """Whatever cannot work is refused when the route is made, and the error names the setting."""
    with pytest.raises(SettingError) as error:
        Route(**{"upstream": "u", setting: value})
    assert error.value.setting == setting


@pytest.mark.parametrize(
    ("host", "name"), [("a", "a"), ("a:1", "a"), ("[::1]", "[::1]"), ("[::1]:1", "[::1]"), ("", "")]
)
def test_a_host_without_its_port(host: str, name: str) -> None:
    """The brackets of an IPv6 address belong to it."""
    assert without_port(host) == name
