"""The measured applications: GET /item/{id} answers a JSON object of about 90 bytes, serialised for every request.

Knows: three ways to write that application, and a few pure ones with large or slow answers. Must not know: what is
measured. `served` is what uvicorn imports.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from batchproxy import BatchMiddleware

if TYPE_CHECKING:
    from fastapi import FastAPI

JSON = Any
Message = MutableMapping[str, JSON]
Scope = MutableMapping[str, JSON]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

ROOT = Path(__file__).resolve().parents[1]
MEBIBYTE = 1 << 20
SLOW_SECONDS = 0.5
JSON_HEADERS = [(b"content-type", b"application/json")]


def item(number: int) -> dict[str, JSON]:
    """The answer to GET /item/{number}."""
    return {"id": number, "name": f"item {number}", "price": 19.99, "tags": ["new", "sale"], "in_stock": True}


def records(size: int) -> bytes:
    """A JSON array of short values, as an API's list of rows, of at most `size` bytes."""
    row = json.dumps(item(1000)).encode()
    return b"[" + b",".join([row] * ((size - 2) // (len(row) + 1))) + b"]"


def prose(size: int) -> bytes:
    """A JSON array of long strings, the cheapest JSON there is, of at most `size` bytes."""
    line = json.dumps("lorem ipsum " * 170).encode()
    return b"[" + b",".join([line] * ((size - 2) // (len(line) + 1))) + b"]"


# Trivial items


async def pure(scope: Scope, receive: Receive, send: Send) -> None:
    """The application with no framework at all."""
    path: str = scope["path"]
    if scope["type"] != "http" or scope["method"] != "GET" or not path.startswith("/item/"):
        await send({"type": "http.response.start", "status": 404, "headers": JSON_HEADERS})
        await send({"type": "http.response.body", "body": b'{"detail": "not found"}'})
        return
    body = json.dumps(item(int(path[6:]))).encode()
    headers = [*JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def starlette() -> Starlette:
    """The application in Starlette."""

    async def read_item(request: Request) -> JSONResponse:
        return JSONResponse(item(request.path_params["number"]))

    return Starlette(routes=[Route("/item/{number:int}", read_item)])


def fastapi() -> "FastAPI":
    """The application in FastAPI, whose import takes longer than all else together."""
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/item/{number}")
    async def read_item(number: int) -> dict[str, JSON]:
        return item(number)

    return app


# Large and slow items


def constant(body: bytes) -> App:
    """Answers every request with the same JSON document, so that all cost is the caller's."""
    start = {"type": "http.response.start", "status": 200, "headers": JSON_HEADERS}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body", "body": body})

    return app


def fresh(size: int) -> App:
    """Answers every request with a JSON document of its own, newly made, of about `size` bytes."""
    rows = records(size - 64)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"".join((b'{"path": "', scope["path"].encode(), b'", "rows": ', rows, b"}"))
        await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
        await send({"type": "http.response.body", "body": body})

    return app


async def sometimes_slow(scope: Scope, receive: Receive, send: Send) -> None:
    """The pure application, but item 0 takes half a second."""
    if scope["path"] == "/item/0":
        await asyncio.sleep(SLOW_SECONDS)
    await pure(scope, receive, send)


async def sized(scope: Scope, receive: Receive, send: Send) -> None:
    """The pure application, and `GET /bytes/{size}/{number}`: a JSON document of its own of about so many bytes."""
    path: str = scope["path"]
    if path.startswith("/bytes/"):
        await _of_size(int(path.split("/")[2]))(scope, receive, send)
    else:
        await pure(scope, receive, send)


@cache
def _of_size(size: int) -> App:
    return fresh(size)


# Behind uvicorn

served = starlette()
served.add_middleware(BatchMiddleware, path="/batch")

growing = BatchMiddleware(
    sized, max_items=10_000, max_response_bytes=64 * MEBIBYTE, max_total_response_bytes=1024 * MEBIBYTE
)
