"""Several processes on one store, and processes that end in the midst of something."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from batchproxy.jobs.store import JobState, KeyBusy, NotFound, Outcome
from tests.proxy.on_a_loop import on_a_loop

from .. import processes
from ..place import LEASE, Place, claim, complete, end, settle, submit, submitted

N = 300
KILLED = -signal.SIGKILL


def test_each_item_is_done_once(place: Place, tmp_path: Path) -> None:
    """By processes that claim at the same time, on one database; or by many, on one file, of whom none hears of it."""
    _prepare(place)
    reports = [tmp_path / f"w{number}" for number in range(8 if place.is_sqlite else 2)]
    workers = [processes.started(processes.work, place.url, place.folder, report, report.name) for report in reports]
    assert {processes.ended(worker) for worker in workers} == {0}
    done = [int(seq) for report in reports for seq in report.read_text().split()]
    assert sorted(done) == list(range(N))
    _check_complete(place)


@on_a_loop
async def _prepare(place: Place) -> None:
    async with place.opened() as store:
        await submit(store, N)


@on_a_loop
async def _check_complete(place: Place) -> None:
    async with place.opened() as store:
        ended = await end(store)
        assert (ended.counts.ok, ended.counts.total) == (N, N)


@pytest.mark.parametrize(
    "point",
    [("submit.begun", 1), ("submit.added", 1), ("submit.added", 250), ("submit.before_commit", 1)],
    ids=lambda point: f"{point[0]}-{point[1]}",
)
@on_a_loop
async def test_a_submission_that_is_killed_leaves_nothing(place: Place, point: processes.Point) -> None:
    """Before its commit there is no job; its key is free again after a while, and makes exactly one."""
    async with place.opened(submit=120) as store:
        assert processes.ended(processes.started(processes.submit, place.url, place.folder, point, 300)) == KILLED
        assert (await store.jobs.list(None)).jobs == ()
        assert await store.claims.claim("w", 10) == []
        with pytest.raises(KeyBusy):
            await submitted(store, 300, idempotency_key="k")
        place.clock.now += 121
        await store.retention.sweep()
        assert [path for path in place.folder.rglob("*-blobs/*/*")] == []
        assert (await submitted(store, 300, idempotency_key="k")).created
        await complete(store)
        [job] = (await store.jobs.list(None)).jobs
        assert (job.state, job.counts.ok) == (JobState.COMPLETED, 300)


@on_a_loop
async def test_a_submission_is_there_once_it_is_committed(place: Place) -> None:
    """Even if nobody heard of it: whoever asks again gets the same job."""
    async with place.opened() as store:
        point = ("submit.committed", 1)
        assert processes.ended(processes.started(processes.submit, place.url, place.folder, point, 300)) == KILLED
        again = await submitted(store, 300, idempotency_key="k")
        assert (again.created, again.job.total) == (False, 300)
        await complete(store)
        assert (await store.jobs.get(again.job.id, "ann")).counts.ok == 300


@pytest.mark.parametrize(("name", "done"), [("checkpoint.before_commit", 0), ("checkpoint.committed", 3)])
@on_a_loop
async def test_a_checkpoint_is_there_once_it_is_committed(place: Place, name: str, done: int) -> None:
    """And only then; the next worker does what is left, when the lease is over."""
    async with place.opened() as store:
        job = await submit(store, 3)
        assert processes.ended(processes.started(processes.settle, place.url, place.folder, (name, 1))) == KILLED
        assert (await store.jobs.get(job.id, "ann")).counts.done == done
        if not done:
            assert await store.claims.claim("w", 1) == []
            place.clock.now += LEASE
            claimed = await claim(store)
            assert claimed.open_seqs == [0, 1, 2]
            await settle(store, claimed)
        assert (await end(store)).counts.ok == 3


@pytest.mark.parametrize("name", ["finalize.settled", "finalize.before_commit", "finalize.committed"])
@on_a_loop
async def test_a_job_ends_once_whoever_is_killed(place: Place, name: str) -> None:
    """One state, one file, one message, wherever the one who brought it to its end was killed."""
    async with place.opened() as store:
        job = await submit(store, 60)
        [claimed] = await store.claims.claim("w", 1)
        await settle(store, claimed)
        await store.ending.cancel(job.id, "ann")
        assert processes.ended(processes.started(processes.finish, place.url, place.folder, (name, 1))) == KILLED
        shown = await store.jobs.get(job.id, "ann")
        assert shown.is_terminal == (name == "finalize.committed")
        if not shown.is_terminal:
            assert await store.claims.claim("w", 10) == []
            place.clock.now += LEASE
            await processes.finishing(store)
        ended = await store.jobs.get(job.id, "ann")
        assert (ended.state, ended.counts.ok, ended.counts.cancelled) == (JobState.CANCELLED, 3, 57)
        assert len(await store.outbox.take(10)) == 1
        [file] = (await store.files.list("ann")).files
        assert file.id == ended.output_file
        assert b"".join([piece async for piece in store.files.content(file.id, "ann")]) == b"output"
        await store.retention.sweep()
        page = await store.results.in_order(job.id, "ann", outcomes=[Outcome.OK])
        assert len(page.results) == 3
        await store.retention.delete(job.id, "ann")
        await store.files.delete(file.id, "ann")
        with pytest.raises(NotFound):
            await store.files.get(file.id, "ann")
        assert [path for path in place.folder.rglob("*-blobs/*/*")] == []
