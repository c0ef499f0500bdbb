"""The catalogue's routes in Starlette, with its sessions, CORS, compression and two kinds of middleware."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
    requires,
)
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.equivalence.catalogue import (
    COOKIES,
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
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

current: ContextVar[str] = ContextVar("current", default="nobody")
marked: ContextVar[str] = ContextVar("marked")


class Known(Exception):
    """Has a handler."""


class Unknown(Exception):
    """Has none."""


# Middleware


class Marking:
    """Pure ASGI: adds a header to every answer, sets a context variable and a value of the request's state."""

    def __init__(self, app: ASGIApp, mark: str) -> None:
        self.app = app
        self.mark = mark

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-mark", self.mark.encode())]
            await send(message)

        scope["state"].setdefault("marks", []).append(self.mark)
        marked.set(self.mark)
        await self.app(scope, receive, mark)


class Reading(BaseHTTPMiddleware):
    """Reads the body before the endpoint does, and says how long it was."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        body = await request.body()
        response = await call_next(request)
        response.headers["X-Body-Length"] = str(len(body))
        return response


class Answering(BaseHTTPMiddleware):
    """Answers some requests itself, and counts in the state what it has seen of the request."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.seen = getattr(request.state, "seen", 0) + 1
        if "teapot" in request.query_params:
            return PlainTextResponse("I'm a teapot", 418)
        response = await call_next(request)
        response.headers["X-Seen"] = str(request.state.seen)
        response.set_cookie("seen-by", "answering")
        return response


class Raising(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if "raise" in request.query_params:
            raise Known("in a middleware")
        return await call_next(request)


class BearerBackend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        scheme, _, token = conn.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        if token == "malformed":
            raise AuthenticationError("malformed token")
        return AuthCredentials(["buyer"] if token == PRIVATE_TOKEN else []), SimpleUser(token)


# Routes


async def item(request: Request) -> Response:
    identity = request.path_params["identity"]
    if identity == "abc":
        raise HTTPException(422, "not a number", headers={"X-Why": "a test"})
    if identity == "0":
        raise HTTPException(404)
    return JSONResponse({"id": identity, "query": request.query_params.multi_items()}, headers={"ETag": '"1"'})


async def path(request: Request) -> Response:
    return JSONResponse(shown_path(request.scope, rest=request.path_params["rest"], url=str(request.url)))


async def headers(request: Request) -> Response:
    return JSONResponse(shown_headers(request.headers.items()))


async def json_body(request: Request) -> Response:
    try:
        value = await request.json()
    except ValueError as error:
        raise HTTPException(400, "not JSON") from error
    raw = await request.body()
    return JSONResponse({"type": request.headers["content-type"], "raw": raw.decode(), "value": value})


async def raw_body(request: Request) -> Response:
    chunks = [chunk async for chunk in request.stream()]
    content = b"".join(chunks)
    return Response(content, media_type=request.headers.get("content-type", "application/octet-stream"))


async def form(request: Request) -> Response:
    async with request.form() as fields:
        return JSONResponse([[name, await _field(value)] for name, value in fields.multi_items()])


async def _field(value: UploadFile | str) -> Any:
    if isinstance(value, str):
        return value
    return [value.filename, value.content_type, list(await value.read())]


async def methods(request: Request) -> Response:
    if request.method == "DELETE":
        return Response(status_code=204)
    return JSONResponse({"method": request.method})


async def status(request: Request) -> Response:
    return Response(status_code=request.path_params["code"], headers={"Location": "/items/1"})


async def raises(request: Request) -> Response:
    raise Known("on purpose") if request.path_params["what"] == "known" else Unknown("on purpose")


async def empty(request: Request) -> Response:
    return Response()


async def kinds(request: Request) -> Response:
    media_type, content = KINDS[request.path_params["kind"]]
    return Response(content, headers={"content-type": media_type})


async def compressed(request: Request) -> Response:
    return Response(gzip.compress(b"x" * 1000, mtime=0), headers={"Content-Encoding": "gzip"}, media_type="text/plain")


async def kinds_of_headers(request: Request) -> Response:
    response = PlainTextResponse("see the headers", headers=dict(HEADERS))
    response.raw_headers += [(b"x-several", b"one"), (b"x-several", b"two, three"), (b"x-empty", b"")]
    return response


async def stream(request: Request) -> Response:
    pieces, media_type = {
        "lines": (LINES, "application/x-ndjson"),
        "pieces": (PIECES, "application/json"),
        "events": (EVENTS, "text/event-stream"),
        "nothing": ([], "text/plain"),
    }[request.path_params["what"]]
    return StreamingResponse(_one_by_one(pieces), media_type=media_type)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def redirect(request: Request) -> Response:
    return RedirectResponse("/items/1?from=é", 302)


async def cookies(request: Request) -> Response:
    return JSONResponse(request.cookies)


async def set_cookies(request: Request) -> Response:
    response = PlainTextResponse("set")
    for cookie in COOKIES:
        response.headers.append("Set-Cookie", cookie)
    response.delete_cookie("old")
    return response


async def session(request: Request) -> Response:
    if request.method == "POST":
        request.session.update(await request.json())
    return JSONResponse(request.session)


@requires("buyer", status_code=401)
async def private(request: Request) -> Response:
    return JSONResponse({"user": request.user.display_name})


async def client(request: Request) -> Response:
    assert request.client is not None
    return JSONResponse(
        {"host": request.client.host, "url": str(request.url), "base": str(request.base_url), "to": request["server"]}
    )


async def peer(request: Request) -> Response:
    return JSONResponse(request.client)


async def state(request: Request) -> Response:
    before = getattr(request.state, "mark", None)
    request.state.mark = request.query_params["mark"]
    return JSONResponse(
        {
            "before": before,
            "greeting": getattr(request.state, "greeting", None),
            "of the app": getattr(request.app.state, "greeting", None),
            "keys": sorted(request.scope["state"]),
        }
    )


async def marks(request: Request) -> Response:
    return JSONResponse(request.state.marks)


async def context(request: Request) -> Response:
    before = current.get()
    current.set(request.query_params["who"])
    await asyncio.sleep(0)
    return JSONResponse({"before": before, "after": current.get(), "marked": marked.get()})


# Apps


class Lasting(TypedDict):
    greeting: str


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[Lasting]:
    app.state.greeting = "hello from the app"
    yield {"greeting": "hello from the lifespan"}


def _stateful_routes() -> list[Route]:
    store: dict[str, Any] = {}
    ran: dict[str, asyncio.Event] = {}

    async def stored(request: Request) -> Response:
        key = request.path_params["key"]
        if request.method == "PUT":
            made = key not in store
            store[key] = await request.json()
            return JSONResponse(store[key], 201 if made else 200)
        if key not in store:
            raise HTTPException(404)
        if request.method == "DELETE":
            del store[key]
            return Response(status_code=204)
        return JSONResponse(store[key])

    async def start(request: Request) -> Response:
        event = ran.setdefault(request.path_params["key"], asyncio.Event())

        async def run() -> None:
            await asyncio.sleep(0)
            event.set()

        return PlainTextResponse("started", 202, background=BackgroundTask(run))

    async def awaited(request: Request) -> Response:
        await ran.setdefault(request.path_params["key"], asyncio.Event()).wait()
        return PlainTextResponse("has run")

    return [
        Route("/store/{key}", stored, methods=["GET", "PUT", "DELETE"]),
        Route("/background/{key}", start, methods=["POST"]),
        Route("/background/{key}", awaited),
    ]


def build(files: Path, add: Callable[[Starlette], None] = lambda app: None) -> Starlette:
    """The app; `add` may add a middleware between those that are inside and those that are outside."""

    async def file(request: Request) -> Response:
        return FileResponse(files / "hello.txt", filename="grüße.txt")

    async def html(request: Request) -> Response:
        return HTMLResponse("<p>Grüße</p>")

    async def known(request: Request, error: Exception) -> Response:
        return JSONResponse({"known": str(error)}, 409, headers={"X-Handler": "known"})

    app = Starlette(
        routes=[
            Route("/items/{identity}", item),
            Route("/path/{rest:path}", path),
            Route("/headers", headers),
            Route("/headers/kinds", kinds_of_headers),
            Route("/json", json_body, methods=["POST"]),
            Route("/bytes", raw_body, methods=ALL_METHODS),
            Route("/form", form, methods=["POST"]),
            Route("/upload", form, methods=["POST"]),
            Route("/methods", methods, methods=ALL_METHODS),
            Route("/status/{code:int}", status),
            Route("/raises/{what}", raises),
            Route("/text", html),
            Route("/empty", empty),
            Route("/kinds/{kind}", kinds),
            Route("/compressed", compressed),
            Route("/stream/{what}", stream),
            Route("/redirect", redirect),
            Route("/slash/", empty),
            Route("/cookies", cookies),
            Route("/cookies/set", set_cookies),
            Route("/session", session, methods=["GET", "POST"]),
            Route("/private", private),
            Route("/client", client),
            Route("/peer", peer),
            Route("/state", state),
            Route("/marks", marks),
            Route("/context", context),
            Route("/file", file),
            *_stateful_routes(),
            Mount("/static", StaticFiles(directory=files, html=True)),
            Mount("/mounted", _mounted()),
            Mount("/group", routes=[Route("/path/{rest:path}", path), Route("/slash/", empty)]),
        ],
        middleware=[
            Middleware(SessionMiddleware, secret_key="a test", max_age=3600),
            Middleware(AuthenticationMiddleware, backend=BearerBackend()),
            Middleware(Reading),
            Middleware(Answering),
            Middleware(Marking, mark="inside"),
        ],
        exception_handlers={Known: known},
        lifespan=lifespan,
    )
    add(app)
    app.add_middleware(Raising)
    app.add_middleware(Marking, mark="outside")
    app.add_middleware(GZipMiddleware, minimum_size=100)
    app.add_middleware(CORSMiddleware, allow_origins=[SHOP], allow_credentials=True, expose_headers=["X-Mark"])
    return app


def _mounted() -> Starlette:
    """An app of its own below the other: with its own middleware, handlers and 404."""

    async def gone(request: Request, error: Exception) -> Response:
        return JSONResponse({"not": "here"}, 404)

    return Starlette(
        routes=[
            Route("/", path_of_root),
            Route("/path/{rest:path}", path),
            Route("/slash/", empty),
            Route("/raises/{what}", raises),
            Route("/client", client),
        ],
        middleware=[Middleware(Marking, mark="mounted")],
        exception_handlers={404: gone},
    )


async def path_of_root(request: Request) -> Response:
    return JSONResponse(shown_path(request.scope))


CASES = (
    *catalogue(statuses={"an encoded line break": 404}),
    # Answers of middlewares
    Case("a middleware answers", "GET", "/items/1?teapot", 418),
    Case("a middleware raises", "GET", "/items/1?raise", 500),
    Case("credentials that a middleware refuses", "GET", "/items/1", 400,
         headers={"Authorization": "Bearer malformed"}),
    Case("what middlewares put into the state", "GET", "/marks"),
    # CORS
    Case("CORS of the own origin", "GET", "/items/1", inherited={"Origin": "{origin}"}),
    Case("CORS of a trusted origin", "GET", "/items/1", inherited={"Origin": SHOP, "Cookie": "a=1"}),
    Case("CORS of an error", "GET", "/raises/unknown", 500, inherited={"Origin": SHOP}),
    Case("a preflight", "OPTIONS", "/items/1", inherited={"Origin": SHOP},
         headers={"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "content-type"}),
    Case("a preflight of the own origin", "OPTIONS", "/items/1", 400, inherited={"Origin": "{origin}"},
         headers={"Access-Control-Request-Method": "GET"}),
    # Mounts
    Case("the root of a mounted app", "GET", "/mounted/"),
    Case("a mount without its slash", "GET", "/mounted", 307),
    Case("a path of a mounted app", "GET", "/mounted/path/a%2Fb/é?q=1"),
    Case("a slash redirect of a mounted app", "GET", "/mounted/slash", 307),
    Case("an unknown path of a mounted app", "GET", "/mounted/nowhere", 404),
    Case("an unhandled exception of a mounted app", "GET", "/mounted/raises/unknown", 500),
    Case("the client of a mounted app", "GET", "/mounted/client"),
    Case("a path of a group of routes", "GET", "/group/path/a%20b"),
    Case("an unknown path of a group of routes", "GET", "/group/nowhere", 404),
    # Files
    Case("ranges of a file", "GET", "/file", 206, headers={"Range": "bytes=0-1,4-5"},
         masks=(("[0-9a-f]{26}", "boundary"),)),
    Case("a range of another unit", "GET", "/file", 400, headers={"Range": "lines=1-2"}),
    Case("a range of an older file", "GET", "/file", headers={"Range": "bytes=0-1", "If-Range": '"older"'}),
    Case("a range of a static file", "GET", "/static/data.bin", 206, headers={"Range": "bytes=250-260"}),
    Case("a folder of static files", "GET", "/static/", 404),
    # Bodies that a handler does not understand
    Case("a multipart form without a boundary", "POST", "/upload", 400, headers={"Content-Type": "multipart/form-data"},
         body=text("no")),
    Case("a session changed", "POST", "/session", body=json('{"name": "Ada"}'),
         masks=(("session=([^.]*)[^;]*", r"session=\1"),)),
)  # fmt: skip
