"""Where a request goes: by host and longest path prefix.

Read by the policy (caps, items that run one at a time) and by the reverse proxy (all the rest), so that both see the
same route.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .errors import SettingError
from .headers import HOP_BY_HOP, field_value, is_token
from .model import Refusal
from .paths import Rule, Segments, canonical, read_rules, refusing_rules, without_trailing_slash
from .settings import Bytes, Seconds, Settings, optional_count, seconds, strings

_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.\-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_METHOD = re.compile(r"[A-Z][A-Z0-9\-]*")
_FRAMING = frozenset({"host", "content-length", "transfer-encoding"}) | {name.decode() for name in HOP_BY_HOP}


@dataclass(frozen=True, kw_only=True, eq=False)
class Route(Settings):
    """Requests for `host`, whose path is `path` or below it, go to the upstream of that name. Raises `SettingError`.

    The longest path wins, and a host of its own before any host; `*.example.com` is any host below that name.
    `strip_prefix` takes `path` off, `add_prefix` puts another one before what is left. `methods`, `allow` and `deny`
    hold for items and for requests that come alone; rules are compared with the path as the client wrote it.
    `max_per_batch` is how many items of one batch may take the route; `serial` runs them one after another.
    """

    upstream: str
    path: str = "/"
    host: str | None = None
    strip_prefix: bool = False
    add_prefix: str = ""
    methods: Collection[str] | None = None
    allow: Sequence[str] | None = None
    deny: Sequence[str] = ()
    add_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    remove_headers: Collection[str] = ()
    require_headers: Collection[str] = ()
    max_per_batch: int | None = optional_count(least=0)
    serial: bool = False
    max_request_bytes: Bytes | None = optional_count(least=0)
    max_response_bytes: Bytes | None = optional_count()
    timeout: Seconds | None = seconds(None)
    """For the whole exchange, all attempts included; it can only shorten the upstream's `timeouts.total`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.upstream, str) or not self.upstream:
            raise SettingError("upstream", self.upstream, "expected the name of an upstream")
        for name, path in (("path", self.path), ("add_prefix", self.add_prefix)):
            _check_path(name, path)
        if self.host is not None and (not isinstance(self.host, str) or _HOST.fullmatch(self.host) is None):
            expected = "expected a host name in small letters, without a port, such as `api.example.com`"
            raise SettingError("host", self.host, expected)
        for name in ("strip_prefix", "serial"):
            if not isinstance(getattr(self, name), bool):
                raise SettingError(name, getattr(self, name), "expected true or false")
        for method in () if self.methods is None else strings("methods", self.methods):
            if _METHOD.fullmatch(method) is None:
                raise SettingError("methods", self.methods, "expected methods in capitals")
        self._check_headers()
        # The rules are read now, so that a wrong one stops the start.
        _ = self.allow_rules, self.deny_rules

    def _check_headers(self) -> None:
        if not isinstance(self.add_headers, Mapping):
            raise SettingError("add_headers", self.add_headers, "expected a mapping of names to values")
        for name, value in self.add_headers.items():
            if not is_token(name) or name.lower() in _FRAMING:
                raise SettingError("add_headers", name, "expected the name of a header that does not frame the message")
            if not isinstance(value, str) or field_value(value) is None:
                raise SettingError("add_headers", name, "expected a value without control characters")
        for setting in ("remove_headers", "require_headers"):
            for name in strings(setting, getattr(self, setting)):
                if not is_token(name) or (setting == "remove_headers" and name.lower() in _FRAMING):
                    raise SettingError(setting, name, "expected the name of a header that does not frame the message")

    @cached_property
    def segments(self) -> Segments:
        return without_trailing_slash(tuple(self.path[1:].split("/"))) if self.path != "/" else ()

    @cached_property
    def allow_rules(self) -> tuple[Rule, ...] | None:
        return None if self.allow is None else read_rules("allow", self.allow, None)

    @cached_property
    def deny_rules(self) -> tuple[Rule, ...]:
        return refusing_rules("deny", self.deny, None)


def _check_path(name: str, path: object) -> None:
    if name == "add_prefix" and path == "":
        return
    read = canonical(path) if isinstance(path, str) and path.isascii() else None
    if read is None or isinstance(read, Refusal) or read[1] or "?" in str(path) or "%" in str(path):
        raise SettingError(name, path, "expected a path such as `/orders`")
    if name == "add_prefix" and str(path).endswith("/"):
        raise SettingError(name, path, "expected a path without a `/` at its end")


class RouteTable:
    """Routes by host and longest path. Raises `SettingError` for two of the same host and path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self._by_host: dict[str | None, dict[Segments, Route]] = {}
        for route in self.routes:
            known = self._by_host.setdefault(route.host, {})
            if route.segments in known:
                raise SettingError(
                    "routes", route.path, "expected one route for a host and path; this one is there twice"
                )
            known[route.segments] = route
        self._deepest = max((len(route.segments) for route in self.routes), default=0)
        self._wildcards = sorted((host for host in self._by_host if host and host[0] == "*"), key=len, reverse=True)
        self._only = self.routes[0] if self._is_one() else None
        self.has_serial = any(route.serial for route in self.routes)
        self.concerns_batches = self.has_serial or any(route.max_per_batch is not None for route in self.routes)

    def __repr__(self) -> str:
        shown = (f"{route.host or ''}{route.path} → {route.upstream}" for route in self.routes)
        return f"RouteTable({', '.join(shown)})"

    def _is_one(self) -> bool:
        return len(self.routes) == 1 and self.routes[0].host is None and not self.routes[0].segments

    def find(self, host: str, readings: Iterable[Segments]) -> Route | None:
        """The route on which all readings of the path agree; None if there is none, or if they differ.

        `host` is the value of `Host`, with or without its port.
        """
        if self._only is not None:
            return self._only
        tables = self._tables(host)
        routes = {self._longest(tables, reading) for reading in readings}
        return routes.pop() if len(routes) == 1 else None

    def _tables(self, host: str) -> list[dict[Segments, Route]]:
        """What to look in, the most particular first: the host itself, names with `*` from the longest, any host."""
        if len(self._by_host) == 1 and None in self._by_host:
            return [self._by_host[None]]
        name = without_port(host.lower())
        wildcards = (each for each in self._wildcards if name.endswith(each[1:]) and len(name) > len(each) - 1)
        return [self._by_host[each] for each in (name, *wildcards, None) if each in self._by_host]

    def _longest(self, tables: list[dict[Segments, Route]], reading: Segments) -> Route | None:
        for table in tables:
            for length in range(min(len(reading), self._deepest), -1, -1):
                route = table.get(reading[:length])
                if route is not None:
                    return route
        return None


def without_port(host: str) -> str:
    """The name or address in a `Host` value (RFC 9110, section 7.2), also of one that ends in a dot."""
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0].removesuffix(".")
