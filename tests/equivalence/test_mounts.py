"""Apps below a prefix: mounted, behind a proxy that strips the prefix, or told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from batchproxy import BatchMiddleware
from tests.equivalence import fastapi_app, starlette_app
from tests.equivalence.catalogue import BEARER, write_files
from tests.equivalence.comparing import WAYS, Case, Way, differences, in_batch, json
from tests.equivalence.starlette_app import Marking
from tests.serving import App, Server, serve


class Form(NamedTuple):
    """How an app comes to be below `/v1`, and what a client of its socket writes."""

    build: Callable[[Path], App]
    root_path: str = ""
    batch: str = "/v1/batch"
    prefix: str = "/v1"
    stripped: str = ""


def added(build: Callable[..., App]) -> Callable[[Path], App]:
    return lambda files: build(files, lambda app: app.add_middleware(BatchMiddleware))


def mounted(build: Callable[[Path], App], *middleware: Middleware) -> Callable[[Path], App]:
    return lambda files: Starlette(
        routes=[Mount("/v1", build(files))], middleware=middleware, lifespan=starlette_app.lifespan
    )


def wrapped(build: Callable[[Path], App]) -> Callable[[Path], App]:
    return lambda files: BatchMiddleware(build(files))


def told(files: Path) -> App:
    app = fastapi_app.build(files, lambda app: app.add_middleware(BatchMiddleware))
    app.root_path = "/v1"
    return app


OUTERMOST = Middleware(Marking, mark="outermost")


def proxied(build: Callable[[Path], App]) -> Form:
    return Form(build, root_path="/v1", batch="/batch", stripped="/v1")


OUTERMOST = Middleware(Marking, mark="outermost")

FORMS = {
    "mounted-wrapped": Form(mounted(wrapped(starlette_app.build), OUTERMOST)),
    "mounted-starlette-added": Form(mounted(added(starlette_app.build))),
    "mounted-fastapi-added": Form(mounted(added(fastapi_app.build))),
    "proxied-starlette-wrapped": proxied(wrapped(starlette_app.build)),
    "proxied-starlette-added": proxied(added(starlette_app.build)),
    "proxied-fastapi-added": proxied(added(fastapi_app.build)),
    "told-with-the-prefix": Form(told),
    "told-without-the-prefix": Form(told, batch="/batch", prefix=""),
}


@pytest.fixture(scope="module", params=FORMS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Form]]:
    files = tmp_path_factory.mktemp("files")
    write_files(files)
    form = FORMS[request.param]
    with serve(form.build(files), access_log=False, root_path=form.root_path) as server:
        yield server, form


def test_an_item_below_a_prefix_is_answered_as_the_request_alone(served: tuple[Server, Form]) -> None:
    """Below a mount, items are written and answered as a direct client's requests are."""
    server, form = served
    cases = [
        Case("an item", "GET", f"{form.prefix}/items/1?tag=x"),
        Case("a path", "GET", f"{form.prefix}/path/a%2Fb/é"),
        Case("a body", "POST", f"{form.prefix}/json", body=json('{"a": 1}')),
        Case("an unknown path", "GET", f"{form.prefix}/nowhere", 404),
        Case("a redirect to the path with a slash", "GET", f"{form.prefix}/slash", 307),
        Case("the client and the URL", "GET", f"{form.prefix}/client"),
        Case("state of the lifespan", "GET", f"{form.prefix}/state?mark=seen"),
        Case("a handled exception", "GET", f"{form.prefix}/raises/known", 409),
        Case("an unhandled exception", "GET", f"{form.prefix}/raises/unknown", 500),
        Case("credentials", "GET", f"{form.prefix}/private", headers={"Authorization": BEARER}),
        Case("a static file", "GET", f"{form.prefix}/static/hello.txt", None),
        Case("an app mounted deeper", "GET", f"{form.prefix}/mounted/path/a?b", None),
    ]
    assert differences(server, cases, path=form.batch, stripped=form.stripped) == []


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_an_item_outside_the_mount_is_refused(served: tuple[Server, Form], way: Way) -> None:
    """Below a mount, an item for another part of the origin is `invalid_path`; without one there is no outside."""
    server, form = served
    [entry] = in_batch(server, way, [Case("elsewhere", "GET", "/elsewhere")], path=form.batch)
    assert (entry.status, entry.error) == ((400, "invalid_path") if form.prefix else (404, None))
