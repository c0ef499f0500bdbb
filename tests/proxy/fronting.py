"""The whole proxy between two ends made of sockets: a client in front of a real server, a scripted upstream behind.

Each request can be sent in two ways, alone and as the only item of a batch. Must not know: what any test is about.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from batchproxy.endpoint import Endpoint
from batchproxy.engine.routing import Route, RouteTable
from batchproxy.middleware import BatchMiddleware
from batchproxy.proxy.app import ReverseProxy
from batchproxy.proxy.entrance import Entrance
from batchproxy.proxy.forwarding import Forwarding
from batchproxy.proxy.settings import Upstream
from tests.serving import App, Response, Server, ask, raw, serve

from . import scripted
from .scripted import Script

Headers: TypeAlias = Sequence[tuple[str, str]]

LIKE_THE_PROCESS: dict[str, Any] = {
    "http": "httptools",
    "loop": "uvloop",
    "proxy_headers": False,
    "server_header": False,
    "date_header": False,
    "reset_contextvars": True,
    "access_log": False,
}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An answer, however it came; `code` is what a problem document says."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    error: str | None = None

    @property
    def code(self) -> str | None:
        names = dict(self.headers)
        if names.get("content-type") != "application/problem+json":
            return None
        found = json.loads(self.body)["code"]
        assert isinstance(found, str)
        return found

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


@dataclass(kw_only=True)
class Front:
    """A running proxy, and the upstream behind it."""

    server: Server
    upstream: scripted.Upstream
    batches: str = "/batch"
    outer: list[Response] = field(default_factory=list)

    async def alone(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> Answered:
        response = await asyncio.to_thread(ask, self.server, method, target, headers, body)
        pairs = tuple((name.lower(), value) for name, value in response.headers)
        return Answered(status=response.status, headers=pairs, body=response.body)

    async def item(
        self,
        method: str,
        target: str,
        headers: Headers = (),
        body: bytes | None = None,
        *,
        outer: Headers = (),
        **options: Any,
    ) -> Answered:
        item: dict[str, Any] = {"method": method, "path": target}
        if headers:
            item["headers"] = _by_name(headers)
        if body is not None:
            item |= {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}
        return (await self.batch([item], outer=outer, **options))[0]

    async def batch(self, items: list[dict[str, Any]], *, outer: Headers = (), **options: Any) -> list[Answered]:
        document = json.dumps({"requests": items, "options": options} if options else {"requests": items}).encode()
        about = [*outer, ("Content-Type", "application/json")]
        response = await asyncio.to_thread(ask, self.server, "POST", self.batches, about, document)
        self.outer.append(response)
        assert response.status == 200, response
        return [_answered(each) for each in response.json()["responses"]]

    async def send(
        self, way: str, method: str, target: str, headers: Headers = (), body: bytes | None = None
    ) -> Answered:
        """By one of `WAYS`."""
        return await (self.alone if way == "alone" else self.item)(method, target, headers, body)

    async def raw(self, payload: bytes) -> bytes:
        """What comes back for these bytes, until the server closes."""
        return await asyncio.to_thread(raw, self.server, payload)

    def received(self) -> bytes:
        """All that came to the upstream, over whatever connections."""
        return b"".join(bytes(peer.received) for peer in self.upstream.peers)


WAYS = ("alone", "item")


def _by_name(headers: Iterable[tuple[str, str]]) -> dict[str, str | list[str]]:
    found: dict[str, str | list[str]] = {}
    for name, value in headers:
        known = found.get(name)
        found[name] = value if known is None else [*([known] if isinstance(known, str) else known), value]
    return found


def _answered(entry: Mapping[str, Any]) -> Answered:
    pairs = []
    for name, value in entry["headers"].items():
        pairs += [(name, each) for each in ([value] if isinstance(value, str) else value)]
    return Answered(status=entry["status"], headers=tuple(pairs), body=_body(entry), error=entry.get("error"))


def _body(entry: Mapping[str, Any]) -> bytes:
    body = entry.get("body", "")
    if entry.get("body_encoding") == "base64":
        return base64.b64decode(body)
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def proxied(
    upstreams: Mapping[str, Upstream],
    routes: Sequence[Route],
    *,
    forwarding: Forwarding | None = None,
    entrance: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
) -> Entrance:
    """The app that the standalone process serves."""
    table = RouteTable(routes)
    batches = BatchMiddleware(
        ReverseProxy(table, upstreams, forwarding=None), endpoints=[Endpoint(routes=table, **(endpoint or {}))]
    )
    return Entrance(batches, forwarding=forwarding or Forwarding(), **(entrance or {}))


@asynccontextmanager
async def fronted(
    script: Script | None = None,
    *,
    routes: Sequence[Route] = (Route(upstream="api"),),
    forwarding: Forwarding | None = None,
    entrance: Mapping[str, Any] | None = None,
    endpoint: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    prefix: str = "",
    **settings: Any,
) -> AsyncIterator[Front]:
    """The proxy in front of an upstream `api` that plays the script; `settings` are those of the upstream."""
    async with scripted.upstream(script) as behind:
        upstream = Upstream(**{"url": behind.url + prefix, **settings})
        app = proxied({"api": upstream}, routes, forwarding=forwarding, entrance=entrance, endpoint=endpoint)
        async with beside(served(app, behind, **(server or {}))) as front:
            yield front


@asynccontextmanager
async def beside(running: AbstractContextManager[Front]) -> AsyncIterator[Front]:
    """Ends it in a thread: it may have to say goodbye to an upstream or a client that is on the loop of the test."""
    front = running.__enter__()
    try:
        yield front
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


@contextmanager
def served(app: App, behind: scripted.Upstream | None = None, **server: Any) -> Iterator[Front]:
    """An app of the test's own making, on a server with the options of the process."""
    with serve(app, **(LIKE_THE_PROCESS | server)) as running:
        yield Front(server=running, upstream=behind or scripted.Upstream())
