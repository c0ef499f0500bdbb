"""Which of our own listeners an address leads to."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from ...proxy.addresses import located
from ..settings import Listener, Server, read_listener


def listeners(server: Server) -> list[tuple[str, Listener]]:
    found = [("listen", read_listener("listen", server.listen))]
    if server.admin != "off":
        found.append(("admin", read_listener("admin", server.admin)))
    return found


def is_self(url: str, listener: Listener) -> bool:
    """Whether a request to the URL of an upstream would come to the listener. No name is resolved but `localhost`."""
    where = located(url)
    if where.socket is not None or listener.socket is not None:
        return where.socket is not None and where.socket == listener.socket
    if not listener.port or where.port != listener.port:
        return False
    asked, own = _numeric(where.host), _numeric(listener.host)
    if asked == own:
        return True
    if _is_unspecified(own):
        return _is_loopback(asked) or _is_unspecified(asked) or _is_here(asked)
    # On Linux, an unspecified address leads to this host.
    return _is_loopback(own) and (_is_unspecified(asked) or (_is_name(asked, own) and _is_loopback(asked)))


def _numeric(host: str) -> str:
    """An address in its usual form, for it has several: `127.1`, `::ffff:127.0.0.1`; a name in small letters."""
    name = host.lower().rstrip(".")
    try:
        address = ip_address(name)
    except ValueError:
        try:
            return socket.inet_ntoa(socket.inet_aton(name))
        except (OSError, ValueError):
            return name
    return str(getattr(address, "ipv4_mapped", None) or address)


def _is_name(one: str, other: str) -> bool:
    """Whether one of two is a name for loopback; two addresses of loopback may well be two servers."""
    return "localhost" in (one, other)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or _is(host, "is_loopback")


def _is_unspecified(host: str) -> bool:
    return _is(host, "is_unspecified")


def _is(host: str, what: str) -> bool:
    try:
        return bool(getattr(ip_address(host), what))
    except ValueError:
        return False


def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's: then, and only then, a socket can have it."""
    try:
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True
