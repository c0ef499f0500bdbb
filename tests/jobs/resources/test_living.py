"""Jobs in the lifespan of the app: they begin after it, end before it, and say clearly why they cannot."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asgi_lifespan import LifespanManager
from fastapi import FastAPI, Request

from batchproxy import BatchMiddleware, Endpoint
from batchproxy.engine.model import Receive, Scope, Send
from batchproxy.jobs.resources.secrets import VARIABLE
from batchproxy.jobs.store import JobState, StoreSettings, opened
from tests.jobs.place import Place
from tests.protocol.api import Api
from tests.protocol.exchange import JSON
from tests.proxy.on_a_loop import on_a_loop
from tests.serving import StartupFailed, serve

from .site import ANN, ASYNC, LINES, QUICK, Site, job_id, location, rows, settings, site, until


@asynccontextmanager
async def living(app: Any, place: Place) -> AsyncIterator[Site]:
    async with LifespanManager(app), opened(StoreSettings(url=place.url)) as store:
        yield Site(app, store)


@pytest.mark.parametrize("form", ["constructed", "added"])
@on_a_loop
async def test_jobs_live_inside_of_the_app(sqlite: Place, form: str) -> None:
    """Work begins when the app has started, and has ended when it stops; items see the state of its lifespan."""
    happened: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, str]]:
        happened.append("start")
        yield {"made": "at the start"}
        happened.append("stop")

    app = FastAPI(lifespan=lifespan)

    @app.get("/state")
    async def state(request: Request) -> str:
        happened.append("item")
        return str(request.state.made)

    outermost: Any = app
    jobs = settings(sqlite)
    if form == "constructed":
        outermost = BatchMiddleware(app, jobs=jobs)
    else:
        app.add_middleware(BatchMiddleware, jobs=jobs)

    @app.middleware("http")
    async def mark(request: Request, call_next: Any) -> Any:
        happened.append(f"outside {request.scope['path']}")
        return await call_next(request)

    async with living(outermost, sqlite) as here:
        path = await here.submitted([{"path": "/state"}])
        await here.ended(path)
        [result] = await here.results(path)
        assert result["body"] == "at the start"
    # Whatever way the job's item goes, it passes the middlewares of the app, as it would alone.
    assert [each for each in happened if "jobs" not in each and each != "outside /batch"] == [
        "start",
        "outside /state",
        "item",
        "stop",
    ]


@on_a_loop
async def test_work_goes_on_after_a_restart(place: Place) -> None:
    """What was not done when the app stopped is done by the next one, before anybody asks it for anything."""
    gate = asyncio.Event()

    async def stuck(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()

    impatient = settings(place, work=replace(QUICK, grace=0))
    async with living(BatchMiddleware(_NoLifespan(Api({"/1": stuck})), jobs=impatient), place) as here:
        path = await here.submitted([{"path": "/0"}, {"path": "/1"}])

        async def is_half_done() -> bool:
            return (await here.store.jobs.get(job_id(path), None)).counts.done == 1

        await until(is_half_done)
    fresh = FastAPI()

    @fresh.get("/1")
    async def one() -> int:
        return 1

    fresh.add_middleware(BatchMiddleware, jobs=settings(place))
    async with LifespanManager(fresh), opened(StoreSettings(url=place.url)) as store:

        async def is_done() -> bool:
            return (await store.jobs.get(job_id(path), None)).state is JobState.COMPLETED

        await until(is_done)


class _NoLifespan:
    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError("This app has no lifespan.")
        await self._app(scope, receive, send)


@pytest.mark.parametrize("way", ["raises", "returns", "returns after the start", "ignores the stop"])
@on_a_loop
async def test_an_app_without_a_lifespan_may_have_jobs(sqlite: Place, way: str) -> None:
    """Whatever it does when it is asked for its lifespan."""
    api = Api()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await api(scope, receive, send)
        elif way == "raises":
            assert scope["type"] == "http"
        elif way == "returns after the start":
            await receive()
        elif way == "ignores the stop":
            await receive()
            await send({"type": "lifespan.startup.complete"})

    async with living(BatchMiddleware(app, jobs=settings(sqlite)), sqlite) as here:
        await here.ended(await here.submitted([{"path": "/a"}]))
    assert api.targets == ["/a"]


@on_a_loop
async def test_a_server_without_lifespan_gets_a_clear_error(sqlite: Place) -> None:
    """At the first submission, and at whatever else concerns jobs; batches are answered as ever."""
    app = BatchMiddleware(Api(), jobs=settings(sqlite))
    async with opened(StoreSettings(url=sqlite.url)) as store:
        here = Site(app, store)
        for reply in (await here.send([{"path": "/a"}]), await here.get("/batch/jobs")):
            assert (reply.status, reply.problem["code"]) == (503, "jobs_unavailable")
            assert "lifespan" in reply.problem["detail"]
        assert (await here.send([{"path": "/a"}], headers=ANN)).status == 200


def test_a_store_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    """The server says why; the app that had started is stopped in order."""
    stopped: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        stopped.append("stopped")

    place = Place(f"sqlite:///{tmp_path}/missing/jobs.db", tmp_path)
    app = BatchMiddleware(FastAPI(lifespan=lifespan), jobs=settings(place))
    with pytest.raises(StartupFailed, match="missing"), serve(app):
        pass
    assert stopped == ["stopped"]


def test_an_app_that_fails_to_start_fails(sqlite: Place) -> None:
    """Its own fault is told as it would be without jobs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        raise ValueError("nothing works today")
        yield

    app = BatchMiddleware(FastAPI(lifespan=lifespan), jobs=settings(sqlite))
    with pytest.raises(StartupFailed, match="nothing works today"), serve(app):
        pass


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"jobs": True}, "JobsSettings"),
        ({"endpoints": [Endpoint(path="/a"), Endpoint(path="/a/jobs")]}, "among the jobs"),
    ],
    ids=["jobs", "endpoints"],
)
def test_wrong_settings_stop_the_start(sqlite: Place, wrong: dict[str, Any], text: str) -> None:
    """As all other settings of the middleware do."""
    app = BatchMiddleware(FastAPI(), **{"jobs": settings(sqlite), **wrong})
    with pytest.raises(StartupFailed, match=text), serve(app):
        pass


def test_a_wrong_key_stops_the_start(sqlite: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rather than the first job."""
    monkeypatch.setenv(VARIABLE, "not a key")
    app = BatchMiddleware(FastAPI(), jobs=settings(sqlite, secret_key_file=None))
    with pytest.raises(StartupFailed, match=VARIABLE), serve(app):
        pass


@on_a_loop
async def test_a_stop_that_fails_does_not_keep_the_app_from_its_own(
    sqlite: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the app ends in order."""
    stopped: list[str] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        stopped.append("stopped")

    app = BatchMiddleware(FastAPI(lifespan=lifespan), jobs=settings(sqlite))
    service = app._jobs
    assert service is not None
    stop = service.stop

    async def failing() -> None:
        await stop()
        raise OSError("the disk is gone")

    monkeypatch.setattr(service, "stop", failing)
    with caplog.at_level(logging.ERROR, "batchproxy"):
        async with LifespanManager(app):
            pass
    assert stopped == ["stopped"]
    assert "lifespan.stop_failed" in caplog.text


@on_a_loop
async def test_whoever_still_waits_is_answered_at_the_stop(sqlite: Place) -> None:
    """Nobody is left behind by an app that stops."""
    async with site(sqlite, jobs={"worker": False}) as here:
        path = await here.submitted([{"path": "/a"}])
        waiting = here.begin("GET", path, headers={**ANN, "prefer": "wait=60"})
        following = here.begin("GET", f"{path}/results?follow=true")
        watching = here.begin("GET", f"{path}/events")
        await until(lambda: bool(following.sent and watching.sent))
    assert (await waiting.finished()).json()["state"] == "queued"
    assert (await following.finished()).lines[-1]["complete"] is False
    assert (await watching.finished()).body.endswith(b"\n\n")


@on_a_loop
async def test_an_upload_that_outlasts_the_stop_is_broken_off(sqlite: Place) -> None:
    """It has some time to end; then nothing of it is left."""
    async with site(sqlite, jobs={"worker": False, "work": replace(QUICK, grace=0.1)}) as here:
        body = b'{"path": "/a", "method": "POST", "body": "%b"}\n' % (b"x" * 300_000)
        headers = {**ASYNC, "content-type": LINES, "transfer-encoding": "chunked"}
        uploading = here.begin("POST", "/batch", headers=headers, body=body, complete=False)

        async def is_being_stored() -> bool:
            return bool(await rows(sqlite))

        await until(is_being_stored)
    assert uploading.task.cancelled()
    assert await rows(sqlite) == {}


@on_a_loop
async def test_a_mounted_app_works_under_its_prefix(sqlite: Place) -> None:
    """Where the server has a `root_path`, the links have it, and items find their way."""
    app = FastAPI()

    @app.get("/a")
    async def a(request: Request) -> str:
        return str(request.scope["root_path"])

    async with living(BatchMiddleware(app, jobs=settings(sqlite)), sqlite) as here:
        scope: JSON = {"root_path": "/api"}
        body = b'{"requests": [{"path": "/api/a"}]}'
        headers = {**ANN, "prefer": "respond-async", "content-type": "application/json"}
        reply = await here.ask("POST", "/api/batch", headers=headers, body=body, more_scope=scope)
        path = location(reply)
        assert path.startswith("/api/batch/jobs/")
        waiting = {**ANN, "prefer": "wait=25"}
        assert (await here.get(path, headers=waiting, more_scope=scope)).json()["state"] == "completed"
        [result] = (await here.get(f"{path}/results", more_scope=scope)).json()["results"]
        assert (result["status"], result["body"]) == (200, "/api")
