"""What the settings of upstreams accept, and that they say what was expected."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from batchproxy.engine.errors import SettingError
from batchproxy.engine.paths import canonical
from batchproxy.proxy.addresses import Location, is_host, located
from batchproxy.proxy.settings import (
    TLS,
    CircuitBreaker,
    HealthCheck,
    OutlierDetection,
    Retry,
    Timeouts,
    Upstream,
)

URL = "http://h"


@pytest.mark.parametrize(
    ("url", "scheme", "authority", "port", "prefix"),
    [
        ("http://h", "http", b"h", 80, b""),
        ("http://h/", "http", b"h", 80, b""),
        ("https://h", "https", b"h", 443, b""),
        ("https://h:443/api", "https", b"h", 443, b"/api"),
        ("https://h:80", "https", b"h:80", 80, b""),
        ("http://a_b.c-d.example.:8080/api/v1/", "http", b"a_b.c-d.example.:8080", 8080, b"/api/v1"),
        ("http://127.0.0.1:9000", "http", b"127.0.0.1:9000", 9000, b""),
        ("http://[::1]:9000/x%2Fy", "http", b"[::1]:9000", 9000, b"/x%2Fy"),
        ("http://xn--bcher-kva.example/b%C3%BCcher", "http", b"xn--bcher-kva.example", 80, b"/b%C3%BCcher"),
        ("http://h/bücher", "http", b"h", 80, b"/b%C3%BCcher"),
    ],
)
def test_urls(url: str, scheme: str, authority: bytes, port: int, prefix: bytes) -> None:
    """Scheme, host, port and an optional prefix, without a slash at its end."""
    found = located(url)
    assert (found.scheme, found.authority, found.port, found.prefix) == (scheme, authority, port, prefix)
    assert found.socket is None
    assert Upstream(url=url).url == url


def test_hosts_of_urls() -> None:
    """An IPv6 address is in brackets only where it is written."""
    assert located("http://[::1]:9000/x").host == "::1"
    assert located("http://[::1]:9000/x").origin == "http://[::1]:9000"
    assert located("https://h:443/x").origin == "https://h"


@pytest.mark.parametrize("url", ["unix:/run/up.sock", "unix:///run/up.sock"])
def test_unix_sockets(url: str) -> None:
    """Both spellings that are in use."""
    found = located(url)
    assert found == Location(url=url, scheme="unix", socket="/run/up.sock")
    assert found.origin == "unix:/run/up.sock"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "the scheme is missing"),
        ("h:80", "the scheme is missing"),
        ("//h", "the scheme is missing"),
        ("ftp://h", "expected http://host"),
        ("HTTP://h", "expected http://host"),
        ("http:/h", "the scheme is missing"),
        ("http://", "expected a host"),
        ("http://:80", "expected a host"),
        ("http:///x", "expected a host"),
        ("http://user@h", "no user and password"),
        ("http://user:secret@h", "no user and password"),
        ("http://h?x=1", "no query"),
        ("http://h/x?x=1", "no query"),
        ("http://h/#x", "no fragment"),
        ("http://h:0", "expected a port"),
        ("http://h:65536", "expected a port"),
        ("http://h:x", "expected a host"),
        ("http://h:", "expected a host"),
        ("http://h h", "expected http://host"),
        ("http://h\r\nx: y", "expected http://host"),
        ("http://h\n", "expected http://host"),
        ("http://-h", "expected a host"),
        ("http://h-", "expected a host"),
        ("http://a..b", "expected a host"),
        ("http://.", "expected a host"),
        ("http://[::1", "expected a host"),
        ("http://[:::1]", "expected a host"),
        ("http://::1", "expected a host"),
        ("http://bücher.example", "expected a host"),
        ("http://h\\x", "expected http://host"),
        ("http://h/../x", "`..` segment"),
        ("http://h/%2e%2e", "`..` segment"),
        ("http://h//x", "begins with one `/`"),
        ("http://h//", "begins with one `/`"),
        ("http://h/a//x", "empty segment"),
        ("http://h/a//", "empty segment"),
        ("http://h/x%00", "%00"),
        ("http://h/x%", "hexadecimal"),
        ("http://h/x\\y", "holds no `\\`"),
        ("unix:", "absolute"),
        ("unix:run/up.sock", "absolute"),
        ("unix:/run/", "absolute"),
        ("unix:/run/up.sock?x", "absolute"),
        ("http+unix://%2Frun%2Fup.sock", "expected http://host"),
        (80, "expected http://host"),
    ],
)
def test_urls_that_are_refused(url: str, expected: str) -> None:
    """Whatever could be read in two ways, or would be ignored."""
    with pytest.raises(SettingError) as error:
        Upstream(url=url)
    assert expected in str(error.value)
    assert error.value.setting == "url"
    assert "secret" not in str(error.value)


@given(st.from_regex(r"[a-z0-9./%:@\\?#\[\]-]{0,20}", fullmatch=True))
def test_no_url_leads_elsewhere(text: str) -> None:
    """Whatever is accepted has a host that is one, and a prefix that an item may have."""
    try:
        found = located(f"http://{text}")
    except SettingError:
        return
    assert is_host(found.authority.decode())
    assert not found.prefix.endswith(b"/")
    assert found.prefix == b"" or canonical(found.prefix.decode()) == (found.prefix, b"")


def refused(expected: str, made: Any, **settings: Any) -> None:
    with pytest.raises(SettingError) as error:
        made(**settings)
    assert expected in str(error.value)


def test_either_one_url_or_several_addresses() -> None:
    """Exactly one of the two, the addresses of one scheme, each once."""
    assert Upstream(addresses=["http://a", "http://b/x"]).addresses == ["http://a", "http://b/x"]
    refused("expected a url", Upstream)
    refused("expected a url", Upstream, addresses=[])
    refused("not both", Upstream, url=URL, addresses=["http://a"])
    refused("one scheme", Upstream, addresses=["http://a", "https://b"])
    refused("each address once", Upstream, addresses=["http://a", "http://A/x"])
    refused("list of strings", Upstream, addresses="http://a")
    refused("list of strings", Upstream, addresses=[1])
    refused("the scheme is missing", Upstream, addresses=["http://a", "b"])


@pytest.mark.parametrize("host", ["auto", "preserve", "upstream", "api.example.com", "h:8080", "[::1]:80"])
def test_host_policies(host: str) -> None:
    """Three words, or a host as it is sent."""
    assert Upstream(url=URL, host=host).host == host


@pytest.mark.parametrize("host", ["", "a b", "h:99999", "http://h", "h/x", "u@h", "h\r\nx: y", "bücher", 1, None])
def test_hosts_that_are_refused(host: object) -> None:
    """Nothing that would break the field, or be read as something else."""
    refused("expected preserve, upstream, auto", Upstream, url=URL, host=host)


def test_transports() -> None:
    """Two that are built in, or an import string; `http2` only where it is spoken."""
    for name in ("native", "httpx", "package.module:factory", "a:b.c"):
        assert Upstream(url=URL, transport=name).transport == name
    for wrong in ("", "nativ", "a.b", "a:", ":b", "a:b:c", "a b:c", "a/b:c", None):
        refused("expected native, httpx or package.module:factory", Upstream, url=URL, transport=wrong)
    assert Upstream(url=URL, transport="httpx", http2=True).http2
    refused("expected `transport: httpx`", Upstream, url=URL, http2=True)
    refused("true or false", Upstream, url=URL, http2="yes")
    refused("true or false", Upstream, url=URL, required=1)


def test_tls_is_for_https() -> None:
    """A setting that would be ignored is a mistake."""
    assert Upstream(url="https://h", tls=TLS(ca="ca.pem")).tls.ca == "ca.pem"
    assert Upstream(url=URL, tls=TLS()).tls.is_default
    for tls in (TLS(ca="ca.pem"), TLS(insecure_skip_verify=True), TLS(min_version="1.3")):
        refused("expected an https url", Upstream, url=URL, tls=tls)
        refused("expected an https url", Upstream, url="unix:/run/up.sock", tls=tls)


def test_certificates_come_with_their_keys() -> None:
    """A key alone cannot work; what it is called is not shown. A certificate may have its key in the same file."""
    assert TLS(certificate="c.pem", key="k.pem").key == "k.pem"
    assert TLS(certificate="both.pem").key is None
    refused("key='…'", TLS, key="secret")
    refused("without a port", TLS, server_name="h:443")
    refused("without a port", TLS, server_name="")
    refused('"1.2" or "1.3"', TLS, min_version="1.1")
    refused("true or false", TLS, insecure_skip_verify="no")


def test_retries() -> None:
    """Names are known, and the numbers fit each other."""
    assert Retry(on=[]).on == []
    refused("did you mean connect-failure?", Retry, on=["connect-failures"])
    refused("expected some of", Retry, on=["5xx"])
    refused("list of strings", Retry, on="connect-failure")
    refused("at least backoff", Retry, backoff=2, max_backoff=1)
    refused("from 0 to 1", Retry, budget=20)
    refused("at least 0", Retry, attempts=-1)
    refused("at least 0.001", Retry, per_try_timeout=0)


def test_ejection() -> None:
    """The numbers fit each other."""
    refused("at least base_ejection_time", OutlierDetection, base_ejection_time=60, max_ejection_time=30)
    refused("from 0 to 100", OutlierDetection, max_ejection_percent=101)
    refused("at least 1", OutlierDetection, consecutive_5xx=0)
    refused("at least 1", CircuitBreaker, consecutive_failures=0)


@pytest.mark.parametrize("path", ["/", "/health?full=1", "/a%20b"])
def test_health_paths(path: str) -> None:
    """As they are sent."""
    assert HealthCheck(path=path).path == path


@pytest.mark.parametrize("path", ["", "health", "//h", "/../x", "/a b", "/bücher", "/x\r\n", "http://h/", 1])
def test_health_paths_that_are_refused(path: object) -> None:
    """Nothing that an item could not have, and nothing that would be sent otherwise than written."""
    with pytest.raises(SettingError) as error:
        HealthCheck(path=path)  # type: ignore[arg-type]
    assert error.value.setting == "path"


@pytest.mark.parametrize("value", ["5s", True, 0, -1, float("nan"), float("inf"), None])
def test_timeouts_are_numbers(value: object) -> None:
    """Checked when they are made."""
    with pytest.raises(SettingError):
        Timeouts(connect=value)  # type: ignore[arg-type]
