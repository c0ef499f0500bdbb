"""A site for a server in a process of its own: `JOBS_FOLDER` is where it keeps what it has, and `JOBS_LEASE`
how long work belongs to a process that is gone.

Knows: where things are. Must not know: what is tested.
"""

from __future__ import annotations

import os
from pathlib import Path

from batchproxy.engine.model import ASGIApp, Receive, Scope, Send
from batchproxy.jobs.openai import OpenAISettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.working import WorkSettings
from tests.jobs.resources.site import key_file

from .site import app as middleware

ANSWER = b'{"pid":%d,"padding":"%b"}' % (os.getpid(), b"x" * 500)


async def api(scope: Scope, receive: Receive, send: Send) -> None:
    """Says which process it is, and fails for a hundredth of what it is asked."""
    assert scope["type"] == "http"
    body = (await receive()).get("body", b"")
    status = 400 if b'"content": "00"' in body else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": ANSWER})


def app() -> ASGIApp:
    folder, lease = Path(os.environ["JOBS_FOLDER"]), float(os.environ["JOBS_LEASE"])
    store = StoreSettings(url=f"sqlite:///{folder}/jobs.db", lease=lease)
    return middleware(api, store, OpenAISettings(), key_file=key_file(folder), work=WorkSettings(concurrency=64))
