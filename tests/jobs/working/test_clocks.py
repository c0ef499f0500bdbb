"""The clock of a worker is wrong: only that of the database counts."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from starlette.responses import Response

from batchproxy.jobs.store import JobState
from batchproxy.jobs.working import JobWorker
from tests.jobs.place import Place
from tests.proxy.on_a_loop import on_a_loop

from .lines import Api, Lines, ended, get, quick, results, store_at, submit, until


@pytest.mark.parametrize("ahead", [600.0, -600.0])
@on_a_loop
async def test_a_wrong_clock_ends_nothing_early_or_late(
    postgresql_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """Neither leases nor deadlines, and items are said to have ended when they did; from the first item on."""
    api = Api(tmp_path)
    api.moods["a"] = [Response(status_code=503)]
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + ahead)
    async with store_at(postgresql_place, lease=60) as store:

        async def never(worker: str, *, version: str = "") -> bool:
            await asyncio.Event().wait()
            raise AssertionError

        # What it learns at a beat may come too late for what it has claimed by then.
        monkeypatch.setattr(store.workers, "beat", never)
        job_id = await submit(store, [get("/moods/a"), get("/gated/b")], deadline=300)
        async with JobWorker(store, [Lines(api.app)], quick()):
            await until(lambda: api.in_flight == 1 and api.ledger.counted["GET a"] == 2)
            assert await store.claims.claim("another", 10) == []
            assert await store.ending.expire() == []
            api.open_gate()
            job = await ended(store, job_id)
        assert (job.state, job.counts.ok) == (JobState.COMPLETED, 2)
        assert job.finished_at is not None
        for each in await results(store, job_id):
            assert job.created_at - 1 < each.started_at <= each.finished_at < job.finished_at + 1


@on_a_loop
async def test_a_worker_that_was_forgotten_is_known_again(sqlite: Place, tmp_path: Path) -> None:
    """As it is after it was frozen or cut off for long: it can be seen, and asked to stop."""
    async with store_at(sqlite) as store, JobWorker(store, [Lines(Api(tmp_path).app)], quick()) as worker:
        await store.workers.leave(worker.id)
        await worker._beat()
        assert [each.id for each in await store.workers.list()] == [worker.id]
        assert await store.workers.drain(worker.id)
        await worker._beat()
        assert worker.asked_to_stop.is_set()
