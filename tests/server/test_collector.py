"""The process has frozen its heap and set the collector's thresholds; the middleware in an app of others has not."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from batchproxy import BatchMiddleware
from tests.faults.whole import whole
from tests.protocol.api import Api
from tests.protocol.exchange import failures, send_batch
from tests.protocol.virtual_time import run

CONFIG = """
server: {{watch: false, workers: {workers}}}
upstreams: {{api: {{url: 'http://127.0.0.1:9', transport: 'telling_transport:make'}}}}
"""
# An upstream of the operator's own, in the process that serves: it answers how its collector is set.
TRANSPORT = """
import gc

import httpx


class Telling(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request):
        state = {"frozen": gc.get_freeze_count(), "threshold": gc.get_threshold(), "enabled": gc.isenabled()}
        return httpx.Response(200, json=state)


def make():
    return Telling()
"""
# More than an interpreter alone has, fewer than are left of our imports.
MANY_OBJECTS = 20_000


@pytest.mark.parametrize("workers", [1, 2])
def test_the_heap_of_the_start_is_frozen(tmp_path: Path, workers: int) -> None:
    """Whoever serves: what is there at the start is never looked at again, and what comes seldom; yet it is."""
    (tmp_path / "telling_transport.py").write_text(TRANSPORT)
    with whole(tmp_path, CONFIG.format(workers=workers), variables={"PYTHONPATH": str(tmp_path)}) as process:
        told = process.ask("GET", "/").json()
        assert told["frozen"] > MANY_OBJECTS
        assert told["threshold"] == [50_000, 20, 50]
        assert told["enabled"]


def test_the_middleware_leaves_the_collector_alone() -> None:
    """The collector of an app that is wrapped is the app's own."""
    before = gc.get_threshold(), gc.get_freeze_count(), gc.isenabled()
    reply = run(send_batch(BatchMiddleware(Api()), [{"path": f"/{number}"} for number in range(100)]))
    assert failures(reply) == [None] * 100
    assert (gc.get_threshold(), gc.get_freeze_count(), gc.isenabled()) == before
