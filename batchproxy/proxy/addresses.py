"""Where an address of an upstream is: the grammar of its URL.

Knows: `http://host[:port][/prefix]`, `https://…` and `unix:/path`, and which `Host` goes there. Must not know:
connections, what is healthy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv6Address

import msgspec

from ..engine.errors import SettingError
from ..engine.model import Refusal
from ..engine.paths import canonical

# RFC 3986, section 3.2, without user and password; names in other scripts are written in their ASCII form.
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)
_URL = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/?#\\\s]*)(?P<path>/[^?#]*)?")
_PORTS = {"http": 80, "https": 443}
_PORT = "expected a port from 1 to 65535"
_FORMS = "expected http://host[:port][/prefix], https://host[:port][/prefix] or unix:/path/of.sock"


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, read once.

    `origin` is the URL without its path; `authority` is what `Host` names; `prefix` goes before every target and has no
    slash at its end; `socket` is the path of a unix socket.
    """

    url: str
    scheme: str
    host: str = "localhost"
    port: int = 0
    authority: bytes = b"localhost"
    socket: str | None = None
    prefix: bytes = b""

    @property
    def origin(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else f"{self.scheme}://{self.authority.decode()}"


def located(url: object, *, setting: str = "url") -> Location:
    """Raises `SettingError`."""
    if not isinstance(url, str):
        raise SettingError(setting, url, _FORMS)
    if url.startswith("unix:"):
        return _of_a_socket(url, setting)
    match = _URL.fullmatch(url)
    if match is None:
        raise SettingError(setting, url, _why_not(url))
    scheme, authority = match["scheme"], match["authority"]
    host, port = _host_and_port(authority, url, setting)
    is_default = port in (None, _PORTS[scheme])
    return Location(
        url=url,
        scheme=scheme,
        host=host.strip("[]"),
        port=port or _PORTS[scheme],
        authority=(host if is_default else f"{host}:{port}").encode("ascii"),
        prefix=_prefix(match["path"] or "", url, setting),
    )


def _of_a_socket(url: str, setting: str) -> Location:
    path = url.removeprefix("unix:").removeprefix("//")
    if not path.startswith("/") or path.endswith("/") or "\0" in path or "?" in path or "#" in path:
        raise SettingError(setting, url, "expected unix:/path/of.sock, the path absolute")
    return Location(url=url, scheme="unix", socket=path)


def _why_not(url: str) -> str:
    if "?" in url or "#" in url:
        return "expected no query and no fragment"
    if "://" not in url:
        return f"{_FORMS}; the scheme is missing"
    return _FORMS


def _host_and_port(authority: str, url: str, setting: str) -> tuple[str, int | None]:
    if "@" in authority:
        # It would be sent to nobody, and shown in logs.
        raise SettingError(setting, "…@" + authority.rpartition("@")[2], "expected no user and password")
    match = _AUTHORITY.fullmatch(authority)
    host, _, port = authority.rpartition(":")
    if match is None and port.isdecimal() and _AUTHORITY.fullmatch(host):
        raise SettingError(setting, url, _PORT)
    if match is None or not _is_host(match["host"]):
        raise SettingError(setting, url, "expected a host: a name in ASCII, an IPv4 address or an IPv6 one in brackets")
    if match["port"] is None:
        return match["host"], None
    if not 1 <= int(match["port"]) <= 65535:
        raise SettingError(setting, url, _PORT)
    return match["host"], int(match["port"])


def _is_host(host: str) -> bool:
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1])
        except AddressValueError:
            return False
    return ".." not in host and len(host) <= 255


def _prefix(path: str, url: str, setting: str) -> bytes:
    if path in ("", "/"):
        return b""
    judged = canonical(path)
    if isinstance(judged, Refusal):
        raise SettingError(setting, url, f"expected a path that an item may have: {judged.detail}")
    return judged[0].removesuffix(b"/")


def is_host(text: str) -> bool:
    """Whether this is `host` or `host:port` as `Host` has it."""
    match = _AUTHORITY.fullmatch(text)
    return match is not None and _is_host(match["host"]) and (match["port"] is None or int(match["port"]) <= 65535)


def host_for(policy: str, location: Location) -> bytes | None:
    """What an address gets as `Host`; None for the client's own."""
    if policy == "preserve" or (policy == "auto" and location.scheme != "https"):
        return None
    return location.authority if policy in ("auto", "upstream") else policy.encode("ascii")


def has_host(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    return bool(headers) and (headers[0][0] == b"host" or any(name == b"host" for name, _ in headers))
