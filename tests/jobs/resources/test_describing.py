"""What an endpoint says about its jobs is what they do."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from asgi_lifespan import LifespanManager
from fastapi import FastAPI

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.resources.describing import JOB
from batchproxy.jobs.resources.entries import FATES
from batchproxy.jobs.resources.openapi import operations
from batchproxy.jobs.resources.problems import CODES
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.webhooks import WebhookSettings
from tests.documents import DOCS, names, section, tables
from tests.jobs.place import Place
from tests.protocol.exchange import JSON, ask
from tests.protocol.schemas import faults
from tests.proxy.on_a_loop import on_a_loop

from .site import ANN, settings, site
from .test_watching import BY_HAND, ITEMS, completed, failed


@on_a_loop
async def test_an_endpoint_describes_its_jobs(sqlite: Place) -> None:
    """Limits in force, resources, states and codes; nothing without jobs."""
    async with site(sqlite, jobs={**BY_HAND, "max_items": 7, "max_bytes": 1000}, store={"open_jobs": 3}) as here:
        said = (await here.get("/batch")).json()
        jobs = said["jobs"]
        assert jobs["path"] == "/batch/jobs"
        limits = {"max_items": 7, "max_bytes": 1000, "max_json_bytes": 1000, "open_jobs": 3}
        assert {name: jobs["limits"][name] for name in limits} == limits
        for path, methods in jobs["resources"].items():
            job = await completed(here)
            for method in methods:
                if method == "GET":
                    target = path.replace("/batch/jobs/{id}", job)
                    assert (await here.get(target)).status == 200
            allowed = (await here.ask("OPTIONS", path.replace("/batch/jobs/{id}", job))).header("allow")
            assert allowed == ", ".join([*methods, "OPTIONS"])
        assert set(jobs["codes"]["job"]) == set(CODES)
    plain = await ask(BatchMiddleware(FastAPI()), method="GET", path="/batch")
    assert "jobs" not in plain.json()


@on_a_loop
async def test_what_is_shown_fits_its_schema(sqlite: Place) -> None:
    """A job in every state that it goes through."""
    async with site(sqlite, jobs=BY_HAND) as here:
        said = (await here.get("/batch")).json()
        schema = said["jobs"]["schema"]["job"]
        assert schema == JOB
        path = await here.submitted(ITEMS)
        shown = [(await here.get(path)).json()]
        [claim] = await here.claims()
        await here.settle(claim, failed(0))
        shown.append((await here.get(path)).json())
        shown.append((await here.ask("POST", f"{path}/cancel")).json())
        await here.store.claims.release([claim.lease])
        await here.finalize()
        shown.append((await here.get(path)).json())
        assert [each["state"] for each in shown] == ["queued", "running", "cancelling", "cancelled"]
        # The judge of these tests knows no formats.
        plain = _without_formats(schema)
        assert [faults(plain, each) for each in shown] == [[]] * 4
        assert faults(plain, {**shown[0], "state": "sleeping"}) != []


def _without_formats(schema: JSON) -> JSON:
    if isinstance(schema, dict):
        return {name: _without_formats(value) for name, value in schema.items() if name != "format"}
    return [_without_formats(each) for each in schema] if isinstance(schema, list) else schema


@on_a_loop
async def test_jobs_are_in_the_openapi_document(sqlite: Place) -> None:
    """Each path with its methods, and what comes to the sending of a batch; each time the same."""
    app = FastAPI()
    async with LifespanManager(BatchMiddleware(app, jobs=settings(sqlite))) as living:
        first, second = [(await ask(living.app, method="GET", path="/openapi.json")).json() for _ in range(2)]
        assert first == second
        paths = first["paths"]
        described = (await ask(living.app, method="GET", path="/batch")).json()["jobs"]["resources"]
        for path, methods in described.items():
            assert {method.lower() for method in methods} - {"head"} == set(paths[path])
        post = paths["/batch"]["post"]
        assert {"200", "202", "400"} <= set(post["responses"])
        assert {"application/json", "application/x-ndjson"} <= set(post["requestBody"]["content"])
        assert [each["name"] for each in post["parameters"]] == ["Prefer", "Idempotency-Key"]
        options = post["requestBody"]["content"]["application/json"]["schema"]["properties"]["options"]["properties"]
        assert {"execution", "delivery"} <= set(options)
        assert "callback" not in options
        ids = [operation["operationId"] for methods in paths.values() for operation in methods.values()]
        assert len(ids) == len({*ids})
    without: Any = FastAPI()
    document = (await ask(BatchMiddleware(without), method="GET", path="/openapi.json")).json()
    assert list(document["paths"]) == ["/batch"]
    assert "202" not in document["paths"]["/batch"]["post"]["responses"]


OPTIONS: list[Any] = [
    ({"delivery": "at_least_once"}, True),
    ({"delivery": "at_most_once", "callback": {"url": "https://hooks.example/"}}, True),
    ({"callback": {"url": "https://hooks.example/", "events": ["failed", "expired"], "secret_ref": "default"}}, True),
    ({"delivery": "twice"}, False),
    ({"delivery": None}, False),
    ({"callback": "https://hooks.example/"}, False),
    ({"callback": {}}, False),
    ({"callback": {"url": "hooks.example"}}, False),
    ({"callback": {"url": "https://hooks.example/", "events": []}}, False),
    ({"callback": {"url": "https://hooks.example/", "events": ["running"]}}, False),
    ({"callback": {"url": "https://hooks.example/", "secret": "x"}}, False),
]


@on_a_loop
async def test_the_options_of_jobs_are_as_described(sqlite: Place) -> None:
    """What fits the schema is taken, what does not is refused; both as it is said of the endpoint and in OpenAPI."""
    webhooks = WebhookSettings(secrets={"default": ["env:NOT_NEEDED_HERE"]})
    async with site(sqlite, jobs={**BY_HAND, "webhooks": webhooks}) as here:
        members = (await here.get("/batch")).json()["jobs"]["schema"]["options"]
        schema = {"type": "object", "additionalProperties": False, "properties": members}
        for options, fits in OPTIONS:
            assert (faults(schema, options) == []) is fits, options
            assert ((await here.send(ITEMS, options=options)).status == 202) is fits, options
        operation = operations(settings(sqlite, webhooks=webhooks), Endpoint())["/batch"]["post"]
        document = operation["requestBody"]["content"]["application/json"]["schema"]
        assert document["properties"]["options"]["properties"] == members


def test_the_codes_are_those_of_the_tests() -> None:
    """Each code that is described is met by a test of this folder."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [code for code in CODES if not re.search(rf'"{code}"', tests)] == []


@on_a_loop
async def test_the_shown_owner_is_nobodys_business(sqlite: Place) -> None:
    """Nothing of the principal or the credentials is shown."""
    async with site(sqlite, jobs=BY_HAND) as here:
        path = await here.submitted(ITEMS)
        body = (await here.get(path)).body + (await here.get("/batch/jobs")).body
        assert b"ann" not in body.replace(b"cancel", b"")
        assert str(ANN["authorization"]).encode() not in body


# The page on jobs


PAGE = section((DOCS / "jobs.md").read_text("utf-8"), "Jobs over HTTP")


def test_the_page_has_every_code() -> None:
    """The codes of jobs with their status, and those of items that have no other."""
    [table] = tables(section(PAGE, "Errors about jobs"))
    assert {names(code)[0]: int(status) for code, status, _ in table[1:]} == {
        code: status for code, (status, _) in CODES.items()
    }
    table = tables(section(PAGE, "Results"))[-1]
    assert {names(code)[0]: int(status) for code, status, _ in table[1:]} == {
        str(code): status for code, (status, _) in FATES.items()
    }


def test_the_page_has_every_setting() -> None:
    """The settings of jobs, with their defaults."""
    [table] = tables(section(PAGE, "In the app's process"))
    listed = {names(row[0])[0]: row[1] for row in table[1:]}
    assert list(listed) == [each.name for each in fields(JobsSettings)]
    for each in fields(JobsSettings):
        shown = listed[each.name].removesuffix(" s").strip("`")
        if each.default is MISSING:
            continue
        expected = f"{each.default:g}" if isinstance(each.default, float) else str(each.default)
        assert shown.strip('"') == expected, each.name
    assert listed["work"] == f"{JobsSettings(store=StoreSettings(url='sqlite:///x')).work.concurrency} at once"
