"""An older shop: a plain WSGI app of functions, with pages, cookies and forms beside its JSON.

It has the paths and the data of the other shop, knows nothing of batches, and cannot be wrapped by ASGI middleware.
"""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

from examples.shop.store import Conflict, Missing, Store

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

JSON: TypeAlias = Any

LARGEST_BODY = 64 * 1024
LARGEST_ID = 2**63 - 1

PAGE = """<!doctype html>
<html lang="en">
<title>{title}</title>
<h1>{title}</h1>
{content}
"""


class Refused(Exception):
    """The request is not one that the shop answers; says the status, and why."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    body: bytes
    media_type: str
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """What the shop's functions get: the store, and the environ of WSGI, read when something is asked for."""

    store: Store
    environ: WSGIEnvironment

    def query(self, name: str, otherwise: str = "") -> str:
        values = parse_qs(str(self.environ.get("QUERY_STRING", ""))).get(name)
        return values[0] if values else otherwise

    def number(self, name: str, otherwise: int, most: int) -> int:
        text = self.query(name, str(otherwise))
        if not re.fullmatch("[0-9]{1,7}", text) or not 1 <= int(text) <= most:
            raise Refused(422, f"{name} is a number from 1 to {most}.")
        return int(text)

    def form(self) -> JSON:
        """The fields of a JSON object, or of an HTML form."""
        length = self.environ.get("CONTENT_LENGTH") or "0"
        if int(length) > LARGEST_BODY:
            raise Refused(413, f"The largest body is {LARGEST_BODY} bytes.")
        body = self.environ["wsgi.input"].read(int(length))
        try:
            if self.environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
                return {name: values[0] for name, values in parse_qs(body.decode()).items()}
            fields = json.loads(body)
        except ValueError:
            raise Refused(400, "The body is neither JSON nor a form.") from None
        if not isinstance(fields, dict):
            raise Refused(422, "The body is no object.")
        return fields

    def cookie(self, name: str) -> str:
        try:
            cookies = SimpleCookie(self.environ.get("HTTP_COOKIE", ""))
        except CookieError:
            return ""
        return cookies[name].value if name in cookies else ""

    def user(self) -> JSON:
        """Who asks, by the token in `Authorization` or in the cookie that the log-in has set."""
        kind, _, token = self.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        try:
            return self.store.user_of(token if kind.lower() == "bearer" else self.cookie("session"))
        except Missing:
            raise Refused(401, "Log in first.", WWW_Authenticate="Bearer") from None


# The resources


def front_page(request: Request) -> Answer:
    goods = request.store.items(search=request.query("q"))
    entries = "\n".join(f'<li><a href="/items/{each["id"]}">{html.escape(each["name"])}</a>' for each in goods)
    visits = request.cookie("visits")
    count = int(visits) + 1 if re.fullmatch("[0-9]{1,6}", visits) else 1
    page = PAGE.format(title="The old shop", content=f"<ul>\n{entries}\n</ul>\n<p>Visit number {count}</p>")
    return Answer(
        body=page.encode(),
        media_type="text/html; charset=utf-8",
        headers=[("Set-Cookie", f"visits={count}; Path=/"), ("Set-Cookie", "seen=yes; Path=/; Max-Age=3600")],
    )


def list_items(request: Request) -> Answer:
    search, category = request.query("q"), request.query("category") or None
    page, size = request.number("page", 1, 10**6), request.number("size", 20, 100)
    found = request.store.items(search=search, category=category, offset=(page - 1) * size, limit=size)
    total = request.store.count(search=search, category=category)
    return as_json({"items": [_shown(row) for row in found], "total": total, "page": page})


def create_item(request: Request) -> Answer:
    fields = {"price": 0, "stock": 0, "category": None, **request.form()}
    if not isinstance(fields.get("name"), str):
        raise Refused(422, "An item has a name.")
    created = request.store.add_item(fields)
    return as_json(_shown(created), status=201, headers=[("Location", f"/items/{created['id']}")])


def get_item(request: Request, number: str) -> Answer:
    row = request.store.item(_id(number))
    if "text/html" in request.environ.get("HTTP_ACCEPT", ""):
        content = f"<p>{row['price'] / 100:.2f}, {row['stock']} in stock</p>"
        page = PAGE.format(title=html.escape(row["name"]), content=content)
        return Answer(body=page.encode(), media_type="text/html; charset=utf-8", headers=[("Vary", "Accept")])
    return as_json(_shown(row), headers=[("Vary", "Accept")])


def get_image(request: Request, number: str) -> Answer:
    return Answer(body=request.store.image(_id(number)), media_type="image/png")


def list_categories(request: Request) -> Answer:
    return as_json(request.store.categories())


def login(request: Request) -> Answer:
    """The token in the answer, for programs, and in a cookie, for browsers."""
    fields = request.form()
    try:
        token = request.store.login(str(fields.get("name")), str(fields.get("password")))
    except Missing:
        raise Refused(401, "The name or the password is wrong.", WWW_Authenticate="Bearer") from None
    return as_json({"token": token}, headers=[("Set-Cookie", f"session={token}; Path=/; HttpOnly; SameSite=Lax")])


def me(request: Request) -> Answer:
    return as_json(request.user())


def create_order(request: Request) -> Answer:
    user, lines = request.user(), request.form().get("lines")
    quantities: dict[int, int] = {}
    try:
        for line in lines:
            quantities[line["item_id"]] = quantities.get(line["item_id"], 0) + line["quantity"]
    except (KeyError, TypeError):
        raise Refused(422, "A line of an order has an item_id and a quantity.") from None
    created = request.store.order(user["id"], quantities)
    return as_json(created, status=201, headers=[("Location", f"/orders/{created['id']}")])


def get_order(request: Request, number: str) -> Answer:
    return as_json(request.store.order_of(request.user()["id"], _id(number)))


def sales(request: Request) -> Answer:
    time.sleep(0.4)  # stands for a query over years of orders
    return as_json(request.store.sales())


RESOURCES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", "/", front_page),
    ("GET", "/items", list_items),
    ("POST", "/items", create_item),
    ("GET", "/items/([0-9]+)", get_item),
    ("GET", "/items/([0-9]+)/image", get_image),
    ("GET", "/categories", list_categories),
    ("POST", "/login", login),
    ("GET", "/users/me", me),
    ("POST", "/orders", create_order),
    ("GET", "/orders/([0-9]+)", get_order),
    ("GET", "/reports/sales", sales),
]


# WSGI


def create_app(store: Store) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = respond(Request(store, environ))
        own = [("Content-Type", answer.media_type), ("Content-Length", str(len(answer.body)))]
        start_response(f"{answer.status} {HTTPStatus(answer.status).phrase}", [*own, *answer.headers])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer.body]

    return app


def respond(request: Request) -> Answer:
    try:
        return _resource(request.environ["REQUEST_METHOD"], request.environ.get("PATH_INFO", ""))(request)
    except Refused as error:
        return as_json({"detail": str(error)}, status=error.status, headers=error.headers)
    except Missing:
        return as_json({"detail": "Not Found"}, status=404)
    except Conflict as error:
        return as_json({"detail": str(error)}, status=409)


def as_json(value: JSON, *, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Answer:
    return Answer(status=status, body=json.dumps(value).encode(), media_type="application/json", headers=[*headers])


def _resource(method: str, path: str) -> Callable[[Request], Answer]:
    allowed = []
    for known, pattern, function in RESOURCES:
        if matched := re.fullmatch(pattern, path):
            if method == known or (method == "HEAD" and known == "GET"):
                return lambda request: function(request, *matched.groups())
            allowed.append(known)
    if allowed:
        raise Refused(405, "The method is not allowed here.", Allow=", ".join(allowed))
    raise Missing


def _id(digits: str) -> int:
    number = int(digits[:20])
    if number > LARGEST_ID:
        raise Missing
    return number


def _shown(row: dict[str, Any]) -> JSON:
    return {name: value for name, value in row.items() if name != "revision"}
