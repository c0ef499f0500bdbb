"""The Batch API as a part of `BatchMiddleware`, beside its own batches."""

from __future__ import annotations

import json

import openai
import pytest
from fastapi import FastAPI

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.engine.errors import SettingError
from batchproxy.engine.model import ASGIApp, Receive, Scope, Send
from batchproxy.jobs.openai import OpenAISettings
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from tests.jobs.place import Place
from tests.jobs.resources.site import key_file
from tests.serving import Server, ask, serve

from .api import Api
from .site import CHAT, QUICK, app, chat, create, ended, lines, read

KEY = ("Authorization", "Bearer sk-ann")
JSON = ("Content-Type", "application/json")


def middleware(place: Place, api: ASGIApp, **openai: object) -> BatchMiddleware:
    settings = OpenAISettings(**openai)  # type: ignore[arg-type]
    return app(api, StoreSettings(url=place.url), settings, key_file=key_file(place.folder))


def client(server: Server, path: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}{path}", api_key="sk-ann", max_retries=0)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/file-1", "/v1/batches", "/v1/%62atches"])
def test_items_of_batches_do_not_reach_it(sqlite: Place, path: str) -> None:
    """Nor is there an end to batches of batches otherwise."""
    with serve(middleware(sqlite, Api())) as server:
        body = json.dumps({"requests": [{"path": path}]}).encode()
        [entry] = ask(server, "POST", "/batch", [KEY, JSON], body).json()["responses"]
        assert (entry["status"], entry["error"]) == (400, "nested_batch")


@pytest.mark.parametrize("endpoint", ["/batch", "/v1/batches", "/v1/files"])
def test_lines_do_not_reach_batches(sqlite: Place, endpoint: str) -> None:
    """Whatever is allowed."""
    with serve(middleware(sqlite, Api(), allow=["/**"])) as server, client(server) as ann:
        assert ended(ann, create(ann, lines(chat("a")))).status == "completed"
        with pytest.raises(openai.BadRequestError) as refused:
            create(ann, lines(chat("a")), endpoint)
        assert refused.value.code == "invalid_endpoint"


def test_its_batches_are_not_among_the_jobs_of_an_endpoint(sqlite: Place) -> None:
    with serve(middleware(sqlite, Api())) as server, client(server) as ann:
        ended(ann, create(ann, lines(chat("a"))))
        assert ask(server, "GET", "/batch/jobs", [KEY]).json()["jobs"] == []


def test_an_app_that_is_mounted(sqlite: Place) -> None:
    """What is before the paths in the URL is before those of the lines' requests as well."""
    seen: list[str] = []

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(scope["path"])
            scope = {**scope, "root_path": "/llm"}
        await inner(scope, receive, send)

    async def api(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert scope["path"] == f"/llm{CHAT}"
            scope = {**scope, "path": CHAT}
        await below(scope, receive, send)

    below, inner = Api(), middleware(sqlite, api)
    with serve(mounted) as server, client(server, "/llm/v1") as ann:
        done = ended(ann, create(ann, lines(chat("a"))))
        assert done.status == "completed"
        assert read(ann, done.output_file_id).keys() == {"a"}
    assert "/llm/v1/batches" in seen


def test_a_fastapi_app(sqlite: Place) -> None:
    """Its routes are the API, and all else is as it was."""
    api = FastAPI()

    @api.post("/v1/embeddings")
    async def embeddings(said: dict[str, str]) -> dict[str, str]:
        return {"echo": said["input"]}

    jobs = JobsSettings(
        store=StoreSettings(url=sqlite.url),
        secret_key_file=key_file(sqlite.folder),
        work=QUICK,
        apis=[OpenAISettings()],
    )
    api.add_middleware(BatchMiddleware, jobs=jobs)
    line = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings", "body": {"input": "x"}}
    with serve(api) as server, client(server) as ann:
        done = ended(ann, create(ann, lines(line), "/v1/embeddings"))
        assert read(ann, done.output_file_id)["e"]["response"]["body"] == {"echo": "x"}
        assert ask(server, "GET", "/v1/filesystem").status == 404


def test_without_a_lifespan_it_says_why(sqlite: Place) -> None:
    with serve(middleware(sqlite, Api()), lifespan="off") as server:
        reply = ask(server, "GET", "/v1/files", [KEY])
        assert (reply.status, reply.json()["code"]) == (503, "jobs_unavailable")


def test_wrong_apis() -> None:
    with pytest.raises(SettingError):
        JobsSettings(store=StoreSettings(url="sqlite:///a"), apis=[Endpoint()])  # type: ignore[list-item]
