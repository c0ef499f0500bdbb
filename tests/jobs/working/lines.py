"""A small kind of job for tests, with items of the native dialect, one JSON object each; and an app for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchproxy import Caller
from batchproxy.dialects import DIALECTS
from batchproxy.engine.model import ASGIApp
from batchproxy.engine.policy import Judge, Policy
from batchproxy.engine.target import Entry
from batchproxy.jobs.store import (
    Claim,
    Clock,
    ItemResult,
    Job,
    JobState,
    JobStore,
    Message,
    NewJob,
    StoreError,
    StoreSettings,
    opened,
)
from batchproxy.jobs.store.points import Passing, unnoticed
from batchproxy.jobs.working import Delivery, Failed, Finish, JobBatch, WorkSettings, connection
from tests.jobs.place import Place
from tests.serving import PATIENCE

POLICY = Policy(max_items=1000, concurrency=64)
CALLER = Caller(
    request_id="r",
    host="api.example.com",
    inherited=((b"host", b"api.example.com"), (b"authorization", b"secret")),
)
QUICK = WorkSettings(poll=0.1, watch=0.1, sweep=1, first_backoff=0.01, longest_backoff=0.02, grace=5)


def quick(**changed: Any) -> WorkSettings:
    return replace(QUICK, **changed)


class Lines:
    """Satisfies `JobKind`. `options` of a job say how its items are delivered."""

    name = "batch"

    def __init__(self, app: ASGIApp, policy: Policy = POLICY) -> None:
        self._app = app
        self._policy = policy

    async def validate(self, store: JobStore, claim: Claim, job: Job) -> Failed | None:
        """The items are in the options."""
        items = msgspec.json.decode(job.options)["items"]
        if None in items:
            return Failed(error=b"item %d" % items.index(None))
        async with store.validation(claim) as validation:
            for each in items:
                await validation.add(msgspec.json.encode(each))
            await validation.commit()
        return None

    def batch(self, job: Job, items: Mapping[int, bytes]) -> JobBatch:
        options: dict[str, Any] = msgspec.json.decode(job.options)
        envelope = {"requests": [msgspec.Raw(each) for each in items.values()], **options.get("envelope", {})}
        batch = DIALECTS["native"].read(msgspec.json.encode(envelope), CALLER, self._policy, minimal=False)
        return JobBatch(
            batch=msgspec.structs.replace(batch, id=job.id),
            seqs=list(items),
            policy=self._policy,
            judge=Judge(self._policy, CALLER, ["/batch"]),
            entry=Entry(self._app, "", None),
            connection=connection(CALLER),
            delivery=Delivery(options.get("delivery", "at_most_once")),
        )

    async def finish(self, store: JobStore, claim: Claim, job: Job) -> Sequence[Message] | Finish:
        assert job.counts.done == job.total
        return [Message(event="job.ended", target=b"t", payload=str(job.ending).encode())]

    def unfinished(self, job: Job) -> Failed:
        return Failed(error=b"gone", messages=[Message(event="job.failed", target=b"t", payload=b"gone")])


@asynccontextmanager
async def store_at(
    place: Place, passing: Passing = unnoticed, ahead: Callable[[], float] = lambda: 0.0, **changed: Any
) -> AsyncIterator[JobStore]:
    """On the time of the database, and so many seconds ahead of it."""
    # A lease that nobody waits for lasts longer than a worker may have to wait for the processor.
    said = {"url": place.url, "lease": 60, "chunk_items": 10, **changed}
    async with opened(StoreSettings(**said), clock=Clock(ahead), passing=passing) as store:
        yield store


def get(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, **more}


def post(path: str, **more: Any) -> dict[str, Any]:
    return {"method": "POST", "path": path, **more}


async def submit(store: JobStore, items: Sequence[dict[str, Any]], **said: Any) -> str:
    options = said.pop("options", {})
    new = NewJob(**{"owner": "ann", "options": json.dumps(options).encode(), **said})
    async with store.submission(new) as submission:
        for each in items:
            await submission.add(json.dumps(each).encode())
        return (await submission.commit()).job.id


async def until(condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What the condition gives as soon as it gives something; it may be asynchronous."""
    return await _repeated(condition, 1.0, patience)


async def _repeated(condition: Callable[[], Any], growth: float, patience: float) -> Any:
    end, pause = time.monotonic() + patience, 0.01
    while time.monotonic() < end:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        await asyncio.sleep(pause)
        pause = min(pause * growth, 0.1)
    raise AssertionError("it did not come to that")


async def ended(store: JobStore, job_id: str, patience: float = PATIENCE) -> Job:
    """The job once it has ended. It is asked less and less often: what has ended stays so, and each time costs."""

    async def terminal() -> Job | None:
        try:
            job = await store.jobs.get(job_id, None)
        except StoreError as error:
            if not error.passing:
                raise
            return None  # it may be away as long as the test wants that
        return job if job.is_terminal else None

    job: Job = await _repeated(terminal, 1.2, patience)
    return job


async def in_state(store: JobStore, job_id: str, state: JobState) -> None:
    async def is_so() -> bool:
        return (await store.jobs.get(job_id, None)).state is state

    await until(is_so)


async def results(store: JobStore, job_id: str) -> list[ItemResult]:
    """All, in the order of the input."""
    page = await store.results.in_order(job_id, None, limit=100_000)
    found = list(page.results)
    while not page.complete and page.results:
        page = await store.results.in_order(job_id, None, after=page.cursor, limit=100_000)
        found += page.results
    return found


class Ledger:
    """What arrived at the app, from whichever process: a line each, appended to a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._path.touch()

    def note(self, line: str) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    @property
    def counted(self) -> Counter[str]:
        return Counter(self.lines)


class Api:
    """A real app. `in_flight` and `most` are of this process; the ledger is of all.

    `/items/{name}` is noted and answered; `/slow/{name}` takes a moment; `/gated/{name}` only once a file `go` is
    there; `/poison/{name}` kills the process; `/moods/{name}` answers what it was told, one after another.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "ledger")
        self.in_flight = self.most = 0
        self.left = 0
        self.moods: dict[str, list[Response]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.app: ASGIApp = Starlette(
            routes=[
                Route("/items/{name}", self.item, methods=["GET", "POST", "PUT", "DELETE"]),
                Route("/slow/{name}", self.slow),
                Route("/gated/{name}", self.gated, methods=["GET", "POST"]),
                Route("/poison/{name}", self.poison),
                Route("/moods/{name}", self.mood, methods=["GET", "POST"]),
                Route("/raising/{name}", self.raising),
            ]
        )

    def open_gate(self) -> None:
        (self.folder / "go").touch()

    async def item(self, request: Request) -> Response:
        return self._noted(request)

    async def slow(self, request: Request) -> Response:
        answer = self._noted(request)
        await asyncio.sleep(0.05)
        return answer

    async def gated(self, request: Request) -> Response:
        answer = self._noted(request)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            while not (self.folder / "go").exists():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.in_flight -= 1
        return answer

    async def poison(self, request: Request) -> Response:
        self._noted(request)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    async def mood(self, request: Request) -> Response:
        answer = self._noted(request)
        moods = self.moods.get(request.path_params["name"])
        return moods.pop(0) if moods else answer

    async def raising(self, request: Request) -> Response:
        self._noted(request)
        raise RuntimeError("on purpose")

    def _noted(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.headers[name] = dict(request.headers)
        self.ledger.note(f"{request.method} {name}")
        status = int(request.query_params.get("status", "200"))
        return JSONResponse({"name": name, "id": len(name), "pid": os.getpid()}, status)
