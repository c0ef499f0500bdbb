"""Apps with jobs, as processes of their own have them; where the store is, the environment says.

Knows: ASGI, the middleware. Must not know: what is measured.
"""

import os
from typing import Any

from batchproxy import BatchMiddleware
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.working import WorkSettings
from benchmarks.apps import JSON_HEADERS, App, Receive, Scope, Send, pure, records

URL = "BENCHMARK_JOBS"
"""The variable that says where the store is."""
PATH = "/batch"
ANSWER_BYTES = 900
PLACES = 64
"""Items that run at one time in a process."""

_ANSWER = records(ANSWER_BYTES)


def with_lifespan(app: App) -> App:
    """An app that servers start and stop, as frameworks make them."""

    async def living(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await app(scope, receive, send)

    return living


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers everything at once, with about as many bytes as an API does."""
    await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
    """The pure app, which gives back what it is sent by PUT."""
    if scope["method"] != "PUT":
        await pure(scope, receive, send)
        return
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": JSON_HEADERS})
    await send({"type": "http.response.body", "body": body})


def _jobs(**settings: Any) -> JobsSettings:
    """Where nothing says where the store is, the app is only looked at."""
    return JobsSettings(store=StoreSettings(url=os.environ.get(URL, "sqlite:///unused.db")), anonymous=True, **settings)


quick = BatchMiddleware(answering, path=PATH, concurrency=PLACES, jobs=_jobs(worker=False))
"""For workers, in whose processes it answers at once."""
echoing_with_jobs = BatchMiddleware(
    with_lifespan(echoing), path=PATH, concurrency=PLACES, jobs=_jobs(work=WorkSettings(concurrency=PLACES))
)
"""A server that does jobs as fast as it can."""
gentle = BatchMiddleware(with_lifespan(pure), path=PATH, jobs=_jobs())
"""A server that does jobs beside what it is there for, with the settings that nobody has touched."""
