"""The catalogue's routes in Litestar: guards, dependency injection, middleware, and sessions kept on the server."""

from __future__ import annotations

import asyncio
import gzip
import json as json_module
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Litestar, MediaType, Request, Response, Router, delete, get, head, patch, post, put, route
from litestar.background_tasks import BackgroundTask
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie, Headers, UploadFile
from litestar.di import NamedDependency, Provide
from litestar.enums import HttpMethod, ScopeType
from litestar.exceptions import ClientException, NotAuthorizedException, NotFoundException
from litestar.handlers import BaseRouteHandler
from litestar.middleware import ASGIMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import File, Redirect, Stream
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from tests.equivalence.catalogue import (
    EVENTS,
    HEADERS,
    KINDS,
    LINES,
    PIECES,
    PRIVATE_TOKEN,
    catalogue,
    shown_headers,
    shown_path,
)
from tests.equivalence.comparing import Case, json, text

SHOP = "https://shop.example"

current: ContextVar[str] = ContextVar("current", default="nobody")
tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")


class Known(Exception):
    """Has a handler."""


class Unknown(Exception):
    """Has none."""


@dataclass
class User:
    name: str
    age: int = 18


# Around the handlers


class Naming(ASGIMiddleware):
    """Sets a context variable and a value of the state, and adds a header to every answer."""

    scopes = (ScopeType.HTTP,)

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["state"]["seen"] = scope["state"].get("seen", 0) + 1
        seen = str(scope["state"]["seen"]).encode()
        tenant.set(Headers.from_scope(scope).get("x-tenant", "the house"))

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-seen", seen)]
            await send(message)

        await next_app(scope, receive, named)


async def buyers(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard."""
    if connection.headers.get("authorization") != f"Bearer {PRIVATE_TOKEN}":
        raise NotAuthorizedException(headers={"WWW-Authenticate": "Bearer"})


async def steps() -> AsyncIterator[list[str]]:
    """A dependency with an end, which sees the exceptions of the handler."""
    taken = ["begun"]
    try:
        yield taken
    except Known:
        taken.append("rolled back")
        raise


def known(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    return Response({"known": str(error)}, status_code=409, headers={"X-Handler": "known"})


# Handlers


@get("/items/{identity:int}")
async def item(identity: FromPath[int], request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    if identity == 0:
        raise NotFoundException("no such item")
    return Response({"id": identity, "query": list(request.query_params.multi_items())}, headers={"ETag": '"1"'})


@head("/items/{identity:int}")
async def item_head(identity: FromPath[int]) -> Response[None]:
    return Response(None, headers={"X-Item": str(identity), "Content-Length": "77"})


@get(["/path", "/path/{rest:path}"])
async def path(request: Request[Any, Any, Any], rest: FromPath[str] = "") -> dict[str, str]:
    return shown_path(request.scope, rest=rest, url=str(request.url))


@get("/headers")
async def headers(request: Request[Any, Any, Any]) -> list[list[str]]:
    return shown_headers(list(request.headers.multi_items()))


@get("/headers/kinds", media_type=MediaType.TEXT)
async def kinds_of_headers() -> Response[str]:
    return Response("see the headers", headers=dict(HEADERS) | {"X-Empty": ""})


@post("/json", status_code=200)
async def json_body(request: Request[Any, Any, Any]) -> dict[str, Any]:
    raw = await request.body()
    try:
        value = json_module.loads(raw)
    except ValueError as error:
        raise ClientException("not JSON") from error
    return {"type": request.headers["content-type"], "raw": raw.decode(), "value": value}


@post("/users")
async def make_user(data: JSONBody[User]) -> User:
    return data


@route(
    "/bytes",
    http_method=[HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.DELETE],
    status_code=200,
    media_type="application/octet-stream",
)
async def raw_body(request: Request[Any, Any, Any]) -> Response[bytes]:
    return Response(await request.body(), headers={"X-Type": request.headers.get("content-type", "none")})


@post(["/form", "/upload"], status_code=200)
async def form(request: Request[Any, Any, Any]) -> list[list[Any]]:
    return [[name, await _field(value)] for name, value in (await request.form()).multi_items()]


async def _field(value: UploadFile | str) -> Any:
    if isinstance(value, str):
        return value
    return [value.filename, value.content_type, list(await value.read())]


@put("/methods")
async def method_put() -> dict[str, str]:
    return {"method": "PUT"}


@patch("/methods")
async def method_patch() -> dict[str, str]:
    return {"method": "PATCH"}


@delete("/methods")
async def method_delete() -> None:
    return None


@get("/status/{code:int}")
async def status(code: FromPath[int]) -> Response[None]:
    return Response(None, status_code=code, headers={"Location": "/items/1"})


@get("/raises/{what:str}")
async def raises(what: FromPath[str], taken: NamedDependency[list[str]]) -> None:
    raise Known(f"on purpose, {taken[0]}") if what == "known" else Unknown("on purpose")


@get("/text", media_type=MediaType.HTML)
async def html() -> str:
    return "<p>Grüße</p>"


@head("/text")
async def html_head() -> Response[None]:
    return Response(None, media_type=MediaType.HTML, headers={"Content-Length": "14"})


@get(["/empty", "/slash"])
async def empty() -> Response[bytes]:
    return Response(b"", media_type=MediaType.TEXT)


@get("/kinds/{kind:str}")
async def kinds(kind: FromPath[str]) -> Response[bytes]:
    media_type, content = KINDS[kind]
    return Response(content, media_type=media_type)


@head("/kinds/{kind:str}")
async def kinds_head(kind: FromPath[str]) -> Response[None]:
    media_type, content = KINDS[kind]
    return Response(None, media_type=media_type, headers={"Content-Length": str(len(content))})


@get("/compressed", media_type="text/plain")
async def compressed() -> Response[bytes]:
    return Response(gzip.compress(b"x" * 1000, mtime=0), headers={"Content-Encoding": "gzip"})


@get("/stream/{what:str}")
async def stream(what: FromPath[str]) -> Stream:
    pieces, media_type = {
        "lines": (LINES, "application/x-ndjson"),
        "pieces": (PIECES, "application/json"),
        "events": (EVENTS, "text/event-stream"),
        "nothing": ([], "text/plain"),
    }[what]
    return Stream(_one_by_one(pieces), media_type=media_type)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@get("/redirect", status_code=302)
async def redirect() -> Redirect:
    return Redirect("/items/1?from=é", status_code=302)


@get("/cookies")
async def cookies(request: Request[Any, Any, Any]) -> dict[str, str]:
    return dict(request.cookies)


@get("/cookies/set", media_type=MediaType.TEXT)
async def set_cookies() -> Response[str]:
    response = Response("set", cookies=[Cookie(key="theme", value="dark"), Cookie(key="visits", value="1", max_age=60)])
    response.delete_cookie("old")
    return response


@get("/session")
async def session(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return dict(request.session)


@post("/session", status_code=200)
async def change_session(request: Request[Any, Any, Any]) -> dict[str, Any]:
    request.session.update(await request.json())
    return dict(request.session)


@get("/private", guards=[buyers])
async def private() -> dict[str, str]:
    return {"user": "known"}


@get("/client")
async def client(request: Request[Any, Any, Any]) -> dict[str, Any]:
    assert request.client is not None
    return {
        "host": request.client.host,
        "url": str(request.url),
        "base": str(request.base_url),
        "to": request.scope["server"],
    }


@get("/state")
async def state(mark: FromQuery[str], request: Request[Any, Any, Any]) -> dict[str, Any]:
    before = request.state.get("mark")
    request.state["mark"] = mark
    return {"before": before, "seen": request.state["seen"], "of the app": request.app.state["greeting"]}


@get("/context")
async def context(who: FromQuery[str]) -> dict[str, str]:
    before = current.get()
    current.set(who)
    await asyncio.sleep(0)
    return {"before": before, "after": current.get(), "tenant": tenant.get()}


@get("/thread", sync_to_thread=True)
def thread(who: FromQuery[str]) -> dict[str, str]:
    before = current.get()
    current.set(who)
    return {"before": before, "after": current.get(), "tenant": tenant.get()}


# Apps


def _stateful() -> Router:
    store: dict[str, Any] = {}
    ran: dict[str, asyncio.Event] = {}

    @get("/store/{key:str}")
    async def read(key: FromPath[str]) -> Any:
        if key not in store:
            raise NotFoundException
        return store[key]

    @put("/store/{key:str}")
    async def write(key: FromPath[str], request: Request[Any, Any, Any]) -> Response[Any]:
        made = key not in store
        store[key] = await request.json()
        return Response(store[key], status_code=201 if made else 200)

    @delete("/store/{key:str}")
    async def remove(key: FromPath[str]) -> None:
        if store.pop(key, None) is None:
            raise NotFoundException

    @post("/background/{key:str}")
    async def start(key: FromPath[str]) -> Response[str]:
        async def run() -> None:
            await asyncio.sleep(0)
            ran.setdefault(key, asyncio.Event()).set()

        return Response("started", status_code=202, background=BackgroundTask(run))

    @get("/background/{key:str}")
    async def awaited(key: FromPath[str]) -> str:
        await ran.setdefault(key, asyncio.Event()).wait()
        return "has run"

    return Router("/", route_handlers=[read, write, remove, start, awaited])


def build(files: Path) -> Litestar:
    @get("/file", media_type="text/plain")
    async def file() -> File:
        return File(files / "hello.txt", filename="grüße.txt")

    @head("/file")
    async def file_head() -> File:
        return File(files / "hello.txt", filename="grüße.txt")

    handlers = [
        item,
        item_head,
        path,
        headers,
        kinds_of_headers,
        json_body,
        make_user,
        raw_body,
        form,
        method_put,
        method_patch,
        method_delete,
        status,
        raises,
        html,
        html_head,
        empty,
        kinds,
        kinds_head,
        compressed,
        stream,
        redirect,
        cookies,
        set_cookies,
        session,
        change_session,
        private,
        client,
        state,
        context,
        thread,
        file,
        file_head,
    ]
    return Litestar(
        route_handlers=[
            *handlers,
            Router("/group", route_handlers=[path, item, empty]),
            _stateful(),
            create_static_files_router("/static", directories=[files]),
        ],
        compression_config=CompressionConfig(backend="gzip", minimum_size=100),
        cors_config=CORSConfig(allow_origins=[SHOP], allow_credentials=True),
        dependencies={"taken": Provide(steps)},
        exception_handlers={Known: known},
        logging_config=None,
        middleware=[ServerSideSessionConfig().middleware, Naming()],
        on_startup=[lambda app: app.state.update({"greeting": "hello from the app"})],
    )


CASES = (
    *catalogue(
        statuses={
            "an item of the wrong type": 404,
            "OPTIONS": 204,
            "HEAD of a stream": 405,
            "a redirect to the path with a slash": 200,
            "a range of a file": 200,
            "the end of a file": 200,
            "a range beyond a file": 200,
            "a static file not changed since": 200,
        },
    ),
    Case("a model", "POST", "/users", 201, body=json('{"name": "Ada", "age": 36}')),
    Case("a model that is not valid", "POST", "/users", 400, body=json('{"name": 1}')),
    Case("a model of broken JSON", "POST", "/users", 400, headers={"Content-Type": "application/json"}, body=text("{")),
    Case("a handler in a thread", "GET", "/thread?who=ada"),
    Case("a handler in a thread again", "GET", "/thread?who=bob"),
    Case("a tenant of the item", "GET", "/context?who=ada", headers={"X-Tenant": "own"}),
    Case("an inherited tenant", "GET", "/thread?who=ada", inherited={"X-Tenant": "of the caller"}),
    Case("CORS of a trusted origin", "GET", "/items/1", inherited={"Origin": SHOP}),
    Case("CORS of an error", "GET", "/raises/unknown", 500, inherited={"Origin": SHOP}),
    Case("a preflight", "OPTIONS", "/items/1", 204, inherited={"Origin": SHOP},
         headers={"Access-Control-Request-Method": "GET"}),
    Case("a path of a group", "GET", "/group/path/a%2Fb/é?q=1"),
    Case("the description", "GET", "/schema/openapi.json"),
    Case("a session changed", "POST", "/session", body=json('{"name": "Ada"}')),
)  # fmt: skip
