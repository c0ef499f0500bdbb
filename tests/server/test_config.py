"""What a configuration becomes: files, variables and flags, one above the other."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from batchproxy.engine.model import Batch
from batchproxy.server.config import ConfigErrors, load
from batchproxy.server.configuration.layers import variable
from batchproxy.server.settings import Config

from .configured import UPSTREAM, errors, loaded


async def guard(batch: Batch) -> Batch:
    return batch


def test_a_file_becomes_the_settings_objects(tmp_path: Path) -> None:
    """Keys of a file are the fields of the settings, with durations and sizes in their units."""
    found = loaded(
        tmp_path,
        """
        server: {grace: 1m, max_header_bytes: 2MiB, log: {level: debug}}
        upstreams:
          orders:
            url: http://10.0.0.5:9000
            timeouts: {connect: 250ms, total: 15}
            health_check: {path: /health}
        routes:
          - path: /orders
            upstream: orders
            add_headers: {X-Via: batch}
        endpoints:
          - path: /v1.0/$batch
            max_per_batch: {"POST /login": 1}
            execution: sequential
        """,
    ).config
    assert (found.server.grace, found.server.max_header_bytes, found.server.log.level) == (60, 2 * 1024**2, "debug")
    orders = found.upstreams["orders"]
    assert (orders.timeouts.connect, orders.timeouts.total, orders.timeouts.first_byte) == (0.25, 15, 10)
    assert orders.health_check is not None
    assert orders.health_check.path == "/health"
    [route], [endpoint] = found.routes, found.batch_endpoints
    assert (route.upstream, route.add_headers) == ("orders", {"X-Via": "batch"})
    assert (endpoint.path, endpoint.execution, endpoint.max_per_batch) == (
        "/v1.0/$batch",
        "sequential",
        {"POST /login": 1},
    )


def test_what_is_left_out_has_its_default(tmp_path: Path) -> None:
    """Keys that are not there, or hold nothing, have the defaults of the settings."""
    found = loaded(tmp_path, UPSTREAM + "server:\nroutes:\nendpoints:\n").config
    assert found.server == Config().server
    assert [each.path for each in found.endpoints] == ["/batch"]


def test_without_a_file_flags_are_enough() -> None:
    """A url for one upstream is a whole configuration."""
    found = load(None, environment={}, flags={"upstreams.default.url": "http://127.0.0.1:9000"})
    assert found.config.upstreams["default"].url == "http://127.0.0.1:9000"
    assert found.files == ()


def test_without_anything_it_says_what_is_needed() -> None:
    """With neither a file nor flags, the error names the shortest way."""
    with pytest.raises(ConfigErrors) as caught:
        load(None, environment={})
    assert str(caught.value) == (
        "configuration: error: there is no upstream, expected `upstreams` with one, or `--upstream URL`"
    )


def test_flags_may_bring_routes() -> None:
    """Several upstreams by flags come with a route to each."""
    flags = {
        "upstreams.a.url": "http://127.0.0.1:9000",
        "upstreams.b.url": "http://127.0.0.1:9001",
        "routes": [{"path": "/a", "upstream": "a"}, {"path": "/b", "upstream": "b"}],
    }
    assert [route.path for route in load(None, environment={}, flags=flags).config.routes] == ["/a", "/b"]


def test_the_layers_are_in_order(tmp_path: Path) -> None:
    """A default gives way to the file, the file to the environment, the environment to a flag; origins say which."""
    text = UPSTREAM + "server: {listen: '127.0.0.1:1', name: file, max_in_flight: 1}\n"
    environment = {"BATCHPROXY_SERVER__LISTEN": "127.0.0.1:2", "BATCHPROXY_SERVER__NAME": "environment"}
    found = loaded(tmp_path, text, environment=environment, flags={"server.listen": "127.0.0.1:3"})
    server = found.config.server
    assert (server.listen, server.name, server.max_in_flight, server.workers) == ("127.0.0.1:3", "environment", 1, 1)
    origins = [str(found.origins[f"/server/{name}"]) for name in ("listen", "name", "max_in_flight", "workers")]
    assert origins == [
        "flag --listen",
        "environment BATCHPROXY_SERVER__NAME",
        f"{tmp_path}/batchproxy.yaml:2:60",
        "default",
    ]


@pytest.mark.parametrize("name", ["BATCHPROXY_UPSTREAMS__MY_API__MAX_QUEUE", "batchproxy_upstreams__my-API__max_queue"])
def test_variables_find_names_in_any_case(tmp_path: Path, name: str) -> None:
    """The name of an upstream is found whatever its case, and `_` stands for `-`."""
    text = "upstreams: {My-Api: {url: 'http://127.0.0.1:9000'}}"
    found = loaded(tmp_path, text, environment={name: "7"})
    assert found.config.upstreams["My-Api"].max_queue == 7


def test_variables_hold_numbers_lists_and_places_in_lists(tmp_path: Path) -> None:
    """Text of a variable becomes what the key expects, and a number in its name is a place in a list."""
    environment = {
        "BATCHPROXY_SERVER__WATCH": "False",
        "BATCHPROXY_SERVER__GRACE": "2m",
        "BATCHPROXY_SERVER__ALLOWED_HOSTS": "a.example, b.example",
        "BATCHPROXY_ENDPOINTS__0__MAX_ITEMS": "5",
        "BATCHPROXY_UPSTREAMS__A__RETRY__BUDGET": "0.5",
    }
    found = loaded(tmp_path, UPSTREAM, environment=environment).config
    assert (found.server.watch, found.server.grace) == (False, 120)
    assert found.server.allowed_hosts == ("a.example", "b.example")
    assert found.endpoints[0].max_items == 5
    assert found.upstreams["a"].retry.budget == 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BATCHPROXY_SERVER__LISTN", "did you mean `listen`?"),
        ("BATCHPROXY_SEVER__LISTEN", "did you mean `server`?"),
        ("BATCHPROXY_LISTEN", "expected a key of Config"),
        ("BATCHPROXY_SERVER", "expected the name of one of them"),
        ("BATCHPROXY_SERVER__LISTEN__X", "nothing lies below"),
        ("BATCHPROXY_ROUTES__7__PATH", "expected the next or a lower number"),
    ],
)
def test_a_variable_that_names_no_key_is_an_error(tmp_path: Path, name: str, expected: str) -> None:
    """A misspelt variable is refused, not passed over."""
    [error] = errors(tmp_path, UPSTREAM, environment={name: "x"})
    assert error.file == f"environment {name}"
    assert expected in error.message


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """What the command line reads, and what Kubernetes sets for a Service of our name, are no keys."""
    environment = dict.fromkeys(
        (
            "BATCHPROXY_CONFIG",
            "BATCHPROXY_PORT",
            "BATCHPROXY_PORT_8080_TCP",
            "BATCHPROXY_PORT_8080_TCP_ADDR",
            "BATCHPROXY_SERVICE_HOST",
            "BATCHPROXY_SERVICE_PORT_HTTP",
            "BATCHPROXY_ADMIN_SERVICE_HOST",
        ),
        "x",
    )
    assert loaded(tmp_path, UPSTREAM, environment=environment).warnings == []


def test_keys_tell_their_variables() -> None:
    """The variable of a key is its path in capitals."""
    assert variable("server.log.level") == "BATCHPROXY_SERVER__LOG__LEVEL"


def test_guards_are_imported(tmp_path: Path) -> None:
    """An import string becomes the function that it names."""
    found = loaded(tmp_path, UPSTREAM + f"endpoints: [{{guards: ['{__name__}:guard']}}]\n")
    assert found.config.batch_endpoints[0].guards == (sys.modules[__name__].__dict__["guard"],)


def test_all_files_that_matter_are_named(tmp_path: Path) -> None:
    """The file itself and those that `${file:…}` reads are there to be watched."""
    (tmp_path / "token").write_text("hunter2\n", "utf-8")
    found = loaded(tmp_path, UPSTREAM + "server: {admin_token: '${file:token}'}\n")
    assert found.files == (tmp_path / "batchproxy.yaml", tmp_path / "token")
    assert found.config.server.admin_token == "hunter2"


def test_the_digest_follows_what_is_in_effect(tmp_path: Path) -> None:
    """Comments do not change it, values do, and so do secrets, which it does not show."""
    first = loaded(tmp_path, UPSTREAM + "server: {admin_token: first-token}\n").digest
    assert loaded(tmp_path, UPSTREAM + "# changed\nserver:\n  admin_token: first-token\n").digest == first
    assert loaded(tmp_path, UPSTREAM + "server: {admin_token: second-token}\n").digest != first


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A missing file, or a folder in its place, is told as such."""
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigErrors, match="cannot be read"):
            load(path, environment={})


def test_two_settings_are_checked_by_the_same_rules(tmp_path: Path) -> None:
    """A byte order mark and Windows line ends change nothing."""
    path = tmp_path / "batchproxy.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + UPSTREAM.replace("\n", "\r\n").encode() + b"server:\r\n  lissten: 1\r\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path, environment={})
    [error] = caught.value.errors
    assert (error.line, error.column, error.source_line) == (3, 3, "  lissten: 1")
