"""Who the client is, and what the upstreams are told about it.

Knows: `X-Forwarded-*`, `Forwarded` (RFC 7239), `Via` (RFC 9110, section 7.6.3), `CDN-Loop` (RFC 8586), and which
peers are believed. Must not know: routes, upstreams.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple, TypeAlias

from ..engine.errors import SettingError
from ..engine.headers import is_claim, is_token, is_url_override
from ..engine.model import Scope
from ..engine.settings import Settings, strings
from .addresses import is_host

IPAddress: TypeAlias = IPv4Address | IPv6Address
Pairs: TypeAlias = list[tuple[bytes, bytes]]

_OURS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"forwarded"})
# RFC 7239, section 6; a port may be obfuscated.
_WITH_PORT = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)\]|(?P<v4>[0-9.]+))(?::(?:(?P<port>[0-9]{1,5})|_[\w.\-]+))?"
)
_LONGEST_ADDRESS = 64
_PORTS = {"http": "80", "https": "443"}
_SCHEMES = {"ws": "http", "wss": "https"}
# RFC 7239, section 4: pairs of a name and a token or quoted string; looser in what a token holds.
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",;=]*))\s*')
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


class Hop(NamedTuple):
    """One sender on the way to us."""

    address: IPAddress
    port: int = 0


class Origin(NamedTuple):
    """Where a request came from: senders from the client to our peer, and what the client asked for, if we are told."""

    hops: list[Hop]
    is_trusted: bool
    scheme: str | None = None
    host: str | None = None
    port: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Forwarding(Settings):
    """Whom to believe, and how we call ourselves. Raises `SettingError`.

    `trusted_proxies` are addresses and networks (`10.0.0.0/8`) of peers whose `X-Forwarded-*` or, without an
    `X-Forwarded-For`, `Forwarded` is believed; `unix` stands for peers on a unix socket. The client is the last sender
    that is not one of them. `name` is our pseudonym in `Via` and `CDN-Loop`.
    """

    trusted_proxies: Collection[str] = ()
    name: str = "batchproxy"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.name, str) or not is_token(self.name):
            raise SettingError("name", self.name, "expected a token, such as `edge-1` (RFC 9110, section 5.6.2)")
        # Read now, so that a wrong one stops the start.
        _ = self.networks

    @cached_property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        found = []
        for text in strings("trusted_proxies", self.trusted_proxies):
            if text == "unix":
                continue
            try:
                found.append(ip_network(text))
            except ValueError as fault:
                expected = f"expected addresses, networks such as `10.0.0.0/8`, or `unix`; {fault}"
                raise SettingError("trusted_proxies", text, expected) from None
        return tuple(found)

    @cached_property
    def _trusts_unix(self) -> bool:
        return "unix" in self.trusted_proxies

    @cached_property
    def _name(self) -> bytes:
        return self.name.encode("ascii")

    # Loops

    def is_loop(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether the request has passed us before."""
        own = self._name.lower()
        for name, value in headers:
            if name == b"cdn-loop" and own in (each.partition(b";")[0].strip() for each in value.lower().split(b",")):
                return True
            if name == b"via" and own in (_received_by(each) for each in value.lower().split(b",")):
                return True
        return False

    # Headers

    def applied(self, scope: Scope) -> Scope:
        """The scope with its client and scheme found out, and with the headers that tell the upstream of them."""
        headers: Pairs = scope["headers"]
        origin = self.origin(scope.get("client"), headers)
        given: str = scope.get("scheme", "http")
        scheme = origin.scheme or _SCHEMES.get(given, given)
        kept = [pair for pair in headers if pair[0] not in _OURS and not _is_to_drop(pair[0], origin.is_trusted)]
        kept += self._own(origin, scheme, scope)
        changed = {**scope, "headers": kept, "scheme": _as_in(scope, scheme)}
        if origin.is_trusted and origin.hops:
            changed["client"] = (str(origin.hops[0].address), origin.hops[0].port)
        return changed

    def _own(self, origin: Origin, scheme: str, scope: Scope) -> Pairs:
        host = origin.host or next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
        version = scope.get("http_version", "1.1").encode("ascii")
        own: Pairs = []
        if origin.hops:
            own.append((b"x-forwarded-for", b", ".join(str(hop.address).encode("ascii") for hop in origin.hops)))
        own.append((b"x-forwarded-proto", scheme.encode("ascii")))
        if host:
            own.append((b"x-forwarded-host", host.encode("latin-1")))
        own.append((b"x-forwarded-port", (origin.port or _port(host) or _PORTS.get(scheme, "80")).encode("ascii")))
        own.append((b"forwarded", _forwarded(origin.hops, host, scheme).encode("latin-1")))
        own.append((b"via", b"%b %b" % (version, self._name)))
        own.append((b"cdn-loop", self._name))
        return own

    # The client

    def origin(self, client: Sequence[object] | None, headers: Pairs) -> Origin:
        """Who sent the request, as far as those are believed who say so."""
        peer = _peer(client)
        port = client[1] if client is not None and isinstance(client[1], int) else 0
        hops = [] if peer is None else [Hop(peer, port)]
        if not self._is_believed(client, peer):
            return Origin(hops, False)
        if any(name == b"x-forwarded-for" for name, _ in headers):
            return self._by_x_forwarded(hops, headers)
        if any(name == b"forwarded" for name, _ in headers):
            return self._by_forwarded(hops, headers)
        return self._by_x_forwarded(hops, headers)

    def _by_x_forwarded(self, hops: list[Hop], headers: Pairs) -> Origin:
        senders = _listed(headers, b"x-forwarded-for")
        position = self._walk(hops, senders)

        def claimed(name: bytes) -> str | None:
            values = _listed(headers, name)
            if len(values) == len(senders) and position < len(values):
                return values[position]
            return values[-1] if values else None

        return _checked(hops, claimed(b"x-forwarded-proto"), claimed(b"x-forwarded-host"), claimed(b"x-forwarded-port"))

    def _by_forwarded(self, hops: list[Hop], headers: Pairs) -> Origin:
        elements = _elements(", ".join(value.decode("latin-1") for name, value in headers if name == b"forwarded"))
        position = self._walk(hops, [each.get("for", "") for each in elements])
        told = elements[min(position, len(elements) - 1)] if elements else {}
        return _checked(hops, told.get("proto"), told.get("host"), None)

    def _walk(self, hops: list[Hop], senders: list[str]) -> int:
        """Puts senders in front of `hops` as long as each was named by one who is trusted; where the client stands."""
        position = len(senders)
        while position and (not hops or self._trusts(hops[0].address)):
            found = hop(senders[position - 1])
            if found is None:
                break
            hops.insert(0, found)
            position -= 1
        return position

    def believes(self, client: Sequence[object] | None) -> bool:
        """Whether this peer is one of `trusted_proxies`."""
        return self._is_believed(client, _peer(client))

    def _is_believed(self, client: Sequence[object] | None, peer: IPAddress | None) -> bool:
        return self._trusts_unix if client is None else peer is not None and self._trusts(peer)

    def _trusts(self, address: IPAddress) -> bool:
        return any(address in network for network in self.networks)


def _peer(client: Sequence[object] | None) -> IPAddress | None:
    # The zone of a link-local peer is known to us alone.
    return None if client is None else _address(str(client[0]).partition("%")[0])


def hop(text: str) -> Hop | None:
    """`192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`; None for anything else."""
    text = text.strip()
    address = _address(text)
    if address is not None:
        return Hop(address)
    match = _WITH_PORT.fullmatch(text)
    address = None if match is None else _address(match["v6"] or match["v4"])
    if match is None or address is None:
        return None
    port = int(match["port"] or 0)
    return Hop(address, port if port <= 65535 else 0)


def _address(text: str) -> IPAddress | None:
    return None if "%" in text or len(text) > _LONGEST_ADDRESS else _read_address(text)


@lru_cache(maxsize=1024)
def _read_address(text: str) -> IPAddress | None:
    if not text.isascii():
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A listener for both families sees IPv4 peers so.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _listed(headers: Pairs, name: bytes) -> list[str]:
    values = [value.decode("latin-1") for each, value in headers if each == name]
    return [part.strip() for part in ",".join(values).split(",")] if values else []


def _elements(text: str) -> list[dict[str, str]]:
    """The elements of a `Forwarded` field; what is not well formed makes an element that names nobody."""
    elements: list[dict[str, str]] = [{}]
    position, is_sound = 0, True
    while position < len(text):
        match = _PAIR.match(text, position) if is_sound else None
        if match is not None:
            value = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
            elements[-1][match[1].lower()] = value
            position = match.end()
        if position < len(text) and text[position] in ",;":
            if text[position] == ",":
                if not is_sound:
                    elements[-1] = {}
                elements.append({})
                is_sound = True
            position += 1
        elif match is None:
            is_sound = False
            position += 1
    if not is_sound:
        elements[-1] = {}
    return elements


def _checked(hops: list[Hop], scheme: str | None, host: str | None, port: str | None) -> Origin:
    """What is claimed, as far as it can be true."""
    scheme = None if scheme is None else _SCHEMES.get(scheme.lower(), scheme.lower())
    return Origin(
        hops,
        True,
        scheme if scheme in ("http", "https") else None,
        host if host is not None and is_host(host) else None,
        port if port is not None and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535 else None,
    )


def _is_to_drop(name: bytes, is_trusted: bool) -> bool:
    # CGI and WSGI see `X_Real_IP` as `X-Real-IP`: nobody needs the former but to deceive.
    # A trusted peer may well hand on what it got: another URL is nobody's to name.
    return is_claim(name) and (not is_trusted or b"_" in name or is_url_override(name))


def _received_by(element: bytes) -> bytes:
    """The second word of `[protocol/]version received-by [(comment)]`."""
    words = element.split()
    return words[1] if len(words) > 1 else b""


def _port(host: str) -> str:
    return "" if host.endswith("]") or ":" not in host else host.rpartition(":")[2]


def _as_in(scope: Scope, scheme: str) -> str:
    if scope["type"] != "websocket":
        return scheme
    return "wss" if scheme == "https" else "ws"


def _forwarded(hops: list[Hop], host: str, scheme: str) -> str:
    first, *others = [_node(each) for each in hops] or ["unknown"]
    about = f"for={first};host={_quoted(host)};proto={scheme}" if host else f"for={first};proto={scheme}"
    return ", ".join((about, *(f"for={each}" for each in others)))


def _node(hop: Hop) -> str:
    return f'"[{hop.address}]"' if hop.address.version == 6 else str(hop.address)


def _quoted(text: str) -> str:
    return text if _TOKEN.fullmatch(text) else f'"{text}"'
