"""An app with jobs, in its lifespan: asked over ASGI, and with a second look into its store.

Knows: how the parts are put together. Must not know: what is tested.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from asgi_lifespan import LifespanManager
from sqlalchemy.ext.asyncio import AsyncConnection

from batchproxy import BatchMiddleware
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import Claim, Clock, ItemResult, Job, JobStore, Kind, StoreSettings, opened
from batchproxy.jobs.store.database import Database
from batchproxy.jobs.store.tables import metadata
from batchproxy.jobs.working import WorkSettings
from tests.jobs.place import Place
from tests.protocol.api import Api
from tests.protocol.exchange import JSON, App, Exchange, HeaderMap, Reply

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
LINES = "application/x-ndjson"
ANN: HeaderMap = {"authorization": "Bearer ann"}
BOB: HeaderMap = {"authorization": "Bearer bob"}
ASYNC: HeaderMap = {**ANN, "prefer": "respond-async"}
QUICK = WorkSettings(concurrency=8, poll=0.1, watch=0.1, first_backoff=0.01, longest_backoff=0.02, grace=5)


class Site:
    """`app` is the middleware, `store` another process's view of its jobs."""

    def __init__(self, app: BatchMiddleware, store: JobStore) -> None:
        self.app = app
        self.store = store

    def begin(
        self, method: str, target: str, *, headers: HeaderMap = ANN, body: bytes | Iterable[bytes] = b"", **more: Any
    ) -> Exchange:
        path, _, query = target.partition("?")
        chunks = [body] if isinstance(body, bytes) else body
        return Exchange(self.app, method=method, path=path, query=query, headers=headers, chunks=chunks, **more)

    async def ask(self, method: str, target: str, **more: Any) -> Reply:
        return await self.begin(method, target, **more).finished()

    async def get(self, target: str, **more: Any) -> Reply:
        return await self.ask("GET", target, **more)

    async def send(
        self, items: Iterable[JSON], *, options: JSON = None, headers: HeaderMap = ASYNC, path: str = "/batch"
    ) -> Reply:
        """A batch as JSON, as a job unless the headers say otherwise."""
        document = {"requests": list(items)} | ({} if options is None else {"options": options})
        return await self.send_bytes(json.dumps(document).encode(), headers=headers, path=path)

    async def send_bytes(self, body: bytes, *, headers: HeaderMap = ASYNC, path: str = "/batch") -> Reply:
        return await self.ask("POST", path, headers={"content-type": "application/json", **headers}, body=body)

    async def send_lines(
        self, lines: Iterable[JSON | bytes], *, headers: HeaderMap = ASYNC, end: bytes = b"\n", piece: int = 10_000
    ) -> Reply:
        """A batch as lines, in pieces that end anywhere."""
        whole = b"".join(written(line) + end for line in lines)
        pieces = [whole[start : start + piece] for start in range(0, len(whole), piece)] or [b""]
        return await self.ask("POST", "/batch", headers={"content-type": LINES, **headers}, body=pieces)

    async def submitted(self, items: Iterable[JSON], **more: Any) -> str:
        """The path of a job that was taken."""
        return location(await self.send(items, **more))

    async def ended(self, path: str, headers: HeaderMap = ANN) -> JSON:
        """The job as it is shown when it has ended; the test's own limit ends a hopeless wait."""
        while True:
            reply = await self.get(path, headers={**headers, "prefer": "wait=25"})
            assert reply.status == 200, reply.body
            job = reply.json()
            if job["finished_at"] is not None:
                return job

    async def results(self, path: str, query: str = "", headers: HeaderMap = ANN) -> list[JSON]:
        reply = await self.get(f"{path}/results?{query}", headers=headers)
        assert reply.status == 200, reply.body
        found = reply.json()["results"]
        assert isinstance(found, list)
        return found

    # By hand, where no worker is

    async def claims(self) -> list[Claim]:
        return await self.store.claims.claim("by hand", 100)

    async def settle(self, claim: Claim, *results: ItemResult) -> None:
        async with self.store.checkpointer() as checkpointer:
            assert (await checkpointer.settle(claim.lease, *results)).held

    async def finalize(self) -> Job:
        """Does the work of the end, which must be the only one."""
        [claim] = await self.claims()
        assert claim.lease.kind is Kind.FINALIZE
        await self.store.ending.settle_rest(claim.lease)
        return await self.store.ending.finish(claim.lease)


def written(line: JSON | bytes) -> bytes:
    return line if isinstance(line, bytes) else json.dumps(line).encode()


def location(reply: Reply) -> str:
    assert reply.status == 202, reply.body
    path = reply.header("location")
    assert path is not None
    return path


def job_id(path: str) -> str:
    return path.rpartition("/")[2]


def key_file(folder: Path) -> str:
    path = folder / "jobs.key"
    path.write_text(KEY)
    return str(path)


def settings(place: Place, *, store: Mapping[str, Any] | None = None, **jobs: Any) -> JobsSettings:
    about = {"secret_key_file": key_file(place.folder), "poll": 0.05, "work": QUICK, **jobs}
    return JobsSettings(store=StoreSettings(url=place.url, **(store or {})), **about)


@asynccontextmanager
async def site(
    place: Place,
    api: App | None = None,
    *,
    store: Mapping[str, Any] | None = None,
    jobs: Mapping[str, Any] | None = None,
    **endpoint: Any,
) -> AsyncIterator[Site]:
    """`store` and `jobs` are settings, the others those of the endpoint."""
    chosen = settings(place, store=store, **(jobs or {}))
    app = BatchMiddleware(_Quiet(api or Api()), jobs=chosen, **endpoint)
    async with LifespanManager(app), opened(chosen.store) as seen:
        yield Site(app, seen)


class _Quiet:
    """The API has no lifespan."""

    def __init__(self, api: App) -> None:
        self._api = api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await self._api(scope, receive, send)


async def rows(place: Place) -> dict[str, int]:
    """How many rows there are in each table that has any; those of workers do not count."""
    database = Database(StoreSettings(url=place.url), Clock())
    try:
        counts = await database.read(_count)
    finally:
        await database.aclose()
    return {name: n for name, n in counts.items() if n and not name.endswith(("_worker", "_slot"))}


async def _count(connection: AsyncConnection, now: float) -> dict[str, int]:
    names = [table.name for table in metadata.sorted_tables]
    return {name: (await connection.exec_driver_sql(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


async def until(is_so: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Returns as soon as it is so; the test's own limit ends a hopeless wait."""
    while True:
        found = is_so()
        if found if isinstance(found, bool) else await found:
            return
        await asyncio.sleep(0.01)
