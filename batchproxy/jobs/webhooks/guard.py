"""Where a webhook may go: the grammar of its URL, and which addresses are nobody's inside of a network.

Knows: URLs and addresses. Must not know: sockets, how a name is resolved, messages.

A name is judged by what it resolves to, all of it, and whoever sends connects to exactly what was judged: a name that
resolves to something else a moment later gains nothing by that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import ClassVar

import msgspec

from .settings import WebhookSettings

Address = IPv4Address | IPv6Address

_LONGEST = 2048
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[!-~]*)?(?P<query>\?[!-~]*)?",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

# https://www.iana.org/assignments/iana-ipv4-special-registry
_NOT_PUBLIC_4 = tuple(
    IPv4Network(each)
    for each in (
        "0.0.0.0/8",  # this network, and unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared behind carrier-grade NAT; a metadata service of one cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # public by its number, but inside of one cloud its agent and metadata
        "169.254.0.0/16",  # link-local, the metadata services of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Only this is handed out for the Internet; loopback, unique local, link-local, multicast and the rest are outside.
# https://www.iana.org/assignments/iana-ipv6-special-registry
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(
    IPv6Network(each)
    for each in (
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4: leads to any address of IPv4
        "3fff::/20",
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


class WebhookRefused(ValueError):
    """Nothing is ever sent there. The text may be shown to who asked for it: it names no address."""

    code: ClassVar[str] = "webhook_refused"


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where a URL leads. `host` is in lower case and without brackets; `path` goes onto the wire as it is."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"


def destination(url: str, settings: WebhookSettings) -> Destination:
    """Where a URL leads, as far as the URL itself tells. Raises `WebhookRefused`."""
    match = _URL.fullmatch(url) if len(url) <= _LONGEST else None
    if match is None or "\\" in url or "#" in url:
        raise WebhookRefused(
            "Expected an absolute URL in ASCII of at most 2048 characters, without user, password and fragment."
        )
    scheme, host = match["scheme"].lower(), match["host"].lower().removesuffix(".")
    if scheme == "http" and not settings.http:
        raise WebhookRefused("Expected https.")
    port = int(match["port"] or (443 if scheme == "https" else 80))
    if not settings.port_is_allowed(scheme, port):
        raise WebhookRefused(f"Nothing is sent to port {port}.")
    name = host.strip("[]")
    literal = _literal(name)
    if literal is not None and not is_allowed(literal, settings):
        raise WebhookRefused("Nothing is sent to this address.")
    if literal is None and not _is_name(name):
        raise WebhookRefused("Expected the name of a host, or an address.")
    is_default = port == (443 if scheme == "https" else 80)
    return Destination(
        scheme=scheme,
        host=name,
        port=port,
        authority=host if is_default else f"{host}:{port}",
        path=(match["path"] or "/") + (match["query"] or ""),
    )


def judged(found: Sequence[str], host: str, settings: WebhookSettings) -> list[Address]:
    """The addresses of a host, if something may be sent to each of them, else none.

    One that is not public spoils all: who mixes them wants another than the first to be taken.
    """
    addresses = [_plain(ip_address(each)) for each in found]
    if host in settings.allowed_hosts or all(is_allowed(each, settings) for each in addresses):
        return addresses
    return []


def is_allowed(address: Address, settings: WebhookSettings) -> bool:
    plain = _plain(address)
    if any(plain in network for network in settings.allowed_networks):
        return True
    if isinstance(plain, IPv4Address):
        return not any(plain in network for network in _NOT_PUBLIC_4)
    if plain in _NAT64:
        # A translator makes this address of IPv4 of it.
        return is_allowed(IPv4Address(int(plain) & 0xFFFFFFFF), settings)
    return plain in _PUBLIC_6 and not any(plain in network for network in _NOT_PUBLIC_6)


def _plain(address: Address) -> Address:
    """An address of IPv4 that is written as one of IPv6 is what the system connects to."""
    return getattr(address, "ipv4_mapped", None) or address


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    """A name that ends in a number would be read as an address by the system: `127.1`, `0x7f000001`."""
    labels = host.split(".")
    return len(host) <= 253 and all(0 < len(each) <= 63 for each in labels) and not _NUMBER.fullmatch(labels[-1])
