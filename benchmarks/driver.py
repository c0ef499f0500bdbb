"""Calls ASGI apps in this process, as a server would, and counts the CPU time of doing so.

Knows: ASGI, and the shape of a batch on the wire. Must not know: which app it calls.
"""

import asyncio
import gc
import json
from collections.abc import Sequence
from time import process_time

from benchmarks.apps import JSON, App, Message, Scope

BLOCK = 100  # items between two readings of the clock; scopes are made outside of the measured time
INHERITED = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"benchmark"),
    (b"accept", b"*/*"),
    (b"authorization", b"Bearer 0123456789abcdef"),
]


def scope_of(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    """The scope that uvicorn would make."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "scheme": "http",
        "method": method,
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
        "state": {},
    }


def single_scope(number: int) -> Scope:
    """GET /item/{number}, sent alone."""
    return scope_of("GET", f"/item/{number}", list(INHERITED))


def batch_scope(body: bytes, accept: bytes = b"application/json") -> Scope:
    """POST /batch, whose body will be `body`."""
    own = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), (b"accept", accept)]
    return scope_of("POST", "/batch", [header for header in INHERITED if header[0] != b"accept"] + own)


def batch_body(size: int) -> bytes:
    """A batch of GET /item/0 up to GET /item/{size - 1}, as a client's JSON library writes it."""
    return json.dumps({"requests": [{"method": "GET", "path": f"/item/{n}"} for n in range(size)]}).encode()


class Feed:
    """A server's `receive`: the body once, then silence for as long as the client stays."""

    __slots__ = ("_body", "_given")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._given = False

    async def receive(self) -> Message:
        if self._given:
            await asyncio.Event().wait()
        self._given = True
        return {"type": "http.request", "body": self._body, "more_body": False}


async def drop(message: Message) -> None:
    """A `send` that costs nothing, so that none of its cost hides in a ratio."""


class Collected:
    """A `send` that keeps everything, to look at the answer."""

    def __init__(self) -> None:
        self.status = 0
        self._pieces: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self._pieces.append(message.get("body", b""))

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)


async def bare_cost(app: App, count: int) -> float:
    """CPU seconds for each of `count` requests, one after another."""
    gc.collect()
    spent = 0.0
    feed = Feed(b"")
    for _ in range(count // BLOCK):
        scopes = [single_scope(number) for number in range(BLOCK)]
        begin = process_time()
        for scope in scopes:
            await app(scope, feed.receive, drop)
        await asyncio.sleep(0)
        spent += process_time() - begin
    return spent / (count // BLOCK * BLOCK)


async def batch_cost(app: App, size: int, count: int) -> float:
    """CPU seconds for each of `count` items in batches of `size`, with what is left to the loop afterwards."""
    gc.collect()
    spent = 0.0
    body = batch_body(size)
    for _ in range(max(1, count // size)):
        scope, feed = batch_scope(body), Feed(body)
        begin = process_time()
        await app(scope, feed.receive, drop)
        await asyncio.sleep(0)
        spent += process_time() - begin
    return spent / (max(1, count // size) * size)


async def same_answers(app: App, batching: App, sizes: Sequence[int]) -> None:
    """Refuses to measure an engine that answers something else than the app alone."""
    for size in sizes:
        alone = [await answer_alone(app, number) for number in range(size)]
        answers = await answer_of_batch(batching, batch_body(size))
        if [answer["body"] for answer in answers] != alone or any(answer["status"] != 200 for answer in answers):
            raise RuntimeError(f"The batch of {size} answers something else than the app alone: {answers[:2]}")


async def answer_alone(app: App, number: int) -> JSON:
    """The decoded body of one request."""
    collected = Collected()
    await app(single_scope(number), Feed(b"").receive, collected.send)
    return json.loads(collected.body)


async def answer_of_batch(app: App, body: bytes) -> list[dict[str, JSON]]:
    """The decoded answers of one batch."""
    collected = Collected()
    await app(batch_scope(body), Feed(body).receive, collected.send)
    if collected.status != 200:
        raise RuntimeError(f"The batch was answered {collected.status}: {collected.body[:500]!r}")
    answers: list[dict[str, JSON]] = json.loads(collected.body)["responses"]
    return answers
