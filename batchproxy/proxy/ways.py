"""Routes made ready: what they ask of a request, and how they change it.

Knows: `Route`, paths as bytes and as their readings, the rules of RFC 9110 on what a proxy passes on.
Must not know: connections, whether a request is an item or came alone. Decides at once, nothing awaits.
"""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from ..engine.errors import Failure
from ..engine.headers import HOP_BY_HOP, METHOD_OVERRIDES, normalised
from ..engine.model import Refusal, Scope
from ..engine.paths import Segments, canonical, readings_of_servers, without_trailing_slash
from ..engine.routing import Route, RouteTable
from . import problem
from .problem import Problem
from .transports import Pairs
from .upstream import LiveUpstream

NO_ROUTE = Problem(404, "no_route", "Nothing is known under this host and path.")
_MISSING = Problem(400, "header_missing", "A header is missing that is needed here.")
_INVALID_PATH = "The path is not one that may be passed on."
# What a server speaks of by itself, or what would make a tunnel of us (RFC 9110, sections 9.3.6 and 9.3.8).
_NOT_BY_DEFAULT = frozenset({"TRACE", "CONNECT"})
LIMITED = frozenset({"OPTIONS", "TRACE"})
"""Those that `Max-Forwards` speaks of."""
_USUAL = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
# The transport frames the message; our server has answered the expectation (RFC 9110, section 10.1.1).
_NEVER_PASSED = HOP_BY_HOP | {b"content-length", b"expect"}
_MOST_NAMES = 1024
_LONGEST_NAME = 256


class Way:
    """A route and the upstream it leads to."""

    def __init__(self, route: Route, upstream: LiveUpstream) -> None:
        self.route = route
        self.upstream = upstream
        self.timeout = route.timeout
        self.max_response_bytes = route.max_response_bytes
        limits = [most for most in (route.max_request_bytes, upstream.settings.max_request_bytes) if most is not None]
        self.max_request_bytes = min(limits, default=None)
        self.rewrites = route.strip_prefix or bool(route.add_prefix)
        self.judges = bool(route.deny_rules) or route.allow_rules is not None
        self._methods = None if route.methods is None else frozenset(route.methods)
        self._added = [
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in route.add_headers.items()
        ]
        self._required = frozenset(name.lower().encode("ascii") for name in route.require_headers)
        self._drops = _Drops(self._dropped(route))
        self._given: Pairs = ()
        self._kept: Pairs = tuple(self._added)
        # It takes all that is usual, as it is.
        self.is_open = not (self.rewrites or self.judges or self._required) and self._methods is None

    def __repr__(self) -> str:
        return f"Way({self.route.path} → {self.upstream.name})"

    @staticmethod
    def _dropped(route: Route) -> frozenset[str]:
        names = {*route.remove_headers, *route.add_headers}
        rules = (*route.deny_rules, *(route.allow_rules or ()))
        if route.methods is not None or any(rule.method is not None for rule in rules):
            # The method that is judged must be the one that is obeyed.
            names |= METHOD_OVERRIDES
        return frozenset(map(normalised, names))

    def refusal(self, method: str, paths: tuple[Segments, ...], headers: Pairs) -> Problem | None:
        """Why a request may not take this way, if so."""
        methods = self._methods
        if method != method.upper():
            # Servers that turn letters into capitals would obey another method than was judged.
            return problem.of(Failure.METHOD_REFUSED, "Methods are written in capitals.")
        if method in _NOT_BY_DEFAULT if methods is None else method not in methods:
            allowed = self.allowed
            return problem.of(
                Failure.METHOD_REFUSED, f"Allowed here: {allowed.decode('ascii')}.", ((b"allow", allowed),)
            )
        if self.judges and not self._permits(method, paths):
            return problem.of(Failure.FORBIDDEN, "The rules of this route do not permit the request.")
        if self._required and not self._required <= {name for name, _ in headers}:
            return _MISSING
        return None

    def _permits(self, method: str, paths: tuple[Segments, ...]) -> bool:
        route = self.route
        if any(rule.matches(method, without_trailing_slash(path)) for rule in route.deny_rules for path in paths):
            return False
        rules = route.allow_rules
        return rules is None or all(any(rule.matches(method, path) for rule in rules) for path in paths)

    def target(self, path: bytes, query: bytes) -> bytes | None:
        """Path and query as the upstream gets them; None if the rewritten path is not fit to be sent."""
        if self.rewrites:
            rewritten = self._rewritten(path)
            if rewritten is None:
                return None
            path = rewritten
        return path + b"?" + query if query else path

    def _rewritten(self, path: bytes) -> bytes | None:
        route = self.route
        if route.strip_prefix:
            # As many segments as the route has, exactly as they were written: what follows is not touched.
            at = 0
            for _ in route.segments:
                at = path.find(b"/", at + 1)
                if at < 0:
                    at = len(path)
            path = path[at:] or b"/"
        if route.add_prefix:
            path = route.add_prefix.encode("ascii") + path
        judged = canonical(path.decode("latin-1"), allow_empty_segments=True)
        return None if isinstance(judged, Refusal) else path

    @property
    def allowed(self) -> bytes:
        """The methods that may take this way, as `Allow` has them."""
        return ", ".join(_USUAL if self._methods is None else sorted(self._methods)).encode("ascii")

    def deadline(self) -> float | None:
        """By when a request that begins now must have its answer."""
        return None if self.timeout is None else asyncio.get_running_loop().time() + self.timeout

    def headers(self, given: Pairs) -> Pairs:
        """Those that the upstream gets; `Host` is the client's, for the upstream to decide about.

        The same tuple for the same headers: most items of a batch have the same, and what follows knows it by that.
        """
        if given is self._given:
            return self._kept
        given = tuple(given)
        if given != self._given:
            drops = self._drops
            self._kept = (*[pair for pair in given if not drops[pair[0]]], *self._added)
        # Equal ones too, for the next item of their batch brings this very tuple.
        self._given = given
        return self._kept


class _Drops(dict[bytes, bool]):
    """Whether a header of this name is left out; a dict, for it is looked up for each header of each request."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def __missing__(self, name: bytes) -> bool:
        drops = name in _NEVER_PASSED or (bool(self._names) and normalised(name.decode("latin-1")) in self._names)
        # What is remembered is short, and not much, for it comes from outside.
        if len(self) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            self[name] = drops
        return drops


class Ways:
    """All routes made ready."""

    def __init__(self, routes: RouteTable, upstreams: dict[str, LiveUpstream]) -> None:
        self._routes = routes
        self._ways = {route: Way(route, upstreams[route.upstream]) for route in routes.routes}
        sole = routes.routes[0] if len(routes.routes) == 1 else None
        # Where all paths lead to one upstream, there is nothing to look up.
        self._sole = self._ways[sole] if sole is not None and sole.host is None and not sole.segments else None

    def find(
        self, method: str, path: bytes, query: bytes, headers: Pairs, *, is_canonical: bool
    ) -> tuple[Way, bytes] | Problem:
        """The way that a request takes, and its target there; or why there is none.

        An item's path has been judged; that of a request which came alone is sent as it was written, or not at all.
        """
        way = self._sole
        if is_canonical and way is not None and way.is_open and method in _USUAL:
            # All that follows would change nothing: measured, a microsecond less.
            return way, path + b"?" + query if query else path
        judged = path
        if not is_canonical:
            read = canonical(_text(path, query), allow_empty_segments=True)
            if isinstance(read, Refusal):
                return problem.of(read.failure, read.detail)
            judged = read[0]
            path, query = _sendable(path, judged), _sendable(query, read[1])
        paths: tuple[Segments, ...] = ()
        if way is None or way.judges:
            paths = readings_of_servers(judged)
            route = None if way is not None else self._routes.find(_host(headers), paths)
            way = way or (None if route is None else self._ways[route])
        if way is None:
            return NO_ROUTE
        refusal = way.refusal(method, paths, headers)
        if refusal is not None:
            return refusal
        target = way.target(path, query)
        return problem.of(Failure.INVALID_PATH, _INVALID_PATH) if target is None else (way, target)


def forwards_left(headers: Pairs) -> int | None:
    """What `Max-Forwards` says, if it is there: how often an OPTIONS or a TRACE may still be passed on."""
    for name, value in headers:
        if name == b"max-forwards" and value.isdigit() and len(value) <= 9:
            return int(value)
    return None


def with_forwards_left(headers: Pairs, left: int) -> Pairs:
    return [(name, b"%d" % left if name == b"max-forwards" else value) for name, value in headers]


def below_mount(scope: Scope) -> bytes:
    """The path as it was written, below the prefix under which this app is mounted."""
    path: bytes | None = scope.get("raw_path")
    if path is None:
        path = quote(scope["path"], safe="/!$&'()*+,;=:@-._~").encode("ascii")
    root = scope.get("root_path", "").rstrip("/").encode("utf-8")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in (b"", b"/"):
        return path[len(root) :] or b"/"
    return path


def _text(path: bytes, query: bytes) -> str:
    target = path + b"?" + query if query else path
    return target.decode("latin-1")


def _sendable(written: bytes, encoded: bytes) -> bytes:
    """As it was written, unless a server let through what cannot be written on a request line."""
    return written if written.isascii() and b" " not in written else encoded


def _host(headers: Pairs) -> str:
    for name, value in headers:
        if name == b"host":
            return value.decode("latin-1")
    return ""
