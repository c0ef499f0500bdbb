"""The catalogue's routes in Falcon: resources, media handlers, hooks and middleware."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import falcon
from falcon.asgi import App, Request, Response

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

current: ContextVar[str] = ContextVar("current", default="nobody")
tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")


class Known(Exception):
    """Has a handler."""


class Unknown(Exception):
    """Has none."""


async def known(req: Request, resp: Response, error: Exception, params: dict[str, Any], **more: Any) -> None:
    resp.status = falcon.HTTP_409
    resp.media = {"known": str(error)}
    resp.set_header("X-Handler", "known")


class Naming:
    """A middleware with a method for each step of a request."""

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        scope["state"]["greeting"] = "hello from the lifespan"

    async def process_request(self, req: Request, resp: Response) -> None:
        tenant.set(req.get_header("X-Tenant") or "the house")
        req.context.seen = getattr(req.context, "seen", 0) + 1

    async def process_resource(self, req: Request, resp: Response, resource: object, params: dict[str, Any]) -> None:
        req.context.resource = type(resource).__name__

    async def process_response(self, req: Request, resp: Response, resource: object, succeeded: bool) -> None:
        resp.set_header("X-Seen", f"{req.context.seen} by {getattr(req.context, 'resource', 'none')}: {succeeded}")


# Resources


class Item:
    async def on_get(self, req: Request, resp: Response, identity: int) -> None:
        if identity == 0:
            raise falcon.HTTPNotFound(title="no such item", headers={"X-Why": "a test"})
        resp.media = {"id": identity, "query": req.params, "raw": req.query_string}
        resp.etag = "1"

    async def on_head(self, req: Request, resp: Response, identity: int) -> None:
        resp.set_header("X-Item", str(identity))
        resp.content_length = 77


class PathEcho:
    async def on_get(self, req: Request, resp: Response, rest: str) -> None:
        resp.media = shown_path(req.scope, rest=rest, url=req.url, relative=req.relative_uri, seen=req.path)


class RequestHeaders:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {
            "all": shown_headers(dict(req.headers)),
            "accepts": [req.client_accepts("application/json"), req.client_accepts("text/html")],
        }


class ResponseHeaders:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = "see the headers"
        resp.content_type = "text/plain"
        for name, value in HEADERS:
            resp.set_header(name, value)
        for value in ("one", "two, three"):
            resp.append_header("X-Several", value)


class JSONBody:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.media = {"type": req.content_type, "value": await req.get_media()}


class RawBody:
    async def on_get(self, req: Request, resp: Response) -> None:
        content = b"".join([chunk async for chunk in req.stream])
        resp.data = content
        resp.content_type = req.content_type or "application/octet-stream"

    on_post = on_put = on_delete = on_get


class Form:
    async def on_post(self, req: Request, resp: Response) -> None:
        resp.media = await req.get_media()


class Upload:
    async def on_post(self, req: Request, resp: Response) -> None:
        parts = await req.get_media()
        resp.media = [
            [part.name, part.filename, part.content_type, list(await part.stream.read())] async for part in parts
        ]


class Methods:
    async def on_put(self, req: Request, resp: Response) -> None:
        resp.media = {"method": req.method}

    on_patch = on_put

    async def on_delete(self, req: Request, resp: Response) -> None:
        resp.status = falcon.HTTP_204


class Status:
    async def on_get(self, req: Request, resp: Response, code: int) -> None:
        resp.status = code
        resp.location = "/items/1"


class Raises:
    async def on_get(self, req: Request, resp: Response, what: str) -> None:
        raise Known("on purpose") if what == "known" else Unknown("on purpose")


class Text:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.text = "<p>Grüße</p>"
        resp.content_type = falcon.MEDIA_HTML

    on_head = on_get


class Empty:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.content_type = "text/plain"


class Kinds:
    async def on_get(self, req: Request, resp: Response, kind: str) -> None:
        resp.content_type, resp.data = KINDS[kind]

    on_head = on_get


class Compressed:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = gzip.compress(b"x" * 1000, mtime=0)
        resp.content_type = "text/plain"
        resp.set_header("Content-Encoding", "gzip")


class Stream:
    async def on_get(self, req: Request, resp: Response, what: str) -> None:
        pieces, resp.content_type = {
            "lines": (LINES, "application/x-ndjson"),
            "pieces": (PIECES, "application/json"),
            "events": (EVENTS, "text/event-stream"),
            "nothing": ([], "text/plain"),
        }[what]
        resp.stream = _one_by_one(pieces)

    on_head = on_get


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


class Redirect:
    async def on_get(self, req: Request, resp: Response) -> None:
        raise falcon.HTTPFound("/items/1?from=%C3%A9")


class Cookies:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {"all": req.cookies, "a": req.get_cookie_values("a")}

    async def on_get_set(self, req: Request, resp: Response) -> None:
        resp.text = "set"
        resp.set_cookie("theme", "dark", path="/")
        resp.set_cookie("visits", "1", max_age=3600, same_site="Lax")
        for cookie in COOKIES:
            resp.append_header("Set-Cookie", cookie)


class Private:
    async def on_get(self, req: Request, resp: Response) -> None:
        if req.auth != f"Bearer {PRIVATE_TOKEN}":
            raise falcon.HTTPUnauthorized(challenges=["Bearer"])
        resp.media = {"user": "known"}


class Client:
    async def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {
            "host": req.remote_addr,
            "route": list(req.access_route),
            "url": req.url,
            "forwarded": req.forwarded_uri,
            "to": [req.host, req.port, req.prefix],
        }


class State:
    async def on_get(self, req: Request, resp: Response) -> None:
        state = req.scope["state"]
        before = [state.get("mark"), getattr(req.context, "mark", None)]
        state["mark"] = req.context.mark = req.get_param("mark", required=True)
        resp.media = {"before": before, "state": dict(state), "seen": req.context.seen}


class Context:
    async def on_get(self, req: Request, resp: Response) -> None:
        before = current.get()
        current.set(req.get_param("who", required=True))
        await asyncio.sleep(0)
        resp.media = {"before": before, "after": current.get(), "tenant": tenant.get()}


class Store:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def on_get(self, req: Request, resp: Response, key: str) -> None:
        resp.media = self._known(key)

    async def on_put(self, req: Request, resp: Response, key: str) -> None:
        resp.status = 200 if key in self.values else 201
        self.values[key] = resp.media = await req.get_media()

    async def on_delete(self, req: Request, resp: Response, key: str) -> None:
        self._known(key)
        del self.values[key]
        resp.status = falcon.HTTP_204

    def _known(self, key: str) -> Any:
        if key not in self.values:
            raise falcon.HTTPNotFound
        return self.values[key]


class Background:
    def __init__(self) -> None:
        self.ran: dict[str, asyncio.Event] = {}

    async def on_post(self, req: Request, resp: Response, key: str) -> None:
        async def run() -> None:
            await asyncio.sleep(0)
            self.ran.setdefault(key, asyncio.Event()).set()

        resp.schedule(run)
        resp.status = falcon.HTTP_202

    async def on_get(self, req: Request, resp: Response, key: str) -> None:
        await self.ran.setdefault(key, asyncio.Event()).wait()
        resp.text = "has run"


# Apps


class File:
    def __init__(self, files: Path) -> None:
        self.file = files / "hello.txt"

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = self.file.read_bytes()
        resp.content_type = "text/plain"
        resp.downloadable_as = "grüße.txt"

    on_head = on_get


def build(files: Path) -> App[Request, Response]:
    app = App(middleware=[Naming()], cors_enable=True)
    app.add_error_handler(Known, known)
    for prefix in ("", "/group"):
        app.add_route(f"{prefix}/items/{{identity:int}}", Item())
        app.add_route(f"{prefix}/path/{{rest:path}}", PathEcho())
    app.add_route("/headers", RequestHeaders())
    app.add_route("/headers/kinds", ResponseHeaders())
    app.add_route("/json", JSONBody())
    app.add_route("/bytes", RawBody())
    app.add_route("/form", Form())
    app.add_route("/upload", Upload())
    app.add_route("/methods", Methods())
    app.add_route("/status/{code:int}", Status())
    app.add_route("/raises/{what}", Raises())
    app.add_route("/text", Text())
    app.add_route("/empty", Empty())
    app.add_route("/slash", Empty())
    app.add_route("/kinds/{kind}", Kinds())
    app.add_route("/compressed", Compressed())
    app.add_route("/stream/{what}", Stream())
    app.add_route("/redirect", Redirect())
    app.add_route("/cookies", Cookies())
    app.add_route("/cookies/set", Cookies(), suffix="set")
    app.add_route("/private", Private())
    app.add_route("/client", Client())
    app.add_route("/state", State())
    app.add_route("/context", Context())
    app.add_route("/store/{key}", Store())
    app.add_route("/background/{key}", Background())
    app.add_route("/file", File(files))
    app.add_static_route("/static", files)
    return app


CASES = (
    *catalogue(
        without="HEAD of a static file",  # Falcon leaves the file open
        statuses={
            "an item of the wrong type": 404,
            "a JSON body of a type of its own": 415,
            "OPTIONS": 200,
            "a redirect to the path with a slash": 200,
            "the path with a slash": 404,
            "no session": 404,
            "a session of another's making": 404,
            "a range of a file": 200,
            "the end of a file": 200,
            "a range beyond a file": 200,
        },
    ),
    Case("JSON of a type without a handler", "POST", "/json", 415, body=text("{}")),
    Case("a required parameter is missing", "GET", "/context", 400),
    Case("an error as XML", "GET", "/items/0", 404, headers={"Accept": "text/xml"}),
    Case("a tenant of the item", "GET", "/context?who=ada", headers={"X-Tenant": "own"}),
    Case("an inherited tenant", "GET", "/context?who=ada", inherited={"X-Tenant": "of the caller"}),
    Case("CORS of a trusted origin", "GET", "/items/1", inherited={"Origin": SHOP}),
    Case("a preflight", "OPTIONS", "/items/1", 200, inherited={"Origin": SHOP},
         headers={"Access-Control-Request-Method": "GET"}),
    Case("a path of a group", "GET", "/group/path/a%2Fb/é?q=1"),
    Case("a forwarded client", "GET", "/client", inherited={"X-Forwarded-For": "203.0.113.7",
         "Forwarded": "for=203.0.113.7;host=shop.example;proto=https"}),
    Case("a model of odd JSON", "POST", "/json", body=json('{ "name":"\\u00e9",\n"age":1.0 }')),
)  # fmt: skip
