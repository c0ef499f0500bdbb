"""`ReverseProxy`: an ASGI app that passes each request to the upstream of its route.

Knows: who is asked, and in which form a failure is told. An item of a batch and a request that came alone take the
same decisions (`ways.py`); they differ in how they are carried (`items.py`, `lone.py`): an item's body is there, its
deadline and the leaving of its client are watched by the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.errors import Failure, SettingError
from ..engine.model import Receive, Scope, Send
from ..engine.routing import RouteTable
from ..engine.target import Call, Exchange, exchange_of
from . import problem
from .entrance import ambiguity, end_to_end
from .forwarding import Forwarding
from .items import begin, body_of, hand_over, refuse
from .lone import LoneRequest
from .problem import Final, Problem
from .settings import Upstream
from .transports import Outgoing, Pairs
from .upstream import LiveUpstream
from .ways import LIMITED, Way, Ways, below_mount, forwards_left, with_forwards_left

logger = logging.getLogger("batchproxy")

_PEERS_ALONE = Forwarding()
"""Nobody is believed."""
_LOOP = Problem(508, "loop_detected", "The request has passed this proxy before.")


class ReverseProxy:
    """Passes requests to upstreams, as items of a batch and alone. Raises `SettingError`.

    Given settings of upstreams, it opens them at the start of its lifespan (or, where a framework keeps that to itself,
    at the first request) and closes them at its end; given live ones, they are somebody else's to close.
    `forwarding` is None where an `Entrance` stands in front, which has done that part.
    """

    def __init__(
        self,
        routes: RouteTable,
        upstreams: Mapping[str, LiveUpstream] | Mapping[str, Upstream],
        *,
        forwarding: Forwarding | None = _PEERS_ALONE,
    ) -> None:
        self.routes = routes
        self._forwarding = forwarding
        # A subclass wants to see what passes.
        self._takes_items = forwarding is None and type(self).__call__ is ReverseProxy.__call__
        self._settings: dict[str, Upstream] = {}
        self._own: list[LiveUpstream] = []
        live: dict[str, LiveUpstream] = {}
        for name, upstream in upstreams.items():
            if isinstance(upstream, Upstream):
                self._settings[name] = upstream
            else:
                live[name] = upstream
        for route in routes.routes:
            if route.upstream not in upstreams:
                known = ", ".join(sorted(upstreams)) or "none"
                raise SettingError("upstream", route.upstream, f"expected the name of an upstream; known: {known}")
        self._live = live
        self._ways = None if self._settings else Ways(routes, live)

    def __repr__(self) -> str:
        return f"ReverseProxy({self.routes!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "http":
            exchange = exchange_of(scope)
            if exchange is not None:
                await self._serve_item(scope, receive, send, exchange)
            else:
                await self._serve_alone(scope, receive, send)
        elif kind == "websocket":
            await self._serve_websocket(scope, receive, send)
        elif kind == "lifespan":
            await self._live_on(receive, send)
        else:
            raise ValueError(f"There is no way to pass on {kind!r}.")

    # The life of the upstreams

    def open(self) -> Ways:
        """Opens the upstreams that are given as settings, inside a running loop; once."""
        if self._ways is None:
            live = {name: LiveUpstream(name, settings) for name, settings in self._settings.items()}
            self._own = list(live.values())
            for upstream in self._own:
                upstream.start()
                if upstream.settings.tls.insecure_skip_verify:
                    # The process says it when it has read its file.
                    logger.warning("upstream.insecure: upstream=%s certificates are not verified", upstream.name)
            self._ways = Ways(self.routes, {**self._live, **live})
        return self._ways

    async def aclose(self) -> None:
        """Closes what `open` has opened."""
        own, self._own = self._own, []
        if own:
            self._ways = None
        for upstream in own:
            await upstream.aclose()

    async def _live_on(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                try:
                    self.open()
                except SettingError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            elif kind == "lifespan.shutdown":
                await self.aclose()
                await send({"type": "lifespan.shutdown.complete"})
                return

    # An item of a batch

    def take_batch_item(self, exchange: Exchange, go_on: Callable[[Exchange, Call], None]) -> bool:
        """Takes an item on without a task, if nothing has to be waited for but its answer; see `engine.target.Take`."""
        item, target, ways = exchange.item, exchange.target, self._ways
        if ways is None or not self._takes_items or target.root_path or item.method in LIMITED:
            return False
        headers = target.headers(item)
        found = ways.find(item.method, item.path, item.query, headers, is_canonical=True)
        if isinstance(found, Problem):
            return False
        way, path = found
        if way.max_request_bytes is not None and len(item.body) > way.max_request_bytes:
            return False
        return begin(exchange, way, path, way.headers(headers), go_on)

    async def _serve_item(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        notes: dict[str, Any] = {}
        exchange.notes = notes
        method = scope["method"]
        found = self._find(scope, method, is_canonical=True)
        if isinstance(found, Problem):
            await refuse(found, scope, send, exchange)
            return
        way, target, headers = found
        body = await body_of(receive)
        if way.max_request_bytes is not None and len(body) > way.max_request_bytes:
            exchange.report(Failure.BODY_TOO_LARGE, f"The body is larger than {way.max_request_bytes} bytes.")
            return
        request = Outgoing(method, target, headers, body, None, way.deadline())
        await hand_over(way, way.upstream.send(request, notes=notes), exchange, send)

    # A request that came alone

    async def _serve_alone(self, scope: Scope, receive: Receive, send: Send) -> None:
        notes = problem.notes_of(scope)
        found = self._find(scope, scope["method"], is_canonical=False)
        if isinstance(found, Problem):
            notes["code"] = found.code
            await problem.answer(found, scope, send)
            return
        way, target, headers = found
        await LoneRequest(scope, receive, send, way, target, headers, notes).serve()

    async def _serve_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        from .websockets import pass_through

        notes = problem.notes_of(scope)
        if (await receive())["type"] != "websocket.connect":
            return
        found = self._find(scope, "GET", is_canonical=False)
        if isinstance(found, Problem):
            notes["code"] = found.code
            await problem.answer_handshake(found, scope, send)
            return
        way, target, headers = found
        await pass_through(way, target, list(headers), scope, receive, send, notes)

    # Both

    def _find(self, scope: Scope, method: str, *, is_canonical: bool) -> tuple[Way, bytes, Pairs] | Problem:
        """Where a request goes, and as what; or why it goes nowhere."""
        ways = self._ways or self.open()
        if self._forwarding is not None:
            if self._forwarding.is_loop(scope["headers"]):
                return _LOOP
            detail = ambiguity(scope["headers"], scope.get("http_version", "1.1"))
            if detail is not None:
                return Problem(400, "bad_request", detail, (problem.CLOSE,))
            scope = {**scope, "headers": end_to_end(scope["headers"])}
            scope = self._forwarding.applied(scope)
        headers = scope["headers"]
        found = ways.find(method, below_mount(scope), scope["query_string"], headers, is_canonical=is_canonical)
        if isinstance(found, Problem):
            return found
        way, target = found
        headers = way.headers(headers)
        if method not in LIMITED:
            return way, target, headers
        # RFC 9110, section 7.6.2.
        left = forwards_left(headers)
        if left is None:
            return way, target, headers
        if left > 0:
            return way, target, with_forwards_left(headers, left - 1)
        if method == "TRACE":
            return problem.of(Failure.METHOD_REFUSED, "It ends here.", ((b"allow", way.allowed),))
        return Final(200, "final", "", ((b"allow", way.allowed),))
