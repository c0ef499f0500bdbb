"""The process has frozen its heap and set the collector's thresholds; the middleware in an app of others has not.

Since the collector comes seldom, nothing may be left to it: a batch that waited for it would keep all its bodies.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchproxy import BatchMiddleware
from batchproxy.engine.execute import Run
from batchproxy.proxy.lone import LoneRequest
from batchproxy.server.running import running
from tests.engine.on_virtual_time import on_virtual_time
from tests.faults.whole import whole
from tests.programs import ROOT, run as run_program
from tests.protocol.api import Api, answer
from tests.protocol.exchange import failures, send_batch
from tests.protocol.virtual_time import run
from tests.proxy.on_a_loop import on_a_loop
from tests.proxy.scripted import upstream

from .test_running import asked, pointing_at

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


def test_the_collector_stays_out_of_the_start(tmp_path: Path) -> None:
    """It seldom looks at what is imported, in which there is nothing to find; yet it does."""
    tells = f"import gc\nprint(gc.get_threshold(), gc.isenabled())\n{TRANSPORT}"
    (tmp_path / "telling_transport.py").write_text(tells)
    (tmp_path / "batchproxy.yaml").write_text(CONFIG.format(workers=1))
    command = (sys.executable, "-m", "batchproxy", "check", "-c", "batchproxy.yaml")
    told = run_program(*command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert told.stdout == "(250000, 20, 50) True\n"


def test_the_middleware_leaves_the_collector_alone() -> None:
    """The collector of an app that is wrapped is the app's own."""
    before, frozen = (gc.get_threshold(), gc.isenabled()), gc.get_freeze_count()
    anew: list[list[int]] = [[] for _ in range(1000)]  # a freeze would take in these, too
    reply = run(send_batch(BatchMiddleware(Api()), [{"path": f"/{number}"} for number in range(100)]))
    assert failures(reply) == [None] * 100
    assert (gc.get_threshold(), gc.isenabled()) == before
    assert gc.get_freeze_count() < frozen + len(anew)  # what was frozen before may go meanwhile


@contextmanager
def collector_asleep() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def alive(kind: type) -> set[int]:
    """Which there are; other tests may have left some."""
    return {id(each) for each in gc.get_objects() if type(each) is kind}


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
@pytest.mark.parametrize("takes", [0, 1])
@on_virtual_time
async def test_a_batch_that_has_ended_is_gone(accept: str, takes: float) -> None:
    """Nothing of it waits for the collector."""
    app = BatchMiddleware(answer(takes=takes))
    with collector_asleep():
        before = alive(Run)
        await send_batch(app, [{"path": f"/{number}"} for number in range(100)], headers={"accept": accept})
        assert alive(Run) <= before


@on_a_loop
async def test_a_request_that_has_ended_is_gone(tmp_path: Path) -> None:
    """The same of one that came alone."""
    async with upstream() as behind, running(pointing_at(tmp_path, behind.url)) as process:
        with collector_asleep():
            before = alive(LoneRequest)
            assert (await asked(process))[0] == 200
            assert alive(LoneRequest) <= before
