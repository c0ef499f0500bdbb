"""The settings of the process check themselves."""

from __future__ import annotations

from typing import Any

import pytest

from batchproxy.engine.errors import SettingError
from batchproxy.engine.routing import Route
from batchproxy.proxy.settings import Upstream
from batchproxy.server.configuration.listening import is_self
from batchproxy.server.settings import Config, Listener, Log, Server, read_listener


@pytest.mark.parametrize(
    ("text", "listener"),
    [
        ("127.0.0.1:8080", Listener(host="127.0.0.1", port=8080)),
        ("localhost:0", Listener(host="localhost")),
        ("[::1]:8080", Listener(host="::1", port=8080)),
        ("[::]:8080", Listener(host="::", port=8080)),
        ("unix:/run/x.sock", Listener(socket="/run/x.sock")),
        ("fd:3", Listener(descriptor=3)),
    ],
)
def test_listeners(text: str, listener: Listener) -> None:
    """A host and port, a unix socket, or an inherited descriptor."""
    assert read_listener("listen", text) == listener


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8080",
        ":8080",
        "localhost",
        "x:65536",
        "x:-1",
        "x:\u0661",
        "::1:80",
        "[x]:80",
        "[127.0.0.1]:80",
        "999.1.1.1:80",
        "unix:x.sock",
        "unix:/x/",
        "unix:/\0",
        "fd:x",
        "fd:",
        "http://x:80",
        "a b:80",
        "x:80/",
        8080,
        None,
    ],
)
def test_what_is_no_listener(text: Any) -> None:
    """Anything else is refused as the setting that it is."""
    with pytest.raises(SettingError, match=r"listen=.*expected") as caught:
        Server(listen=text)
    assert caught.value.setting == "listen"


@pytest.mark.parametrize("admin", ["127.0.0.1:1", "127.0.0.2:1", "[::1]:1", "localhost:1", "unix:/x", "off"])
def test_an_admin_listener_on_this_machine_needs_no_token(admin: str) -> None:
    """Loopback and sockets are reached from this machine alone."""
    assert Server(admin=admin).admin_token is None


@pytest.mark.parametrize("admin", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "admin.internal:1", "fd:4"])
def test_an_admin_listener_for_others_needs_a_token(admin: str) -> None:
    """Where others can reach it, or nobody knows, there must be a token."""
    with pytest.raises(SettingError, match="expected an admin_token"):
        Server(admin=admin)
    assert Server(admin=admin, admin_token="t" * 32).admin == admin


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"admin": "127.0.0.1:8080"}, "admin"),
        ({"admin_token": ""}, "admin_token"),
        ({"admin_token": "a b"}, "admin_token"),
        ({"name": "a b"}, "name"),
        ({"trusted_proxies": ["10.0.0.0/33"]}, "trusted_proxies"),
        ({"trusted_proxies": "10.0.0.0/8"}, "trusted_proxies"),
        ({"allowed_hosts": ["A"]}, "allowed_hosts"),
        ({"allowed_hosts": ["a:80"]}, "allowed_hosts"),
        ({"admin_hosts": ["*"]}, "admin_hosts"),
        ({"tls_certificate": "x"}, "tls_certificate"),
        ({"tls_key": "x"}, "tls_key"),
        ({"watch": "yes"}, "watch"),
        ({"log": {}}, "log"),
        ({"workers": 0}, "workers"),
        ({"grace": 0}, "grace"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], setting: str) -> None:
    """The error names the setting at fault."""
    with pytest.raises(SettingError) as caught:
        Server(**settings)
    assert caught.value.setting == setting


@pytest.mark.parametrize("settings", [{"level": "trace"}, {"format": "xml"}, {"items": True}, {"access": 1}])
def test_log_settings_that_cannot_work_are_refused(settings: dict[str, Any]) -> None:
    """The settings of the log take the words that they know."""
    with pytest.raises(SettingError):
        Log(**settings)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a__b", "-a", "a/b"])
def test_names_of_upstreams(name: str) -> None:
    """A name can stand in a variable and in a log line."""
    with pytest.raises(SettingError, match="expected a name"):
        Config(upstreams={name: None})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("url", "listen", "expected"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1:8080", True),
        ("http://127.1:8080", "127.0.0.1:8080", True),
        ("http://[::ffff:127.0.0.1]:8080", "127.0.0.1:8080", True),
        ("http://LOCALHOST:8080/x", "127.0.0.1:8080", True),
        ("http://0.0.0.0:8080", "127.0.0.1:8080", True),
        ("http://127.0.0.2:8080", "127.0.0.1:8080", False),
        ("http://127.0.0.2:8080", "0.0.0.0:8080", True),
        ("http://localhost:8080", "[::]:8080", True),
        ("http://[0:0::1]:8080", "[::1]:8080", True),
        ("https://localhost", "0.0.0.0:443", True),
        ("http://192.0.2.1:8080", "0.0.0.0:8080", False),
        ("http://api.example:8080", "0.0.0.0:8080", False),
        ("http://api.example:8080", "api.example:8080", True),
        ("http://127.0.0.1:8081", "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080", "127.0.0.1:0", False),
        ("unix:/run/x", "unix:/run/x", True),
        ("unix:/run/x", "unix:/run/y", False),
        ("unix:/run/x", "127.0.0.1:8080", False),
        ("http://127.0.0.1:8080", "unix:/run/x", False),
        ("http://127.0.0.1:8080", "fd:3", False),
    ],
)
def test_an_upstream_that_is_ourselves_is_known(url: str, listen: str, expected: bool) -> None:
    """An address leads to our own listener in whatever form it is written; no other one does."""
    assert is_self(url, read_listener("listen", listen)) is expected


def test_without_routes_everything_goes_to_the_only_upstream() -> None:
    """The route that nobody wrote leads from the root to the one upstream there is."""
    [route] = Config(upstreams={"a": Upstream(url="http://127.0.0.1:9000")}).all_routes
    assert (route.upstream, route.path, route.host) == ("a", "/", None)
    own = (Route(upstream="a", path="/x"),)
    assert Config(upstreams={"a": Upstream(url="http://127.0.0.1:9000")}, routes=own).all_routes == own


def test_a_token_is_not_shown() -> None:
    """Neither the settings nor the text of an error hold the token."""
    assert "hunter2" not in repr(Server(admin_token="hunter2"))
    with pytest.raises(SettingError) as caught:
        Server(admin_token="hunter2 hunter2")
    assert "hunter2" not in str(caught.value)
