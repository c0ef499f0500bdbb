"""One configuration at work: the whole app that is made from it, and the upstreams behind.

Knows: how the parts are put together; the only place that does. Must not know: sockets, signals, who asks for a reload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engine.errors import SettingError
from ..engine.events import Observer
from ..engine.in_flight import InFlight
from ..engine.model import ASGIApp, Receive, Scope, Send
from ..engine.routing import RouteTable
from ..middleware import BatchMiddleware
from ..proxy.app import ReverseProxy
from ..proxy.entrance import Entrance
from ..proxy.forwarding import Forwarding
from ..proxy.upstream import LiveUpstream
from .config import Loaded

if TYPE_CHECKING:
    from .jobs import ProcessJobs
    from .served_jobs import ServedJobs


class Generation:
    """Made inside a running loop; `number` counts up with each. Raises `SettingError`."""

    def __init__(
        self,
        loaded: Loaded,
        number: int,
        *,
        in_flight: InFlight,
        observers: Sequence[Observer] = (),
        jobs: ProcessJobs | None = None,
    ) -> None:
        config = loaded.config
        self.number = number
        self.loaded = loaded
        self.upstreams = {name: LiveUpstream(name, settings) for name, settings in config.upstreams.items()}
        table = RouteTable(config.all_routes)
        endpoints = [replace(endpoint, in_flight=in_flight, routes=table) for endpoint in config.batch_endpoints]
        proxy = ReverseProxy(table, self.upstreams, forwarding=None)
        self.served: ServedJobs | None = None
        if jobs is None and config.apis:
            expected = "expected a restart, for this process has begun without `jobs`"
            raise SettingError("dialect", config.apis[0].dialect, expected)
        if jobs is not None:
            self.served = jobs.of(config.jobs, [replace(api.made(), routes=table) for api in config.apis])
        self._middleware = BatchMiddleware(proxy, endpoints=endpoints, observers=observers, jobs=self.served)
        server = config.server
        self.app: ASGIApp = Entrance(
            self._middleware,
            forwarding=Forwarding(trusted_proxies=server.trusted_proxies, name=server.name),
            allowed_hosts=server.allowed_hosts,
            max_header_bytes=server.max_header_bytes,
        )
        self.running = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def __repr__(self) -> str:
        return f"Generation({self.number}, {self.loaded.digest[:12]}, running={self.running})"

    def start(self) -> None:
        """Begins the health checks."""
        for upstream in self.upstreams.values():
            upstream.start()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its beginning to its end here."""
        await self._counted(self.app, scope, receive, send)

    async def serve_item(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One item of a job."""
        assert self.served is not None
        await self._counted(self.served.entry(scope["root_path"]).app, scope, receive, send)

    async def _counted(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self.running += 1
        self._unused.clear()
        try:
            await app(scope, receive, send)
        finally:
            self.running -= 1
            if not self.running:
                self._unused.set()

    def drain(self, grace: float) -> None:
        """Running batches end within so many seconds."""
        self._middleware.drain(grace)

    async def retire(self) -> None:
        """A newer generation took over: lets what runs come to its end, then closes the upstreams."""
        for upstream in self.upstreams.values():
            upstream.drain()
        try:
            await self._unused.wait()
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Closes the upstreams; what still runs there is cut."""
        async with AsyncExitStack() as stack:
            for upstream in self.upstreams.values():
                stack.push_async_callback(upstream.aclose)

    def state(self) -> dict[str, Any]:
        """For people."""
        return {
            "generation": self.number,
            "digest": self.loaded.digest,
            "running": self.running,
            "upstreams": [upstream.state() for upstream in self.upstreams.values()],
        }
