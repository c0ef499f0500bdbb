"""The catalogue's routes in FastAPI: models, dependencies, forms, and a handler for every exception."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, TypedDict
from urllib.parse import quote

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
)
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.sessions import SessionMiddleware

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
tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")


class Known(Exception):
    """Has a handler."""


class Unknown(Exception):
    """Is left to the handler of every exception."""


class User(BaseModel):
    name: str = Field(min_length=1, max_length=20)
    age: int = Field(default=18, ge=0)
    tags: list[str] = []


class Made(BaseModel):
    id: int
    user: User


class Lasting(TypedDict):
    greeting: str


# Dependencies


bearer = HTTPBearer()


async def token(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    if credentials.credentials != PRIVATE_TOKEN:
        raise HTTPException(401, "wrong token", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
    return credentials.credentials


async def transaction(request: Request) -> AsyncIterator[list[str]]:
    """A dependency with an end, which sees the exceptions of the route."""
    steps = ["begun"]
    try:
        yield steps
    except Known:
        steps.append("rolled back")
        raise


def blocking(name: Annotated[str, Query()] = "nobody") -> str:
    """Runs in a thread, with the context of the request."""
    return f"{name} of {tenant.get()}"


# Routes


router = APIRouter()


@router.get("/items/{identity}")
async def item(
    identity: int, request: Request, response: Response, tag: Annotated[list[str], Query(default_factory=list)]
) -> dict[str, Any]:
    if identity == 0:
        raise HTTPException(404, {"missing": identity}, headers={"X-Why": "a test"})
    response.headers["ETag"] = '"1"'
    return {"id": identity, "tag": tag, "query": request.query_params.multi_items()}


@router.head("/items/{identity}")
async def item_head(identity: int) -> Response:
    return Response(headers={"X-Item": str(identity), "Content-Length": "77"})


@router.get("/path/{rest:path}")
async def path(rest: str, request: Request) -> dict[str, str]:
    return shown_path(request.scope, rest=rest, url=str(request.url))


@router.get("/headers")
async def headers(
    request: Request,
    accept: Annotated[str | None, Header()] = None,
    x_two: Annotated[list[str] | None, Header()] = None,
) -> dict[str, Any]:
    return {"all": shown_headers(request.headers.items()), "accept": accept, "x-two": x_two}


@router.get("/headers/kinds")
async def kinds_of_headers() -> Response:
    response = PlainTextResponse("see the headers", headers=dict(HEADERS))
    response.raw_headers += [(b"x-several", b"one"), (b"x-several", b"two, three"), (b"x-empty", b"")]
    return response


@router.post("/json")
async def json_body(request: Request, value: Annotated[Any, Body()]) -> dict[str, Any]:
    return {"type": request.headers["content-type"], "raw": (await request.body()).decode(), "value": value}


@router.post("/users", status_code=201)
async def make_user(user: User, response: Response) -> Made:
    response.headers["Location"] = "/users/7"
    return Made(id=7, user=user)


@router.api_route("/bytes", methods=ALL_METHODS, include_in_schema=False)
async def raw_body(request: Request) -> Response:
    content = await request.body()
    return Response(content, media_type=request.headers.get("content-type", "application/octet-stream"))


@router.post("/form")
async def form(
    a: Annotated[int, Form()], b: Annotated[list[str], Form()], empty: Annotated[str | None, Form()] = None
) -> dict[str, Any]:
    return {"a": a, "b": b, "empty": empty}


@router.post("/upload")
async def upload(title: Annotated[str, Form()], file: Annotated[UploadFile, File()]) -> dict[str, Any]:
    content = await file.read()
    return {"title": title, "name": file.filename, "type": file.content_type, "content": list(content)}


@router.put("/methods")
@router.patch("/methods")
async def methods(request: Request, value: Annotated[int, Body()]) -> dict[str, Any]:
    return {"method": request.method, "value": value}


@router.delete("/methods", status_code=204)
async def delete() -> None:
    return None


@router.get("/status/{code}")
async def status(code: int) -> Response:
    return Response(status_code=code, headers={"Location": "/items/1"})


@router.get("/raises/known")
async def raises_known(steps: Annotated[list[str], Depends(transaction)]) -> None:
    raise Known("on purpose")


@router.get("/raises/unknown")
async def raises_unknown() -> None:
    raise Unknown("on purpose")


@router.get("/raises/late")
async def raises_late(background: BackgroundTasks) -> dict[str, str]:
    """The answer is complete before its background task raises."""

    async def fail() -> None:
        raise Unknown("too late to matter")

    background.add_task(fail)
    return {"answered": "in full"}


@router.get("/text", response_class=HTMLResponse)
async def html() -> str:
    return "<p>Grüße</p>"


@router.head("/text")
async def html_head() -> Response:
    return HTMLResponse("<p>Grüße</p>")


@router.get("/empty")
@router.get("/slash/")
async def empty() -> Response:
    return Response()


@router.api_route("/kinds/{kind}", methods=["GET", "HEAD"], include_in_schema=False)
async def kinds(kind: str) -> Response:
    media_type, content = KINDS[kind]
    return Response(content, headers={"content-type": media_type})


@router.get("/compressed")
async def compressed() -> Response:
    return Response(gzip.compress(b"x" * 1000, mtime=0), headers={"Content-Encoding": "gzip"}, media_type="text/plain")


@router.api_route("/stream/{what}", methods=["GET", "HEAD"], include_in_schema=False)
async def stream(what: str) -> Response:
    pieces, media_type = {
        "lines": (LINES, "application/x-ndjson"),
        "pieces": (PIECES, "application/json"),
        "events": (EVENTS, "text/event-stream"),
        "nothing": ([], "text/plain"),
    }[what]
    return StreamingResponse(_one_by_one(pieces), media_type=media_type)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@router.get("/redirect", response_class=RedirectResponse, status_code=302)
async def redirect() -> str:
    return "/items/1?from=é"


@router.get("/cookies")
async def cookies(request: Request, a: Annotated[str | None, Cookie()] = None) -> dict[str, Any]:
    return {"a": a, "all": request.cookies}


@router.get("/cookies/set")
async def set_cookies(response: Response) -> str:
    for cookie in COOKIES:
        response.headers.append("Set-Cookie", cookie)
    response.delete_cookie("old")
    return "set"


@router.get("/session")
async def session(request: Request) -> dict[str, Any]:
    return request.session


@router.post("/session")
async def change_session(request: Request, values: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
    request.session.update(values)
    return request.session


@router.get("/private")
async def private(user: Annotated[str, Depends(token)]) -> dict[str, str]:
    return {"user": user}


@router.get("/client")
async def client(request: Request) -> dict[str, Any]:
    assert request.client is not None
    return {
        "host": request.client.host,
        "url": str(request.url),
        "url for": str(request.url_for("item", identity=1)),
        "base": str(request.base_url),
        "to": request["server"],
    }


@router.get("/state")
async def state(mark: str, request: Request) -> dict[str, Any]:
    before = getattr(request.state, "mark", None)
    request.state.mark = mark
    greeting = getattr(request.state, "greeting", None)
    return {"before": before, "greeting": greeting, "keys": sorted(request.scope["state"])}


@router.get("/context")
async def context(who: str, name: Annotated[str, Depends(blocking)]) -> dict[str, str]:
    before = current.get()
    current.set(who)
    await asyncio.sleep(0)
    return {"before": before, "after": current.get(), "name": name, "tenant": tenant.get()}


@router.get("/thread")
def thread(who: str) -> dict[str, str]:
    """Runs in a thread."""
    before = current.get()
    current.set(who)
    return {"before": before, "after": current.get(), "tenant": tenant.get()}


# Apps


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[Lasting]:
    yield {"greeting": "hello from the lifespan"}


def _stateful_routes() -> APIRouter:
    stateful = APIRouter()
    store: dict[str, Any] = {}
    ran: dict[str, asyncio.Event] = {}

    @stateful.get("/store/{key}")
    async def read(key: str) -> Any:
        if key not in store:
            raise HTTPException(404)
        return store[key]

    @stateful.put("/store/{key}")
    async def write(key: str, value: Annotated[Any, Body()], response: Response) -> Any:
        response.status_code = 200 if key in store else 201
        store[key] = value
        return value

    @stateful.delete("/store/{key}", status_code=204)
    async def remove(key: str) -> None:
        if store.pop(key, None) is None:
            raise HTTPException(404)

    @stateful.post("/background/{key}", status_code=202)
    async def start(key: str, background: BackgroundTasks) -> str:
        background.add_task(ran.setdefault(key, asyncio.Event()).set)
        return "started"

    @stateful.get("/background/{key}")
    async def awaited(key: str) -> str:
        await ran.setdefault(key, asyncio.Event()).wait()
        return "has run"

    return stateful


def build(files: Path, add: Callable[[FastAPI], None] = lambda app: None) -> FastAPI:
    """The app; `add` may add a middleware between those that are inside and those that are outside."""
    app = FastAPI(lifespan=lifespan, title="The catalogue")
    app.include_router(router)
    app.include_router(router, prefix="/group", tags=["group"])
    app.include_router(_stateful_routes())

    @app.api_route("/file", methods=["GET", "HEAD"])
    async def file() -> FileResponse:
        return FileResponse(files / "hello.txt", filename="grüße.txt")

    @app.exception_handler(Known)
    async def known(request: Request, error: Known) -> JSONResponse:
        return JSONResponse({"known": str(error)}, 409, headers={"X-Handler": "known"})

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        wrong_json = any(detail["type"] == "json_invalid" for detail in error.errors())
        return JSONResponse({"wrong": [list(detail["loc"]) for detail in error.errors()]}, 400 if wrong_json else 422)

    @app.exception_handler(Exception)
    async def anything(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error), "path": request.url.path}, 500, headers={"X-Handler": "anything"})

    mounted = FastAPI(title="mounted", root_path_in_servers=False)
    mounted.include_router(router)
    app.mount("/mounted", mounted)
    app.mount("/static", StaticFiles(directory=files))
    app.add_middleware(SessionMiddleware, secret_key="a test", max_age=None)

    @app.middleware("http")
    async def inside(request: Request, call_next: RequestResponseEndpoint) -> Response:
        tenant.set(request.headers.get("x-tenant", "the house"))
        request.state.inside = True
        response = await call_next(request)
        response.headers["X-Inside"] = quote(request.url.path)
        return response

    add(app)

    @app.middleware("http")
    async def outside(request: Request, call_next: RequestResponseEndpoint) -> Response:
        length = len(await request.body())
        response = await call_next(request)
        response.headers["X-Outside"] = (
            f"{request.method} with {length} bytes, inside: {getattr(request.state, 'inside', False)}"
        )
        response.headers.append("Set-Cookie", "outside=1")
        return response

    app.add_middleware(GZipMiddleware, minimum_size=100)
    app.add_middleware(CORSMiddleware, allow_origins=[SHOP], allow_methods=["*"], allow_headers=["x-tenant"])
    return app


CASES = (
    *catalogue(statuses={"an encoded line break": 404}),
    # Models
    Case("a model", "POST", "/users", 201, body=json('{"name": "Ada", "age": 36, "tags": ["x"]}')),
    Case("a model of odd JSON", "POST", "/users", 201, body=json('{ "name":"\\u00e9",\n"age":1.0 }')),
    Case("a model that is not valid", "POST", "/users", 422, body=json('{"name": "", "age": -1}')),
    Case("a model without a body", "POST", "/users", 422),
    Case("a model sent as a form", "POST", "/users", 422, headers={"Content-Type": "application/x-www-form-urlencoded"},
         body=text("name=Ada")),
    Case("a form that lacks a field", "POST", "/form", 422,
         headers={"Content-Type": "application/x-www-form-urlencoded"}, body=text("a=x")),
    # Exceptions
    Case("an exception after the answer", "GET", "/raises/late"),
    Case("an unhandled exception with a body", "GET", "/raises/unknown", 500, body=json('{"a": 1}')),
    # Threads and context
    Case("a route in a thread", "GET", "/thread?who=ada"),
    Case("a route in a thread again", "GET", "/thread?who=bob"),
    Case("a tenant of the item", "GET", "/context?who=ada&name=eve", headers={"X-Tenant": "own"}),
    Case("an inherited tenant", "GET", "/context?who=ada&name=eve", inherited={"X-Tenant": "of the caller"}),
    # CORS
    Case("CORS of the own origin", "GET", "/items/1", inherited={"Origin": "{origin}"}),
    Case("CORS of a trusted origin", "GET", "/items/1", inherited={"Origin": SHOP}),
    Case("CORS of an error", "GET", "/raises/unknown", 500, inherited={"Origin": SHOP}),
    Case("a preflight", "OPTIONS", "/items/1", inherited={"Origin": SHOP},
         headers={"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "x-tenant"}),
    # Descriptions
    Case("the documentation", "GET", "/docs"),
    # Routers and mounts
    Case("a path of a group", "GET", "/group/path/a%2Fb?q=1"),
    Case("an unknown path of a group", "GET", "/group/nowhere", 404),
    Case("a path of a mounted app", "GET", "/mounted/path/a%2Fb/é?q=1"),
    Case("an item of a mounted app", "GET", "/mounted/items/1?tag=x"),
    Case("a slash redirect of a mounted app", "GET", "/mounted/slash", 307),
    Case("an unknown path of a mounted app", "GET", "/mounted/nowhere", 404),
    Case("an unhandled exception of a mounted app", "GET", "/mounted/raises/unknown", 500),
    Case("the client of a mounted app", "GET", "/mounted/client"),
    Case("the description of a mounted app", "GET", "/mounted/openapi.json"),
    # Sessions
    Case("a session changed", "POST", "/session", body=json('{"name": "Ada"}'),
         masks=(("session=([^.]*)[^;]*", r"session=\1"),)),
)  # fmt: skip
