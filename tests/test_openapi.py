"""The batch endpoint in an app's own OpenAPI document: as good as the app's own routes, and nowhere where it is not."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette

from batchproxy import BatchMiddleware, Endpoint
from tests.engine.on_virtual_time import on_virtual_time
from tests.protocol.api import answer
from tests.protocol.exchange import JSON, App, Receive, Scope, Send, ask, send_batch, written
from tests.protocol.schemas import faults

FORMS = ["constructed", "added"]


def shop(**settings: Any) -> FastAPI:
    app = FastAPI(**settings)

    @app.get("/")
    async def home() -> dict[str, str]:
        return {"name": "shop"}

    @app.get("/items/{number}")
    async def item(number: int) -> dict[str, int]:
        return {"id": number}

    return app


def wrapped(app: FastAPI, form: str, **settings: Any) -> App:
    if form == "constructed":
        return BatchMiddleware(app, **settings)
    app.add_middleware(BatchMiddleware, **settings)
    return app


async def document_of(app: App, path: str = "/openapi.json") -> JSON:
    reply = await ask(app, method="GET", path=path)
    assert reply.status == 200, reply.body
    return reply.json()


def content_of(operation: JSON) -> JSON:
    return operation["requestBody"]["content"]["application/json"]


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_the_endpoint_is_in_the_document(form: str) -> None:
    """On a FastAPI app the endpoint stands beside the app's own routes, from the first request on, each time."""
    app = wrapped(shop(), form)
    for _ in range(2):
        document = await document_of(app)
        assert list(document["paths"]) == ["/", "/items/{number}", "/batch"]
        assert list(document["paths"]["/batch"]) == ["post"]
        assert document["info"]["title"] == "FastAPI"


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_the_schemas_are_those_of_what_is_sent_and_answered(form: str) -> None:
    """The document's schemas accept what the endpoint accepts and what it answers."""
    app = wrapped(shop(), form, max_items=2)
    operation = (await document_of(app))["paths"]["/batch"]["post"]
    request, response = content_of(operation)["schema"], operation["responses"]["200"]["content"]
    items = [{"path": "/items/1"}, {"path": "/items/x", "id": "b"}]
    reply = await send_batch(app, items)
    assert faults(request, {"requests": items}) == []
    assert faults(request, {"requests": [*items, {"path": "/"}]}) != []
    assert faults(response["application/json"]["schema"], reply.json()) == []
    assert set(response) == {"application/json", "application/x-ndjson", "text/event-stream"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", [{}, {"methods": ["POST", "OPTIONS"]}, {"max_items": 1}, {"base_path": "/items"}])
@on_virtual_time
async def test_the_example_works(form: str, settings: Any) -> None:
    """The document's example, sent as it stands, fits the schema, and the batch layer refuses nothing of it."""
    app = wrapped(shop(), form, **settings)
    content = content_of((await document_of(app))["paths"]["/batch"]["post"])
    assert faults(content["schema"], content["example"]) == []
    responses = (await send_batch(app, written(content["example"]["requests"]))).responses
    assert responses
    assert not any("error" in entry for entry in responses)


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_an_own_openapi_is_respected(form: str) -> None:
    """What an app's own `openapi` returns stays as it is; the endpoint is added to its paths."""
    own: JSON = {"openapi": "3.1.0", "info": {"title": "Mine", "version": "7"}, "paths": {"/mine": {}}, "x-mine": 1}
    app = shop()
    app.openapi = lambda: own  # type: ignore[method-assign]
    document = await document_of(wrapped(app, form))
    assert list(document["paths"]) == ["/mine", "/batch"]
    assert {key: value for key, value in document.items() if key != "paths"} == {
        key: value for key, value in own.items() if key != "paths"
    }


@on_virtual_time
async def test_an_own_openapi_that_is_given_later_is_respected() -> None:
    """An `openapi` that is assigned after the app was wrapped is the one that is used."""
    app = shop()
    batched = BatchMiddleware(app)
    app.openapi = lambda: {"openapi": "3.1.0", "mine": True}  # type: ignore[method-assign]
    assert (await document_of(batched))["mine"] is True


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_an_own_openapi_without_paths_is_respected(form: str) -> None:
    """OpenAPI 3.1 lets a document have no paths; such a one is served as well."""
    app = shop()
    app.openapi = lambda: {"openapi": "3.1.0", "components": {}}  # type: ignore[method-assign]
    assert (await document_of(wrapped(app, form)))["openapi"] == "3.1.0"


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_several_endpoints_are_in_the_document(form: str) -> None:
    """Each of several endpoints is in the document, with its own limits, and with an identifier of its own."""
    endpoints = [Endpoint(path="/batch", max_items=3), Endpoint(path="/v2/batch", max_items=9, methods=["GET"])]
    paths = (await document_of(wrapped(shop(), form, endpoints=endpoints)))["paths"]
    operations = [paths[path]["post"] for path in ("/batch", "/v2/batch")]
    requests = [content_of(operation)["schema"]["properties"]["requests"] for operation in operations]
    assert [request["maxItems"] for request in requests] == [3, 9]
    assert requests[1]["items"]["properties"]["method"]["enum"] == ["GET"]
    assert len({operation["operationId"] for operation in operations}) == 2


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_a_route_of_the_apps_own_at_the_same_path_stays(form: str) -> None:
    """Where `describe` is off, GET at the endpoint's path is the app's own: the document shows both."""
    app = shop()

    @app.get("/batch")
    async def about() -> str:
        return "about batches"

    paths = (await document_of(wrapped(app, form, describe=False)))["paths"]
    assert set(paths["/batch"]) == {"get", "post"}
    assert paths["/batch"]["get"]["summary"] == "About"


@on_virtual_time
async def test_an_app_without_openapi_is_untouched() -> None:
    """An app that has no `openapi` gets no attribute, and one whose document is switched off gets no document."""

    async def plain(scope: Scope, receive: Receive, send: Send) -> None:
        await answer("plain")(scope, receive, send)

    starlette = Starlette()
    before = set(vars(starlette))
    BatchMiddleware(plain)
    BatchMiddleware(starlette)
    assert not vars(plain)
    assert set(vars(starlette)) == before
    silent = BatchMiddleware(shop(openapi_url=None))
    assert (await ask(silent, method="GET", path="/openapi.json")).status == 404
    assert [entry["body"] for entry in (await send_batch(silent, [{"path": "/items/1"}])).responses] == [{"id": 1}]


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_a_mounted_app_has_the_endpoint_in_its_own_document(form: str) -> None:
    """The endpoint of a mounted app is in that app's document, whose server is the mount, and in no other."""
    main = shop()
    main.mount("/part", wrapped(shop(), form))
    part = await document_of(main, "/part/openapi.json")
    assert "/batch" in part["paths"]
    assert [server["url"] for server in part["servers"]] == ["/part"]
    assert "/batch" not in (await document_of(main))["paths"]


@pytest.mark.parametrize("form", FORMS)
@on_virtual_time
async def test_the_example_of_a_mounted_app_works(form: str) -> None:
    """The example in a mounted app's document, sent to its endpoint, is refused by nobody."""
    main = shop()
    main.mount("/part", wrapped(shop(), form))
    content = content_of((await document_of(main, "/part/openapi.json"))["paths"]["/batch"]["post"])
    reply = await send_batch(main, written(content["example"]["requests"]), path="/part/batch")
    assert not any("error" in entry for entry in reply.responses)


@on_virtual_time
async def test_a_document_shows_no_path_that_is_not_there() -> None:
    """The endpoint of a mounted app without a document is not put into its parent's under a path where nothing is."""
    main = shop()
    main.mount("/part", BatchMiddleware(answer("plain")))
    assert (await send_batch(main, [{"path": "/part/x"}], path="/part/batch")).status == 200
    paths = (await document_of(main))["paths"]
    assert "/batch" not in paths
    assert set(paths) <= {"/", "/items/{number}", "/part/batch"}
