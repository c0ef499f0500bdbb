"""The catalogue's routes in Django, without a project: settings, views and URLs are in this file."""

from __future__ import annotations

import asyncio
import gzip
import json as json_module
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    SuspiciousOperation,
)
from django.http import (
    FileResponse,
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponsePermanentRedirect,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import include, path, re_path, reverse
from django.utils.decorators import async_only_middleware
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe
from django.views.static import serve

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
from tests.serving import App

Ask: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]

current: ContextVar[str] = ContextVar("current", default="nobody")
tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")


class Known(Exception):
    """Is handled by a middleware."""


class Unknown(Exception):
    """Is left to Django."""


# Middleware


def _naming(get_response: Ask) -> Ask:
    async def middleware(request: HttpRequest) -> HttpResponse:
        tenant.set(request.headers.get("X-Tenant", "the house"))
        request.seen = getattr(request, "seen", 0) + 1
        response = await get_response(request)
        response["X-Seen"] = request.seen
        return response

    return middleware


naming_the_tenant = async_only_middleware(_naming)


class Handling:
    """A middleware of the old kind, without async: Django runs it in a thread."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = len(request.body) if request.content_type == "application/json" else "unread"
        response = self.get_response(request)
        response["X-Length"] = f"{length}, for {tenant.get()}"
        return response

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return JsonResponse({"known": str(error)}, status=409) if isinstance(error, Known) else None


# Views


async def item(request: HttpRequest, identity: int) -> HttpResponse:
    if identity == 0:
        raise Http404("no such item")
    return JsonResponse({"id": identity, "query": [list(pair) for pair in request.GET.lists()]})


async def path_echo(request: HttpRequest, rest: str) -> HttpResponse:
    shown = shown_path(request.scope, rest=rest, path_info=request.path_info, url=request.build_absolute_uri())
    return JsonResponse(shown)


def headers(request: HttpRequest) -> HttpResponse:
    meta = {name: value for name, value in request.META.items() if isinstance(value, str) and name != "REMOTE_PORT"}
    unsaid = {"HTTP_CONNECTION", "HTTP_HOST"}
    return JsonResponse(
        {
            "headers": shown_headers(dict(request.headers)),
            "meta": {name: meta[name] for name in sorted(meta) if name not in unsaid},
        }
    )


async def json_body(request: HttpRequest) -> HttpResponse:
    try:
        value = json_module.loads(request.body)
    except ValueError as error:
        raise BadRequest("not JSON") from error
    return JsonResponse({"type": request.content_type, "raw": request.body.decode(), "value": value})


async def raw_body(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.read(), content_type=request.headers.get("Content-Type", "application/octet-stream"))


async def form(request: HttpRequest) -> HttpResponse:
    files = [[name, file.name, file.content_type, list(file.read())] for name, file in request.FILES.items()]
    return JsonResponse({"fields": [list(pair) for pair in request.POST.lists()], "files": files})


def guarded_form(request: HttpRequest) -> HttpResponse:
    """Not exempt from the CSRF check."""
    return HttpResponse("passed")


async def methods(request: HttpRequest) -> HttpResponse:
    if request.method == "DELETE":
        return HttpResponse(status=204)
    return JsonResponse({"method": request.method})


async def status(request: HttpRequest, code: int) -> HttpResponse:
    return HttpResponse(status=code, headers={"Location": "/items/1"})


async def raises(request: HttpRequest, what: str) -> HttpResponse:
    raise {
        "known": Known("on purpose"),
        "unknown": Unknown("on purpose"),
        "denied": PermissionDenied("on purpose"),
        "suspicious": SuspiciousOperation("on purpose"),
    }[what]


def raises_in_a_thread(request: HttpRequest) -> HttpResponse:
    raise Unknown("on purpose, in a thread")


async def html(request: HttpRequest) -> HttpResponse:
    return HttpResponse("<p>Grüße</p>")


async def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


async def kinds(request: HttpRequest, kind: str) -> HttpResponse:
    media_type, content = KINDS[kind]
    return HttpResponse(content, content_type=media_type)


async def compressed(request: HttpRequest) -> HttpResponse:
    content = gzip.compress(b"x" * 1000, mtime=0)
    return HttpResponse(content, content_type="text/plain", headers={"Content-Encoding": "gzip"})


async def kinds_of_headers(request: HttpRequest) -> HttpResponse:
    return HttpResponse("see the headers", content_type="text/plain", headers=dict(HEADERS) | {"X-Empty": ""})


async def stream(request: HttpRequest, what: str) -> HttpResponse:
    pieces, media_type = {
        "lines": (LINES, "application/x-ndjson"),
        "pieces": (PIECES, "application/json"),
        "events": (EVENTS, "text/event-stream"),
        "nothing": ([], "text/plain"),
    }[what]
    return StreamingHttpResponse(_one_by_one(pieces), content_type=media_type)


async def _one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def redirect(request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("item", args=[1]) + "?from=é")


async def moved(request: HttpRequest) -> HttpResponse:
    return HttpResponsePermanentRedirect("/items/1")


async def cookies(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.COOKIES)


async def set_cookies(request: HttpRequest) -> HttpResponse:
    response = HttpResponse("set")
    for cookie in COOKIES:
        response.cookies.load(cookie)
    response.delete_cookie("old")
    return response


async def session(request: HttpRequest) -> HttpResponse:
    if request.method == "POST":
        for name, value in json_module.loads(request.body).items():
            await request.session.aset(name, value)
    return JsonResponse(dict(await request.session.aitems()))


async def private(request: HttpRequest) -> HttpResponse:
    if request.headers.get("Authorization") != f"Bearer {PRIVATE_TOKEN}":
        return HttpResponse(status=401, headers={"WWW-Authenticate": "Bearer"})
    return JsonResponse({"user": "known"})


async def client(request: HttpRequest) -> HttpResponse:
    return JsonResponse(
        {
            "host": request.META["REMOTE_ADDR"],
            "url": request.build_absolute_uri(),
            "to": [request.get_host(), request.get_port(), request.is_secure()],
        }
    )


async def state(request: HttpRequest) -> HttpResponse:
    scope_state = request.scope.get("state", {})
    before = scope_state.get("mark")
    scope_state["mark"] = request.GET["mark"]
    return JsonResponse({"before": before, "keys": sorted(scope_state), "resolved": request.resolver_match.route})


async def context(request: HttpRequest) -> HttpResponse:
    before = current.get()
    current.set(request.GET["who"])
    await asyncio.sleep(0)
    return JsonResponse({"before": before, "after": current.get(), "tenant": tenant.get()})


def thread(request: HttpRequest) -> HttpResponse:
    """Runs in a thread."""
    before = current.get()
    current.set(request.GET["who"])
    return JsonResponse({"before": before, "after": current.get(), "tenant": tenant.get()})


store: dict[str, Any] = {}


async def stored(request: HttpRequest, key: str) -> HttpResponse:
    if request.method == "PUT":
        made = key not in store
        store[key] = json_module.loads(request.body)
        return JsonResponse(store[key], status=201 if made else 200)
    if key not in store:
        raise Http404
    if request.method == "DELETE":
        del store[key]
        return HttpResponse(status=204)
    return JsonResponse(store[key])


async def file(request: HttpRequest, *, files: Path) -> HttpResponse:
    return await _sent(FileResponse((files / "hello.txt").open("rb"), as_attachment=True, filename="grüße.txt"))


async def static(request: HttpRequest, name: str, *, files: Path) -> HttpResponse:
    return await _sent(serve(request, name, document_root=files))


async def _sent(response: HttpResponse) -> HttpResponse:
    """Makes an asynchronous stream of a file, whose synchronous one would be read at once, with a warning."""
    if response.streaming:
        pieces = list(response.streaming_content)
        response.file_to_stream.close()
        response.streaming_content = _one_by_one(pieces)
    return response


def _routes(files: Path) -> list[Any]:
    safe = require_safe
    return [
        path("items/<int:identity>", safe(item), name="item"),
        re_path(r"^path/(?P<rest>(?s:.*))$", path_echo),
        path("headers", headers),
        path("headers/kinds", kinds_of_headers),
        path("json", csrf_exempt(json_body)),
        path("bytes", csrf_exempt(raw_body)),
        path("form", csrf_exempt(form)),
        path("form/guarded", guarded_form),
        path("upload", csrf_exempt(form)),
        path("methods", csrf_exempt(methods)),
        path("status/<int:code>", status),
        path("raises/thread", raises_in_a_thread),
        path("raises/<what>", raises),
        path("text", safe(html)),
        path("empty", empty),
        path("kinds/<kind>", kinds),
        path("compressed", compressed),
        path("stream/<what>", stream),
        path("redirect", redirect),
        path("moved", moved),
        path("slash/", empty),
        path("cookies", cookies),
        path("cookies/set", set_cookies),
        path("session", csrf_exempt(session)),
        path("private", private),
        path("client", client),
        path("state", state),
        path("context", context),
        path("thread", thread),
        path("store/<key>", csrf_exempt(require_http_methods(["GET", "PUT", "DELETE"])(stored))),
        path("file", partial(file, files=files)),
        path("static/<path:name>", partial(static, files=files)),
    ]


urlpatterns: list[Any] = []


def build(files: Path) -> App:
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["127.0.0.1"],
            APPEND_SLASH=True,
            DEBUG=False,
            LOGGING_CONFIG=None,
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "django.middleware.gzip.GZipMiddleware",
                "django.middleware.http.ConditionalGetMiddleware",
                f"{__name__}.naming_the_tenant",
                "django.contrib.sessions.middleware.SessionMiddleware",
                f"{__name__}.Handling",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
                "django.middleware.clickjacking.XFrameOptionsMiddleware",
            ],
            ROOT_URLCONF=__name__,
            SECRET_KEY="a test",
            SESSION_COOKIE_NAME="session",
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
        )
        django.setup(set_prefix=False)
    urlpatterns[:] = [*_routes(files), path("group/", include(_routes(files)))]
    app: App = get_asgi_application()
    return app


CSRF_TOKEN = "abcdefghijklmnopqrstuvwxyzABCDEF"

CASES = (
    *catalogue(
        statuses={
            "an item of the wrong type": 404,
            "a method that the route does not have": 403,  # the CSRF check comes first
            "a method that no route has": 403,
            "a redirect to the path with a slash": 301,
            "a range of a file": 200,
            "the end of a file": 200,
            "a range beyond a file": 200,
        },
    ),
    Case("a validator that matches", "GET", "/text", 304, headers={"If-None-Match": "*"}),
    Case("a permanent redirect", "GET", "/moved", 301),
    Case("an exception of access", "GET", "/raises/denied", 403),
    Case("an exception of suspicion", "GET", "/raises/suspicious", 400),
    Case("an exception in a thread", "GET", "/raises/thread", 500),
    # CSRF
    Case("a form without its token", "POST", "/form/guarded", 403, body=text("a=1")),
    Case("a form with its token", "POST", "/form/guarded", body=text("a=1"),
         headers={"Cookie": f"csrftoken={CSRF_TOKEN}", "X-CSRFToken": CSRF_TOKEN}),
    Case("a form with another's token", "POST", "/form/guarded", 403, body=text("a=1"),
         headers={"Cookie": f"csrftoken={CSRF_TOKEN}", "X-CSRFToken": CSRF_TOKEN[::-1]}),
    Case("a form of the own origin", "POST", "/form/guarded", body=text("a=1"), headers={"X-CSRFToken": CSRF_TOKEN},
         inherited={"Origin": "{origin}", "Cookie": f"csrftoken={CSRF_TOKEN}"}),
    # Threads and context
    Case("a view in a thread", "GET", "/thread?who=ada"),
    Case("a view in a thread again", "GET", "/thread?who=bob"),
    Case("a tenant of the item", "GET", "/thread?who=ada", headers={"X-Tenant": "own"}),
    Case("an inherited tenant", "GET", "/context?who=ada", inherited={"X-Tenant": "of the caller"}),
    # Groups
    Case("a path of a group", "GET", "/group/path/a%2Fb/é?q=1"),
    # Sessions
    Case("a session changed", "POST", "/session", body=json('{"name": "Ada"}')),
)  # fmt: skip
