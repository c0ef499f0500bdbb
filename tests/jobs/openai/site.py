"""An API with batches in front of it, behind a real server, and what its clients send.

Knows: how the parts are put together. Must not know: what is tested.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from openai import OpenAI
from openai.types import Batch, FileObject

from batchproxy import BatchMiddleware
from batchproxy.engine.model import ASGIApp
from batchproxy.jobs.openai import OpenAISettings
from batchproxy.jobs.resources import JobsSettings
from batchproxy.jobs.store import StoreSettings
from batchproxy.jobs.working import WorkSettings
from tests.jobs.place import Place
from tests.jobs.resources.site import key_file
from tests.serving import PATIENCE, Server, serve

from .api import Api

CHAT: Final = "/v1/chat/completions"
EMBEDDINGS: Final = "/v1/embeddings"
QUICK = WorkSettings(concurrency=8, poll=0.1, watch=0.1, first_backoff=0.01, longest_backoff=0.02, grace=5)


def app(
    api: ASGIApp,
    store: StoreSettings,
    settings: OpenAISettings,
    *,
    key_file: str | None = None,
    work: WorkSettings = QUICK,
    works: bool = True,
    **jobs: Any,
) -> BatchMiddleware:
    """`api`, with batches in front of it."""
    about = {"apis": [settings], "secret_key_file": key_file, "work": work, "worker": works, **jobs}
    return BatchMiddleware(api, jobs=JobsSettings(store=store, **about))


class Site:
    def __init__(self, server: Server, api: Api, client: OpenAI) -> None:
        self.server = server
        self.api = api
        self._client = client

    def client(self, key: str = "sk-ann") -> OpenAI:
        """All of them share their connections: to make a new one takes longer than most tests."""
        return self._client.with_options(api_key=key)


@contextmanager
def site(
    place: Place,
    *,
    openai: Mapping[str, Any] | None = None,
    store: Mapping[str, Any] | None = None,
    has_key: bool = True,
    **jobs: Any,
) -> Iterator[Site]:
    api = Api()
    if has_key:
        jobs = {"key_file": key_file(place.folder), **jobs}
    settings = OpenAISettings(**(openai or {}))
    try:
        with serve(app(api, StoreSettings(url=place.url, **(store or {})), settings, **jobs)) as server:
            url = f"{server.url}/v1"
            with OpenAI(base_url=url, api_key="sk-nobody", max_retries=0, timeout=PATIENCE) as client:
                yield Site(server, api, client)
    finally:
        api.release.set()


def chat(custom_id: str, content: str = "hello", *, model: str = "m1", **other: Any) -> dict[str, Any]:
    """A line for completions."""
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body, **other}


def lines(*each: Any) -> bytes:
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in each)


def upload(client: OpenAI, content: bytes, **more: Any) -> FileObject:
    return client.files.create(file=("in.jsonl", content), purpose="batch", **more)


def create(client: OpenAI, content: bytes, endpoint: Any = CHAT, **more: Any) -> Batch:
    file = upload(client, content)
    return client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", **more)


def ended(client: OpenAI, batch: Batch) -> Batch:
    """As it is once it has ended. It is asked less and less often; the limit of the test ends a hopeless wait."""
    pause = 0.02
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        time.sleep(pause)
        pause = min(pause * 1.2, 0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def read(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of an output file, by their `custom_id`."""
    assert file_id is not None
    found: Iterable[Any] = map(json.loads, client.files.content(file_id).text.splitlines())
    return {line["custom_id"]: line for line in found}
