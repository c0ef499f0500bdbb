"""Where a webhook may go: what the grammar of its URL refuses, and which addresses nothing is sent to."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import pytest
from hypothesis import given, strategies as st

from batchproxy.jobs.webhooks import WebhookRefused, WebhookSettings
from batchproxy.jobs.webhooks.guard import destination, is_allowed, judged

PUBLIC = WebhookSettings()
NAT64 = IPv6Network("64:ff9b::/96")


@pytest.mark.parametrize(
    ("url", "host", "port", "authority", "path"),
    [
        ("https://hooks.example.com", "hooks.example.com", 443, "hooks.example.com", "/"),
        ("HTTPS://Hooks.Example.COM./a%20b?c=%2F&d", "hooks.example.com", 443, "hooks.example.com", "/a%20b?c=%2F&d"),
        ("https://hooks.example.com:443?x", "hooks.example.com", 443, "hooks.example.com", "/?x"),
        ("https://8.8.8.8/", "8.8.8.8", 443, "8.8.8.8", "/"),
        ("https://[2606:4700::1111]/@:/", "2606:4700::1111", 443, "[2606:4700::1111]", "/@:/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443, "xn--bcher-kva.example", "/"),
    ],
)
def test_where_a_url_leads(url: str, host: str, port: int, authority: str, path: str) -> None:
    """Path and query go onto the wire as they are."""
    to = destination(url, PUBLIC)
    assert (to.host, to.port, to.authority, to.path, to.is_tls) == (host, port, authority, path, True)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com",
        "//hooks.example.com/",
        "ftp://hooks.example.com/",
        "file:///etc/passwd",
        "http://hooks.example.com/",
        "https:///path",
        "https:hooks.example.com",
        "https://user@hooks.example.com/",
        "https://user:secret@hooks.example.com/",
        "https://hooks.example.com@127.0.0.1/",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/\\x",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/a\r\nx: y",
        "https://hooks.example.com/\n",
        "https://hooks.example.com\t/",
        "https://hooks.example.com/ü",
        "https://bücher.example/",
        "https://hooks..example.com/",
        "https://.example.com/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 130 + "example/",
        "https://hooks.example.com/" + "a" * 2048,
        "https://hooks.example.com:0/",
        "https://hooks.example.com:22/",
        "https://hooks.example.com:80/",
        "https://hooks.example.com:8443/",
        "https://hooks.example.com:65979/",
        "https://hooks.example.com:/",
        "https://hooks.example.com:+443/",
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://1.2.3.4.5/",
        "https://0/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:a9fe:a9fe]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00:ec2::254]/",
        "https://[::1/",
        "https://169.254.169.254/latest/meta-data/",
    ],
)
def test_urls_that_lead_nowhere(url: str) -> None:
    """Other schemes and ports, users, what two readers could read in two ways, and addresses inside of a network."""
    with pytest.raises(WebhookRefused):
        destination(url, PUBLIC)


def test_http_and_ports_are_opened_by_settings() -> None:
    """One port more for both, and 80 for http alone."""
    opened = WebhookSettings(http=True, ports=[8443])
    assert destination("http://hooks.example.com/", opened).port == 80
    assert destination("https://hooks.example.com:8443/", opened).authority == "hooks.example.com:8443"
    for url in ("https://hooks.example.com:80/", "http://hooks.example.com:443/", "http://hooks.example.com:81/"):
        with pytest.raises(WebhookRefused):
            destination(url, opened)


INSIDE = [
    *("0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1"),
    "255.255.255.255",
    *("::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808"),
    *("100::1", "2001::1", "2001:0:4136:e378::", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:808:808::1"),
    *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "fe80::1", "fec0::1", "ff02::1", "4000::1"),
]
OUTSIDE = [
    *("1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "223.255.255.255"),
    *("168.63.129.17", "2001:4860:4860::8888", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2a00::1"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_nothing_is_sent_to(address: str) -> None:
    """Of private and shared networks, of one machine or link, of groups, of nobody, and what is turned into one."""
    assert not is_allowed(ip_address(address), PUBLIC)
    assert judged([address], "hooks.example.com", PUBLIC) == []


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_allowed(ip_address(address), PUBLIC)


@given(st.ip_addresses())
def test_nothing_is_allowed_that_is_not_global(address: IPv4Address | IPv6Address) -> None:
    """Python's own list agrees."""
    plain = getattr(address, "ipv4_mapped", None) or address
    if is_allowed(address, PUBLIC) and address not in NAT64:
        assert plain.is_global
        assert not plain.is_multicast
        assert not plain.is_reserved


@given(st.ip_addresses(v=4))
def test_an_address_in_another_is_judged_as_itself(address: Any) -> None:
    """Mapped, or for a translator; and so with what is allowed besides."""
    number = int(address)
    for settings in (PUBLIC, WebhookSettings(allow=["10.0.0.0/8", "128.0.0.0/1"])):
        expected = is_allowed(address, settings)
        assert is_allowed(IPv6Address(0xFFFF << 32 | number), settings) == expected
        assert is_allowed(IPv6Address(0x64_FF9B << 96 | number), settings) == expected
    assert not is_allowed(IPv6Address(0x2002 << 112 | number << 80), PUBLIC)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00::1"])
def test_what_is_allowed_by_its_network(address: str) -> None:
    """That network alone."""
    opened = WebhookSettings(allow=["10.0.0.0/8", "fd00::/16"])
    assert is_allowed(ip_address(address), opened)
    assert not is_allowed(ip_address("127.0.0.1"), opened)
    assert not is_allowed(ip_address("fd01::1"), opened)


def test_what_is_allowed_by_its_name() -> None:
    """Whatever its addresses are; other names are not, and the addresses themselves are not."""
    opened = WebhookSettings(allow=["hooks.internal"])
    assert judged(["10.0.0.1", "::1"], "hooks.internal", opened) == [ip_address("10.0.0.1"), ip_address("::1")]
    assert judged(["10.0.0.1"], "other.internal", opened) == []
    with pytest.raises(WebhookRefused):
        destination("https://10.0.0.1/", opened)


def test_one_address_inside_spoils_all() -> None:
    """Who mixes them wants that the other one is taken; and nothing is nothing."""
    assert judged(["8.8.8.8", "1.1.1.1"], "h", PUBLIC) == [ip_address("8.8.8.8"), ip_address("1.1.1.1")]
    assert judged(["8.8.8.8", "127.0.0.1"], "h", PUBLIC) == []
    assert judged([], "h", PUBLIC) == []


def test_a_mapped_address_is_connected_to_as_it_was_judged() -> None:
    assert judged(["::ffff:8.8.8.8"], "h", PUBLIC) == [IPv4Address("8.8.8.8")]
