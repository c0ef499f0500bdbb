"""The admin listener: who is let in, what health says, and what it shows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.whole import Whole, whole
from tests.serving import Response, ask

HEALTH = ["/livez", "/readyz", "/startupz", "/healthz"]
VIEWS = ["/-/config", "/-/upstreams"]
CONFIG = """
server: {watch: false, admin_token: "let-me-in", admin_hosts: [ops.example]}
upstreams:
  alive: {url: "http://127.0.0.1:9"}
  other: {url: "http://127.0.0.1:9"}
routes:
  - {path: /alive, upstream: alive}
  - {path: /other, upstream: other}
"""
TOKEN = ("Authorization", "Bearer let-me-in")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    with whole(tmp_path_factory.mktemp("admin"), CONFIG) as process:
        yield process


def admin(running: Whole, method: str, target: str, *headers: tuple[str, str], host: str = "localhost") -> Response:
    return ask(running.admin, method, target, [("Host", host), *headers])


@pytest.mark.parametrize("target", HEALTH)
def test_health_needs_no_token(running: Whole, target: str) -> None:
    """A probe is answered under any name, and its answer is kept by nobody."""
    answer = admin(running, "GET", target, host="10.1.2.3:9090")
    assert answer.status == 200
    assert answer.json()["status"] == "pass"
    assert answer.header("cache-control") == "no-store"
    assert admin(running, "HEAD", target).body == b""


def test_readiness_says_why(running: Whole) -> None:
    """`?verbose` lists each check with its own verdict."""
    assert admin(running, "GET", "/readyz?verbose").json()["checks"] == {
        "started": "pass",
        "accepting": "pass",
        "config": "pass",
        "upstreams": "pass",
    }


@pytest.mark.parametrize("target", VIEWS)
def test_views_need_the_token(running: Whole, target: str) -> None:
    """Without the token, or with another one, nothing is shown."""
    for headers in ([], [("Authorization", "Bearer wrong")], [("Authorization", "Basic bGV0LW1lLWlu")]):
        answer = admin(running, "GET", target, *headers)
        assert answer.status == 401
        assert answer.header("www-authenticate") == "Bearer"
    assert admin(running, "GET", target, TOKEN).status == 200


def test_a_reload_needs_the_token(running: Whole) -> None:
    """Nobody else can make the process read its file again."""
    assert admin(running, "POST", "/-/reload").status == 401
    answer = admin(running, "POST", "/-/reload", TOKEN)
    assert (answer.status, answer.json()["changed"]) == (200, False)


@pytest.mark.parametrize("target", VIEWS)
def test_other_names_are_refused(running: Whole, target: str) -> None:
    """A page in a browser that makes its own name point here gets nothing, even with the token."""
    assert admin(running, "GET", target, TOKEN, host="evil.example").status == 403
    assert admin(running, "GET", target, TOKEN, host="localhost.evil.example").status == 403
    for host in ("127.0.0.1:9090", "[::1]:9090", "LOCALHOST", "ops.example:1"):
        assert admin(running, "GET", target, TOKEN, host=host).status == 200


def test_the_configuration_is_shown_without_secrets(running: Whole) -> None:
    """What is in effect is there, the token is not."""
    shown = admin(running, "GET", "/-/config", TOKEN)
    assert b"alive" in shown.body
    assert b"let-me-in" not in shown.body


def test_the_upstreams_are_shown(running: Whole) -> None:
    """Each upstream of each worker, with its addresses."""
    document = admin(running, "GET", "/-/upstreams", TOKEN).json()
    (worker,) = document["workers"]
    assert [each["name"] for each in worker["upstreams"]] == ["alive", "other"]
    assert len(worker["upstreams"][0]["addresses"]) == 1


def test_unknown_pages_and_methods(running: Whole) -> None:
    """They are refused with the right status, and a reload is nothing that a link can do."""
    assert admin(running, "GET", "/", TOKEN).status == 404
    answer = admin(running, "GET", "/-/reload", TOKEN)
    assert (answer.status, answer.header("allow")) == (405, "POST")


@pytest.mark.parametrize(("required", "status", "verdict"), [("true", 503, "fail"), ("false", 200, "warn")])
def test_an_upstream_without_a_healthy_address(required: str, status: int, verdict: str, tmp_path: Path) -> None:
    """Only one that is required makes the process unready; another one is a warning."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        check = "{interval: 50ms, timeout: 1s, unhealthy: 1}"
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        upstream = f"{{url: '{url}', required: {required}, health_check: {check}}}"
        with whole(tmp_path, f"server: {{watch: false}}\nupstreams: {{a: {upstream}}}\n") as running:
            running.says("upstream.unhealthy")
            answer = running.asks_admin("GET", "/readyz?verbose")
            assert (answer.status, answer.json()["status"]) == (status, verdict)
            assert answer.json()["checks"]["upstreams"] == verdict
            assert running.asks_admin("GET", "/livez").status == 200


def test_a_refused_reload_gives_its_reasons(tmp_path: Path) -> None:
    """The answer is 422 with every located error, and what was in effect stays."""
    good = "server: {watch: false}\nupstreams: {a: {url: 'http://127.0.0.1:9'}}\n"
    with whole(tmp_path, good) as running:
        digest = running.asks_admin("POST", "/-/reload").json()["digest"]
        running.file.write_text(good + "rout: []\nendpoint: []\n", "utf-8")
        answer = running.asks_admin("POST", "/-/reload")
        assert answer.status == 422
        assert len(answer.json()["errors"]) == 2
        assert all("batchproxy.yaml:" in each for each in answer.json()["errors"])
        assert answer.json()["digest"] == digest
        running.file.write_text(good.replace("false", "false, grace: 3s, keep_alive: 1s"), "utf-8")
        answer = running.asks_admin("POST", "/-/reload")
        assert answer.status == 200
        waiting = ["server.keep_alive has changed, and needs a restart"]
        assert (answer.json()["changed"], answer.json()["warnings"]) == (True, waiting)
        # Whoever comes later hears of it, too.
        answer = running.asks_admin("POST", "/-/reload")
        assert (answer.json()["changed"], answer.json()["warnings"]) == (False, waiting)
        running.file.write_text(good, "utf-8")
        assert [running.asks_admin("POST", "/-/reload").json()["warnings"] for _ in "12"] == [[], []]


def test_what_waits_for_a_restart_is_shown_as_it_still_is(tmp_path: Path) -> None:
    """What is in effect is shown, whatever the file says by now; and what differs is told."""
    text = "server: {{watch: false, keep_alive: {}, log: {{items: {}}}}}\nupstreams: {{a: {{url: 'http://127.0.0.1:9'}}}}\n"
    with whole(tmp_path, text.format("20s", "all")) as running:
        running.file.write_text(text.format("1s", "none").replace("false", "false, grace: 3s"), "utf-8")
        assert running.asks_admin("POST", "/-/reload").status == 200
        lines = running.asks_admin("GET", "/-/config").body.decode().splitlines()
        assert [each.split()[1] for each in lines if each.startswith("#")] == ["server.keep_alive", "server.log"]
        values = {each.split("  # ")[0] for each in lines}
        assert {"  keep_alive: 20s", "    items: all", "  grace: 3s"} <= values
        # Back to what it was: nothing waits any more.
        running.file.write_text(text.format("20s", "all"), "utf-8")
        assert running.asks_admin("POST", "/-/reload").status == 200
        assert not running.asks_admin("GET", "/-/config").body.startswith(b"#")
