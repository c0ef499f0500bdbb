"""The API behind the endpoint: a small real ASGI app that remembers what reaches it.

Knows: ASGI. Must not know: the package under test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .exchange import App, Message, Receive, Scope, Send
from .virtual_time import now

Fields = Sequence[tuple[str, str]]
JSON_TYPE: Fields = (("content-type", "application/json"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A request as the API saw it."""

    at: float
    method: str
    target: str
    """Path and query, byte for byte."""
    path: str
    """The decoded path."""
    headers: list[tuple[str, str]]
    body: bytes
    scope: Scope

    def values(self, name: str) -> list[str]:
        return [value for each, value in self.headers if each == name]

    def header(self, name: str) -> str | None:
        values = self.values(name)
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None


class Api:
    """Answers by the decoded path with the app given for it, or else with method, target and body as JSON.

    `arrived` are the requests in the order in which they came; `running` counts those not answered yet.
    """

    def __init__(self, routes: Mapping[str, App] | None = None) -> None:
        self.routes = dict(routes or {})
        self.arrived: list[Arrived] = []
        self.running = 0
        self.most_at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        began = now()
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            body = await _read(receive)
            self.arrived.append(_arrived(began, scope, body))
            await self.routes.get(scope["path"], echo(self.arrived[-1]))(scope, _again(body, receive), send)
        finally:
            self.running -= 1

    @property
    def targets(self) -> list[str]:
        return [each.target for each in self.arrived]

    @property
    def only(self) -> Arrived:
        (arrived,) = self.arrived
        return arrived


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, and after it what really comes."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _arrived(at: float, scope: Scope, body: bytes) -> Arrived:
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return Arrived(
        at=at,
        method=scope["method"],
        target=target.decode("ascii"),
        path=scope["path"],
        headers=[(name.decode("ascii"), value.decode("latin-1")) for name, value in scope["headers"]],
        body=body,
        scope=scope,
    )


# Answers


def echo(arrived: Arrived) -> App:
    seen = {"method": arrived.method, "target": arrived.target, "body": arrived.body.decode("latin-1")}
    return answer(json.dumps(seen))


def answer(
    body: str | bytes = "{}", *, status: int = 200, headers: Fields = JSON_TYPE, takes: float = 0.0, then: float = 0.0
) -> App:
    """An app that answers after `takes` seconds and has work to do for `then` seconds afterwards."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(takes)
        await start(send, status, headers)
        await send({"type": "http.response.body", "body": body.encode() if isinstance(body, str) else body})
        if then:
            await asyncio.sleep(then)

    return app


async def start(send: Send, status: int = 200, headers: Fields = JSON_TYPE) -> None:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


def value(document: object, *, status: int = 200, takes: float = 0.0) -> App:
    """An app that answers with a JSON value."""
    return answer(json.dumps(document), status=status, takes=takes)
