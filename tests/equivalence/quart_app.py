"""The catalogue's routes in Quart: blueprints, its sessions, hooks around the request, and functions in threads."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from quart import (
    Blueprint,
    Quart,
    Response,
    abort,
    current_app,
    g,
    jsonify,
    redirect,
    request,
    send_file,
    send_from_directory,
    session,
)
from werkzeug.datastructures import FileStorage, Headers

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

current: ContextVar[str] = ContextVar("current", default="nobody")


class Known(Exception):
    """Has a handler."""


class Unknown(Exception):
    """Has none."""


routes = Blueprint("routes", __name__)


@routes.get("/items/<int:identity>")
async def item(identity: int) -> Response:
    if identity == 0:
        abort(404)
    answer = jsonify(id=identity, query=list(request.args.items(multi=True)))
    answer.set_etag("1")
    return await answer.make_conditional(request)


@routes.get("/path/")
@routes.get("/path/<path:rest>")
async def path(rest: str = "") -> dict[str, str]:
    return shown_path(request.scope, rest=rest, url=request.url)


@routes.get("/headers")
async def headers() -> Response:
    return jsonify(shown_headers(list(request.headers.items())))


@routes.get("/headers/kinds")
async def kinds_of_headers() -> Response:
    answer = Response("see the headers", content_type="text/plain", headers=Headers(HEADERS))
    for value in ("one", "two, three", ""):
        answer.headers.add("X-Several", value)
    return answer


@routes.post("/json")
async def json_body() -> dict[str, Any]:
    raw = await request.get_data(as_text=True)
    return {"type": request.content_type, "raw": raw, "value": await request.get_json()}


@routes.route("/bytes", methods=["GET", "POST", "PUT", "DELETE"])
async def raw_body() -> Response:
    return Response(await request.get_data(as_text=False), content_type=request.content_type)


@routes.post("/form")
@routes.post("/upload")
async def form() -> dict[str, Any]:
    fields, files = await request.form, await request.files
    return {
        "fields": list(fields.items(multi=True)),
        "files": [[name, *_file(file)] for name, file in files.items(multi=True)],
    }


def _file(file: FileStorage) -> list[Any]:
    return [file.filename, file.content_type, list(file.read())]


@routes.route("/methods", methods=["PUT", "PATCH"])
async def methods() -> dict[str, str]:
    return {"method": request.method}


@routes.delete("/methods")
async def method_delete() -> tuple[str, int]:
    return "", 204


@routes.get("/status/<int:code>")
async def status(code: int) -> Response:
    return Response(b"", status=code, headers={"Location": "/items/1"})


@routes.get("/raises/<what>")
async def raises(what: str) -> Response:
    raise Known("on purpose") if what == "known" else Unknown("on purpose")


@routes.get("/text")
async def html() -> str:
    return "<p>Grüße</p>"


@routes.get("/empty")
@routes.get("/slash/")
async def empty() -> str:
    return ""


@routes.get("/kinds/<kind>")
async def kinds(kind: str) -> Response:
    media_type, content = KINDS[kind]
    return Response(content, content_type=media_type)


@routes.get("/compressed")
async def compressed() -> Response:
    content = gzip.compress(b"x" * 1000, mtime=0)
    return Response(content, content_type="text/plain", headers={"Content-Encoding": "gzip"})


@routes.get("/stream/<what>")
async def stream(what: str) -> Response:
    pieces, media_type = {
        "lines": (LINES, "application/x-ndjson"),
        "pieces": (PIECES, "application/json"),
        "events": (EVENTS, "text/event-stream"),
        "nothing": ([], "text/plain"),
    }[what]
    return Response(_one_by_one(pieces), content_type=media_type)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


@routes.get("/redirect")
async def redirected() -> Any:
    return redirect("/items/1?from=é")


@routes.get("/cookies")
async def cookies() -> Response:
    return jsonify(request.cookies)


@routes.get("/cookies/set")
async def set_cookies() -> Response:
    answer = Response("set", content_type="text/plain")
    for cookie in COOKIES:
        answer.headers.add("Set-Cookie", cookie)
    answer.set_cookie("old", "", max_age=0)
    return answer


@routes.route("/session", methods=["GET", "POST"])
async def sessions() -> dict[str, Any]:
    if request.method == "POST":
        session.update(await request.get_json())
    return dict(session)


@routes.get("/private")
async def private() -> dict[str, str]:
    authorization = request.authorization
    if authorization is None or authorization.token != PRIVATE_TOKEN:
        abort(401)
    return {"user": "known"}


@routes.get("/client")
async def client() -> dict[str, Any]:
    return {"host": request.remote_addr, "url": request.url, "base": request.host_url, "to": request.scope["server"]}


@routes.get("/state")
async def state() -> dict[str, Any]:
    before = g.get("mark")
    g.mark = request.args["mark"]
    return {"before": before, "seen": g.seen, "of the app": current_app.config["GREETING"]}


@routes.get("/context")
async def context() -> dict[str, str]:
    before = current.get()
    current.set(request.args["who"])
    await asyncio.sleep(0)
    return {"before": before, "after": current.get()}


@routes.get("/thread")
def thread() -> dict[str, str]:
    """Runs in a thread, with the context of the request."""
    before = current.get()
    current.set(request.args["who"])
    return {"before": before, "after": current.get(), "path": request.path}


@routes.get("/tasks")
async def tasks() -> dict[str, list[str]]:
    """Tasks of its own, which know the request by their context."""

    async def who(number: int) -> str:
        await asyncio.sleep(0)
        return f"{number} of {request.args['who']}"

    return {"answers": await asyncio.gather(*(who(number) for number in range(3)))}


# Apps


def _stateful() -> Blueprint:
    stateful = Blueprint("stateful", __name__)
    store: dict[str, Any] = {}
    ran: dict[str, asyncio.Event] = {}

    @stateful.get("/store/<key>")
    async def read(key: str) -> Any:
        return store[key] if key in store else abort(404)

    @stateful.put("/store/<key>")
    async def write(key: str) -> Any:
        made = key not in store
        store[key] = await request.get_json()
        return store[key], 201 if made else 200

    @stateful.delete("/store/<key>")
    async def remove(key: str) -> Any:
        return ("", 204) if store.pop(key, None) else abort(404)

    @stateful.post("/background/<key>")
    async def start(key: str) -> tuple[str, int]:
        async def run() -> None:
            await asyncio.sleep(0)
            ran.setdefault(key, asyncio.Event()).set()

        current_app.add_background_task(run)
        return "started", 202

    @stateful.get("/background/<key>")
    async def awaited(key: str) -> str:
        await ran.setdefault(key, asyncio.Event()).wait()
        return "has run"

    return stateful


def build(files: Path) -> Quart:
    app = Quart(__name__, static_folder=None)
    app.secret_key = "a test"
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = None  # or files get an Expires, which tells the time
    app.register_blueprint(routes)
    app.register_blueprint(routes, url_prefix="/group", name="group")
    app.register_blueprint(_stateful())

    @app.before_serving
    async def greet() -> None:
        app.config["GREETING"] = "hello from the app"

    @app.before_request
    async def count() -> None:
        g.seen = g.get("seen", 0) + 1

    @app.after_request
    async def mark(answer: Response) -> Response:
        answer.headers["X-Seen"] = str(g.seen)
        answer.headers.add("Set-Cookie", "after=1; Path=/")
        return answer

    @app.errorhandler(Known)
    async def known(error: Known) -> Response:
        answer = jsonify(known=str(error))
        answer.status_code = 409
        answer.headers["X-Handler"] = "known"
        return answer

    @app.get("/file")
    async def file() -> Response:
        return await send_file(files / "hello.txt", as_attachment=True, conditional=True)

    @app.get("/static/<path:name>")
    async def static(name: str) -> Response:
        return await send_from_directory(files, name, conditional=True)

    return app


CASES = (
    *catalogue(
        statuses={
            "an encoded line break": 404,
            "an item of the wrong type": 404,
            "OPTIONS": 200,
            "a redirect to the path with a slash": 308,
            "the end of a file": 500,  # Quart counts the last bytes of a file from its start, and fails
        },
    ),
    Case("a validator that matches", "GET", "/items/1", 304, headers={"If-None-Match": '"1"'}),
    Case("JSON of another type", "POST", "/json", body=text("{}")),
    Case("a route in a thread", "GET", "/thread?who=ada"),
    Case("a route in a thread again", "GET", "/thread?who=bob"),
    Case("tasks of a request", "GET", "/tasks?who=ada"),
    Case("a path of a group", "GET", "/group/path/a%2Fb/é?q=1"),
    Case("an unhandled exception of a group", "GET", "/group/raises/unknown", 500),
    Case("a session changed", "POST", "/session", body=json('{"name": "Ada"}'),
         masks=(("session=([^.]*)[^;]*", r"session=\1"),)),
)  # fmt: skip
