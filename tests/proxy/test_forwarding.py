"""Who the client is, found in what proxies say, and what upstreams are told about it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from batchproxy.engine.errors import SettingError
from batchproxy.proxy.forwarding import Forwarding, Pairs, hop

TRUSTED = Forwarding(trusted_proxies=["10.0.0.0/8", "192.0.2.7", "2001:db8:f::/48", "unix"])
PEER = ("10.0.0.1", 4000)


def client(*fields: tuple[str, str], peer: tuple[str, int] | None = PEER, trusted: Forwarding = TRUSTED) -> list[str]:
    origin = trusted.origin(peer, pairs(*fields))
    return [f"{each.address}:{each.port}" for each in origin.hops]


def pairs(*fields: tuple[str, str]) -> Pairs:
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]


def applied(*fields: tuple[str, str], **scope: Any) -> dict[bytes, bytes]:
    given: dict[str, Any] = {"type": "http", "scheme": "http", "http_version": "1.1", "client": PEER}
    given |= {"headers": pairs(("Host", "api.test:8080"), *fields)}
    return {name: value for name, value in TRUSTED.applied(given | scope)["headers"] if name != b"host"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("203.0.113.9", ["203.0.113.9:0"]),
        ("203.0.113.9:81", ["203.0.113.9:81"]),
        ("2001:db8::9", ["2001:db8::9:0"]),
        ("[2001:db8::9]", ["2001:db8::9:0"]),
        ("[2001:db8::9]:81", ["2001:db8::9:81"]),
        ("::ffff:203.0.113.9", ["203.0.113.9:0"]),
        (" 203.0.113.9 ", ["203.0.113.9:0"]),
        ("6.6.6.6, 203.0.113.9", ["203.0.113.9:0"]),
        ("6.6.6.6,203.0.113.9,10.2.3.4", ["203.0.113.9:0", "10.2.3.4:0"]),
        ("203.0.113.9, 192.0.2.7, 2001:db8:f::1", ["203.0.113.9:0", "192.0.2.7:0", "2001:db8:f::1:0"]),
        ("10.9.9.9, 10.2.3.4", ["10.9.9.9:0", "10.2.3.4:0"]),
        ("6.6.6.6, unknown", []),
        ("6.6.6.6, unknown, 10.2.3.4", ["10.2.3.4:0"]),
        ("6.6.6.6, _hidden", []),
        ("6.6.6.6,", []),
        ("", []),
        ("203.0.113.9 evil", []),
        ("203.0.113.999", []),
        ("fe80::1%eth0", []),
        ("[203.0.113.9]:80", []),
        ("203.0.113.9:", []),
        ("localhost", []),
    ],
)
def test_the_client_is_the_last_who_is_not_trusted(value: str, expected: list[str]) -> None:
    """Read from the right; the first that is no trusted proxy is the client, and what cannot be read ends the way."""
    assert client(("X-Forwarded-For", value)) == [*expected, "10.0.0.1:4000"]


def test_several_fields_are_one_list() -> None:
    """Proxies that add a field of their own say the same as those that extend the last."""
    found = client(("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.9, 10.2.3.4"))
    assert found == ["203.0.113.9:0", "10.2.3.4:0", "10.0.0.1:4000"]


@pytest.mark.parametrize("peer", [("203.0.113.1", 5), ("192.0.2.8", 5), ("testclient", 5), ("", 0)])
def test_who_is_not_trusted_is_not_believed(peer: tuple[str, int]) -> None:
    """A peer that is no trusted proxy is the client itself, whatever it says."""
    fields = (("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4"))
    assert client(*fields, peer=peer) == ([f"{peer[0]}:5"] if peer[0][:1].isdigit() else [])


def test_a_link_local_peer() -> None:
    """Its zone is no part of what others are told."""
    assert client(peer=("fe80::1%eth0", 9)) == ["fe80::1:9"]


def test_a_peer_on_a_unix_socket() -> None:
    """It is believed only if `unix` is among the trusted; it has no address to add."""
    fields = ("X-Forwarded-For", "6.6.6.6, 203.0.113.9")
    assert client(fields, peer=None) == ["203.0.113.9:0"]
    assert client(fields, peer=None, trusted=Forwarding(trusted_proxies=["0.0.0.0/0", "::/0"])) == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=203.0.113.9", ["203.0.113.9:0"]),
        ("For=203.0.113.9;Proto=https;by=10.0.0.1", ["203.0.113.9:0"]),
        ('for="203.0.113.9:81"', ["203.0.113.9:81"]),
        ('for="[2001:db8::9]:81"', ["2001:db8::9:81"]),
        ("for=6.6.6.6, for=203.0.113.9, for=10.2.3.4", ["203.0.113.9:0", "10.2.3.4:0"]),
        ('for="6.6.6.6, for=203.0.113.9", for=203.0.113.7', ["203.0.113.7:0"]),
        ('for=6.6.6.6, for="203.0.113.9', []),
        ("for=6.6.6.6, for=unknown", []),
        ('for=6.6.6.6, for="_gazonk"', []),
        ("for=6.6.6.6, proto=https", []),
        ("for=6.6.6.6, for 203.0.113.9", []),
        ('for="2\\03.0.113.9"', ["203.0.113.9:0"]),
    ],
)
def test_forwarded_is_read_as_well(value: str, expected: list[str]) -> None:
    """RFC 7239 by its grammar: quoted strings hold commas and semicolons, and what is broken names nobody."""
    assert client(("Forwarded", value)) == [*expected, "10.0.0.1:4000"]


def test_of_two_ways_to_say_it_the_usual_one_counts() -> None:
    """A proxy that writes `X-Forwarded-For` passes a client's `Forwarded` on unread: that is not believed."""
    fields = (("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "203.0.113.9"))
    assert client(*fields)[0] == "203.0.113.9:0"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], (b"http", b"api.test:8080", b"8080")),
        ([("X-Forwarded-Proto", "https")], (b"https", b"api.test:8080", b"8080")),
        ([("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "a.test")], (b"https", b"a.test", b"443")),
        ([("X-Forwarded-Host", "a.test"), ("X-Forwarded-Port", "99")], (b"http", b"a.test", b"99")),
        ([("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a/b")], (b"http", b"api.test:8080", b"8080")),
        ([("X-Forwarded-Port", "0")], (b"http", b"api.test:8080", b"8080")),
        ([("X-Forwarded-Port", "http")], (b"http", b"api.test:8080", b"8080")),
        ([("X-Forwarded-Proto", "http, https")], (b"https", b"api.test:8080", b"8080")),
        (
            [("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.1.1.1"), ("X-Forwarded-Proto", "http, https, http")],
            (b"https", b"api.test:8080", b"8080"),
        ),
        (
            [("Forwarded", "for=6.6.6.6;proto=http, for=203.0.113.9;proto=https;host=b.test")],
            (b"https", b"b.test", b"443"),
        ),
    ],
)
def test_what_the_client_asked_for(fields: list[tuple[str, str]], expected: tuple[bytes, bytes, bytes]) -> None:
    """Scheme, host and port come from where the client met the first trusted proxy, as far as they can be true."""
    told = applied(*fields)
    assert (told[b"x-forwarded-proto"], told[b"x-forwarded-host"], told[b"x-forwarded-port"]) == expected


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({}, b'for=10.0.0.1;host="api.test:8080";proto=http'),
        ({"client": ("2001:db8::1", 1)}, b'for="[2001:db8::1]";host="api.test:8080";proto=http'),
        ({"client": None}, b'for=unknown;host="api.test:8080";proto=http'),
        ({"headers": []}, b"for=10.0.0.1;proto=http"),
        ({"scheme": "wss", "type": "websocket"}, b'for=10.0.0.1;host="api.test:8080";proto=https'),
    ],
)
def test_what_is_told_as_forwarded(scope: dict[str, Any], expected: bytes) -> None:
    """`Forwarded` is written by its grammar: addresses of version 6 and hosts with a port are quoted."""
    assert applied(**scope)[b"forwarded"] == expected


def test_the_scope_has_the_client() -> None:
    """What the app behind sees as client and scheme is what was found out; nothing of the given scope is changed."""
    fields = (("X-Forwarded-For", "203.0.113.9:7"), ("X-Forwarded-Proto", "https"))
    scope: dict[str, Any] = {"type": "websocket", "scheme": "ws", "client": PEER, "headers": pairs(*fields)}
    found = TRUSTED.applied(scope)
    assert (found["client"], found["scheme"]) == (("203.0.113.9", 7), "wss")
    assert (scope["client"], scope["scheme"], scope["headers"]) == (PEER, "ws", pairs(*fields))
    assert TRUSTED.applied({**scope, "client": None, "headers": []})["client"] is None
    assert TRUSTED.applied({**scope, "client": ("6.6.6.6", 1)})["client"] == ("6.6.6.6", 1)


@pytest.mark.parametrize(
    ("name", "value", "is_loop"),
    [
        ("Via", "1.1 batchproxy", True),
        ("Via", "1.0 fred, HTTP/1.1 BatchProxy (x)", True),
        ("Via", "1.1 batchproxy2, 1.1 a-batchproxy", False),
        ("Via", "batchproxy", False),
        ("CDN-Loop", "cdn.example; a=b, batchproxy", True),
        ("CDN-Loop", "batchproxy; v=1", True),
        ("CDN-Loop", "notbatchproxy", False),
        ("X-Via", "1.1 batchproxy", False),
    ],
)
def test_a_loop_is_seen(name: str, value: str, is_loop: bool) -> None:
    """Our name in `Via` or `CDN-Loop` says that the request has been here."""
    assert Forwarding().is_loop(pairs((name, value))) == is_loop


@pytest.mark.parametrize(
    "settings",
    [
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"trusted_proxies": ["proxy.internal"]},
        {"trusted_proxies": "10.0.0.0/8"},
        {"trusted_proxies": [10]},
        {"name": "a b"},
        {"name": ""},
        {"name": None},
    ],
)
def test_wrong_settings(settings: dict[str, Any]) -> None:
    """A network with host bits, a name instead of an address, a pseudonym that is no token: refused at once."""
    with pytest.raises(SettingError):
        Forwarding(**settings)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["X-Forwarded-For", "Forwarded", "X-Forwarded-Proto", "X-Forwarded-Host"]),
            st.text(st.characters(max_codepoint=255), max_size=30),
        )
    )
)
def test_whatever_is_claimed_is_told_soundly(fields: list[tuple[str, str]]) -> None:
    """Nothing that a peer says makes a header of ours that has more in it than we put there."""
    told = applied(*fields)
    assert hop(told[b"x-forwarded-for"].decode().partition(",")[0]) is not None
    assert told[b"x-forwarded-proto"] in (b"http", b"https")
    for value in told.values():
        assert not set(value) & set(b"\r\n\0")
