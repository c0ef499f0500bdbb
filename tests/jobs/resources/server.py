"""An app with jobs for a server in a process of its own: `JOBS_FOLDER` is where they are kept.

Knows: where things are. Must not know: what is tested.
"""

from __future__ import annotations

import os
from pathlib import Path

from batchproxy import BatchMiddleware
from batchproxy.engine.model import ASGIApp, Receive, Scope, Send
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.working import WorkSettings


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which process it is; `/large` is a long answer."""
    assert scope["type"] == "http"
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = b'"%b"' % (b"abcd" * 12_500) if scope["path"] == "/large" else b"%d" % os.getpid()
    await send({"type": "http.response.body", "body": body})


def app() -> ASGIApp:
    folder = Path(os.environ["JOBS_FOLDER"])
    store = StoreSettings(url=f"sqlite:///{folder}/jobs.db")
    works = bool(int(os.environ.get("JOBS_WORK", "1")))
    return BatchMiddleware(
        api, jobs=JobsSettings(store=store, anonymous=True, worker=works, work=WorkSettings(concurrency=32), poll=0.1)
    )
